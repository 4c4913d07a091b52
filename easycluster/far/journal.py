"""What a session has to undo, on disk: it is undone although its host loses power.

Beside the locks, in a directory of the account's own, each session that leases the host has a file::

    /var/tmp/easycluster-locks/
        undo-1000/                 of the account with this number, which alone writes to it
            BOOT-ID.PID-RANDOM     mode 0600; locked (flock(2)) by the process that is going to undo what it has

Who leases the host next finds what nobody has locked, and undoes that first.  A file is a row of records, each with
its length and checksum, so that one that was being written when the power went does not count::

    0x00   I   4   length of the record, big-endian
    0x04   I   4   its CRC-32
    0x08   -   n   a pickled dictionary, whose "is" says which: head, code, add or done

What is read here is run, so only a file that the account itself owns and nobody else can write to is read.

This module is shipped to the far side.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import stat
import struct
import sys
import time
import zlib
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Tuple

from easycluster.errors import EasyClusterError

if TYPE_CHECKING:
    from easycluster.far.undo import Code

__all__ = ["Journal", "JournalFault", "boot_id", "directory_of", "leftovers", "strangers"]

_HEAD = struct.Struct(">II")

Plain = Dict[str, Any]
Action = Tuple[Plain, "Code"]


class JournalFault(EasyClusterError, OSError):
    """The journal cannot be used; says why."""


def boot_id() -> str:
    """Which boot this is, ``""`` where the system does not say; a simulated host is told by whoever starts it."""
    told = os.environ.get("EASYCLUSTER_BOOT_ID")
    if told:
        return told
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def directory_of(locks: str) -> str:
    """Where this account's journals lie, by the lock directory."""
    return os.path.join(locks, f"undo-{os.geteuid()}")


class Journal:
    """One session's, locked by this process.

    Attributes:
        path: Its file.
        head: What the file says first: ``boot``, ``python``, ``lock``, ``token``, ``user``, ``host``, ``label``,
            ``since``.
    """

    def __init__(self, fd: int, path: str, head: Plain) -> None:
        self._fd = fd
        self.path = path
        self.head = head
        self._number = 0
        # By the identity of worker's code: its number here, and how many parts of it are written.
        self._codes: Dict[int, Tuple[int, int]] = {}
        self._open: List[int] = []

    @classmethod
    def create(cls, directory: str, info: Plain) -> Journal:
        """Begin one; nothing is written before there is something to undo.

        Args:
            directory: See :func:`directory_of`.
            info: For the head: whose it is.

        Raises:
            OSError: If that cannot be done here.
        """
        boot = boot_id()
        if not boot:
            raise JournalFault(errno.ENOTSUP, "this system has no boot id (/proc/sys/kernel/random/boot_id)")
        _make_directory(directory)
        path = os.path.join(directory, f"{boot}.{os.getpid()}-{os.urandom(4).hex()}")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _sync_directory(directory)
        return cls(fd, path, dict(info, boot=boot, python=list(sys.version_info[:2]), since=time.time()))

    @classmethod
    def take_over(cls, path: str) -> Optional[Journal]:
        """Lock a file that was left; None if its process lives, or it is gone.

        Raises:
            JournalFault: If it is not this account's alone.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as exc:
            text = f"{path} cannot be read ({exc.strerror}), so what it says is not done; remove it"
            raise JournalFault(exc.errno or 0, text) from exc
        try:
            _check(fd, path)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink == 0:
                # Somebody else has just finished with it.
                raise BlockingIOError
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, path, {})

    # Writing ---------------------------------------------------------------------------------------

    def add(self, packet: Plain, code: Code, at: int) -> int:
        """Write an action down; when this returns, it survives a loss of power.

        Args:
            packet: The action, see :mod:`easycluster.far.undo`.
            code: What it is made of.
            at: How many are below it.

        Returns:
            Its number.

        Raises:
            OSError: If it cannot be written; the file is as it was.
        """
        before = os.fstat(self._fd).st_size
        records = [dict(self.head, **{"is": "head"})] if not before else []
        codes = dict(self._codes) if before else {}
        number, written = codes.get(id(code), (len(codes), 0))
        if written < len(code.parts) or id(code) not in codes:
            definitions = list(code.definitions)
            records.append({"is": "code", "code": number, "definitions": definitions, "parts": code.parts[written:]})
            codes[id(code)] = number, len(code.parts)
        self._number += 1
        records.append({"is": "add", "number": self._number, "at": at, "code": number, "packet": packet})
        try:
            self._write(records)
        except OSError:
            os.ftruncate(self._fd, before)
            raise
        self._codes = codes
        self._open.append(self._number)
        return self._number

    def done(self, number: int) -> None:
        """Note that an action was carried out; :meth:`settle` makes that last."""
        self._open.remove(number)
        self._write([{"is": "done", "number": number}], sync=False)

    def settle(self) -> None:
        """Make sure that what was done is not done again."""
        if not self._open:
            os.ftruncate(self._fd, 0)
        os.fdatasync(self._fd)

    def remove(self) -> None:
        """Give it back: there is nothing left to undo."""
        try:
            os.unlink(self.path)
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        """Let go of it as it is; in a child, only of what would keep it locked."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, records: List[Plain], sync: bool = True) -> None:
        data = b""
        for record in records:
            body = pickle.dumps(record, 4)
            data += _HEAD.pack(len(body), zlib.crc32(body)) + body
        at = os.fstat(self._fd).st_size
        while data:
            written = os.pwrite(self._fd, data, at)
            at, data = at + written, data[written:]
        if sync:
            os.fdatasync(self._fd)

    # Reading ---------------------------------------------------------------------------------------

    def load(self) -> List[Tuple[int, int, Plain, Code]]:
        """What is still to be undone: for each action its number, how many were below it, itself, and its code."""
        from easycluster.far.undo import Code

        found: Dict[int, Tuple[int, int, Plain, Code]] = {}
        codes: Dict[int, Code] = {}
        size = 0
        for size, record in self._records():  # noqa: B007 - where the last good one ends
            kind = record["is"]
            if kind == "head":
                self.head = record
            elif kind == "code":
                code = codes.setdefault(record["code"], Code(record["definitions"]))
                code.parts += record["parts"]
                self._codes[id(code)] = record["code"], len(code.parts)
            elif kind == "add":
                self._number = record["number"]
                packet = self._checked(record["packet"])
                found[self._number] = self._number, record["at"], packet, codes[record["code"]]
            elif kind == "done":
                found.pop(record["number"], None)
        # What was being written when the power went was never confirmed.
        os.ftruncate(self._fd, size)
        self._open = list(found)
        return list(found.values())

    def _checked(self, packet: Plain) -> Plain:
        """The action; one that another Python wrote as byte code becomes one that says so: loading it could crash."""
        then, here = self.head.get("python") or [0, 0], list(sys.version_info[:2])
        if "call" in packet and not packet.get("name") and then != here:
            text = f"it was kept by Python {then[0]}.{then[1]}, and here is {here[0]}.{here[1]}"
            return dict(packet, fault=f"{text}; give functions of role code")
        return packet

    def _records(self) -> Iterator[Tuple[int, Plain]]:
        with open(self._fd, "rb", closefd=False) as file:
            file.seek(0)
            size = 0
            while True:
                head = file.read(_HEAD.size)
                if len(head) < _HEAD.size:
                    return
                length, checksum = _HEAD.unpack(head)
                body = file.read(length)
                if len(body) < length or zlib.crc32(body) != checksum:
                    return
                size += _HEAD.size + length
                yield size, pickle.loads(body)


