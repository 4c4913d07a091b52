"""zerorpc: ZeroMQ, gevent and msgpack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import Peer, Session, Unsupported, python_server

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVER = """
import socket, zerorpc, bench_far
class Far:
    pass
for name in ("add", "size", "process_id", "keep", "kept", "forget", "nap", "resident", "peak"):
    setattr(Far, name, (lambda function: lambda self, *args: function(*args))(getattr(bench_far, name)))
with socket.create_server(("127.0.0.1", 0)) as listener:
    port = listener.getsockname()[1]
server = zerorpc.Server(Far(), heartbeat=30)
server.bind("tcp://127.0.0.1:%d" % port)
print("READY", port, flush=True)
server.run()
"""


class ZeroSession(Session):
    """A client; it belongs to one thread."""

    def __init__(self, address: str) -> None:
        import zerorpc

        self.client = zerorpc.Client(timeout=60, heartbeat=30)
        self.client.connect(address)

    def call(self, name: str, *args: Any) -> Any:
        return getattr(self.client, name)(*args)

    def start(self, name: str, *args: Any) -> Any:
        return getattr(self.client, name)(*args, **{"async": True})

    def gather(self, started: Sequence[Any]) -> list[Any]:
        return [each.get() for each in started]

    def send(self, value: Any) -> int:
        if not isinstance(value, bytes):
            raise Unsupported("asked for bytes only")
        return super().send(value)

    def for_thread(self) -> Session:
        raise Unsupported("gevent: a client belongs to one thread")

    def close(self) -> None:
        self.client.close()


class Zerorpc(Peer):
    """A server in a process of its own."""

    imports = "zerorpc"
    shared = False

    def serve(self) -> None:
        self.port = self.stack.enter_context(python_server(SERVER))

    def own(self, session: Session) -> Session:
        return session.for_thread()

    def open(self) -> ZeroSession:
        return ZeroSession(f"tcp://127.0.0.1:{self.port}")
