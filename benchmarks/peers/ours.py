"""This EasyCluster: TCP with HMAC-SHA256 on every record, spawned, and ssh."""

from __future__ import annotations

import importlib
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import Peer, Session, free_port, served, wait_for_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

PROXIED = "\nfrom easycluster import make_server_class\nmake_server_class(Holder, export_attrs=('value',))\n"


class EasySession(Session):
    """A client; each method is what a user writes."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.holder: Any = None

    def call(self, name: str, *args: Any) -> Any:
        return self.client.call(name, *args)

    def add(self, a: int, b: int) -> int:
        result: int = self.client.add(a, b)
        return result

    def start(self, name: str, *args: Any) -> Any:
        return getattr(self.client, name)(*args, nonblocking=True)

    def gather(self, started: Sequence[Any]) -> list[Any]:
        return [response.wait() for response in started]

    def batch(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        calls = self.client.batch()
        record = getattr(calls, name)
        for each in arguments:
            record(*each)
        results: list[Any] = calls.run()
        return results

    def attribute(self) -> int:
        if self.holder is None:
            self.holder = self.client.Holder()
        result: int = self.holder.value
        return result

    def stream(self, count: int) -> Iterator[int]:
        numbers: Iterator[int] = self.client.count_up(count)
        return numbers

    def everywhere(self, sessions: Sequence[Any], name: str, *args: Any) -> Callable[[], list[Any]]:
        from easycluster import call_multi

        clients = [session.client for session in sessions]
        return lambda: call_multi(clients, name, *args)

    def functions(self) -> ModuleType:
        return importlib.import_module("easycluster.remote_code")

    def close(self) -> None:
        self.holder = None
        self.client.close()


class Ours(Peer):
    """What all ways have in common: the definitions."""

    def serve(self) -> None:
        import easycluster

        easycluster.define_common(self.source + ("" if self.lean else PROXIED))

    def open(self) -> EasySession:
        return EasySession(self.client())

    def client(self) -> Any:
        """Connect."""
        raise NotImplementedError


class OursTcp(Ours):
    """The TCP server in a process of its own."""

    imports = "easycluster"
    threaded = False

    def serve(self) -> None:
        import easycluster

        super().serve()
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.key, self.port = easycluster.generate_key(), free_port()
        easycluster.write_key_file(f"{folder}/key", self.key)
        command = [sys.executable, "-m", "easycluster", "-S", "-k", f"{folder}/key", "-b", "127.0.0.1", "-N"]
        # Away from any checkout: `-m` looks into the current directory first.
        server = self.stack.enter_context(served([*command, "-p", str(self.port)]))
        wait_for_port(self.port, server)

    def client(self) -> Any:
        import easycluster

        way = easycluster.ThreadedClient if self.threaded else easycluster.Client
        return way(self.key, "127.0.0.1", self.port)


class OursThreaded(OursTcp):
    """The same with a ``ThreadedClient``."""

    imports = ""
    threaded = True


class OursSpawned(Ours):
    """A clean Python on this machine."""

    def client(self) -> Any:
        from easycluster.server import spawn_local

        return spawn_local()


class OursSsh(Ours):
    """The user's ssh; a login for each session unless ``master`` says that they share one."""

    master = False

    def client(self) -> Any:
        import easycluster

        extra = ("-F", self.settings["ssh_config"])
        return easycluster.Client(host=self.settings["ssh_host"], ssh=True, extra_args=extra, ssh_master=self.master)
