"""execnet: a raw channel to a loop that serves, the fastest that its public interface allows."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import Peer, Session, Unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT = 60

LOOP = """
if __name__ == "__channelexec__":
    known = globals()
    for name, args in channel:
        channel.send(known[name](*args))
"""

ONE = """
if __name__ == "__channelexec__":
    name, args = channel.receive()
    channel.send(globals()[name](*args))
"""


class ExecnetSession(Session):
    """A channel; a thread of its own gets one more on the same connection."""

    def __init__(self, gateway: Any, source: str) -> None:
        self.gateway = gateway
        self.source = source
        self.channel = gateway.remote_exec(source + LOOP)

    def call(self, name: str, *args: Any) -> Any:
        self.start(name, *args)
        return self.channel.receive(LIMIT)

    def start(self, name: str, *args: Any) -> Any:
        from execnet import DumpError

        try:
            self.channel.send((name, args))
        except DumpError as exc:
            raise Unsupported("only builtin types cross") from exc

    def gather(self, started: Sequence[Any]) -> list[Any]:
        return [self.channel.receive(LIMIT) for _ in started]

    def fetch(self, maker: str) -> Any:
        if maker in ("make_objects", "make_array"):
            raise Unsupported("only builtin types cross")
        return super().fetch(maker)

    def for_thread(self) -> Session:
        return ExecnetSession(self.gateway, self.source)

    def close(self) -> None:
        self.gateway.exit()
        self.gateway.join(3)


class OneEach(ExecnetSession):
    """A ``remote_exec`` for each call."""

    def call(self, name: str, *args: Any) -> Any:
        return self.start(name, *args).receive(LIMIT)

    def start(self, name: str, *args: Any) -> Any:
        channel = self.gateway.remote_exec(self.source + ONE)
        channel.send((name, args))
        return channel

    def gather(self, started: Sequence[Any]) -> list[Any]:
        return [channel.receive(LIMIT) for channel in started]

    def for_thread(self) -> Session:
        return self


class ExecnetPopen(Peer):
    """A child process."""

    imports = "execnet"
    session: type[ExecnetSession] = ExecnetSession

    def serve(self) -> None:
        import execnet

        self.group = execnet.Group()
        self.stack.callback(self.group.terminate, timeout=2.0)

    def spec(self) -> str:
        """What execnet is told."""
        return f"popen//python={sys.executable}//execmodel=thread"

    def open(self) -> ExecnetSession:
        return self.session(self.group.makegateway(self.spec()), self.source)


class ExecnetEach(ExecnetPopen):
    """A child process and a ``remote_exec`` of the source for each call."""

    imports = ""
    session = OneEach


class ExecnetSsh(ExecnetPopen):
    """Over the same ssh as ours; execnet always has it compress."""

    imports = ""

    def spec(self) -> str:
        return f"ssh=-F {self.settings['ssh_config']} {self.settings['ssh_host']}//python=python3//execmodel=thread"
