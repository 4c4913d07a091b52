"""What is still to be undone when a host has lost power or was rebooted: who does it, and when.

Once a lease has begun with ``keep``, what it registers is on disk, too (:mod:`easycluster.far.journal`).  There are
three ways from there:

- The session ends, and undoes it.
- A reboot that was asked for: ``carry`` leaves it where it is.
- The host dies, or this process is killed.

After those, the next session of the same run ``adopt``s it if the lease goes on.  Else whoever begins next is told
that something is pending, and has it done by ``recover`` before anything else.  If that fails, the host's lock gets a
record of mode ``dirty``, which keeps everybody off until somebody takes it away.

This module is shipped to the far side.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Tuple

from easycluster.far.journal import Journal, boot_id, directory_of, leftovers, strangers
from easycluster.far.undo import UndoStack

if TYPE_CHECKING:
    from easycluster.far.locks import LockDirectory
    from easycluster.far.undo import Code

__all__ = ["Recovery"]

# Nobody but a person takes a host back that could not be set back.
FOR_EVER = 10 * 365 * 86400.0
# Somebody else who undoes what is pending may take so long.
RECOVERY_TIME = 300.0

Plain = Dict[str, Any]


class Recovery:
    """See the module.

    Args:
        undo: What this session has to undo.
        log: Writes down what nobody may be left to hear of.
    """

    def __init__(self, undo: UndoStack, log: Callable[[Plain], None]) -> None:
        self._undo = undo
        self._log = log
        # The lock directory and what a lease said of itself; None while there is none.
        self._keep: Optional[Tuple[str, Plain]] = None
        self._boots = False
        # Why there is no journal.
        self._unkept = ""
        # Until when what is to be undone is left for after a reboot, on the monotonic clock.
        self._carried_until: Optional[float] = None

    @property
    def has_to_stay(self) -> bool:
        """Whether there is something to do before this process may be killed."""
        return bool(self._undo) or self._carried_until is not None

    def begin(self, locks: LockDirectory, keep: Plain) -> bool:
        """Keep what comes on disk; return whether something older is pending, which has to be done first.

        Args:
            locks: The host's.
            keep: The host's ``lock``, ``boots``: whether the lease is there for a reboot, and ``info``: whose it is.
        """
        self._keep = directory_of(locks.path), dict(keep["info"], lock=keep["lock"])
        self._boots = bool(keep["boots"])
        for journal in leftovers(directory_of(locks.path), keep["lock"]):
            journal.close()
            return True
        return any(True for _one in strangers(locks.path))

    def register(self, packet: Plain, code: Code) -> str:
        """Take an action that a worker registered; return why it was not taken."""
        if packet["boot"] != "forget":
            self._open_journal()
            if self._unkept and self._boots:
                # Now, while nothing is changed: the lease is there for a reboot.
                return f"{packet['what']!r} cannot be kept over a reboot: {self._unkept}"
        try:
            self._undo.add(packet, code)
        except OSError as exc:
            return f"{packet['what']!r} cannot be kept: {exc}"
        return ""

    def _open_journal(self) -> None:
        if self._keep is not None and self._undo.journal is None:
            try:
                self._undo.journal = Journal.create(*self._keep)
                self._unkept = ""
            except OSError as exc:
                self._unkept = str(exc)

    def forget(self) -> None:
        """In a child: hold nothing."""
        if self._undo.journal is not None:
            self._undo.journal.close()

    def wait(self) -> None:
        """The session has ended: if a reboot is to come, let that end this process; if none comes, go on."""
        while self._carried_until is not None and time.monotonic() < self._carried_until:
            time.sleep(0.1)

    def end(self) -> None:
        """Everything is done."""
        if self._undo.journal is not None:
            self._undo.journal.remove()

    # What others left ------------------------------------------------------------------------------

    def recover(self, locks: LockDirectory, lock: str) -> Plain:
        """Undo what others left, the newest first; if that fails, keep everybody off the host.

        Args:
            locks: The host's.
            lock: The host's lock, which this session holds.

        Returns:
            What was ``undone``, the ``failures``, and who is ``in_the_way`` now: the record of mode ``dirty``.
        """
        for uid, path, moment in strangers(locks.path):
            who = _account(uid)
            label = f"account {who} left something to undo there: connect as {who}, or have root remove {path}"
            return {"undone": [], "failures": [], "in_the_way": [_dirty(lock, label, moment)]}
        directory = directory_of(locks.path)
        undone: List[Plain] = []
        failures: List[Plain] = []
        with _one_at_a_time(directory):
            for journal in leftovers(directory, lock):
                done, failed = self._recover(journal)
                undone += done
                failures += failed
        if not failures:
            return {"undone": undone, "failures": [], "in_the_way": []}
        first = failures[0]
        record = _dirty(lock, f"undo after {first['why']} failed: {first['what']}: {first['error']}", time.time())
        locks.reserve([lock], FOR_EVER, dict(record, force=True))
        return {"undone": undone, "failures": failures, "in_the_way": [record]}

    def _recover(self, journal: Journal) -> Tuple[List[Plain], List[Plain]]:
        stack = UndoStack()
        stack.leave, stack.journal = self._undo.leave, journal
        actions = journal.load()
        why = "a reboot or loss of power" if journal.head.get("boot") != boot_id() else "its session was killed"
        whose = {key: journal.head.get(key) for key in ("user", "host", "label", "since")}
        for number, _at, packet, code in actions:
            stack.push(packet, code, number)
        failures = [dict(whose, why=why, **one) for one in stack.run()]
        for failure in failures:
            self._log(failure)
        journal.remove()
        return [dict(whose, why=why, what=packet["what"]) for _number, _at, packet, _code in actions], failures

    # A reboot that was asked for ---------------------------------------------------------------------

    def carry(self, locks: LockDirectory, seconds: float) -> str:
        """Leave what is to be undone for the session after the reboot that comes now.

        Args:
            locks: The host's; others find there that the reboot was asked for.
            seconds: How long to wait for it.

        Returns:
            Which boot this is.

        Raises:
            OSError: If something would be lost.
        """
        unkept = self._undo.unkept
        if unkept:
            why = self._unkept or "it was registered outside of a lease"
            advice = "if a reboot undoes it anyway, say so: undo(..., boot='forget')"
            raise OSError(f"{unkept[0]!r} is to be undone, and cannot be kept over a reboot: {why}; {advice}")
        self._carried_until = time.monotonic() + seconds
        # That is how a system ends its processes, and it must not have to wait for us.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        locks.note_boot(boot_id(), True)
        return boot_id()

    def resume(self, locks: LockDirectory) -> None:
        """There is no reboot after all."""
        locks.note_boot(boot_id(), False)
        self._carried_until = None
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def adopt(self, locks: LockDirectory, lock: str, token: str) -> List[int]:
        """Take over what this run's session before this one had to undo, for a lease that goes on.

        Returns:
            For each action how many were below it there.
        """
        levels: List[int] = []
        for journal in leftovers(directory_of(locks.path), lock):
            if levels or len(self._undo) or journal.head.get("token") != token:
                journal.close()
                continue
            for number, at, packet, code in journal.load():
                self._undo.push(packet, code, number)
                levels.append(at)
            self._undo.journal = journal
        return levels


def _account(uid: int) -> str:
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError):
        return str(uid)


def _dirty(lock: str, label: str, since: float) -> Plain:
    """A record that is in everybody's way."""
    return {"name": lock, "mode": "dirty", "owner": "", "token": "dirty", "label": label, "since": since}


@contextlib.contextmanager
def _one_at_a_time(directory: str) -> Iterator[None]:
    """Let those who share a host wait for each other's recovery."""
    fd = os.open(os.path.join(directory, ".recovering"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        end = time.monotonic() + RECOVERY_TIME
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
        yield
    finally:
        os.close(fd)
