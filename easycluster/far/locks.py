"""Locks on what a host has, held between all accounts, sessions and controllers that use it.

They are files in one directory, which every account may write to; the kernel frees a lock with the process that
holds it (flock(2)), so none can be left over.  A resource has as many files as it ever had holders at once::

    /var/tmp/easycluster-locks/        mode 1777; on a disk, for reservations have to outlive a reboot
        .gate                          held for the moment of every look and every change
        gpu01.0  gpu01.1               one holder each: who it is, as JSON; held as long as it is locked
        gpu01.reserved                 for whom it is kept, and until when
        .boots                         which boots were ended by somebody who said so
        .waiting-0                     who waits, see easycluster.far.waiting

A file is opened with ``O_CREAT`` only where there is none: with fs.protected_regular (proc(5)) root may not open the
file of another account so in a sticky directory.  Files are never removed: somebody may be about to lock them.

This module is shipped to the far side.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import time
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from easycluster.errors import EasyClusterError
from easycluster.far.reservations import hurried, made, valid
from easycluster.far.waiting import Calls, WaitingLine, choice, clashing, competing

__all__ = ["DIRECTORY", "LockDirectory", "LockFault"]

DIRECTORY = "/var/tmp/easycluster-locks"

# Seconds for the gate, which everybody holds for a moment only: who has it for longer has been stopped.
GATE_TIME = 3.0
MOST_HOLDERS = 1000
LONGEST_RECORD = 4096
# What could not be undone while nobody was left to tell, and who took what from whom by force.
LOG, FORCE_LOG = "undo.log", "force.log"
LONGEST_LOG = 1 << 20
# Boots that were ended on purpose: those who ask know the last one that they saw.
BOOTS, MOST_BOOTS = ".boots", 32

Record = Dict[str, Any]


class LockFault(EasyClusterError, OSError):
    """The lock directory cannot be used; says what to do."""


class LockDirectory:
    """The locks of one host, as one process holds them.

    Args:
        path: The directory; made if it is missing.

    Raises:
        LockFault: If it is not what it has to be.
    """

    def __init__(self, path: str = DIRECTORY) -> None:
        self.path = path
        # Resource to the descriptor of its holder's file, and the number of that.
        self._held: Dict[str, Tuple[int, int, Record]] = {}
        self._directory = _open_directory(path)
        self._gate = self._open(".gate")
        self._line = WaitingLine(self._open, _try_lock, _read, _write)

    @property
    def held(self) -> List[str]:
        """The resources that are locked through this object."""
        return sorted(self._held)

    def take(self, wanted: Sequence[Record], info: Record, ticket: int = 0) -> List[Record]:
        """Lock all of several resources, or none.

        One that is held through this object already is changed to the mode asked for.

        Args:
            wanted: For each ``name``, ``mode`` (``"shared"`` or ``"exclusive"``) and ``slots``, the most sharers.  Or,
                instead of a name, ``any`` of several and the ``count`` of them, see :meth:`picked`; what is held
                through this object already is taken first.
            info: Who asks: ``user``, ``host``, ``pid``, ``label``, ``token`` and what else others should know.
            ticket: His place in the line, which goes when all are locked; 0 if he has not waited.

        Returns:
            Those in the way, each with ``name``, or those before him in line, with mode ``"waiting"``; nothing if
            all are locked now.
        """
        with _Gate(self._gate, self.path):
            in_the_way, found = self._settle(wanted, info, self._line.before(ticket))
            if in_the_way:
                return in_the_way
            self._line.leave(ticket)
            now = time.time()
            for one, names in zip(wanted, found):
                for name in names:
                    self._lock(name, dict(info, mode=one["mode"], since=now))
                    kept = self._reservation(name)
                    if kept.get("once"):
                        # It was kept for this, and has served.
                        self._write_reservation(name, valid(kept.get("earlier")))
        return []

    def picked(self, wish: Record) -> List[str]:
        """Which of several are held, once :meth:`take` has had them."""
        return [name for name in wish["any"] if name in self._held][: wish["count"]]

    def wait(self, wanted: Sequence[Record], info: Record, ticket: int, waited: float) -> Tuple[List[Record], int]:
        """Get in line, and look whether it is this ticket's turn.

        Args:
            wanted: As for :meth:`take`.
            info: As for :meth:`take`.
            ticket: A number that is another one for everybody who waits through this object.
            waited: How long he has waited already, also elsewhere, in seconds.

        Returns:
            As :meth:`take`, without locking anything: who is called has to take it at once.  And his place, from 1.
        """
        with _Gate(self._gate, self.path):
            record = dict(info, wanted=[dict(one) for one in wanted], since=time.time() - waited)
            self._line.join(ticket, record)
            before = self._line.before(ticket)
            return self._settle(wanted, info, before)[0], competing(wanted, before) + 1

    def leave_line(self, ticket: int) -> None:
        """Wait no longer."""
        with _Gate(self._gate, self.path):
            self._line.leave(ticket)

    def waiting(self) -> List[Record]:
        """All who wait, the first first."""
        with _Gate(self._gate, self.path):
            return [record for _number, record in self._line.everybody()]

    def release(self, names: Optional[Sequence[str]] = None) -> None:
        """Unlock some resources, or all; what is not locked is passed over."""
        for name in list(self._held) if names is None else names:
            held = self._held.pop(name, None)
            if held is not None:
                with _Gate(self._gate, self.path):
                    os.close(held[0])

    def close(self) -> None:
        """Give everything back."""
        self._line.leave_all()
        self.release()
        os.close(self._gate)
        os.close(self._directory)

    def forget(self) -> None:
        """In a child: close the descriptors, or it would hold the locks, too."""
        for fd, _number, _info in self._held.values():
            os.close(fd)
        self._held.clear()
        self._line.leave_all()
        os.close(self._gate)
        os.close(self._directory)

    def reserve(self, names: Sequence[str], seconds: float, info: Record) -> List[Record]:
        """Keep resources for somebody: until then only who has the same ``owner`` or ``token`` can lock them.

        Args:
            names: Resources.
            seconds: How long; 0 ends a reservation.
            info: For whom: ``owner``, perhaps ``token``, which counts alone then, ``label`` and ``force``.

        Returns:
            Reservations of others, with nothing changed; none if all are reserved now.
        """
        with _Gate(self._gate, self.path):
            others = [] if info.get("force") else [one for name in names for one in self._reserved_by_other(name, info)]
            if not others:
                for name in names:
                    self._write_reservation(name, made(info, seconds, self._reservation(name)))
            return others

    def holders(self, names: Optional[Sequence[str]] = None) -> List[Record]:
        """Who holds or has reserved what, resource by resource, each record with ``name``."""
        with _Gate(self._gate, self.path):
            found: List[Record] = []
            for name in self._names() if names is None else names:
                found += [dict(record, name=name) for _number, record in self._holders(name)]
                kept = self._reservation(name)
                if kept:
                    found.append(dict(kept, name=name))
            return found

    def note_boot(self, boot: str, asked: bool) -> None:
        """Note whether somebody is about to end a boot: whoever finds another one knows then that it is no crash."""
        fd = self._open(BOOTS)
        try:
            with _Gate(self._gate, self.path):
                noted = [one for one in _read(fd).get("asked") or [] if one != boot]
                _write(fd, {"asked": [*noted, boot][-MOST_BOOTS:] if asked else noted})
        finally:
            os.close(fd)

    def was_asked(self, boot: str) -> bool:
        """Whether somebody said that he was about to end a boot."""
        fd = self._open(BOOTS, create=False)
        if fd < 0:
            return False
        try:
            with _Gate(self._gate, self.path):
                return boot in (_read(fd).get("asked") or [])
        finally:
            os.close(fd)

    def log(self, text: str, name: str = LOG) -> None:
        """Append a line to a log of the directory, which begins anew when it is long."""
        fd = self._open(name)
        try:
            with _Gate(self._gate, self.path):
                if os.fstat(fd).st_size > LONGEST_LOG:
                    os.ftruncate(fd, 0)
                os.lseek(fd, 0, os.SEEK_END)
                line = " ".join(text.split())
                os.write(fd, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n".encode())
        finally:
            os.close(fd)

    # One resource; under the gate ------------------------------------------------------------------

    def _settle(
        self, wanted: Sequence[Record], info: Record, before: Sequence[Record]
    ) -> Tuple[List[Record], List[List[str]]]:
        """Who is in the way of somebody; if nobody is, the resources that he gets, wish by wish."""
        in_the_way: List[Record] = []
        have: List[List[str]] = []
        lacking: List[Record] = []
        for one in wanted:
            names, count = choice(one)
            conflicts = {name: list(self._conflicts(name, one["mode"], _slots(one), info)) for name in names}
            free = [name for name in names if not conflicts[name]]
            if len(free) < count:
                records = [record for name in names for record in conflicts[name]]
                in_the_way += _once_each(records) if "any" in one else records
            have.append([name for name in free if name in self._held][:count])
            rest = [name for name in free if name not in self._held]
            lacking.append(dict(one, any=rest, count=count - len(have[-1])))
        if in_the_way:
            return in_the_way, []
        if not before:
            return [], [names + one["any"][: one["count"]] for names, one in zip(have, lacking)]
        calls = Calls(before, self._holders_but, self._is_kept)
        new = [one for one in lacking if one["count"]]
        in_the_way = calls.ahead_of(new, bool(self._held or info.get("holding")))
        return in_the_way, [names + calls.left_of(one)[: one["count"]] for names, one in zip(have, lacking)]

    def _holders_but(self, name: str, keeper: object) -> List[Record]:
        """Who holds something besides one session."""
        return [one for _number, one in self._holders(name) if keeper is None or one.get("keeper") != keeper]

    def _is_kept(self, name: str, info: Record) -> bool:
        return any(self._reserved_by_other(name, info))

    def _conflicts(self, name: str, mode: str, slots: int, info: Record) -> Iterator[Record]:
        mine = self._held[name][1] if name in self._held else -1
        others = [record for number, record in self._holders(name) if number != mine]
        for record in clashing(mode, slots, others):
            yield dict(record, name=name)
        if mine < 0:
            yield from self._reserved_by_other(name, info)

    def _reserved_by_other(self, name: str, info: Record) -> Iterator[Record]:
        kept = self._reservation(name)
        if kept:
            key = "token" if kept.get("token") else "owner"
            if kept.get(key) != info.get(key):
                left = hurried(kept)
                if left != kept:
                    self._write_reservation(name, left)
                yield dict(left, name=name)

    def _holders(self, name: str) -> Iterator[Tuple[int, Record]]:
        for number in range(MOST_HOLDERS):
            if name in self._held and self._held[name][1] == number:
                yield number, self._held[name][2]
                continue
            fd = self._open(f"{_file_name(name)}.{number}", create=False)
            if fd < 0:
                return
            try:
                if not _try_lock(fd):
                    yield number, _read(fd)
            finally:
                os.close(fd)

    def _lock(self, name: str, record: Record) -> None:
        held = self._held.get(name)
        if held is not None:
            record["since"] = held[2].get("since", record["since"])
            _write(held[0], record)
            self._held[name] = (held[0], held[1], record)
            return
        for number in range(MOST_HOLDERS):
            fd = self._open(f"{_file_name(name)}.{number}")
            if _try_lock(fd):
                _write(fd, record)
                self._held[name] = (fd, number, record)
                return
            os.close(fd)
        raise LockFault(errno.EBUSY, f"{name} has {MOST_HOLDERS} holders; there is no room for more")

    def _reservation(self, name: str) -> Record:
        fd = self._open(f"{_file_name(name)}.reserved", create=False)
        if fd < 0:
            return {}
        try:
            record = _read(fd)
        finally:
            os.close(fd)
        return valid(record) or valid(record.get("earlier"))

    def _write_reservation(self, name: str, record: Record) -> None:
        fd = self._open(f"{_file_name(name)}.reserved", create=bool(record))
        if fd >= 0:
            try:
                _write(fd, record)
                os.fsync(fd)
            finally:
                os.close(fd)

    def _names(self) -> List[str]:
        found = set()
        for entry in os.listdir(self.path):
            match = _FILE.match(entry)
            if match:
                found.add(_name_of(match.group(1)))
        return sorted(found)

    def _open(self, name: str, create: bool = True) -> int:
        """Open a file of the directory; -1 if there is none and none is to be made."""
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            try:
                fd = os.open(name, flags, dir_fd=self._directory)
            except FileNotFoundError:
                if not create:
                    return -1
                try:
                    fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=self._directory)
                    # Past the umask: the next holder may have another account.
                    os.fchmod(fd, 0o666)
                except FileExistsError:
                    fd = os.open(name, flags, dir_fd=self._directory)
        except OSError as exc:
            file = os.path.join(self.path, name)
            advice = f"its owner or root can mend that with: chmod 666 {file}"
            raise LockFault(exc.errno, f"lock file {file} cannot be used: {exc.strerror}; {advice}") from exc
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            # We are about to write to it, perhaps as root.
            os.close(fd)
            file = os.path.join(self.path, name)
            raise LockFault(errno.EINVAL, f"lock file {file} is a link or no file; remove it")
        return fd


class _Gate:
    """Makes every look and change one step for all processes of the host."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path

    def __enter__(self) -> None:
        end = time.monotonic() + GATE_TIME
        pause = 0.0005
        while not _try_lock(self._fd):
            if time.monotonic() > end:
                advice = "see who has it: fuser -v " + os.path.join(self._path, ".gate")
                raise LockFault(
                    errno.EBUSY, f"the locks have been in use for {GATE_TIME:g} s, so somebody hangs; {advice}"
                )
            time.sleep(pause)
            pause = min(pause * 2, 0.02)

    def __exit__(self, *_exc: object) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)


