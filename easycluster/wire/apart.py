"""Values that are pickled each on its own but travel in one pickle with others.

In one pickle, what stands in it twice arrives as one object, and all of it is as it was when the
pickle was made.  Calls are not like that: each gets arguments of its own, and each result is what it
was when its call returned.  So what can be changed, or goes by reference, is pickled alone, and the
pickles travel together in an :class:`Apart`.  Its stand-in in the pickle is a global that whoever
gives references back finds, see :func:`~easycluster.wire.pickling.references_in`.

An *entry* is such a pickle and the list of its buffers.

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

import pickle
from typing import Any, Callable, Dict, List, Sequence, Tuple

from easycluster.errors import RemoteException, SerializationError
from easycluster.wire import failures
from easycluster.wire.pickling import STACK_GLOBAL, apart, loader, references_in

__all__ = ["Apart", "Results", "give_up", "make_entry"]

Entry = Tuple[bytes, List[Any]]
Entries = Dict[int, Entry]


class Apart:
    """Entries on their way, by number; they arrive as the dictionary that they are."""

    __slots__ = ("entries",)

    def __init__(self, entries: Entries) -> None:
        self.entries = entries

    def __reduce_ex__(self, protocol: Any) -> Tuple[Any, ...]:
        return apart, (self.entries,)


class Results:
    """The results of many calls on their way; they arrive as a list.

    Args:
        values: All of them, with anything in the place of those that go apart.
        entries: Values that go apart.
        raised: Failures, as :func:`~easycluster.wire.failures.describe` gives them, as entries.
        mode: One of the modes of a batch.
    """

    __slots__ = ("_parts",)

    def __init__(self, values: List[Any], entries: Entries, raised: Entries, mode: int) -> None:
        self._parts = values, Apart(entries), Apart(raised), mode

    def __reduce_ex__(self, protocol: Any) -> Tuple[Any, ...]:
        return rebuild_results, self._parts


# What a batch does with calls that raise.
STOP, KEEP_ON, KEEP_ON_WRAPPED = 0, 1, 2


def make_entry(dumped: Tuple[bytes, Sequence[memoryview]], hold: Callable[[memoryview], Any] = memoryview) -> Entry:
    """Return what ``Values.dumps`` gave as an entry.

    Args:
        dumped: That.
        hold: Given a buffer, returns what may be sent later in its place.
    """
    data, buffers = dumped
    return data, [pickle.PickleBuffer(hold(buffer)) for buffer in buffers]


def hold_still(view: memoryview) -> Any:
    """Return a buffer that stays as it is although its owner goes on."""
    if type(view.obj) is bytes:
        return view
    return bytes(view) if view.readonly else bytearray(view)


def give_up(exports: Any, entries: Entries) -> None:
    """Take back what the sender has counted for entries that are not sent."""
    for data, _buffers in entries.values():
        if STACK_GLOBAL in data:
            for oid in references_in(data):
                exports.release(oid, 1)


def rebuild_results(values: List[Any], entries: Entries, raised: Entries, mode: int) -> List[Any]:
    """Return the results of many calls (stands in a pickle)."""
    receiver, received = loader()
    for number, (data, buffers) in entries.items():
        # Whatever becomes of it, loads() sees to these.  Before it: interrupted in between, a
        # reference is given back too late and not once too often.
        if STACK_GLOBAL in data:
            received.extend(references_in(data))
        try:
            values[number] = receiver.loads(data, buffers)
        except SerializationError as exc:
            text = f"result {number + 1} of {len(values)}: {exc}"
            if mode == STOP:
                raise SerializationError(text) from exc
            # Without its cause, whose traceback leads to this frame, and so to the list that it stands in.
            values[number] = SerializationError(text)
    for number, (data, buffers) in raised.items():
        failure = receiver.loads(data, buffers)
        orig = failures.rebuild(failure, loads=receiver.loads, host=receiver.host)
        values[number] = RemoteException(orig, failures.text(failure)) if mode == KEEP_ON_WRAPPED else orig
    return values
