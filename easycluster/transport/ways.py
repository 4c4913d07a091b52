"""Ways to a Python: a command on this machine, a login of its own over ssh, or a session on a shared login.

Each ends with a process whose input and output are the far side's, once its Python has named itself; what is in the
way until then becomes the exception to raise, see :mod:`easycluster.transport.diagnosis`.
"""

from __future__ import annotations

import errno
import os
import random
import shlex
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from easycluster.errors import ConnectError
from easycluster.far.start import FIRST_STAGE
from easycluster.transport.commands import SUDO, GatewayTarget, choose_folder, ssh_command
from easycluster.transport.diagnosis import explain_failure, explain_local_failure, was_turned_away
from easycluster.transport.process import FarProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from easycluster.transport.marker import Found, MarkerSearch
    from easycluster.transport.masters import Master

__all__ = ["Way", "reach", "start_ssh"]

# Seconds to wait before another try when sshd hangs up before the login.  Its default lets ten log in at a time.
RETRIES = (0.2, 0.5, 1.0)

# Seconds that ssh gets to end by itself once its output has ended.
GRACE = 1.0

# What this machine may have run out of when a process cannot be started: descriptors, processes, memory.
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


@dataclass
class Way:
    """A process that leads to a far side's Python.

    Attributes:
        process: The process.
        found: What the Python has said of itself.
        master: The shared login that it goes through, if any.
    """

    process: FarProcess
    found: Found
    master: Master | None = None
    _others: list[Master] = field(default_factory=list)

    @property
    def control_path(self) -> str:
        """The socket at which ssh opens another session beside this one; over ssh only."""
        if self.master is not None:
            return self.master.path
        assert self.process.folder is not None  # over ssh there is one
        return str(self.process.folder / "master")

    def another(self, target: GatewayTarget, words: str, timeout: float) -> str:
        """The socket of another shared login, if this one has no room for one more session; else ``""``."""
        if self.master is None or not self.master.has_refused(words):
            return ""
        from easycluster.transport.masters import borrow

        master = borrow(target, time.monotonic() + timeout, timeout)
        self._others.append(master)
        return master.path

    def close(self) -> None:
        """End the process, and leave the shared login to others; a second call does nothing."""
        self.process.close()
        if self.master is not None:
            self._others.append(self.master)
        while self._others:
            self._others.pop().release()
        self.master = None


def reach(target: GatewayTarget, marker: str, timeout: float, meanwhile: Callable[[], object]) -> Way:
    """Start a Python at the target.

    Args:
        target: Where.
        marker: What its line begins with.
        timeout: Seconds for all of it.
        meanwhile: Called while the target is at work.

    Raises:
        ConnectError: If none comes up; see :func:`easycluster.transport.gateway.open_gateway`.
        OSError: If this machine has no process or descriptor left for it.
    """
    if os.name == "nt":
        raise ConnectError(f"{target}: gateways need a POSIX system here; use the TCP server", target.host)
    if target.kind == "local":
        return _start_local(target, marker, timeout, meanwhile)
    if any("\0" in word for word in (target.host, target.user or "", *target.extra_args, *target.pythons)):
        raise ConnectError(f"{target}: a NUL character in the host, user or arguments", target.host)
    end = time.monotonic() + timeout
    for pause in (*RETRIES, None):
        try:
            if target.shared:
                return _share(target, marker, end, timeout, meanwhile)
            return _log_in(target, marker, end, timeout, meanwhile)
        except ConnectError as exc:
            # Random, because those who were turned away together would come back together.
            wait = (pause or 0.0) * random.uniform(0.5, 1.5)
            if pause is None or not was_turned_away(exc) or time.monotonic() + wait > end - 1.0:
                raise
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _share(target: GatewayTarget, marker: str, end: float, timeout: float, meanwhile: Callable[[], object]) -> Way:
    """Open a session on a shared login; on another one if it is full or has died."""
    from easycluster.transport.masters import borrow

    while True:
        master = borrow(target, end, timeout)
        try:
            return _log_in(target, marker, end, timeout, meanwhile, master)
        except ConnectError as exc:
            master.release()
            if time.monotonic() > end or not master.has_refused(exc.details):
                raise
        except BaseException:
            master.release()
            raise


def start_ssh(target: GatewayTarget, command: list[str], folder: Path | None, timeout: float) -> FarProcess:
    """Run ssh.

    Raises:
        ConnectError: If there is no such program.
        OSError: If this machine has no process or descriptor left for it.
    """
    try:
        return FarProcess(command, folder=folder, guarded=True, ask=target.ask)
    except OSError as exc:
        if exc.errno in EXHAUSTED:
            raise
        raise explain_failure(target, {"cause": "exec", "error": exc.strerror}, "", timeout) from exc


def _log_in(
    target: GatewayTarget,
    marker: str,
    end: float,
    timeout: float,
    meanwhile: Callable[[], object],
    master: Master | None = None,
) -> Way:
    """Run ssh until ``end``, for which it was given the ``timeout`` that messages tell of."""
    left = end - time.monotonic()
    folder = choose_folder() if master is None else None
    control = str(folder / "master") if folder is not None else master.path if master is not None else ""
    process = start_ssh(target, ssh_command(target, control, marker, left, shared=master is not None), folder, timeout)
    try:
        meanwhile()
        found, search = process.find_marker(marker, end)
        if found is not None:
            return Way(process, found, master)
        raise _why_not(target, process, search, timeout, master)
    except BaseException:
        process.close()
        raise


def _why_not(
    target: GatewayTarget, process: FarProcess, search: MarkerSearch, timeout: float, master: Master | None
) -> ConnectError:
    """Ask ssh why there is no Python."""
    logged_in = bool(search.noise) or search.cause == "none"
    if master is not None:
        logged_in = logged_in or master.is_alive
    elif process.folder is not None:
        logged_in = logged_in or (process.folder / "master").exists()
    code = process.wait(GRACE) if search.cause in ("exit", "none") else None
    status = {
        "cause": search.cause,
        "login": logged_in,
        "noise": search.noise,
        "exit": code,
        "versions": search.versions,
    }
    return explain_failure(target, status, process.words(), timeout)


def _start_local(target: GatewayTarget, marker: str, timeout: float, meanwhile: Callable[[], object]) -> Way:
    """Try one command after the other."""
    old: list[str] = []
    end = time.monotonic() + timeout
    for candidate in target.candidates:
        words = shlex.split(candidate)
        program = shutil.which(os.path.expanduser(words[0])) if words else None
        if program is None:
            continue
        sudo = SUDO.split() if target.sudo else []
        process = FarProcess([*sudo, program, *words[1:], "-u", "-c", FIRST_STAGE, marker], guarded=False)
        try:
            meanwhile()
            found, search = process.find_marker(marker, end)
            if found is not None:
                return Way(process, found)
            if not search.versions:
                process.kill()
                process.wait(GRACE)
                raise explain_local_failure(target, program, process.words(), timeout)
            old += search.versions
        except BaseException:
            process.close()
            raise
        process.close()
    raise explain_failure(target, {"cause": "none", "versions": old, "login": True}, "", timeout)
