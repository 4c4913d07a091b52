"""Generators that the peer iterates: which items travel together, and when.

Each item is pickled as it is produced, because a generator may yield one object again and again and
change it in between.  The answer to a request for items is ``(entries, more, seconds)``::

    entries   a list; each is a pickle, or a pickle and its buffers, or a plain item itself
    more      whether more may come
    seconds   how long the generator took for them

Items that are ready while the generator is still busy with the next one travel ahead of the answer,
in ITEM frames: ``(entries, None, 0.0)``.

This module is shipped to the far side.
"""

from __future__ import annotations

import threading
import time
from _thread import allocate_lock, get_ident
from typing import Any, Dict, List, Optional, Set, Tuple, Union

from easycluster.wire.frames import Kind

__all__ = ["PLAIN", "ItemSource", "Pace", "discard_entry", "load_entry"]

_monotonic = time.monotonic

Entry = Union[bytes, Tuple[bytes, List[bytes]], int, float, str, None]

# Nobody can change these, so that they need no pickle of their own; exactly these types.
PLAIN = frozenset((int, float, str, bool, type(None)))

# Seconds that items wait for others to travel with.
SPAN = 0.02
# Bytes after which a batch is on its way: what lies ahead of the consumer stays bounded.
MOST_BYTES = 256 << 10
# A generator that takes longer for an item is slow, and reading ahead would gain nothing.
SLOW = 0.005
# Items that a generator must give quickly, one by one, before it is read ahead.
PROOF = 8
MOST_ITEMS = 1024


class Pace:
    """How many items to ask for next.

    One by one, as a local loop would, until the generator has proved fast and the consumer has shown
    that it asks for nothing else in between: a generator may wait for what the consumer does next, or
    the consumer's call for the generator.

    Attributes:
        most: That number; 1 means not to ask before the item is wanted.
    """

    def __init__(self) -> None:
        self.most = 1
        self._fast = 0

    def note(self, count: int, seconds: float, alone: bool = True) -> None:
        """Learn from a batch.

        Args:
            count: How many items it had.
            seconds: How long the generator took for them.
            alone: Whether the consumer asked for nothing else since the batch before.
        """
        if seconds > SLOW * count or not alone:
            self.most, self._fast = 1, 0
        else:
            self._fast += count
            if self._fast >= PROOF:
                self.most = min(MOST_ITEMS, max(PROOF, 2 * self.most))


def load_entry(values: Any, entry: Entry) -> Any:
    """Return the item that an entry carries."""
    if entry.__class__ is bytes:
        return values.loads(entry)
    return values.loads(*entry) if entry.__class__ is tuple else entry


def discard_entry(values: Any, entry: Entry) -> None:
    """Give back the references in an item that nobody wants."""
    if isinstance(entry, (bytes, tuple)):
        values.discard(entry if isinstance(entry, bytes) else entry[0])


class ItemSource:
    """The generators of one session whose items its peer asks for.

    Args:
        session: The session.

    Attributes:
        kept: By request, items with objects of the peer in them.  With an item may go the last proxy for
            one, and what tells the peer so would overtake the item.  Whoever sends the answer forgets them.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self.kept: Dict[int, List[Any]] = {}
        # What a generator raised behind items that went out first, by its number.
        self._failures: Dict[int, BaseException] = {}
        self._flusher: Optional[_Flusher] = None

    def next_items(self, oid: int, most: int, early: bool = False) -> Tuple[List[Entry], bool, float]:
        """Return up to ``most`` next items of an iterator, see the module's own description.

        Args:
            oid: Number of the iterator.
            most: How many items the peer wants.
            early: Whether it takes items ahead of the answer.
        """
        session = self._session
        iterator = session.values.exports.get(oid)
        failure = self._failures.pop(oid, None)
        if failure is not None:
            raise failure
        request = session.inside.get(get_ident(), 0)
        batch = _Batch(session, request)
        more = True
        begin = now = _monotonic()
        try:
            if early and most > 1:
                self._watch(batch)
            while batch.count < most and batch.size < MOST_BYTES and now - begin < SPAN:
                item = next(iterator)
                if item.__class__ in PLAIN:
                    batch.add(item, len(item) if item.__class__ is str else 8)
                else:
                    data, buffers = session.values.dumps(item, "item")
                    if b"own_object" in data:
                        self.kept.setdefault(request, []).append(item)
                    batch.add_pickle(data, buffers)
                del item
                now = _monotonic()
        except StopIteration:
            more = False
        except (Exception, SystemExit, KeyboardInterrupt, GeneratorExit) as exc:
            if not batch.count:
                raise
            self._failures[oid] = exc
        finally:
            if self._flusher is not None:
                self._flusher.batches.discard(batch)
            entries = batch.close()
        return entries, more, now - begin

    def _watch(self, batch: _Batch) -> None:
        if self._flusher is None:
            self._flusher = _Flusher()
            self._flusher.start()
        self._flusher.watch(batch)


class _Batch:
    """Items that have been produced for one request and not been sent yet."""

    def __init__(self, session: Any, request: int) -> None:
        self.count = 0
        self.size = 0
        self._session = session
        self._request = request
        self._entries: List[Entry] = []
        self._since = 0.0
        self._open = True
        # An RLock, because a signal may leave it locked; see _Flusher.
        self._lock = threading.RLock()

    def add(self, entry: Entry, size: int) -> None:
        with self._lock:
            if not self._entries:
                self._since = _monotonic()
            self._entries.append(entry)
        self.count += 1
        self.size += size

    def add_pickle(self, data: bytes, buffers: Any) -> None:
        if buffers:
            copies = [bytes(buffer) for buffer in buffers]
            self.add((data, copies), len(data) + sum(map(len, copies)))
        else:
            self.add(data, len(data))

    def flush(self) -> None:
        """Send what has waited for long enough; never waits itself for the generator's thread."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._open and self._entries and _monotonic() - self._since >= SPAN:
                entries, self._entries = self._entries, []
                body, buffers = self._session.values.dumps((entries, None, 0.0))
                self._session.send(Kind.ITEM, self._request, body, buffers)
        except OSError:
            pass  # the session has ended
        finally:
            self._lock.release()

    def close(self) -> List[Entry]:
        """Return what is left for the answer; nothing goes ahead of it from now on."""
        with self._lock:
            self._open = False
            return self._entries


class _Flusher(threading.Thread):
    """Sends items on whose generator is busy.  Sleeps while there is no batch."""

    def __init__(self) -> None:
        super().__init__(name="easycluster-items", daemon=True)
        self.batches: Set[_Batch] = set()
        self._parked = False
        self._wake = allocate_lock()
        self._wake.acquire()

    def watch(self, batch: _Batch) -> None:
        self.batches.add(batch)
        if self._parked:
            self._parked = False
            try:
                self._wake.release()
            except RuntimeError:
                pass  # it is awake already

    def run(self) -> None:
        while True:
            time.sleep(SPAN)
            for batch in self.batches.copy():
                batch.flush()
            if not self.batches:
                self._parked = True
                # Once more: what came before this was set woke nobody.
                if not self.batches:
                    self._wake.acquire()
                self._parked = False
