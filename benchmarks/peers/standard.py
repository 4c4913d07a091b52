"""The standard library's multiprocessing: a manager's proxy, and a hand-written loop over its connection."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import FAR, Peer, Session, python_server

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY = b"k" * 32
NAMES = ("add", "size", "process_id", "keep", "kept", "forget", "nap", "resident", "peak", "__getattribute__")

MANAGER = f"""
import sys
from multiprocessing.managers import BaseManager
import bench_far
class Far:
    value = 42
for name in {NAMES[:-1]!r}:
    setattr(Far, name, (lambda function: lambda self, *args: function(*args))(getattr(bench_far, name)))
class Manager(BaseManager):
    pass
Manager.register("Far", Far, exposed={NAMES!r})
server = Manager(("127.0.0.1", 0), {KEY!r}).get_server()
print("READY", server.address[1], flush=True)
server.serve_forever()
"""

LISTENER = f"""
import threading
from multiprocessing.connection import Listener
import bench_far
listener = Listener(("127.0.0.1", 0), authkey={KEY!r}, backlog=64)
print("READY", listener.address[1], flush=True)
def serve(link):
    try:
        while True:
            name, args = link.recv()
            link.send(getattr(bench_far, name)(*args))
    except EOFError:
        pass
while True:
    threading.Thread(target=serve, args=(listener.accept(),), daemon=True).start()
"""


class ManagerSession(Session):
    """A proxy; each thread that uses it opens a connection of its own."""

    def __init__(self, port: int) -> None:
        from multiprocessing.managers import BaseManager, BaseProxy

        class FarProxy(BaseProxy):
            _exposed_ = NAMES

        class Manager(BaseManager):
            pass

        Manager.register("Far", proxytype=FarProxy)
        manager: Any = Manager(("127.0.0.1", port), KEY)
        manager.connect()
        self.manager, self.proxy = manager, manager.Far()

    def call(self, name: str, *args: Any) -> Any:
        return self.proxy._callmethod(name, args)

    def attribute(self) -> int:
        # What the standard library's NamespaceProxy does.
        result: int = self.proxy._callmethod("__getattribute__", ("value",))
        return result

    def close(self) -> None:
        self.proxy = self.manager = None


class StandardManager(Peer):
    """``multiprocessing.managers`` with a key; no MAC after the handshake, no nonblocking call."""

    imports = "multiprocessing.managers"
    shared = False

    def serve(self) -> None:
        sys.path.insert(0, str(FAR))
        self.port = int(self.stack.enter_context(python_server(MANAGER)))

    def own(self, session: Session) -> Session:
        return session.for_thread()

    def open(self) -> ManagerSession:
        return ManagerSession(self.port)


class LinkSession(Session):
    """Names and arguments there, values back."""

    def __init__(self, port: int) -> None:
        from multiprocessing.connection import Client

        self.link = Client(("127.0.0.1", port), authkey=KEY)

    def call(self, name: str, *args: Any) -> Any:
        self.link.send((name, args))
        return self.link.recv()

    def start(self, name: str, *args: Any) -> Any:
        self.link.send((name, args))

    def gather(self, started: Sequence[Any]) -> list[Any]:
        return [self.link.recv() for _ in started]

    def close(self) -> None:
        self.link.close()


class StandardConnection(Peer):
    """``multiprocessing.connection`` with a key; more on its way than buffers hold, and both ends wait for ever."""

    shared = False

    def serve(self) -> None:
        sys.path.insert(0, str(FAR))
        self.port = int(self.stack.enter_context(python_server(LISTENER)))

    def open(self) -> LinkSession:
        return LinkSession(self.port)