def _slots(wish: Record) -> int:
    return int(wish.get("slots") or MOST_HOLDERS)


def _once_each(records: Iterable[Record]) -> List[Record]:
    """One record of each session: who has all of several devices is named once."""
    found: Dict[Any, Record] = {}
    for record in records:
        found.setdefault((record.get("keeper"), record.get("token"), record.get("mode") == "reserved"), record)
    return list(found.values())


def _open_directory(path: str) -> int:
    try:
        os.mkdir(path, 0o700)
        # Past the umask.
        os.chmod(path, 0o1777)
    except FileExistsError:
        pass
    except OSError as exc:
        raise LockFault(exc.errno, f"the lock directory {path} cannot be made: {exc.strerror}") from exc
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except OSError as exc:
        raise LockFault(exc.errno, f"the lock directory {path} cannot be used: {exc.strerror}") from exc
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if mode != 0o1777 and os.fstat(fd).st_uid == os.geteuid():
        # Made by an older umask, or by somebody who died between the two calls above.
        os.fchmod(fd, 0o1777)
    elif mode & 0o1003 != 0o1003:
        os.close(fd)
        raise LockFault(errno.EACCES, f"{path} has mode {mode:04o}, so accounts cannot share it; chmod 1777 {path}")
    return fd


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(fd: int) -> Record:
    try:
        record = json.loads(os.pread(fd, LONGEST_RECORD, 0).decode("utf-8", "replace") or "{}")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _write(fd: int, record: Record) -> None:
    record = {key: value[:500] if isinstance(value, str) else value for key, value in record.items()}
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps(record).encode()[:LONGEST_RECORD] if record else b"", 0)


_FILE = re.compile(r"(.+)\.(?:\d+|reserved)\Z")
_ODD = re.compile(r"[^A-Za-z0-9_,:@+=-]")
_WRITTEN = re.compile(r"%([0-9a-f]+);")


def _file_name(name: str) -> str:
    """A resource's name as a file's: GPU UUIDs and host names stay readable, the rest is escaped."""
    if not name or len(name) > 100:
        raise LockFault(errno.EINVAL, f"{name!r} cannot be locked: a name has 1 to 100 characters")
    return _ODD.sub(lambda odd: f"%{ord(odd.group()):x};", name)


def _name_of(file_name: str) -> str:
    return _WRITTEN.sub(lambda code: chr(int(code.group(1), 16)), file_name)
