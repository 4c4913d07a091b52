"""Large buffers on their way in: received in chunks, checked, and grown chunk by chunk.

A buffer ends as the object it will be: ``bytes`` for what cannot be written to, a ``bytearray`` for
the rest.  So nothing has to be copied when the value is rebuilt, and a value takes its own size in
memory and no more.  A chunk is read into one place that is used again and again, and is still in
the processor's cache when it is hashed and copied to its end.

Memory grows with the bytes received and checked, whatever size was announced.

This module is shipped to the far side.
"""

from __future__ import annotations

import io
from typing import List, Optional, Sequence, Tuple, Union

from easycluster.errors import RemoteProtocolError
from easycluster.wire.records import TAG_SIZE, Mac

__all__ = ["CHUNK", "READ_ONLY", "Bulk", "Incoming"]

# 256 KiB.  Both ends hash a chunk while the next one travels: 405-580 MB/s in one piece, 715-865 in
# chunks of this size.
CHUNK = 256 << 10
# In the announced size of a buffer: it becomes bytes.
READ_ONLY = 1 << 63

Bulk = Union[bytes, bytearray]


class _Fixed:
    """Bytes that grow.  BytesIO hands out what it has written to without a copy."""

    __slots__ = ("_file",)

    def __init__(self) -> None:
        self._file = io.BytesIO()

    def put(self, offset: int, view: memoryview) -> None:
        """Write at an offset, where something may have been written before."""
        self._file.seek(offset)
        self._file.write(view)

    def value(self) -> bytes:
        """Return all of it."""
        return self._file.getvalue()


class _Open:
    """A bytearray that grows."""

    __slots__ = ("_array",)

    def __init__(self) -> None:
        self._array = bytearray()

    def put(self, offset: int, view: memoryview) -> None:
        """Write at an offset, where something may have been written before."""
        self._array[offset : offset + view.nbytes] = view

    def value(self) -> bytearray:
        """Return all of it."""
        return self._array


class Incoming:
    """A frame whose buffers are still arriving.

    Every step returns another object and leaves this one as it was, but for the chunk that is being
    read and what lies behind the bytes that count: a step that a signal handler has broken off can
    be taken again.

    Args:
        head: Kind, flags, id and thread.
        body: The pickle.
        sizes: Of the buffers, as they were announced.
        tagged: Whether each chunk is followed by its tag.

    Attributes:
        counts: Bytes of the next chunk that were read, one number for each read; appended to by the
            reader in one step of the interpreter.
        total: Size of all buffers.
    """

    __slots__ = ("_buffers", "_chunk", "_index", "_offset", "_sizes", "_tag_size", "body", "counts", "head")

    def __init__(self, head: Tuple[int, int, int, int], body: bytes, sizes: Sequence[int], tagged: bool) -> None:
        self.head = head
        self.body = body
        self._sizes = [size & ~READ_ONLY for size in sizes]
        self._buffers = [_Fixed() if size & READ_ONLY else _Open() for size in sizes]
        self._tag_size = TAG_SIZE if tagged else 0
        # Made when it is needed: the sizes may be refused.
        self._chunk: Optional[bytearray] = None
        self._index = self._offset = 0
        self.counts: List[int] = []
        self._skip_empty()

    def _skip_empty(self) -> None:
        while self._index < len(self._sizes) and self._offset >= self._sizes[self._index]:
            self._index, self._offset = self._index + 1, 0

    @property
    def total(self) -> int:
        """Size of all buffers."""
        return sum(self._sizes)

    @property
    def whole(self) -> bool:
        """Whether all is here."""
        return self._index == len(self._sizes)

    def _expected(self) -> int:
        """Return the size of the next chunk."""
        return min(CHUNK, self._sizes[self._index] - self._offset)

    def targets(self) -> List[memoryview]:
        """Return where the next bytes belong; empty if none are missing before :meth:`settle`."""
        if self.whole:
            return []
        if self._chunk is None:
            self._chunk = bytearray(min(CHUNK, max(self._sizes)) + self._tag_size)
        filled, size = sum(self.counts), self._expected() + self._tag_size
        return [memoryview(self._chunk)[filled:size]] if filled < size else []

    def settle(self, filled: int, mac: Optional[Mac], number: int) -> Tuple[Incoming, int]:
        """Take the next chunk if it is whole.

        Args:
            filled: How many bytes of it are here.
            mac: Checks its tag; None if there is none.
            number: Of the next record.

        Returns:
            This frame after that, and the number of the next record.

        Raises:
            RemoteProtocolError: If the tag is wrong, or there is no memory.
        """
        following = Incoming.__new__(Incoming)
        for name in ("head", "body", "_sizes", "_buffers", "_tag_size", "_chunk", "_index", "_offset"):
            setattr(following, name, getattr(self, name))
        size = 0 if self.whole else self._expected()
        if self.whole or self._chunk is None or filled < size + self._tag_size:
            following.counts = [filled] if filled else []
            return following, number
        chunk = memoryview(self._chunk)
        if self._tag_size:
            if mac is None or not mac.verify(number, chunk[:size], chunk[size : size + self._tag_size]):
                raise RemoteProtocolError("a chunk does not verify")
            number += 1
        try:
            self._buffers[self._index].put(self._offset, chunk[:size])
        except MemoryError as exc:
            raise RemoteProtocolError(f"there is no memory for a frame of {self.total} bytes") from exc
        following._offset += size
        following.counts = []
        following._skip_empty()
        return following, number

    def buffers(self) -> List[Bulk]:
        """Return the buffers, once all is here."""
        return [buffer.value() for buffer in self._buffers]
