"""Memory for large buffers, in huge pages where the system has them (Linux).

Fresh memory is given out page by page, when each is first touched.  On a virtual machine 64 MiB took
40 ms in pages of 4 KiB, as long as hashing them, and 9 ms in pages of 2 MiB.

Imported when a large buffer arrives.  This module is shipped to the far side.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Any, Callable, Optional

try:
    import ctypes
except ImportError:  # Python can be built without
    ctypes = None  # type: ignore[assignment]

__all__ = ["new_bytearray", "new_scratch", "prefer_huge_pages"]


def new_scratch(size: int) -> Any:
    """Return memory for a while, which can be written to; it goes back to the system and not to a heap."""
    try:
        scratch = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except AttributeError:  # no Unix
        return bytearray(size)
    except OSError as exc:
        raise MemoryError(str(exc)) from exc
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            scratch.madvise(mmap.MADV_HUGEPAGE)
    return scratch


def _find_madvise() -> Optional[Callable[..., int]]:
    """Return the function of the C library, None where it cannot be had or there are no huge pages."""
    if ctypes is None or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    try:
        madvise: Any = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    found: Callable[..., int] = madvise
    return found


def _find_new_bytearray() -> Callable[[int], bytearray]:
    try:
        make: Any = ctypes.pythonapi.PyByteArray_FromStringAndSize
    except AttributeError:  # no ctypes, or another Python than CPython
        return bytearray
    make.argtypes, make.restype = [ctypes.c_char_p, ctypes.c_ssize_t], ctypes.py_object
    return lambda size: make(None, size)


_madvise = _find_madvise()

# Return a bytearray of a size, with anything in it: to fill it with zeros would touch each page.
new_bytearray = _find_new_bytearray()


def prefer_huge_pages(view: memoryview) -> None:
    """Ask for huge pages under memory that can be written to and was not used yet; whole pages of it only."""
    if _madvise is None:
        return
    start = ctypes.addressof(ctypes.c_char.from_buffer(view))
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = start + view.nbytes - first
    if length > 0:
        # The system may have none: then it stays as it is.
        _madvise(first, length // mmap.PAGESIZE * mmap.PAGESIZE, mmap.MADV_HUGEPAGE)
