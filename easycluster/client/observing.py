"""Observers of calls: told when a call of a client begins and how it ended; they may drop it or answer it themselves.

A client that nobody observes knows nothing of this module: :func:`observe` puts functions of its own into the one
client, in front of those that make calls, and takes them out again.  So the quick ways cost what they cost before.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from easycluster.client.arrivals import Outstanding
from easycluster.client.client import BaseClient
from easycluster.client.observers import Answer, Call, Observer, Outcome
from easycluster.client.response import NonblockingResponse
from easycluster.errors import RemoteException
from easycluster.link.operations import Op
from easycluster.link.pending import Pending, Waiter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

__all__ = ["Answer", "Call", "Observation", "Observer", "Outcome", "leave", "observe", "unobserved"]


class Observation:
    """An observer at work on a client, until :meth:`remove`; also a context manager."""

    def __init__(self, client: BaseClient, observer: Observer) -> None:
        self._client = weakref.ref(client)
        self._observer = observer

    def remove(self) -> None:
        """Have the client forget the observer; a second call does nothing."""
        client = self._client()
        if client is not None:
            leave(client, self._observer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.remove()


# Ours, and no business of tests: what far sides are told of this process.
_HOUSEKEEPING = frozenset({"wishes"})

_monotonic = time.monotonic
_installing = threading.Lock()


def observe(client: BaseClient, observer: Observer) -> Observation:
    """Have an observer told of all calls of a client from now on, also after it has reconnected.

    Of several, the one that came first is asked first; if one drops or answers a call, those after it hear nothing of
    it, and those before it how it ended.  One that is there already is not added again.  What EasyCluster asks for
    itself is not observed, see :func:`unobserved`.

    Args:
        client: Whose calls; all ways to make one are covered.
        observer: Who is told.

    Raises:
        TypeError: If it is no client of EasyCluster.
    """
    if not isinstance(client, BaseClient):
        raise TypeError(f"only clients of EasyCluster can be observed, not {type(client).__name__}")
    with _installing:
        watch = client.__dict__.get("_watch")
        if watch is None:
            watch = _Watch(client)
        if not any(one is observer for one in watch.observers):
            watch.observers = (*watch.observers, observer)
    return Observation(client, observer)


def leave(client: BaseClient, observer: Observer) -> None:
    """Have a client forget an observer, if it has it."""
    with _installing:
        watch: _Watch | None = client.__dict__.get("_watch")
        if watch is not None:
            watch.leave(client, observer)


class _Local(threading.local):
    # The operation that is being passed on, which the ways to make a call hand to each other.
    operation: Any = None
    quiet = 0


_here = _Local()


@contextlib.contextmanager
def unobserved() -> Iterator[None]:
    """Keep what this thread asks in a ``with`` block from all observers."""
    _here.quiet += 1
    try:
        yield
    finally:
        _here.quiet -= 1


class _Watch:
    """Stands in one client in front of what makes calls.  The client is not kept alive."""

    def __init__(self, client: BaseClient) -> None:
        self._owner = weakref.ref(client)
        self.observers: tuple[Observer, ...] = ()
        # Calls whose responses were dropped; told of at the next call, for that may happen in the middle of anything.
        self.dropped: deque[Call] = deque()
        self._call, self._start = client._call, client._start
        client.__dict__.update(
            _watch=self,
            _request=self.request,
            _call=self.call,
            _start=self.start,
            _make_quick=self.make_quick,
            stream=self.stream,
        )

    def leave(self, client: BaseClient, observer: Observer) -> None:
        """Forget an observer; with the last one the client is as it was."""
        self._tell_dropped()
        self.observers = tuple(one for one in self.observers if one is not observer)
        if not self.observers:
            client.__dict__.update(_call=self._call, _start=self._start)
            for name in ("_watch", "_request", "_make_quick", "stream"):
                client.__dict__.pop(name, None)

    def _client(self) -> Any:
        client = self._owner()
        assert client is not None  # it has called us
        return client

    # Who is told -------------------------------------------------------------------------------

    @staticmethod
    def _is_ours(operation: tuple[Any, ...]) -> bool:
        """Whether a request is one of EasyCluster's own, or of a call that observers have been told of."""
        if operation is _here.operation or _here.quiet:
            return True
        number = operation[0]
        return number == Op.UPDATE or (number == Op.SERVICE and operation[1] in _HOUSEKEEPING)

    def _begin(self, call: Call) -> Answer | None:
        if self.dropped:
            self._tell_dropped()
        observers = self.observers
        for at, observer in enumerate(observers):
            try:
                answer = observer.begins(call)
            except BaseException as exc:
                self._tell(observers[:at], call, Outcome(_monotonic() - call.began, error=exc, answered=True))
                raise
            if answer is not None:
                outcome = Outcome(_monotonic() - call.began, answer.value, answer.error, answered=True)
                self._tell(observers[: at + 1], call, outcome)
                return answer
        return None

    def _tell(self, observers: tuple[Observer, ...], call: Call, outcome: Outcome) -> None:
        for observer in observers:
            try:
                observer.ended(call, outcome)
            except Exception:  # noqa: BLE001  # the call is as it is, whatever becomes of those who look on
                traceback.print_exc()

    def end(self, call: Call, value: Any = None, error: BaseException | None = None, at: float | None = None) -> None:
        """Tell all observers how a call has ended."""
        elapsed = (_monotonic() if at is None else at) - call.began
        self._tell(self.observers, call, Outcome(elapsed, value, error))

    def _tell_dropped(self) -> None:
        while self.dropped:
            with contextlib.suppress(IndexError):  # another thread took it
                call = self.dropped.popleft()
                self._tell(self.observers, call, Outcome(_monotonic() - call.began, dropped=True))

    # The ways to make a call -------------------------------------------------------------------

    def make_quick(self, session: Any) -> None:
        """Stand in front of the quick ways of a new session, too."""
        client = self._client()
        type(client)._make_quick(client, session)
        self._call, self._start = client._call, client._start
        client.__dict__.update(_call=self.call, _start=self.start)

    def call(self, operation: tuple[Any, ...], origexc: bool | str = True) -> Any:
        """Make a plain call."""
        if self._is_ours(operation):
            return self._call(operation, origexc)
        client = self._client()
        call = Call(client._peername, operation)
        answer = self._begin(call)
        if answer is not None:
            return _given(client, answer, origexc)
        outer, _here.operation = _here.operation, operation
        try:
            value = self._call(operation, origexc)
        except BaseException as exc:
            self.end(call, error=exc)
            raise
        finally:
            _here.operation = outer
        self.end(call, value)
        return value

    def _wait_for(self, operation: tuple[Any, ...], origexc: bool | str, make: Callable[[], Any]) -> Any:
        client = self._client()
        call = Call(client._peername, operation)
        answer = self._begin(call)
        if answer is not None:
            return _given(client, answer, origexc)
        value = self._send(call, make)
        self.end(call, value)
        return value

    def start(self, operation: tuple[Any, ...]) -> Any:
        """Begin a plain nonblocking call."""
        if self._is_ours(operation):
            return self._start(operation)
        return self._respond(operation, True, lambda: self._start(operation))

    def _respond(self, operation: tuple[Any, ...], origexc: bool | str, make: Callable[[], Any]) -> Any:
        client = self._client()
        call = Call(client._peername, operation, "nonblocking")
        answer = self._begin(call)
        if answer is not None:
            return _answered(client, operation, answer, origexc)
        response = self._send(call, make)
        response.__class__ = _ObservedResponse
        response._told_of = (self, call)
        # What arrives from now on is stamped; what is here already has just arrived.
        pending = response._pending
        pending.__class__ = _Stamped
        if pending.items:
            _stamps.setdefault(id(pending), _monotonic())
        return response

    def _send(self, call: Call, make: Callable[[], Any]) -> Any:
        outer, _here.operation = _here.operation, call.operation
        try:
            return make()
        except BaseException as exc:
            self.end(call, error=exc)
            raise
        finally:
            _here.operation = outer

    def request(
        self,
        operation: tuple[Any, ...],
        nonblocking: bool = False,
        oncomplete: Any = None,
        onerror: Any = None,
        threadid: int | None = None,
        origexc: bool | str = True,
        timeout: float | None = None,
    ) -> Any:
        """Make a call with keywords."""
        client = self._client()
        plain = type(client)._request

        def make() -> Any:
            return plain(client, operation, nonblocking, oncomplete, onerror, threadid, origexc, timeout)

        if self._is_ours(operation):
            return make()
        if oncomplete is None:
            return (self._respond if nonblocking else self._wait_for)(operation, origexc, make)
        call = Call(client._peername, operation, "oncomplete")
        answer = self._begin(call)
        if answer is not None:
            return _complete(client, operation, answer, oncomplete, onerror or oncomplete)
        oncomplete, onerror = _Telling(self, call, oncomplete), _Telling(self, call, onerror or oncomplete, failed=True)
        return self._send(call, make)

    def stream(self, oid: int) -> Iterator[Any]:
        """Iterate over a far-side generator."""
        client = self._client()
        operation = (Op.ITEMS, oid)
        if self._is_ours(operation):
            yield from type(client).stream(client, oid)
            return
        call = Call(client._peername, operation, "items")
        answer = self._begin(call)
        count = 0
        try:
            for item in type(client).stream(client, oid) if answer is None else _given(client, answer, True):
                count += 1
                yield item
        except GeneratorExit:
            if answer is None:
                self.end(call, count)
            raise
        except BaseException as exc:
            if answer is None:
                self.end(call, error=exc)
            raise
        if answer is None:
            self.end(call, count)


