"""The bytes of a logical unit: a sparse file, or one that lives in memory."""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Iterator, List, Optional, Tuple

if TYPE_CHECKING:
    from easycluster.devices.iscsi.pdu import Buffer

__all__ = ["FileStorage", "MemoryStorage", "Storage"]

_KEEP_SIZE_AND_PUNCH = 0x01 | 0x02
# 1 MiB at a time when zeroes are written, or a copy is made.
STEP = 1 << 20


class Storage:
    """Bytes from 0 to :attr:`size`; reading what was never written gives zeroes.

    Args:
        fd: An open file; closed with the storage.
        size: Bytes; the file is made so long.
    """

    def __init__(self, fd: int, size: Optional[int] = None) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        if size is None:
            size = os.fstat(fd).st_size
        else:
            os.ftruncate(fd, size)
        self.size = size

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill ``view`` from ``offset`` on."""
        while len(view):
            count = os.preadv(self._fd, [view], offset)
            if not count:
                view[:] = bytes(len(view))
                return
            offset, view = offset + count, view[count:]

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset`` on."""
        data = os.pread(self._fd, length, offset)
        if len(data) == length:
            return data
        whole = bytearray(length)
        self.read_into(offset, memoryview(whole))
        return bytes(whole)

    def write(self, offset: int, data: Buffer) -> None:
        """Put ``data`` at ``offset``."""
        view = memoryview(data)
        while len(view):
            count = os.pwrite(self._fd, view, offset)
            offset, view = offset + count, view[count:]

    def discard(self, offset: int, length: int) -> None:
        """Make bytes zero, and give their space back where the file system can."""
        if length and not _punch(self._fd, offset, length):
            zeroes = bytes(STEP)
            for start in range(offset, offset + length, STEP):
                self.write(start, zeroes[: min(STEP, offset + length - start)])

    def flush(self) -> None:
        """Have everything on the medium."""
        os.fsync(self._fd)

    def resize(self, size: int) -> None:
        """Make it longer or shorter."""
        os.ftruncate(self._fd, size)
        self.size = size

    def extents(self, offset: int, end: int) -> Iterator[Tuple[int, int, bool]]:
        """Return the parts of a range: where each begins and ends, and whether it has space of its own."""
        with self._lock:
            found: List[Tuple[int, int, bool]] = []
            while offset < end:
                data = self._seek(offset, getattr(os, "SEEK_DATA", None), end)
                if data > offset:
                    found.append((offset, min(data, end), False))
                if data >= end:
                    break
                hole = min(self._seek(data, getattr(os, "SEEK_HOLE", None), end), end)
                found.append((data, hole, True))
                offset = hole
        return iter(found)

    def _seek(self, offset: int, how: Optional[int], end: int) -> int:
        if how is None:
            return offset if how == getattr(os, "SEEK_DATA", None) else end
        try:
            return os.lseek(self._fd, offset, how)
        except OSError:
            # ENXIO: nothing from here to the end of the file.
            return end

    def copy_to(self, other: Storage) -> None:
        """Make ``other`` the same, holes included."""
        for start, end, used in self.extents(0, self.size):
            if used:
                for offset in range(start, end, STEP):
                    other.write(offset, self.read(offset, min(STEP, end - offset)))

    def close(self) -> None:
        """Give the file back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class MemoryStorage(Storage):
    """Bytes in memory; only what was written takes space.

    Args:
        size: Bytes.
    """

    def __init__(self, size: int) -> None:
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("easycluster-unit")
        else:
            fd, path = tempfile.mkstemp(prefix="easycluster-unit-")
            os.unlink(path)
        super().__init__(fd, size)

    def flush(self) -> None:
        """Do nothing: memory is as far as it gets."""


class FileStorage(Storage):
    """Bytes in a sparse file.

    Args:
        path: The file; made if it is not there.
        size: Bytes; by default those of the file.
    """

    def __init__(self, path: str, size: Optional[int] = None) -> None:
        super().__init__(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600), size)
        self.path = path


_libc: Any = None


def _punch(fd: int, offset: int, length: int) -> bool:
    """Make a hole in a file; False where that cannot be done."""
    global _libc
    try:
        if _libc is None:
            _libc = ctypes.CDLL(None, use_errno=True)
            _libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        return int(_libc.fallocate(fd, _KEEP_SIZE_AND_PUNCH, offset, length)) == 0
    except (OSError, AttributeError, TypeError):
        return False
