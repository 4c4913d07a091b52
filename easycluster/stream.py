"""The one interface to a transport: a duplex stream of bytes.

:mod:`easycluster.link` drives a stream; transports and the far side make them.
This module is shipped to the far side.
"""

from __future__ import annotations

from typing import Callable, Iterator, List, Optional, Protocol, Tuple, Union

__all__ = ["ByteStream"]


class ByteStream(Protocol):
    """A connected, reliable, ordered stream of bytes.

    Reads block, writes never do: a writer that finds the peer busy has to keep reading, or two
    ends that send large values at once would wait for each other for ever.

    System calls are handed out as ``map`` objects of one step.  ``list.extend`` runs one and
    stores its result without coming back to the interpreter in between, so that a signal handler
    that raises cannot lose bytes that were already read, or forget some that were written.
    """

    # Function of one read and its argument, for ``map(*read_step)``: spares the busiest a call.
    read_step: Tuple[Callable[[int], bytes], Tuple[int]]
    # Function of one write, and what it takes behind the data, which may be nothing.
    write_step: Tuple[Callable[..., int], Tuple[int, ...]]

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when bytes arrive."""

    def write_fileno(self) -> int:
        """Return the descriptor that becomes writable when the peer takes bytes."""

    def read_map(self) -> Iterator[bytes]:
        """Return a map of one read; it yields ``b""`` at the end of the stream."""

    def readv_map(self, views: List[memoryview]) -> Iterator[int]:
        """Return a map of one read into ``views``; it yields the number of bytes, 0 at the end."""

    def write_map(self, data: Union[bytes, bytearray, memoryview]) -> Iterator[int]:
        """Return a map of one write; it yields the number of bytes, or raises BlockingIOError."""

    def wait(
        self, *, write: bool, timeout: Optional[float], read: bool = True, wake_fd: int = -1
    ) -> Tuple[bool, bool, bool]:
        """Wait until the stream can be read or written, or ``wake_fd`` be read; return which."""

    def shutdown(self) -> None:
        """Let the peer see the end; make a blocked read return as far as the system can."""

    def close(self) -> None:
        """Give the descriptors back; a second call does nothing."""