# Answers of observers --------------------------------------------------------------------------


def _given(client: Any, answer: Answer, origexc: bool | str) -> Any:
    error = answer.error
    if error is None:
        return answer.value
    raise client._chosen(error, origexc) if isinstance(error, RemoteException) else error


def _answered(client: Any, operation: tuple[Any, ...], answer: Answer, origexc: bool | str) -> NonblockingResponse:
    """Return a response that has its answer."""
    response = NonblockingResponse(client, client._session, Outstanding(operation), origexc)
    error = answer.error
    raised = error if isinstance(error, RemoteException) else None
    response._outcome = (answer.value, raised, None if raised is not None else error)
    response._announced = response._told = True
    return response


def _complete(client: Any, operation: tuple[Any, ...], answer: Answer, oncomplete: Any, onerror: Any) -> int:
    """Have a completion function called as if the answer had arrived."""
    error = answer.error
    if error is not None and not isinstance(error, RemoteException):
        error = RemoteException(error if isinstance(error, Exception) else RuntimeError(repr(error)))
    pending = Pending(operation, False)
    pending.on_done = lambda _pending: _call_completion(
        *((oncomplete, answer.value) if error is None else (onerror, error))
    )
    client._arrivals.completions.append(pending)
    session = client._session
    if session is not None:
        session.completed(True)
        if session._watcher is not None:
            # It may sleep on the link, where nothing arrives.
            session._watcher.kick()
    return 0


