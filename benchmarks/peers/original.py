"""EasyCluster 0.22.3, which has our import name and so an environment of its own."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peers.base import Peer, Unsupported, free_port, served, wait_for_port
from benchmarks.peers.ours import PROXIED, EasySession

KEY = "00" * 16

# Of the far side's source, nothing but its docstring may stand before it.
FIRST = "from __future__ import annotations\n"


class OriginalSession(EasySession):
    """Like ours, and without what it has not got."""

    def __init__(self, client: Any, hangs: bool = False) -> None:
        super().__init__(client)
        self.hangs = hangs
        client.update_definitions()

    def batch(self, name: str, arguments: Any) -> list[Any]:
        raise Unsupported("no batch of calls")

    def send(self, value: Any) -> int:
        if self.hangs:
            raise Unsupported("an argument above about 256 KiB hangs for ever on pipes")
        return super().send(value)

    def fetch(self, maker: str) -> Any:
        if self.hangs:
            raise Unsupported("not asked: an argument above about 256 KiB hangs for ever on pipes")
        return super().fetch(maker)


class Original(Peer):
    """What all ways have in common: the definitions."""

    shared = False

    def serve(self) -> None:
        import easycluster

        everything = self.source.replace(FIRST, f"{FIRST}from easycluster import *\n") + PROXIED
        easycluster.define_common(self.source if self.lean else everything)


class OriginalTcp(Original):
    """Its TCP server, HMAC-MD5."""

    imports = "easycluster"
    threaded = False

    def serve(self) -> None:
        super().serve()
        self.port = free_port()
        command = [sys.executable, "-m", "easycluster", "-S", "-K", KEY, "-p", str(self.port), "-b", "127.0.0.1", "-N"]
        wait_for_port(self.port, self.stack.enter_context(served(command)))

    def open(self) -> OriginalSession:
        import easycluster

        way = easycluster.ThreadedClient if self.threaded else easycluster.Client
        return OriginalSession(way(easycluster.decode_key(KEY), "127.0.0.1", self.port))


class OriginalThreaded(OriginalTcp):
    """Its ``ThreadedClient``."""

    imports = ""
    threaded = True
    shared = True


class OriginalSpawned(Original):
    """Forks the caller."""

    def open(self) -> OriginalSession:
        import easycluster.server

        return OriginalSession(easycluster.server.spawn_local(), hangs=True)


class OriginalSsh(Original):
    """Through a wrapper of ssh: it puts extra arguments after the host, too late for ssh."""

    def serve(self) -> None:
        super().serve()
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.wrapper = Path(folder) / "ssh"
        self.wrapper.write_text(f'#!/bin/sh\nexec ssh -F "{self.settings["ssh_config"]}" "$@"\n')
        self.wrapper.chmod(0o700)
        # Its port option is always given, so the one in the configuration must be repeated.
        words = Path(self.settings["ssh_config"]).read_text().split()
        self.port = int(words[words.index("Port") + 1])

    def open(self) -> OriginalSession:
        import easycluster

        client = easycluster.Client(None, self.settings["ssh_host"], self.port, ssh=str(self.wrapper))
        return OriginalSession(client, hangs=True)
