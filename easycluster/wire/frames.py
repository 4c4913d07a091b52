"""Frames and records: how messages lie on the wire.  Pure bytes in, pure frames out.

A frame is a 16-byte header and a body, all numbers big-endian::

    0x00   I   4   body length in bytes, at most MAX_BODY
    0x04   B   1   kind, see :class:`Kind`
    0x05   B   1   flags: LARGE | NESTED | MARKED | COMPRESSED
    0x06   H   2   0
    0x08   I   4   id of the request this belongs to; 0 if none
    0x0c   I   4   far-side thread; with NESTED the id of the request it runs inside;
                   in answers with MARKED the output mark
    0x10   -   n   body

With LARGE the body begins with the sizes of buffers that follow the frame as bulk::

    0x00   H   2   number of buffers, 1 to MAX_BUFFERS
    0x02   Q   8   size of the first, with READ_ONLY if it becomes bytes; and so on
     ...   -   -   the pickle, or nothing: then the first buffer is the pickle

With COMPRESSED the pickle is a number of bytes (Q, 8) and that many bytes deflated (RFC 1950).
The body of CALLS and REPLIES is one pickle of many calls or answers (:mod:`easycluster.link.runs`).

On a trusted link (a pipe, ssh) frames and bulk simply follow one another.  On TCP frames travel in
records, and bulk in chunks, each with a tag (:mod:`easycluster.wire.records`)::

    record     0x00   I    4   body length, at most MAX_RECORD
               0x04   -   32   tag over the body; a wrong length covers other bytes and does not verify
               0x24   -    n   body: whole frames; a LARGE one is the last
    chunk      0x00   -    n   bytes of one buffer: CHUNK of them, or what is left
                n     -   32   tag over the bytes

So nothing is parsed, and no size believed, before its tag was checked; what an unauthenticated
peer can make us hold is one record.  Memory grows with the bytes received
(:mod:`easycluster.wire.bulk`).

Both coders keep their whole state in one tuple and change it in one store.  A signal handler that
raises in the middle (Ctrl-C, pytest-timeout) loses the step, never the place in the stream.

This module is shipped to the far side.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from typing import TYPE_CHECKING, Deque, List, Optional, Sequence, Tuple, Union

from easycluster.errors import LocalProtocolError, RemoteProtocolError
from easycluster.wire.bulk import CHUNK, READ_ONLY, Bulk, Incoming

if TYPE_CHECKING:
    from easycluster.wire.records import Mac

__all__ = [
    "CHUNK",
    "COMPRESSED",
    "HEADER",
    "LARGE",
    "MARKED",
    "NESTED",
    "PLAIN_HEADER",
    "SINGLE_THREAD",
    "Frame",
    "FrameDecoder",
    "FrameEncoder",
    "Kind",
    "compress",
    "decompress",
    "frame",
    "plain_kind",
]

HEADER = struct.Struct(">IBBHII")
# The same header, with the kind, no flags and the two zero bytes in one number: see plain_kind.
PLAIN_HEADER = struct.Struct(">IIII")
_LENGTH = struct.Struct(">I")
_pack = HEADER.pack
_unpack_from = HEADER.unpack_from

LARGE = 1
NESTED = 2
MARKED = 4
COMPRESSED = 8

# Bodies above this leave the frame and go as bulk, so that they are received straight into place.
MAX_INLINE = 64 << 10
MAX_BODY = 192 << 10
MAX_RECORD = 256 << 10
MAX_BUFFERS = 4096
Buffer = Union[bytes, bytearray, memoryview]
# kind, flags, id, thread, body, buffers
Frame = Tuple[int, int, int, int, bytes, Sequence[Bulk]]


class Kind:
    """What a frame is.  Plain ints: a frame is looked at a few hundred thousand times a second."""

    HELLO = 1
    CALL = 2
    CALLS = 3
    REPLY = 4
    RAISE = 5
    RELEASE = 6
    CANCEL = 7
    OUTPUT = 8
    LOG = 9
    PING = 10
    PONG = 11
    ITEM = 12
    CREDIT = 13
    GOODBYE = 14
    SYNC = 15
    SYNCED = 16
    SPAWN = 17
    SPAWNED = 18
    DIED = 19
    DATA = 20
    KILL = 21
    STOP_THREAD = 22
    ASK = 23
    ANSWER = 24
    REPLIES = 25

    # Never on the wire: a call out of a run of CALLS, a reply out of REPLIES.  The operation or the value, rebuilt
    # already, is in the place of the body.
    OPERATION = 26
    VALUE = 27


_LAST_KIND = 25

# Thread number that stands for a new thread for this request alone.
SINGLE_THREAD = 0xFFFFFFFF


def frame(kind: int, request: int = 0, body: bytes = b"", thread: int = 0, flags: int = 0) -> bytes:
    """Return a small frame as bytes."""
    if len(body) > MAX_BODY:
        raise LocalProtocolError(f"a frame body of {len(body)} bytes is above the limit of {MAX_BODY}")
    return _pack(len(body), kind, flags, 0, request, thread) + body


def plain_kind(kind: int) -> int:
    """Return the second number of a ``PLAIN_HEADER``: a kind without flags."""
    return kind << 24


def compress(flags: int, body: bytes) -> Tuple[int, bytes]:
    """Return flags and body of a frame, compressed if that makes it smaller."""
    packed = len(body).to_bytes(8, "big") + zlib.compress(body, 1)
    return (flags | COMPRESSED, packed) if len(packed) < len(body) else (flags, body)


def decompress(body: Buffer, limit: int) -> bytes:
    """Undo :func:`compress`; the result is as long as the body declares, never longer.

    Raises:
        RemoteProtocolError: If the declared size is above ``limit`` bytes or not the real one.
    """
    size = int.from_bytes(body[:8], "big")
    if size > limit:
        raise RemoteProtocolError(f"a compressed body of {size} bytes is above the limit of {limit}")
    inflater = zlib.decompressobj()
    try:
        # A limit of 0 would be none at all.
        data = inflater.decompress(memoryview(body)[8:], max(size, 1))
    except zlib.error as exc:
        raise RemoteProtocolError("a compressed body cannot be inflated") from exc
    if len(data) != size or inflater.unconsumed_tail or not (inflater.eof or not size):
        raise RemoteProtocolError("a compressed body does not have the size it declares")
    return data


class FrameEncoder:
    """Turns frames into what goes on the wire, with tags if the link has a key.

    The record counter is given in and out, because the caller commits it together with the bytes
    in one store.
    """

    def __init__(self, mac: Optional[Mac] = None) -> None:
        self._mac = mac

    def encode(self, number: int, frames: bytes) -> Tuple[int, bytes]:
        """Wrap whole frames (at most MAX_RECORD bytes) and return the next record number too."""
        mac = self._mac
        if mac is None:
            return number, frames
        size = len(frames)
        if size > MAX_RECORD:
            raise LocalProtocolError(f"a record of {size} bytes is above the limit of {MAX_RECORD}")
        return number + 1, mac.seal(number, frames)

    def encode_large(
        self, number: int, head: Tuple[int, int, int, int], body: bytes, buffers: Sequence[memoryview]
    ) -> Tuple[int, List[Buffer]]:
        """Encode one frame with bulk.

        Args:
            number: The next record number.
            head: Kind, flags, id and thread.
            body: The pickle.
            buffers: What the pickle refers to out of band, contiguous bytes.

        Returns:
            The next record number and what to send, in order.
        """
        kind, flags, request, thread = head
        views = list(buffers)
        if len(body) > MAX_INLINE:
            views.insert(0, memoryview(body))
            body = b""
        if not views or len(views) > MAX_BUFFERS:
            raise LocalProtocolError(f"a frame carries 1 to {MAX_BUFFERS} buffers, not {len(views)}")
        count = len(views)
        sizes = struct.pack(
            f">H{count}Q", count, *[view.nbytes | (READ_ONLY if view.readonly else 0) for view in views]
        )
        number, data = self.encode(
            number, _pack(len(sizes) + len(body), kind, flags | LARGE, 0, request, thread) + sizes + body
        )
        pieces: List[Buffer] = [data]
        mac = self._mac
        for view in views:
            for start in range(0, view.nbytes, CHUNK):
                chunk = view[start : start + CHUNK]
                pieces.append(chunk)
                if mac is not None:
                    # The sender hashes chunk n + 1 while the kernel still empties chunk n.
                    pieces.append(_LazyTag(mac, number, chunk))  # type: ignore[arg-type]  # resolved by the link
                    number += 1
        return number, pieces


class _LazyTag:
    """A tag that is computed when its turn to be sent comes, so that hashing and sending overlap."""

    __slots__ = ("_chunk", "_mac", "_number", "_tag")

    def __init__(self, mac: Mac, number: int, chunk: memoryview) -> None:
        self._mac = mac
        self._number = number
        self._chunk = chunk
        self._tag: Optional[bytes] = None

    def __bytes__(self) -> bytes:
        # Whoever sends asks again for each look at how much is sent.
        tag = self._tag
        if tag is None:
            tag = self._tag = self._mac.tag(self._number, self._chunk)
        return tag


# Bytes that were looked at and do not make a frame yet, the frame whose bulk is arriving, frames that
# are whole and not taken yet.
_Begun = Tuple[bytes, Optional[Incoming], Deque[Frame]]
_NOTHING: _Begun = (b"", None, deque())


class FrameDecoder:
    """Takes what the transport read and returns the frames it completes.

    Args:
        mac: Checks the tags; None on a trusted link.
        max_frame: The largest total of the buffers of one frame, in bytes.
    """

    def __init__(self, mac: Optional[Mac] = None, max_frame: int = 4 << 30) -> None:
        self._mac = mac
        self.max_frame = max_frame
        # All of it in one tuple, which is replaced as a whole: what has begun, number of the next
        # record, what was read and not looked at yet.
        self._state: Tuple[Optional[_Begun], int, List[bytes]] = (None, 0, [])

    @property
    def state(self) -> object:
        """All that was read and not taken yet; another object whenever something of it was taken."""
        return self._state

    @property
    def ready(self) -> Deque[Frame]:
        """Frames that are whole; whoever takes one removes it."""
        begun = self._state[0]
        return deque() if begun is None else begun[2]

    @property
    def chunks(self) -> List[bytes]:
        """Where to put what was read; call :meth:`digest` afterwards."""
        return self._state[2]

    @property
    def in_bulk(self) -> bool:
        """Whether the next bytes belong into :meth:`targets`."""
        begun = self._state[0]
        return begun is not None and begun[1] is not None

    @property
    def in_the_middle(self) -> bool:
        """Whether a frame has begun and not ended: an end of the stream now is a truncation."""
        begun = self._state[0]
        return begun is not None and (bool(begun[0]) or begun[1] is not None)

    def targets(self) -> Tuple[List[memoryview], List[int]]:
        """Return where to read the next bytes to, and the list to append the count to.

        Only while :attr:`in_bulk`.  After the count was appended call :meth:`digest_bulk`.
        """
        incoming = (self._state[0] or _NOTHING)[1]
        assert incoming is not None
        return incoming.targets(), incoming.counts

    def digest_bulk(self) -> None:
        """Take the bytes that were read into :meth:`targets`; the frame is :attr:`ready` once whole.

        Raises:
            RemoteProtocolError: If a chunk's tag is wrong.
        """
        begun, number, chunks = self._state
        rest, incoming, ready = begun or _NOTHING
        assert incoming is not None
        if not incoming.ready:
            return
        following, number = incoming.settle(sum(incoming.counts), self._mac, number)
        if following.whole:
            self._state = ((rest, None, deque([*ready, _finish(following)])), number, chunks)
        else:
            self._state = ((rest, following, ready), number, chunks)

    def receive_data(self, data: bytes) -> List[Frame]:
        """Take bytes from the peer and return the frames they complete.

        Args:
            data: What the transport read; any length, ``b""`` is allowed.

        Returns:
            Zero or more frames, oldest first.

        Raises:
            RemoteProtocolError: If a tag is wrong, a length is above its limit or a kind unknown.
                The decoder is then of no further use.
        """
        self.chunks.append(data)
        self.digest()
        ready = self.ready
        frames = list(ready)
        ready.clear()
        self.rest()
        return frames

    def accept(self, frames: bytes, number: int) -> None:
        """Take what was read, one record that the caller has verified; what is not simple is left to :meth:`digest`.

        Args:
            frames: What is in it.
            number: The next record number.
        """
        taken: List[Frame] = []
        try:
            parsed, incoming = self._parse(frames, 0, len(frames), taken)
        except RemoteProtocolError:
            return
        if incoming is None and parsed == len(frames):
            self._state = ((b"", None, deque(taken)), number, [])

    def rest(self) -> None:
        """Note that nothing has begun if that is so: all that was :attr:`ready` has been taken."""
        begun, number, chunks = self._state
        if begun is not None and not any(begun):
            self._state = (None, number, chunks)

    def digest(self) -> None:
        """Look at :attr:`chunks`; whole frames are :attr:`ready` afterwards.

        Raises:
            RemoteProtocolError: As :meth:`receive_data`.
        """
        begun, number, chunks = self._state
        rest, incoming, ready = begun or _NOTHING
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if rest:
            data = rest + data
        frames: List[Frame] = []
        position, end = 0, len(data)
        mac = self._mac
        while True:
            if incoming is not None:
                position, number, incoming = self._fill(incoming, data, position, number)
                if not incoming.whole:
                    break
                frames.append(_finish(incoming))
                incoming = None
            if mac is None:
                position, incoming = self._parse(data, position, end, frames)
                if incoming is None:
                    break
                continue
            if end - position < 36:
                break
            (size,) = _LENGTH.unpack_from(data, position)
            if size > MAX_RECORD:
                raise RemoteProtocolError("a record is longer than allowed")
            start, stop = position + 36, position + 36 + size
            if end < stop:
                break
            body = data[start:stop]
            if not mac.verify(number, body, data[position + 4 : start]):
                raise RemoteProtocolError("a record does not verify")
            number += 1
            parsed, incoming = self._parse(body, 0, size, frames)
            if parsed != size:
                raise RemoteProtocolError("a record ends inside a frame")
            position = stop
        if ready:
            frames = [*ready, *frames]
        rest = data[position:] if position < end else b""
        self._state = ((rest, incoming, deque(frames)) if rest or incoming or frames else None, number, [])

    def _parse(self, data: bytes, position: int, end: int, frames: List[Frame]) -> Tuple[int, Optional[Incoming]]:
        """Append the frames in ``data[position:end]``; stop behind a LARGE one."""
        while end - position >= 16:
            size, kind, flags, _zero, request, thread = _unpack_from(data, position)
            if size > MAX_BODY or not 0 < kind <= _LAST_KIND:
                raise RemoteProtocolError(f"a frame of kind {kind} with {size} bytes is not allowed")
            start = position + 16
            stop = start + size
            if stop > end:
                break
            position = stop
            body = data[start:stop]
            if flags & LARGE:
                return position, self._announce((kind, flags & ~LARGE, request, thread), body)
            frames.append((kind, flags, request, thread, body, ()))
        return position, None

    def _announce(self, head: Tuple[int, int, int, int], body: bytes) -> Incoming:
        count = int.from_bytes(body[:2], "big")
        start = 2 + 8 * count
        if not 0 < count <= MAX_BUFFERS or len(body) < start:
            raise RemoteProtocolError(f"a frame cannot announce {count} buffers in {len(body)} bytes")
        sizes = struct.unpack_from(f">{count}Q", body, 2)
        incoming = Incoming(head, body[start:], sizes, self._mac is not None)
        if incoming.total > self.max_frame:
            raise RemoteProtocolError(f"a frame of {incoming.total} bytes is above the limit of {self.max_frame}")
        return incoming

    def _fill(self, incoming: Incoming, data: bytes, position: int, number: int) -> Tuple[int, int, Incoming]:
        """Copy bulk that came in one read with its frame.  Changes nothing that is committed."""
        source = memoryview(data)
        while position < len(data) and not incoming.whole:
            filled = sum(incoming.counts)
            for view in incoming.targets():
                piece = source[position : position + view.nbytes]
                view[: piece.nbytes] = piece
                position += piece.nbytes
                filled += piece.nbytes
            incoming, number = incoming.settle(filled, self._mac, number)
        return position, number, incoming


def _finish(incoming: Incoming) -> Frame:
    kind, flags, request, thread = incoming.head
    body, buffers = incoming.body, incoming.buffers()
    if not body:
        # The pickle itself came as the first buffer.
        body, buffers = buffers[0], buffers[1:]  # type: ignore[assignment]  # any buffer can be unpickled
    return kind, flags, request, thread, body, buffers
