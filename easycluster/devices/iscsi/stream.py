"""PDUs over a socket, for both ends: what is read goes to its place, what is written is not copied."""

from __future__ import annotations

import math
import select
import socket
import struct
import time
from collections import deque
from itertools import islice
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple

from easycluster.devices.iscsi.crc32c import crc32c
from easycluster.devices.iscsi.errors import ProtocolFault, TargetGone
from easycluster.devices.iscsi.pdu import BHS_LENGTH, Buffer, Header, encode_header, padding, parse_header

__all__ = ["READABLE", "WRITABLE", "PduStream", "Place", "encode_pdu"]

# 32 KiB: eight answers with a block of 4 KiB each come with one system call; of a large answer, the most that is
# copied a second time.
BUFFER = 32768

READABLE, WRITABLE = 1, 2

# Where the data of a PDU belongs, or None for a buffer of its own.
Place = Callable[[Header], Optional[memoryview]]

_ZEROES = bytes(4)
_NOTHING = memoryview(b"")


class PduStream:
    """A socket, as PDUs.

    A read that ran out of time has lost nothing: the next one goes on.

    Args:
        sock: A connected socket; from now on it does not block, and waits have ends of their own.
        name: The peer, for messages.
    """

    def __init__(self, sock: socket.socket, name: str) -> None:
        self.sock, self.name = sock, name
        sock.setblocking(False)
        self.header_digest = self.data_digest = False
        # What the peer may put into a PDU: what we said, and more than login text before we said anything.
        self.max_recv = 1 << 20
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._header: Optional[Header] = None
        # Additional header segments of the last PDU.
        self.segments = b""
        # Called before the socket is waited for.
        self.before_wait: Optional[Callable[[], None]] = None
        self.aborted = False
        # One for each set of events.  Who waits has tried the socket before, so it is open.
        self._polls: Dict[int, Any] = {}
        self._place = _NOTHING
        self._got = 0

    @property
    def waiting(self) -> bool:
        """Whether bytes were read that are not a whole PDU yet, or not looked at."""
        return self._end > self._start or self._header is not None

    def read(self, deadline: Optional[float], place: Optional[Place] = None) -> Tuple[Header, memoryview]:
        """Return the next PDU: header and data.

        Args:
            deadline: When to give up, as ``time.monotonic()`` says it; None for never.
            place: Says where the data belongs.

        Raises:
            TimeoutError: If it did not come whole by then.
            TargetGone: If the peer closed the connection, or it broke.
            ProtocolFault: If a digest is wrong or the PDU too large.
        """
        if self._header is None:
            self._read_header(deadline, place)
        header = self._header
        assert header is not None
        data = self._place
        size = header.data_length
        if self._got < size:
            self._read_data(data, size, deadline)
        if size:
            self._read_trailer(data, size, deadline)
        self._header, self._place = None, _NOTHING
        return header, data

    def _read_header(self, deadline: Optional[float], place: Optional[Place]) -> None:
        self._want(BHS_LENGTH, deadline)
        start = self._start
        header = parse_header(self._view[start : start + BHS_LENGTH])
        if header.data_length > self.max_recv:
            raise ProtocolFault(f"{self.name}: a PDU with {header.data_length} bytes of data, at most {self.max_recv}")
        length = BHS_LENGTH + header.ahs_length
        if header.ahs_length or self.header_digest:
            self._want(length + 4 * self.header_digest, deadline)
            start = self._start
            if self.header_digest:
                got = int.from_bytes(self._view[start + length : start + length + 4], "little")
                if crc32c(self._view[start : start + length]) != got:
                    raise ProtocolFault(f"{self.name}: the digest of a header is wrong")
        self.segments = bytes(self._view[start + BHS_LENGTH : start + length])
        self._start = start + length + 4 * self.header_digest
        self._got = 0
        where = place(header) if place is not None and header.data_length else None
        self._place = memoryview(bytearray(header.data_length)) if where is None else where
        self._header = header

    def _read_data(self, data: memoryview, size: int, deadline: Optional[float]) -> None:
        have = min(size - self._got, self._end - self._start)
        if have:
            data[self._got : self._got + have] = self._view[self._start : self._start + have]
            self._start += have
            self._got += have
        while self._got < size:
            self._got += self._receive(data[self._got : size], deadline)

    def _read_trailer(self, data: memoryview, size: int, deadline: Optional[float]) -> None:
        pad = padding(size)
        trailer = pad + 4 * self.data_digest
        if not trailer:
            return
        self._want(trailer, deadline)
        end = self._start + pad
        if self.data_digest:
            got = int.from_bytes(self._view[end : end + 4], "little")
            if crc32c(self._view[self._start : end], crc32c(data[:size])) != got:
                raise ProtocolFault(f"{self.name}: the digest of data is wrong")
        self._start += trailer

    def _want(self, count: int, deadline: Optional[float]) -> None:
        """Have ``count`` bytes in the buffer."""
        while self._end - self._start < count:
            if self._start:
                left = self._end - self._start
                self._view[:left] = bytes(self._view[self._start : self._end])
                self._start, self._end = 0, left
            self._end += self._receive(self._view[self._end :], deadline)

    def _receive(self, where: memoryview, deadline: Optional[float]) -> int:
        while True:
            try:
                count = self.sock.recv_into(where)
            except (BlockingIOError, InterruptedError):
                if self.before_wait is not None:
                    self.before_wait()
                if not self.wait(READABLE, deadline):
                    raise TimeoutError(f"{self.name}: nothing came in time") from None
                continue
            except (OSError, ValueError) as exc:
                raise TargetGone(f"{self.name}: the connection broke: {reason(exc)}") from exc
            if not count:
                raise TargetGone(f"{self.name}: the peer closed the connection")
            return count

    # ------------------------------------------------------------ writing

    def push(self, pieces: Deque[Buffer]) -> bool:
        """Send what the socket takes now and remove it from ``pieces``; whether all was taken.

        Raises:
            TargetGone: If the connection broke.
        """
        while pieces:
            try:
                sent = self.sock.sendmsg(list(islice(pieces, 32)))
            except (BlockingIOError, InterruptedError):
                return False
            except (OSError, ValueError) as exc:
                raise TargetGone(f"{self.name}: the connection broke: {reason(exc)}") from exc
            while sent:
                size = len(pieces[0])
                if sent < size:
                    pieces[0] = memoryview(pieces[0])[sent:]
                    break
                pieces.popleft()
                sent -= size
            while pieces and not len(pieces[0]):
                pieces.popleft()
        return True

    def write(self, pieces: List[Buffer], deadline: Optional[float] = None) -> None:
        """Send all pieces.

        Raises:
            TimeoutError: If the peer did not take them by then.
            TargetGone: If the connection broke.
        """
        left = deque(pieces)
        while not self.push(left):
            if not self.wait(WRITABLE, deadline):
                raise TimeoutError(f"{self.name}: it took no data in time")

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def abort(self) -> None:
        """Have the peer see a reset, and a thread that waits here an end; :meth:`close` follows."""
        self.aborted = True
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # A thread in poll() is woken by this, and not by close().
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def wait(self, events: int, deadline: Optional[float]) -> int:
        """Wait until the socket is readable or writable; return what it is, 0 when time is up."""
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        poll = self._polls.get(events)
        if poll is None and hasattr(select, "poll"):
            poll = self._polls[events] = select.poll()
            poll.register(
                self.sock,
                (select.POLLIN if events & READABLE else 0) | (select.POLLOUT if events & WRITABLE else 0),
            )
        if poll is not None:
            ready = poll.poll(None if left is None else math.ceil(left * 1000))
            # A broken connection is both: the next call on the socket says how it broke.
            broken = select.POLLHUP | select.POLLERR | select.POLLNVAL
            said = ready[0][1] if ready else 0
            return (READABLE if said & (select.POLLIN | broken) else 0) | (
                WRITABLE if said & (select.POLLOUT | broken) else 0
            )
        readable, writable, _ = select.select(
            [self.sock] if events & READABLE else [], [self.sock] if events & WRITABLE else [], [], left
        )
        return (READABLE if readable else 0) | (WRITABLE if writable else 0)


def reason(exc: Exception) -> str:
    """What an error of a socket says, in words."""
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__


def encode_pdu(
    header: Header, data: Buffer = b"", header_digest: bool = False, data_digest: bool = False
) -> List[Buffer]:
    """Return a PDU as pieces for ``sendmsg``; the data is not copied."""
    size = len(data)
    head = encode_header(header, size)
    if header_digest:
        head += crc32c(head).to_bytes(4, "little")
    if not size:
        return [head]
    pad = _ZEROES[: padding(size)]
    if data_digest:
        pad += crc32c(pad, crc32c(data)).to_bytes(4, "little")
    return [head, data, pad] if pad else [head, data]