def leftovers(directory: str, lock: str) -> Iterator[Journal]:
    """Journals of this account that nobody has any more, the newest first; each is the caller's to close or remove.

    Args:
        directory: See :func:`directory_of`.
        lock: The lock of the host that they are to be about, as in their heads.

    Raises:
        JournalFault: If there is one that could be of somebody else.
    """
    for path in _files(directory):
        journal = Journal.take_over(path)
        if journal is None:
            continue
        try:
            actions = journal.load()
        except BaseException:
            journal.close()
            raise
        if not actions:
            journal.remove()
        elif journal.head.get("lock") != lock:
            journal.close()
        else:
            yield journal


def strangers(locks: str) -> Iterator[Tuple[int, str, float]]:
    """Journals of other accounts from before this boot, which only they can undo: account, file, and when."""
    mine, boot = f"undo-{os.geteuid()}", boot_id()
    try:
        names = sorted(os.listdir(locks)) if boot else []
    except OSError:
        return
    for name in names:
        if name == mine or not name.startswith("undo-") or not name[5:].isdigit():
            continue
        for path in _files(os.path.join(locks, name), own=False):
            try:
                status = os.lstat(path)
            except OSError:
                continue
            # Of this boot, its process may live; an empty one is done.
            ours = stat.S_ISREG(status.st_mode) and status.st_uid == int(name[5:])
            if ours and status.st_size and not os.path.basename(path).startswith(boot):
                yield status.st_uid, path, status.st_mtime


def _files(directory: str, own: bool = True) -> List[str]:
    try:
        if own:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _check_directory(fd, directory)
            finally:
                os.close(fd)
        found = [os.path.join(directory, name) for name in os.listdir(directory) if not name.startswith(".")]
    except FileNotFoundError:
        return []
    except JournalFault:
        raise
    except OSError as exc:
        if own:
            raise JournalFault(exc.errno or 0, f"{directory} cannot be read: {exc.strerror}") from exc
        return []
    return sorted(found, key=_age)


def _age(path: str) -> float:
    try:
        return -os.lstat(path).st_mtime
    except OSError:
        return 0.0


def _make_directory(path: str) -> None:
    try:
        # Others may see that there is something, not what.
        os.mkdir(path, 0o711)
        os.chmod(path, 0o755)
        _sync_directory(os.path.dirname(path))
    except FileExistsError:
        pass
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check_directory(fd, path)
    finally:
        os.close(fd)


def _check_directory(fd: int, path: str) -> None:
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
        text = f"{path} can be written to by other accounts, so nothing that lies there is done; remove it"
        raise JournalFault(errno.EPERM, text)


def _check(fd: int, path: str) -> None:
    status = os.fstat(fd)
    alone = status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077 and status.st_nlink <= 1
    if not stat.S_ISREG(status.st_mode) or not alone:
        text = f"{path} is not this account's alone, so what it says is not done; remove it"
        raise JournalFault(errno.EPERM, text)


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
