"""Byte streams over pipes and sockets.

Reads block, writes do not.  What is read or written is handed out as a ``map`` object that the
caller runs with ``list.extend``: the system call and the storing of its result are then one step
for the interpreter, and a signal handler that raises (Ctrl-C) cannot fall between the two.

This module is shipped to the far side.
"""

from __future__ import annotations

import errno
import functools
import os
import select
import socket
import stat
import threading
from typing import Callable, Iterator, List, NoReturn, Optional, Tuple, Union

__all__ = ["DataLink", "PipeStream", "SocketStream", "Stream", "stream_from_fds"]

# 64 KiB: a fresh buffer of 128 KiB and more is mapped anew each time (37 us against 10).
READ_SIZE = 64 << 10
# Deep enough that both ends of a bulk transfer hash while the kernel holds the next chunks.
_SOCKET_BUFFER = 4 << 20

_DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)

Buffer = Union[bytes, bytearray, memoryview]


class Stream:
    """What pipes and sockets share: waiting, and giving descriptors back once.

    Attributes:
        read_step: Function of one read and its argument, a size, in a tuple: ``map(*read_step)``.
        write_step: Function of one write, and its argument behind the data in a tuple, which may be empty.
    """

    read_step: Tuple[Callable[[int], bytes], Tuple[int]]
    write_step: Tuple[Callable[..., int], Tuple[int, ...]]

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when bytes arrive."""
        return self._read_fd

    def write_fileno(self) -> int:
        """Return the descriptor that becomes writable when the peer takes bytes."""
        return self._write_fd

    def read_map(self) -> Iterator[bytes]:
        """Return a map of one read."""
        return map(*self.read_step)

    def write_map(self, data: Buffer) -> Iterator[int]:
        """Return a map of one write; running it raises BlockingIOError if there is no room."""
        write, flags = self.write_step
        return map(write, (data,), flags) if flags else map(write, (data,))

    def wait(
        self, *, write: bool, timeout: Optional[float], read: bool = True, wake_fd: int = -1
    ) -> Tuple[bool, bool, bool]:
        """Wait until the stream can be read or written, or ``wake_fd`` be read.

        Args:
            write: Whether to wait for room to write, too.
            timeout: Seconds, None for no limit.
            read: Whether to wait for bytes to read.
            wake_fd: A further descriptor to watch, -1 for none.

        Returns:
            Whether the stream can be read, written, and whether ``wake_fd`` can be read.  All
            False once the timeout has passed.
        """
        masks = {}
        if read:
            masks[self._read_fd] = _POLLIN
        if write:
            masks[self._write_fd] = masks.get(self._write_fd, 0) | _POLLOUT
        if wake_fd >= 0:
            masks[wake_fd] = _POLLIN
        events = _poll(masks, timeout)
        # An error or a hang-up shows on either side: let the read or the write meet it.
        can_read = read and bool(events.get(self._read_fd, 0) & ~_POLLOUT)
        can_write = write and bool(events.get(self._write_fd, 0) & ~_POLLIN)
        return can_read, can_write, bool(events.get(wake_fd, 0))


class PipeStream(Stream):
    """A pair of pipe ends (or FIFOs).  Owns both descriptors."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        super().__init__(read_fd, write_fd)
        os.set_blocking(read_fd, True)
        os.set_blocking(write_fd, False)
        # Between shutdown and close: a number that was given back may belong to somebody else.
        self._giving_back = threading.Lock()
        self.read_step = (functools.partial(os.read, read_fd), (READ_SIZE,))
        self.write_step = (functools.partial(os.write, write_fd), ())

    def readv_map(self, views: List[memoryview]) -> Iterator[int]:
        """Return a map of one read into ``views``."""
        return map(os.readv, (self._read_fd,), (views,))

    def shutdown(self) -> None:
        """Tell the peer that no more comes.  A read here goes on until the peer ends too."""
        # Closing a descriptor that another thread reads from would hand its number to a stranger.
        # The null device takes its place: the peer sees the end of its stream at once.
        with self._giving_back:
            if self._write_fd < 0:
                return
            try:
                # An object: a signal handler may raise before a number is noted, and nobody would close it then.
                null = open(os.devnull, "wb", 0)  # noqa: SIM115
            except OSError:
                # There is no descriptor left.  Nobody can write to a pipe's end for reading either.
                os.dup2(self._read_fd, self._write_fd, inheritable=False)
                return
            with null:
                os.dup2(null.fileno(), self._write_fd, inheritable=False)

    def close(self) -> None:
        """Give the descriptors back; a second call does nothing."""
        with self._giving_back:
            for fd in {self._read_fd, self._write_fd} - {-1}:
                os.close(fd)
            self._read_fd = self._write_fd = -1
        # The numbers may belong to somebody else from now on.
        self.read_step, self.write_step = (_closed, (0,)), (_closed, ())


