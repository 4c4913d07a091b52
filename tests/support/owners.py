"""Owners of sessions, and every process that belongs to them.

All processes of one try have the same ``TMPDIR``, on both sides of the link: that is how those are found that have left
their family, and it shows what files they leave.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["Owner", "Process", "family", "left_after", "processes", "sockets_of", "token_of"]

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("owner_client.py")

# Seconds for a session to come up on a busy machine.
READY = 60.0


class Process:
    """One process as /proc shows it; a later one with the same number is another.

    Attributes:
        pid: Its number.
        parent: That of its parent.
        name: Of its program.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._stat(Path(f"/proc/{pid}/stat").read_text())

    def _stat(self, text: str) -> None:
        self.name = text.partition("(")[2].rpartition(")")[0]
        fields = text.rpartition(")")[2].split()
        self.state, self.parent, self.began = fields[0], int(fields[1]), fields[19]

    def lives(self) -> bool:
        """Whether it still runs; a zombie does not."""
        try:
            now = Process(self.pid)
        except (OSError, IndexError):
            return False
        return now.began == self.began and now.state not in "ZX"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Process) and (self.pid, self.began) == (other.pid, other.began)

    def __hash__(self) -> int:
        return hash((self.pid, self.began))

    def __repr__(self) -> str:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            return f"<{self.pid} {self.state} {self.name}: {words[:100].strip()}>"
        return f"<{self.pid} {self.name}>"


def processes() -> dict[int, Process]:
    """Every process of the machine, zombies excepted."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                process = Process(int(name))
                if process.state not in "ZX":
                    found[process.pid] = process
    return found


def family(pid: int, everybody: dict[int, Process]) -> set[Process]:
    """A process and all its descendants."""
    members = {pid} if pid in everybody else set()
    new = members
    while new:
        new = {other.pid for other in everybody.values() if other.parent in new} - members
        members |= new
    return {everybody[member] for member in members}


def sockets_of(pid: int) -> set[str]:
    """What /proc calls the sockets of a process."""
    found = set()
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return {name for name in found if name.startswith("socket:")}


def token_of(folder: Path, everybody: dict[int, Process]) -> set[Process]:
    """Every process that was started with this folder as its ``TMPDIR``."""
    wanted = f"TMPDIR={folder}".encode()
    found = set()
    for process in everybody.values():
        with contextlib.suppress(OSError):
            if wanted in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                found.add(process)
    return found


def left_after(
    members: set[Process], folder: Path, since: float, limit: float, allowed: frozenset[int] | set[int] = frozenset()
) -> tuple[float, set[Process]]:
    """Wait until processes are gone, and whoever else belongs to the folder.

    Args:
        members: Those that were there.
        folder: What the environment of all has.
        since: When their owner died, by the monotonic clock.
        limit: Seconds to wait.
        allowed: Process ids of those that may go on.

    Returns:
        After how many seconds they were gone, and those that were not.
    """
    left = members
    while True:
        now = time.monotonic()
        left = {process for process in left if process.lives()}
        if not left:
            # Who was started in the last moment?
            left = {process for process in token_of(folder, processes()) if process.pid not in allowed}
            if not left:
                return now - since, left
        if now - since > limit:
            return now - since, left
        time.sleep(0.01)


class Owner:
    """A process that owns sessions; see :mod:`support.owner_client`.

    Args:
        folder: Its ``TMPDIR``, and that of its far sides but those of a TCP server.
        transport: ``"spawned"``, ``"tcp"`` or ``"ssh"``.
        where: Host and key, as the program takes them.
        options: Of its clients.
        count: How many sessions.
        terminal: Descriptor of a terminal that it is to have, -1 for none.

    Attributes:
        sessions: What it said of each session.
    """

    def __init__(self, folder, transport, where, options=None, count=1, terminal=-1) -> None:
        self.folder = folder
        self.transport = transport
        self.sessions: list[dict] = []
        settings = {"transport": transport, "count": count, "options": options or {}, **where}
        environment = {
            **os.environ,
            "TMPDIR": str(folder),
            "XDG_RUNTIME_DIR": "",
            "PYTHONPATH": str(ROOT),
        }
        self._reports, far = os.pipe()
        command = [sys.executable, str(PROGRAM), json.dumps({**settings, "reports": far})]
        if terminal >= 0:
            command = ["setsid", "--ctty", *command]
        self._errors = (folder.parent / f"{folder.name}.err").open("w+b")
        self.process = subprocess.Popen(
            command,
            stdin=terminal if terminal >= 0 else subprocess.DEVNULL,
            stdout=terminal if terminal >= 0 else self._errors,
            stderr=self._errors,
            env=environment,
            pass_fds=[far],
            cwd="/",
            start_new_session=terminal < 0,
        )
        os.close(far)
        self._unread = b""
        self._count = count
        self._started = False

    @property
    def pid(self) -> int:
        """Of the program."""
        return self.process.pid

    def wait_started(self) -> None:
        """Wait until it is about to connect."""
        assert self.hear(READY)["pid"] == self.pid
        self._started = True

    def wait_ready(self) -> None:
        """Wait until all sessions are up and busy."""
        if not self._started:
            self.wait_started()
        while len(self.sessions) < self._count:
            self.sessions.append(self.hear(READY))

    def hear(self, seconds: float) -> dict:
        """Return its next report."""
        end = time.monotonic() + seconds
        while b"\n" not in self._unread:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._reports], [], [], left)[0]:
                raise TimeoutError(f"the client said nothing for {seconds:g} s; {self.errors()}")
            data = os.read(self._reports, 65536)
            if not data:
                raise EOFError(f"the client ended; {self.errors()}")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def errors(self) -> str:
        """What it wrote to its standard error."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-4000:]

    def members(self) -> set[Process]:
        """Every process that must not outlive the sessions, the owner included."""
        everybody = processes()
        found = family(self.pid, everybody) | token_of(self.folder, everybody)
        for session in self.sessions:
            keeper = everybody[session["keeper"]]
            above = everybody.get(keeper.parent, keeper)
            # sshd has a process of its own for each connection, which is our keeper's parent.
            found |= family(above.pid if above.name.startswith("sshd") else keeper.pid, everybody)
            missing = {session["worker"], *session["started"]} - {process.pid for process in found}
            assert not missing, f"{missing} are no relatives of the keeper"
        return found

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send the owner a signal."""
        os.kill(self.pid, number)

    def close(self) -> None:
        """End whatever is left."""
        for process in token_of(self.folder, processes()):
            with contextlib.suppress(OSError):
                os.kill(process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        os.close(self._reports)
        self._errors.close()