def _call_completion(function: Any, argument: Any) -> None:
    if isinstance(function, tuple):
        function[0](argument, *function[1:])
    else:
        function(argument)


# Calls that end later --------------------------------------------------------------------------


class _Telling:
    """A completion function that tells observers first."""

    def __init__(self, watch: _Watch, call: Call, function: Any, *, failed: bool = False) -> None:
        self._watch, self._call, self._function, self._failed = watch, call, function, failed

    def __call__(self, argument: Any) -> None:
        """Tell, then call it."""
        if self._failed:
            self._watch.end(self._call, error=argument)
        else:
            self._watch.end(self._call, argument)
        _call_completion(self._function, argument)


_ITEMS: Any = Waiter.__dict__["items"]


class _Stamped(Outstanding):
    """Notes when the answer arrived.  No room for it in here: the class is given to requests that are under way."""

    __slots__ = ()

    @property
    def items(self) -> Any:
        """What has arrived."""
        return _ITEMS.__get__(self)

    @items.setter
    def items(self, value: Any) -> None:
        """Take the answer."""
        _stamps.setdefault(id(self), _monotonic())
        _ITEMS.__set__(self, value)


# By the requests' identity; taken out by the responses that have them.
_stamps: dict[int, float] = {}


class _ObservedResponse(NonblockingResponse):
    """A response that tells how its call has ended, once."""

    _told_of: tuple[_Watch, Call] | None

    def wait(self, origexc: bool | str | None = None, timeout: float | None = None) -> Any:
        """As that of any response."""
        try:
            return super().wait(origexc, timeout)
        finally:
            self._report()

    def _announce(self) -> None:
        super()._announce()
        self._report()

    def _report(self) -> None:
        outcome = self._outcome
        told_of = self.__dict__.pop("_told_of", None) if outcome is not None else None
        if outcome is None or told_of is None:
            return
        watch, call = told_of
        value, error, failure = outcome
        watch.end(call, value, (error.orig or error) if error is not None else failure, self._unstamp())

    def _unstamp(self) -> float | None:
        pending: Any = self._pending
        pending.__class__ = Outstanding
        return _stamps.pop(id(pending), None)

    def __del__(self) -> None:
        told_of = self.__dict__.pop("_told_of", None)
        if told_of is not None:
            self._unstamp()
            told_of[0].dropped.append(told_of[1])
        super().__del__()
