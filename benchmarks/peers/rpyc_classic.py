"""RPyC in its classic mode: over TCP, and deployed over ssh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import Peer, Session, python_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LIMIT = 60

SERVER = """
import rpyc
from rpyc.utils.server import ThreadedServer
server = ThreadedServer(rpyc.SlaveService, hostname="127.0.0.1", port=0, protocol_config={"allow_pickle": True})
print("READY", server.port, flush=True)
server.start()
"""


class RpycSession(Session):
    """A classic connection; values other than plain ones cross by ``deliver`` and ``obtain``, which pickle."""

    def __init__(self, connection: Any, source: str, also: Sequence[Any] = ()) -> None:
        import rpyc

        self.rpyc = rpyc
        self.connection = connection
        self.also = also
        connection._config["sync_request_timeout"] = LIMIT
        try:
            # On the path of a server here; its classes then have a module on both sides.
            self.far = connection.modules["bench_far"].__dict__
        except ImportError:
            connection.execute(source)
            self.far = connection.namespace
        self.far_add = self.far["add"]
        self.later: dict[str, Any] = {}
        self.holder: Any = None

    def call(self, name: str, *args: Any) -> Any:
        return self.far[name](*args)

    def add(self, a: int, b: int) -> int:
        result: int = self.far_add(a, b)
        return result

    def start(self, name: str, *args: Any) -> Any:
        if name not in self.later:
            self.later[name] = self.rpyc.async_(self.far[name])
        return self.later[name](*args)

    def gather(self, started: Sequence[Any]) -> list[Any]:
        for response in started:
            response.wait()
        return [response.value for response in started]

    def attribute(self) -> int:
        if self.holder is None:
            self.holder = self.far["Holder"]()
        result: int = self.holder.value
        return result

    def stream(self, count: int) -> Iterator[int]:
        numbers: Iterator[int] = self.far["count_up"](count)
        return numbers

    def send(self, value: Any) -> int:
        there = value if isinstance(value, bytes) else self.rpyc.classic.deliver(self.connection, value)
        result: int = self.far["size"](there)
        return result

    def fetch(self, maker: str) -> Any:
        found = self.far["kept"](maker)
        return found if isinstance(found, bytes) else self.rpyc.classic.obtain(found)

    def close(self) -> None:
        self.connection.close()
        for each in self.also:
            each.close()


class RpycTcp(Peer):
    """A threaded server: all connections are threads of one process."""

    imports = "rpyc"

    def serve(self) -> None:
        self.port = int(self.stack.enter_context(python_server(SERVER)))

    def open(self) -> RpycSession:
        import rpyc

        return RpycSession(rpyc.classic.connect("127.0.0.1", self.port), self.source)


class RpycSsh(Peer):
    """Its "zero deploy": copies the package, starts a server, opens a tunnel."""

    def open(self) -> RpycSession:
        from plumbum import SshMachine
        from rpyc.utils.zerodeploy import DeployedServer

        options = ["-F", self.settings["ssh_config"]]
        machine = SshMachine(self.settings["ssh_host"], ssh_opts=options, scp_opts=options)
        server = DeployedServer(machine, python_executable="python3")
        return RpycSession(server.classic_connect(), self.source, (server, machine))
