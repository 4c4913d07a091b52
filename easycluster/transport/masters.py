"""Shared logins: one ssh connection, an ssh *master*, for all sessions of this process at a host.

A login takes ten times as long as a session on it, and most of its processor time.  So where a client asks for it
(``ssh_master=True``), the first session at a host has a master made, and those that follow go through it::

    ours      ssh -N in a folder of its own that nobody else can enter, ended by the shell above it when we are gone
    yours     where your ssh configuration has a ControlPath for the host, and something answers there: it is used,
              and neither made nor ended here

sshd lets 10 sessions share a connection by default (MaxSessions in sshd_config(5)) and each far side takes two, one for
control and one for data.  So a master of ours carries five far sides, fewer if sshd refuses them, and the next ones get
another master.  One that nobody uses is ended after ``IDLE`` seconds, and the last with the process.

If a master dies, so do the sessions on it; whoever connects then gets another.
"""

from __future__ import annotations

import copy
import os
import re
import select
import socket
import subprocess
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from easycluster.errors import ConnectError, ConnectTimeout
from easycluster.transport.commands import choose_folder, master_command, resolve_command
from easycluster.transport.diagnosis import explain_failure

if TYPE_CHECKING:
    from easycluster.transport.commands import GatewayTarget
    from easycluster.transport.process import FarProcess

__all__ = ["Master", "borrow", "close_all"]

# Sessions that sshd lets share a connection: its MaxSessions, if nobody has changed it.
MAX_SESSIONS = 10

# Of these, what one far side takes: control and data.
EACH = 2

# Seconds that a master stays for whoever comes next.
IDLE = 30.0

# Seconds between looks whether a master is up: ssh does not say so.
LOOK = 0.002

# What ssh says when the connection would take no further session, or is not there.
REFUSED = r"Session open refused by peer|session request failed|refused by peer|mux_client|Control socket connect"


class Master:
    """A connection that sessions share.

    Attributes:
        path: Its control socket.
    """

    def __init__(self, shelf: _Shelf, path: str, process: FarProcess | None) -> None:
        """Note a master that is up; ``process`` is None for one that is not ours."""
        self.path = path
        self._shelf = shelf
        self._process = process
        self._given_up = False
        # Guarded by the shelf's lock.
        self.sessions = 0
        self.capacity = MAX_SESSIONS
        self.idle_since = 0.0

    @property
    def is_alive(self) -> bool:
        """Whether it can still carry sessions."""
        return not self._given_up and _answers(self.path)

    def has_ended(self, timeout: float) -> bool:
        """Whether it is gone; one that is being killed closes its sessions a moment before its socket."""
        end = time.monotonic() + timeout
        while self.is_alive:
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def explain_end(self) -> str:
        """Say that it is gone, with ssh's own words."""
        words = self._process.words().strip() if self._process is not None else ""
        return "the shared ssh connection has ended" + (f": {words.splitlines()[-1].strip()}" if words else "")

    def has_refused(self, words: str) -> bool:
        """Whether a session failed because of the master, so that another one may do; called after its release."""
        if not self.is_alive:
            return True
        if not re.search(REFUSED, words):
            return False
        with self._shelf.changed:
            # It has no more room than for those that are on it now; a socket that nobody reads has none at all.
            self.capacity = self.sessions
            self._given_up = self._given_up or not self.sessions
        return True

    def release(self) -> None:
        """Give back what :func:`borrow` took."""
        with self._shelf.changed:
            self.sessions -= EACH
            self.idle_since = time.monotonic()
        _look_after()

    def close(self) -> None:
        """End it, if it is ours."""
        self._given_up = True
        if self._process is not None:
            self._process.close()


