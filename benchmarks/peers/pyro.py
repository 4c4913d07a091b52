"""Pyro5 over TCP, with msgpack and with serpent, its default."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import Peer, Session, Unsupported, python_server

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVER = """
import Pyro5, Pyro5.api, serpent, bench_far
Pyro5.config.THREADPOOL_SIZE = 64
@Pyro5.api.expose
class Far:
    value = property(lambda self: 42)
    def size(self, value):
        return len(serpent.tobytes(value)) if isinstance(value, dict) and "encoding" in value else bench_far.size(value)
def method(name):
    return lambda self, *args: getattr(bench_far, name)(*args)
for name in ("add", "process_id", "keep", "kept", "forget", "nap", "resident", "peak", "count_up"):
    setattr(Far, name, Pyro5.api.expose(method(name)))
daemon = Pyro5.api.Daemon(host="127.0.0.1")
uri = daemon.register(Far())
print("READY", uri, flush=True)
daemon.requestLoop()
"""


class PyroSession(Session):
    """A proxy.  It belongs to the thread that made it, so each thread has its own connection."""

    def __init__(self, uri: str) -> None:
        import Pyro5.api

        self.uri = uri
        self.proxy = Pyro5.api.Proxy(uri)
        self.proxy._pyroBind()

    def call(self, name: str, *args: Any) -> Any:
        return getattr(self.proxy, name)(*args)

    def add(self, a: int, b: int) -> int:
        result: int = self.proxy.add(a, b)
        return result

    def batch(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        import Pyro5.api

        calls = Pyro5.api.BatchProxy(self.proxy)
        record = getattr(calls, name)
        for each in arguments:
            record(*each)
        return list(calls())

    def attribute(self) -> int:
        result: int = self.proxy.value
        return result

    def send(self, value: Any) -> int:
        if not isinstance(value, (bytes, list, dict)) or (isinstance(value, list) and hasattr(value[0], "name")):
            raise Unsupported("its serializer knows plain types only")
        return super().send(value)

    def fetch(self, maker: str) -> Any:
        if maker in ("make_objects", "make_array"):
            raise Unsupported("its serializer knows plain types only")
        found = super().fetch(maker)
        if isinstance(found, dict) and "encoding" in found:
            import serpent

            return serpent.tobytes(found)
        return found

    def for_thread(self) -> Session:
        return OfThread(self.uri)

    def close(self) -> None:
        self.proxy._pyroRelease()


class OfThread(Session):
    """A connection that whichever thread uses it takes over."""

    def __init__(self, uri: str) -> None:
        self.session = PyroSession(uri)
        self.owner = threading.get_ident()

    def add(self, a: int, b: int) -> int:
        me = threading.get_ident()
        if me != self.owner:
            self.session.proxy._pyroClaimOwnership()
            self.owner = me
        return self.session.add(a, b)

    def close(self) -> None:
        self.session.proxy._pyroClaimOwnership()
        self.session.close()


class PyroMsgpack(Peer):
    """With msgpack."""

    imports = "Pyro5.api"
    serializer = "msgpack"
    shared = False

    def serve(self) -> None:
        import Pyro5

        Pyro5.config.SERIALIZER = self.serializer
        self.uri = self.stack.enter_context(python_server(SERVER))

    def own(self, session: Session) -> Session:
        return session.for_thread()

    def open(self) -> PyroSession:
        return PyroSession(self.uri)


class PyroSerpent(PyroMsgpack):
    """With serpent."""

    imports = ""
    serializer = "serpent"
