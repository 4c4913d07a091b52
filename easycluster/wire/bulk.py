"""Large buffers on their way in: received in chunks into their place, and checked there.

A buffer ends as the object it will be: ``bytes`` for what cannot be written to, a ``bytearray`` for
the rest.  It is read straight into that object, so nothing is copied, neither on arrival nor when the
value is rebuilt, and a value takes its own size in memory and no more.  A chunk is still in the
processor's cache when it is hashed.

Memory grows with the bytes received and checked, whatever size was announced: there is room for
:data:`FIRST_ROOM` at first, then for :data:`GROWTH` times what has arrived.  Each step copies, a
third of the whole in all.

This module is shipped to the far side.
"""

from __future__ import annotations

import io
from typing import Any, List, Optional, Sequence, Tuple, Union

from easycluster.errors import RemoteProtocolError
from easycluster.wire.records import TAG_SIZE, Mac

__all__ = ["CHUNK", "READ_ONLY", "Bulk", "Incoming"]

# 256 KiB.  Both ends hash a chunk while the next one travels: 405-580 MB/s in one piece, 715-865 in
# chunks of this size.
CHUNK = 256 << 10
# In the announced size of a buffer: it becomes bytes.
READ_ONLY = 1 << 63

# 4 MiB.  From here on huge pages pay, too: there are whole ones in it wherever it lies.
FIRST_ROOM = 4 << 20
GROWTH = 4

Bulk = Union[bytes, bytearray]


class _Place:
    """Where one buffer arrives.

    What was written may be written again; nothing else changes what counts.
    """

    __slots__ = ("_fixed", "_room", "size")

    def __init__(self, announced: int) -> None:
        self.size = announced & ~READ_ONLY
        self._fixed = bool(announced & READ_ONLY)
        # The object itself, once it has its full size.  BytesIO hands out what it holds without a copy, and lets it
        # be written to until then.
        self._room: Any = None

    def view(self, start: int, stop: int) -> memoryview:
        """Return the place of these bytes; what lies before them has arrived.

        Raises:
            MemoryError: If there is no room.
        """
        room = self._room
        view = None if room is None else _writable(room)
        if view is None or view.nbytes < stop:
            new = self._make_room(_enough(self.size, stop))
            fresh = _writable(new)
            if view is not None:
                fresh[:start] = view[:start]
            self._room, view = new, fresh
        return view[start:stop]

    def _make_room(self, size: int) -> Any:
        """Return new memory, of which nothing is used yet where that matters."""
        if size < FIRST_ROOM and size == self.size:
            return io.BytesIO(bytes(size)) if self._fixed else bytearray(size)
        try:
            from easycluster.wire import pages
        except (OSError, ImportError):
            # This process has no descriptor left to import it with.
            return io.BytesIO(bytes(size)) if self._fixed else bytearray(size)
        if size < self.size:
            return pages.new_scratch(size)
        room = io.BytesIO(bytes(size)) if self._fixed else pages.new_bytearray(size)
        pages.prefer_huge_pages(_writable(room))
        return room

    def value(self) -> Bulk:
        """Return the buffer, once all is here."""
        room = self._room
        if room is None:
            return b"" if self._fixed else bytearray()
        return room.getvalue() if self._fixed else room  # type: ignore[no-any-return]  # of the right kind by now


def _writable(room: Any) -> memoryview:
    return room.getbuffer() if isinstance(room, io.BytesIO) else memoryview(room)


def _enough(size: int, needed: int) -> int:
    """Return the room to make for ``needed`` bytes of ``size``, so that the last step ends at ``size``."""
    while size > FIRST_ROOM:
        smaller = -(-size // GROWTH)
        if smaller < needed:
            break
        size = smaller
    return size


class Incoming:
    """A frame whose buffers are still arriving.

    Every step returns another object and leaves this one as it was, but for what lies behind the bytes
    that count: a step that a signal handler has broken off can be taken again.

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

    __slots__ = ("_index", "_offset", "_places", "_tag", "body", "counts", "head")

    def __init__(self, head: Tuple[int, int, int, int], body: bytes, sizes: Sequence[int], tagged: bool) -> None:
        self.head = head
        self.body = body
        self._places = [_Place(size) for size in sizes]
        self._tag = memoryview(bytearray(TAG_SIZE if tagged else 0))
        self._index = self._offset = 0
        self.counts: List[int] = []
        self._skip_empty()

    def _skip_empty(self) -> None:
        while self._index < len(self._places) and self._offset >= self._places[self._index].size:
            self._index, self._offset = self._index + 1, 0

    @property
    def total(self) -> int:
        """Size of all buffers."""
        return sum(place.size for place in self._places)

    @property
    def whole(self) -> bool:
        """Whether all is here."""
        return self._index == len(self._places)

    @property
    def ready(self) -> bool:
        """Whether there is something to :meth:`settle`: a whole chunk."""
        if self.whole:
            return True
        left = self._places[self._index].size - self._offset
        return sum(self.counts) >= min(CHUNK, left) + len(self._tag)

    def _chunk(self) -> memoryview:
        """Return the place of the next chunk.

        Raises:
            RemoteProtocolError: If there is no memory.
        """
        place = self._places[self._index]
        try:
            return place.view(self._offset, min(self._offset + CHUNK, place.size))
        except MemoryError as exc:
            raise RemoteProtocolError(f"there is no memory for a frame of {self.total} bytes") from exc

    def targets(self) -> List[memoryview]:
        """Return where the next bytes belong; empty if none are missing before :meth:`settle`.

        Whoever reads must let go of the views before the frame is handed out.

        Raises:
            RemoteProtocolError: If there is no memory.
        """
        if self.whole:
            return []
        filled, chunk = sum(self.counts), self._chunk()
        size = chunk.nbytes
        if filled < size:
            return [chunk[filled:], self._tag] if self._tag else [chunk[filled:]]
        return [self._tag[filled - size :]] if filled < size + len(self._tag) else []

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
        for name in ("head", "body", "_places", "_tag", "_index", "_offset"):
            setattr(following, name, getattr(self, name))
        following.counts = [filled] if filled else []
        if self.whole or not filled:
            return following, number
        chunk = self._chunk()
        if filled < chunk.nbytes + len(self._tag):
            return following, number
        if self._tag:
            if mac is None or not mac.verify(number, chunk, self._tag):
                raise RemoteProtocolError("a chunk does not verify")
            number += 1
        following._offset += chunk.nbytes
        following.counts = []
        following._skip_empty()
        return following, number

    def buffers(self) -> List[Bulk]:
        """Return the buffers, once all is here."""
        return [place.value() for place in self._places]