class _Shelf:
    """The masters at one target."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.masters: list[Master] = []
        # Whether somebody is making one, how often that has failed, and why the last time.
        self.is_opening = False
        self.failures = 0
        self.failure: BaseException | None = None
        self.asked_user = False

    def find(self) -> Master | None:
        """A master that has room; those that have died are let go of with their last session."""
        alive = [master for master in self.masters if master.is_alive]
        for master in self.masters:
            if not master.sessions and master not in alive:
                master.close()
        self.masters = [master for master in self.masters if master.sessions or master in alive]
        return next((master for master in alive if master.sessions + EACH <= master.capacity), None)


_shelves: dict[GatewayTarget, _Shelf] = {}
_shelving = threading.Lock()
_keeper: threading.Thread | None = None
_wake = threading.Event()


def borrow(target: GatewayTarget, end: float, timeout: float) -> Master:
    """Return a master with room for a far side, made if need be; whoever has it calls :meth:`Master.release`.

    Args:
        target: Where to.
        end: When it has to be there, by ``time.monotonic``.
        timeout: Seconds that messages tell of.

    Raises:
        ConnectError: If the login fails.
        OSError: If this machine has no process or descriptor left for it.
    """
    shelf = _shelf_of(target)
    with shelf.changed:
        failures = shelf.failures
        while True:
            master = shelf.find()
            if master is not None:
                master.sessions += EACH
                return master
            if not shelf.is_opening:
                shelf.is_opening = True
                break
            if not shelf.changed.wait(end - time.monotonic()):
                raise ConnectTimeout(f"{target}: no answer within {timeout:g} s", target.host)
            if shelf.failures != failures:
                # The same login for all who waited for it: so is what became of it.
                assert shelf.failure is not None
                raise copy.copy(shelf.failure)
    try:
        master = _open(shelf, target, end, timeout)
    except BaseException as exc:
        with shelf.changed:
            if isinstance(exc, ConnectError):
                shelf.failures += 1
                shelf.failure = exc
            shelf.is_opening = False
            shelf.changed.notify_all()
        raise
    with shelf.changed:
        master.sessions += EACH
        shelf.masters.append(master)
        shelf.is_opening = False
        shelf.changed.notify_all()
    return master


def _shelf_of(target: GatewayTarget) -> _Shelf:
    """The masters for this login: the same program, host, user, port and arguments."""
    with _shelving:
        return _shelves.setdefault(replace(target, pythons=(), sudo=False), _Shelf())


def _open(shelf: _Shelf, target: GatewayTarget, end: float, timeout: float) -> Master:
    """Log in, unless the user has."""
    if not shelf.asked_user:
        shelf.asked_user = True
        path = _path_of_user(target, end)
        if path and _answers(path):
            return Master(shelf, path, None)
    from easycluster.transport.ways import start_ssh

    left = end - time.monotonic()
    folder = choose_folder()
    path = str(folder / "master")
    process = start_ssh(target, master_command(target, path, left), folder, timeout)
    try:
        poll = select.poll()
        poll.register(process.read_fd, select.POLLIN)
        ended = False
        while not ended:
            # ssh closes its output when it ends, and when it is up.
            ended = bool(poll.poll(LOOK * 1000))
            # It makes its socket elsewhere, and moves it here once it listens.
            if os.path.exists(path):
                return Master(shelf, path, process)
            if time.monotonic() > end:
                raise explain_failure(target, {"cause": "timeout"}, process.words(), timeout)
        code = process.wait(1.0)
        raise explain_failure(target, {"cause": "exit", "exit": code}, process.words(), timeout)
    except BaseException:
        process.close()
        raise


def _path_of_user(target: GatewayTarget, end: float) -> str:
    """The ControlPath that the user's own configuration has for the target, ``""`` if it has none."""
    try:
        done = subprocess.run(
            resolve_command(target),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=max(0.1, end - time.monotonic()),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(rb"^controlpath (.+)$", done.stdout, re.MULTILINE)
    path = os.fsdecode(found[1]) if found else ""
    return path if path.startswith("/") else ""


def _answers(path: str) -> bool:
    """Whether somebody listens at a socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(path)
        except OSError:
            return False
    return True


def _look_after() -> None:
    """See to it that masters without sessions are ended in time."""
    global _keeper
    with _shelving:
        if _keeper is None or not _keeper.is_alive():
            _keeper = threading.Thread(target=_end_idle, name="easycluster-masters", daemon=True)
            _keeper.start()


def _end_idle() -> None:
    """End masters that have no session for long, until no such is left."""
    global _keeper
    wake = _wake
    while True:
        idle = []
        with _shelving:
            for shelf in _shelves.values():
                with shelf.changed:
                    now = time.monotonic()
                    for master in [each for each in shelf.masters if not each.sessions]:
                        if master.idle_since + IDLE <= now or not master.is_alive:
                            shelf.masters.remove(master)
                            master.close()
                        else:
                            idle.append(master.idle_since + IDLE - now)
            if not idle:
                _keeper = None
                return
        if wake.wait(min(idle) + 0.01):
            return


def close_all() -> None:
    """End every master of ours, and with it the sessions that are left on it."""
    global _keeper, _wake
    with _shelving:
        shelves = list(_shelves.values())
        _shelves.clear()
        keeper, _keeper = _keeper, None
        wake, _wake = _wake, threading.Event()
    wake.set()
    for shelf in shelves:
        with shelf.changed:
            masters, shelf.masters = shelf.masters, []
        for master in masters:
            master.close()
    if keeper is not None and keeper is not threading.current_thread():
        keeper.join(1.0)


def _forget_in_child() -> None:
    """Leave the masters to the process that made them."""
    global _shelving, _keeper
    _shelves.clear()
    _shelving = threading.Lock()
    _keeper = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
