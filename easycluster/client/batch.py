"""``Batch``: many small calls in one message, answered by one message.

A call of its own costs 20 us and more for the kernel and for waking the other side, and even a
nonblocking call makes a request, a response and an answer.  Here a call is an entry of a list:
one pickle goes there, one comes back.  See :mod:`easycluster.wire.apart` for what must not stand
in the same pickle.
"""

from __future__ import annotations

from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from easycluster.link.items import PLAIN
from easycluster.link.operations import Op
from easycluster.wire.apart import KEEP_ON, KEEP_ON_WRAPPED, STOP, Apart, give_up, make_entry

if TYPE_CHECKING:
    from collections.abc import Callable

    from easycluster.client.client import BaseClient
    from easycluster.client.session import NearSession
    from easycluster.wire.apart import Entries

__all__ = ["Batch"]

_Call = tuple[str, tuple[Any, ...]]

_arguments = itemgetter(1)
# They say how a request is made, and a batch is one.
_NOT_OF_ONE_CALL = frozenset({"nonblocking", "oncomplete", "onerror", "threadid", "origexc"})


class Batch:
    """Records calls, ``batch.add(1, 2)``, and sends them with :meth:`run`.

    Arguments are looked at by :meth:`run`, not before.  A batch is for one thread at a time.
    """

    def __init__(self, client: BaseClient) -> None:
        self._client = client
        self._calls: list[_Call] = []

    def call(self, func: str, /, *args: Any, **kwargs: Any) -> None:
        """Record a call by name: for names that a batch has itself, ``batch.call("run", 1)``."""
        _Name(self._calls.append, func)(*args, **kwargs)

    def run(
        self,
        return_exceptions: bool = False,
        timeout: float | None = None,
        threadid: int | None = None,
        origexc: bool | str = True,
        nonblocking: bool = False,
    ) -> Any:
        """Run what was recorded, one call after the other in one far-side thread.

        The batch is empty afterwards, whatever happens, and can be used again.

        Args:
            return_exceptions: Go on after an exception, and return it in the place of the result.
            timeout: Seconds until the batch is stopped on the far side, in the call that it is in.
            threadid: As in :meth:`Client.send_request`.
            origexc: The same; with False the exceptions in the list are RemoteExceptions, too.
            nonblocking: Return a :class:`NonblockingResponse` at once, whose value is the list.

        Returns:
            The results in order; ``[]`` without asking the far side if nothing was recorded.

        Raises:
            CallTimeout: If it did not finish in time.
            SessionError: If the session has ended.
            SerializationError: If an argument cannot cross: nothing has run.  Or a result.
            Exception: What a call raised, with a note that says which; those behind it have not run.
        """
        recorded = self._calls
        calls = recorded[:]
        del recorded[: len(calls)]
        if not calls and not nonblocking:
            return []
        client = self._client
        mode = STOP if not return_exceptions else KEEP_ON if origexc else KEEP_ON_WRAPPED
        operation: tuple[Any, ...] = (Op.BATCH, calls, mode, {})
        if not PLAIN.issuperset(map(type, chain.from_iterable(map(_arguments, calls)))):
            # The calls themselves stay until they are sent: with one may go the last proxy for an object.
            operation = (Op.BATCH, *_set_apart(client._usable(), calls, mode))
        if threadid is None and timeout is None and not nonblocking:
            return client._call(operation, origexc)
        return client._request(operation, nonblocking, None, None, threadid, origexc, timeout)

    def __len__(self) -> int:
        return len(self._calls)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Batch of {len(self._calls)} calls for {self._client.peername}>"

    def __getattr__(self, name: str) -> _Name:
        if name[:2] == "__" and name[-2:] == "__":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        # Kept: to make it for each call would take longer than to record the call.
        recorder = self.__dict__[name] = _Name(self._calls.append, name)
        return recorder


class _Name:
    """A name on the far side: records calls of it, or goes on with a dot."""

    __slots__ = ("_name", "_record")

    def __init__(self, record: Callable[[Any], None], name: str) -> None:
        self._record = record
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs:
            foreign = sorted(_NOT_OF_ONE_CALL.intersection(kwargs))
            if foreign:
                raise TypeError(f"{self._name}() is one call of a batch: give {foreign[0]}= to run()")
            # One argument that is not plain, so that nothing else has to look for keywords.
            args = (_WithKeywords(args, kwargs),)
        self._record((self._name, args))

    def __getattr__(self, name: str) -> _Name:
        if name[:2] == "__" and name[-2:] == "__":
            raise AttributeError(f"far-side name {self._name!r} has no attribute {name!r} here")
        return _Name(self._record, f"{self._name}.{name}")

    def __repr__(self) -> str:
        return f"<far-side name {self._name} of a batch>"


class _WithKeywords:
    """Stands for the arguments of a call that has keywords."""

    __slots__ = ("args", "kwargs")

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args = args
        self.kwargs = kwargs


def _set_apart(session: NearSession, calls: list[_Call], mode: int) -> tuple[list[Any], int, Apart]:
    """Return calls of which those with more than plain arguments are pickled alone.

    Raises:
        SerializationError: If an argument cannot cross; says of which call.
    """
    values = session.values
    prepared: list[Any] = []
    entries: Entries = {}
    try:
        for number, (name, args) in enumerate(calls):
            if PLAIN.issuperset(map(type, args)):
                prepared.append((name, args))
                continue
            first = args[0]
            both = (first.args, first.kwargs) if type(first) is _WithKeywords else (args, {})
            place = f"call {number + 1} of {len(calls)}, {name}(): "
            entries[number] = make_entry(values.dumps(both, lambda _, place=place: (f"{place}args", f"{place}kwargs")))
            prepared.append((name, None))
    except BaseException:
        give_up(values.exports, entries)
        raise
    return prepared, mode, Apart(entries)