class SocketStream(Stream):
    """A connected stream socket.  Owns it."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock.fileno(), sock.fileno())
        self.socket = sock
        sock.settimeout(None)
        if sock.family in (socket.AF_INET, getattr(socket, "AF_INET6", socket.AF_INET)):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER)
        self.read_step = (sock.recv, (READ_SIZE,))
        self.write_step = (sock.send, (_DONTWAIT,))

    def readv_map(self, views: List[memoryview]) -> Iterator[int]:
        """Return a map of one read into ``views``."""
        if hasattr(os, "readv"):
            return map(os.readv, (self._read_fd,), (views,))
        return map(self.socket.recv_into, (views[0],))

    def shutdown(self) -> None:
        """End both directions: a read that another thread is blocked in returns."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self) -> None:
        """Give the socket back; a second call does nothing."""
        self.socket.close()
        self._read_fd = self._write_fd = -1


def _closed(*_args: object) -> NoReturn:
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))


class DataLink:
    """A connected data stream and what belongs to it.

    Attributes:
        stream: The stream.
        send_key: Key of the records sent, None on a trusted link.
        receive_key: Key of the records received, None on a trusted link.
        close: Gives back whatever keeps the stream alive besides its descriptors.
    """

    def __init__(
        self,
        stream: Union[PipeStream, SocketStream],
        send_key: Optional[bytes] = None,
        receive_key: Optional[bytes] = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.stream = stream
        self.send_key = send_key
        self.receive_key = receive_key
        self.close = close


def stream_from_fds(read_fd: int, write_fd: int) -> Union[PipeStream, SocketStream]:
    """Make a stream of two descriptors that were handed over; it owns them.

    sshd gives a command either two pipes or one socket as stdin and stdout.  On a socket the two
    share one non-blocking flag, so it needs flags per call instead.
    """
    if stat.S_ISSOCK(os.fstat(read_fd).st_mode):
        if write_fd != read_fd:
            os.close(write_fd)
        return SocketStream(socket.socket(fileno=read_fd))
    return PipeStream(read_fd, write_fd)


if hasattr(select, "poll"):
    _POLLIN, _POLLOUT = select.POLLIN, select.POLLOUT

    def _poll(masks: dict[int, int], timeout: Optional[float]) -> dict[int, int]:
        poller = select.poll()
        for fd, mask in masks.items():
            poller.register(fd, mask)
        if timeout is not None:
            # Rounded up: a wait that ends a little early would spin through its last millisecond.
            timeout = int(timeout * 1000) + 1 if timeout > 0 else 0
        return dict(poller.poll(timeout))

else:
    _POLLIN, _POLLOUT = 1, 4

    def _poll(masks: dict[int, int], timeout: Optional[float]) -> dict[int, int]:
        reading = [fd for fd, mask in masks.items() if mask & _POLLIN]
        writing = [fd for fd, mask in masks.items() if mask & _POLLOUT]
        read, write, _ = select.select(reading, writing, [], timeout)
        events = dict.fromkeys(read, _POLLIN)
        for fd in write:
            events[fd] = events.get(fd, 0) | _POLLOUT
        return events
