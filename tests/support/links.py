"""A far host behind a real cable, with a TCP server and an sshd of ours, and what is left there."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from pathlib import Path

import pytest
from support.netns import Host, HostSshd, require_netns
from support.owners import family, processes, sockets_of
from support.sshd import require_sshd

from easycluster import Client, generate_key, write_key_file

__all__ = ["Busy", "FarHost", "far_host", "near_side"]


class FarHost:
    """A host with a server and an sshd.

    Args:
        wire: What its cable is like, see :class:`support.netns.Host`.

    Attributes:
        host: The namespace and its cable.
        folder: Of the server's key, and of temporary files over there.
    """

    def __init__(self, *wire: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="link-"))
        self._temporary = self.folder / "tmp"
        self._temporary.mkdir()
        self.key = generate_key()
        write_key_file(self.folder / "key", self.key)
        self.host = Host(*wire)
        self.server = self.host.serve(self.folder / "key", self._temporary)
        self.sshd = HostSshd(self.host, f"SetEnv TMPDIR={self._temporary}")
        self.sshd.start()
        # One process beside the server forks its sessions.
        end = time.monotonic() + 20
        while len(self.host.inside()) < 4 and time.monotonic() < end:
            time.sleep(0.01)
        self._residents = set(self.host.inside())
        assert len(self._residents) == 4

    def where(self, transport):
        """Return what :class:`support.owners.Owner` needs to know."""
        if transport == "ssh":
            return {"host": self.host.address, "extra_args": list(self.sshd.extra_args)}
        return {"host": self.host.address, "port": 11999, "key": self.key.hex()}

    def connect(self, transport, clientclass=Client, **options):
        """Return a client of the host."""
        if transport == "ssh":
            return clientclass(host=self.host.address, ssh=True, extra_args=self.sshd.extra_args, **options)
        return clientclass(self.key, self.host.address, 11999, **options)

    def strangers(self):
        """Every process of ours on the host that belongs to a session; sshd's own look after themselves."""
        everybody = processes()
        found = {
            everybody[pid]
            for pid in self.host.inside()
            if pid in everybody and pid not in self._residents and not everybody[pid].name.startswith("sshd")
        }
        return found - self._prepared(found, everybody)

    def _prepared(self, found, everybody):
        """The three processes that the server keeps for whoever comes next: they never had a connection."""
        connected = self.host.tcp_sockets()
        prepared = [
            family(keeper.pid, everybody)
            for keeper in found
            if keeper.parent in self._residents and not sockets_of(keeper.pid) & connected
        ]
        return prepared[0] if len(prepared) == 1 and len(prepared[0]) <= 3 else set()

    def cleared_after(self, since, limit):
        """Wait until no session is left; return after how many seconds that was.

        Args:
            since: The moment of the fault, by the monotonic clock.
            limit: Seconds after which a process that is left is a failure.
        """
        while left := self.strangers():
            now = time.monotonic()
            assert now - since < limit, f"left after {now - since:.1f} s: {left}"
            time.sleep(0.01)
        assert os.listdir(self._temporary) == []
        return time.monotonic() - since

    def close(self):
        """End the host."""
        self.sshd.close()
        self.host.close()
        for path in sorted(self.folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        self.folder.rmdir()


@pytest.fixture(scope="module")
def far_host():
    """A host for the tests of a module; each leaves the cable as it was."""
    require_netns()
    require_sshd()
    with contextlib.closing(FarHost()) as far:
        # What the first session of a process makes stays: the monitor's descriptors.
        far.connect("tcp").close()
        yield far
        far.host.heal()
        # What never got as far as a lease of its own.
        far.cleared_after(time.monotonic(), 30)


@contextlib.contextmanager
def near_side(limit=10.0):
    """Make sure that a block leaves no descriptor, thread or child of this process."""

    def state():
        children: list[str] = []
        for task in Path(f"/proc/{os.getpid()}/task").iterdir():
            # A thread may end between the two looks.
            with contextlib.suppress(OSError):
                children += (task / "children").read_text().split()
        return len(os.listdir("/proc/self/fd")), threading.active_count(), sorted(children)

    before = state()
    yield
    end = time.monotonic() + limit
    while (now := state()) != before and time.monotonic() < end:
        time.sleep(0.01)
    assert now == before


class Busy:
    """A thread that does something with a session, and keeps what came of it and when."""

    def __init__(self, work, *args, **kwargs):
        self.error = None
        self.result = None
        self.at = 0.0
        self._thread = threading.Thread(target=self._run, args=(work, args, kwargs))
        self._thread.start()

    def _run(self, work, args, kwargs):
        try:
            self.result = work(*args, **kwargs)
        except Exception as exc:  # noqa: BLE001  # the test looks at it
            self.error = exc
        self.at = time.monotonic()

    def join(self, limit=30.0):
        """Wait for it and return what it raised."""
        self._thread.join(limit)
        assert not self._thread.is_alive()
        return self.error
