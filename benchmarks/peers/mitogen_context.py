"""mitogen: a local child and one over ssh."""

from __future__ import annotations

import importlib
import itertools
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import FAR, Peer, Session, Unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence


class MitogenSession(Session):
    """A context; it fetches the functions from here when they are first called."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.module = importlib.import_module("bench_far")

    def call(self, name: str, *args: Any) -> Any:
        return self.context.call(getattr(self.module, name), *args)

    def start(self, name: str, *args: Any) -> Any:
        return self.context.call_async(getattr(self.module, name), *args)

    def gather(self, started: Sequence[Any]) -> list[Any]:
        return [receiver.get().unpickle() for receiver in started]

    def send(self, value: Any) -> int:
        if not isinstance(value, (bytes, list, dict)) or (isinstance(value, list) and hasattr(value[0], "name")):
            raise Unsupported("only plain types cross")
        return super().send(value)

    def fetch(self, maker: str) -> Any:
        if maker in ("make_objects", "make_array"):
            raise Unsupported("only plain types cross")
        return super().fetch(maker)

    def close(self) -> None:
        self.context.shutdown(wait=True)


class MitogenLocal(Peer):
    """A child of this process."""

    imports = "mitogen.master"

    def serve(self) -> None:
        import mitogen.master

        sys.path.insert(0, str(FAR))
        self.broker = mitogen.master.Broker()
        self.router = mitogen.master.Router(self.broker)
        self.numbers = itertools.count()
        self.stack.callback(self.broker.join)
        self.stack.callback(self.broker.shutdown)

    def open(self) -> MitogenSession:
        return MitogenSession(self.router.local(python_path=sys.executable, name=f"local{next(self.numbers)}"))


class MitogenSsh(MitogenLocal):
    """Over the same ssh."""

    imports = ""

    def open(self) -> MitogenSession:
        context = self.router.ssh(
            hostname=self.settings["ssh_host"],
            python_path="python3",
            name=f"ssh{next(self.numbers)}",
            ssh_args=["-F", self.settings["ssh_config"]],
            check_host_keys="enforce",
        )
        return MitogenSession(context)
