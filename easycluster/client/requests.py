"""Requests of a client: sent, waited for, stopped at their deadline, and why one has no answer."""

from __future__ import annotations

import contextlib
import contextvars
import copy
import time
from typing import TYPE_CHECKING, Any

from easycluster.client import wishes
from easycluster.client.arrivals import Completion, Outstanding
from easycluster.client.calls import Calls
from easycluster.client.output import OUTPUT_TIME
from easycluster.client.process import Forked, sleep_on
from easycluster.client.response import NonblockingResponse
from easycluster.client.session import Unwanted, abandon
from easycluster.client.wishes import WISHES
from easycluster.errors import CallTimeout, RemoteException
from easycluster.link.operations import Op, describe_operation
from easycluster.link.pending import Expired, Pending
from easycluster.wire import failures
from easycluster.wire.frames import HEADER, MARKED, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from easycluster.client.arrivals import Arrivals
    from easycluster.client.endpoint import Endpoint
    from easycluster.client.session import NearSession
    from easycluster.errors import SessionError

__all__ = ["BEGINNING", "SINGLE", "Requests", "deadline", "deadlines"]

SINGLE = -1
"""Thread number that gives a call a far-side thread of its own."""


_deadline: contextvars.ContextVar[float | None] = contextvars.ContextVar("easycluster_deadline", default=None)
# The same deadlines of all threads: whether there is any costs less to ask than whether there is one here.
deadlines: list[float] = []
# In ``special`` of a session whose definitions are not all there yet.
BEGINNING = "beginning"
_monotonic = time.monotonic


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Limit every far-side call made in a ``with`` block, all of them together.

    Args:
        seconds: The span from now on.

    Raises:
        CallTimeout: In the block, by the call that runs when the span is over.
    """
    end = _monotonic() + seconds
    outer = _deadline.get()
    try:
        # Inside, and without a token: a signal handler may raise after any step.
        deadlines.append(end)
        _deadline.set(end if outer is None else min(end, outer))
        yield
    finally:
        _deadline.set(outer)
        with contextlib.suppress(ValueError):
            deadlines.remove(end)


class Requests(Calls):
    """What a client does with one request."""

    if TYPE_CHECKING:
        # The client's own.
        _endpoint: Endpoint | None
        _session: NearSession | None
        _arrivals: Arrivals
        _peername: str
        _ended_error: SessionError | None
        _respawn_due: bool
        _one_thread: bool
        _default_thread: int
        _thread_numbers: dict[int, int]
        _wire_numbers: Iterator[int]
        _lock: Any
        _usable: Callable[[], NearSession]
        _why_unusable: Callable[[], Exception]
        report_exception: Callable[[RemoteException], None]

        @property
        def connected(self) -> bool:
            """Whether calls can be made."""

    # Requests --------------------------------------------------------------------------------------

    def _thread_number(self, threadid: int | None) -> int:
        """Return the number a far-side thread has on the wire."""
        if threadid is None:
            threadid = self._default_thread
        number = self._thread_numbers.get(threadid)
        if number is None:
            with self._lock:
                number = self._thread_numbers.get(threadid)
                if number is None:
                    number = self._thread_numbers[threadid] = next(self._wire_numbers)
        return number

    def _request(
        self,
        operation: tuple[Any, ...],
        nonblocking: bool = False,
        oncomplete: Any = None,
        onerror: Any = None,
        threadid: int | None = None,
        origexc: bool | str = True,
        timeout: float | None = None,
    ) -> Any:
        """Send a request, and wait for its answer unless told otherwise."""
        session = self._session
        if session is None or session.ended is not None:
            session = self._usable()
        if BEGINNING in session.special:
            # The thread that connects holds the lock until the definitions are there; it is the only one to pass.
            with self._lock:
                session = self._usable()
        if WISHES in session.special:
            self._tell_wishes(session)
        if session.unwanted:
            session.drop_unwanted()
        thread = self._thread_number(threadid)
        limit = _deadline.get()
        client: Any = self  # only a BaseClient has this class
        try:
            if oncomplete is not None:
                done = Completion(client, session, oncomplete, onerror or oncomplete)
                return session.request(operation, thread, limit, False, done, threadid is None).request
            if nonblocking:
                body, buffers = session.values.dumps(operation, session.name_parts)
                asked = Outstanding(operation)
                # Before it is sent: who reads may find the answer at once.
                response = NonblockingResponse(client, session, asked, origexc)
                session.send_request(asked, body, buffers, thread, limit, threadid is None)
                return response
            if timeout is not None:
                limit = _monotonic() + timeout if limit is None else min(limit, _monotonic() + timeout)
            if limit is not None and limit <= _monotonic():
                raise Expired
            pending = session.request(operation, thread, limit, nested=threadid is None)
        except Expired as exc:
            self._interrupted(session, exc)
            span = timeout if timeout is not None else 0.0
            raise CallTimeout(self._peername, describe_operation(operation), span) from None
        except OSError as exc:
            if exc is session.ended:
                raise self._explained(session, Pending(operation, True)) from exc
            raise
        except BaseException as exc:
            self._interrupted(session, exc)
            raise
        try:
            return self._finished(session, None, pending, limit, timeout, origexc)
        except BaseException:
            self._leave(session, pending.request)
            raise

    def _tell_wishes(self, session: NearSession) -> None:
        """Tell the far side what this process wishes of it by now, unless it knows."""
        session.special.discard(WISHES)
        wanted = wishes.current()
        if wanted == session.told_wishes:
            return
        try:
            # In a thread of its own: thread 0 may be busy with another call.
            self._request((Op.SERVICE, "wishes", wanted), threadid=SINGLE)
        except BaseException:
            session.special.add(WISHES)
            raise
        session.told_wishes = wanted

    def _request_plainly(self, operation: tuple[Any, ...], origexc: bool | str = True) -> Any:
        """Do what :attr:`_call` does, without a connection: say why there is none."""
        return self._request(operation, origexc=origexc)

    def _start_plainly(self, operation: tuple[Any, ...]) -> Any:
        """Do what :attr:`_start` does, without a connection: say why there is none."""
        return self._request(operation, True)

    def _request_pickled(
        self,
        session: NearSession,
        operation: tuple[Any, ...],
        body: bytes,
        buffers: Sequence[memoryview],
        thread: int,
        origexc: bool | str,
    ) -> Any:
        """Go on with a plain call after it was pickled, for :attr:`_call`."""
        try:
            pending = session.send_request(Pending(operation, True), body, buffers, thread)
        except BaseException as exc:
            self._call_failed(session, operation, exc)
            raise
        try:
            return self._finished(session, None, pending, None, None, origexc)
        except BaseException:
            self._leave(session, pending.request)
            raise

    def _start_pickled(
        self, session: NearSession, operation: tuple[Any, ...], body: bytes, buffers: Sequence[memoryview], thread: int
    ) -> NonblockingResponse:
        """Go on with a nonblocking call after it was pickled, for :attr:`_start`."""
        asked = Outstanding(operation)
        client: Any = self  # as in _request
        response = NonblockingResponse(client, session, asked)
        try:
            session.send_request(asked, body, buffers, thread)
        except BaseException as exc:
            self._call_failed(session, operation, exc)
            raise
        return response

    def _finish_call(self, session: NearSession, pending: Pending | None, answer: bytes, origexc: bool | str) -> Any:
        """Wait for the answer to a plain call, or take the one there is, for :attr:`_call`."""
        message = (Kind.REPLY, 0, 0, 0, answer[HEADER.size :], ()) if pending is None else None
        return self._finished(session, message, pending, None, None, origexc)

    def _call_failed(
        self, session: NearSession, operation: tuple[Any, ...], exc: BaseException, began: float | None = None
    ) -> None:
        """Raise why the session has ended if that is what happened to a plain call; else stop the call."""
        if isinstance(exc, OSError) and (exc is session.ended or exc.errno is not None):
            session.end(exc)
            pending = Pending(operation, True)
            pending.started = began or pending.started
            raise self._explained(session, pending) from exc
        self._interrupted(session, exc)

    def _finished(
        self,
        session: NearSession,
        message: Any,
        pending: Pending | None,
        limit: float | None,
        timeout: float | None,
        origexc: bool | str,
    ) -> Any:
        """Wait for the answer if it is not here yet; return its value or raise its error."""
        if pending is None:
            value, error = self._unpacked(session, message)
        else:
            value, error = self._await_until(session, pending, limit, timeout)
        if session.unwanted:
            session.drop_unwanted()
        if session.completions:
            self._arrivals.look()
        if error is None:
            return value
        try:
            raise self._chosen(error, origexc)
        finally:
            # Else the exception holds its traceback, that this frame, and this frame the exception.
            del error

    def _interrupted(self, session: NearSession, exc: BaseException) -> None:
        """A request may be on its way although nobody waits for it any more: stop it there."""
        request = getattr(exc, "easycluster_request", None)
        if request is not None:
            self._stop(session, request)

    def _await(
        self, session: NearSession, pending: Pending, remaining: float | None, timeout: float | None = None
    ) -> tuple[Any, RemoteException | None]:
        """Wait for an answer that was asked for earlier, for the ``remaining`` seconds of a timeout."""
        limit = _deadline.get()
        if remaining is not None:
            limit = _monotonic() + remaining if limit is None else min(limit, _monotonic() + remaining)
        return self._await_until(session, pending, limit, timeout)

    def _after_wait(self) -> None:
        """Call the completion functions whose calls have finished; somebody has waited for a response."""
        self._arrivals.settle()

    def _await_until(
        self, session: NearSession, pending: Pending, limit: float | None, timeout: float | None
    ) -> tuple[Any, RemoteException | None]:
        """Wait for the answer to a request; return its value or its error."""
        try:
            session.wait_some(pending, limit)
            while pending.items[0][0] == Kind.CALL:
                session.answer(pending.take())
                session.wait_some(pending, limit)
            # The answer stays where it is meanwhile: if a signal handler raises, it is dropped there.
            self._wait_for_output(pending.items[0])
        except Expired:
            raise self._timed_out(session, pending, timeout) from None
        except BaseException as exc:
            self._given_up(session, pending, exc)
            raise
        return self._loaded(session, pending.take())

    def _given_up(self, session: NearSession, pending: Pending, exc: BaseException) -> None:
        """Raise why the session has ended if that is why a wait has; else nobody wants the answer any more."""
        if exc is session.ended:
            raise self._explained(session, pending) from exc
        session.pending.pop(pending.request, None)
        self._stop(session, pending.request)
        abandon(pending, Unwanted(session))

    def _leave(self, session: NearSession, request: int) -> None:
        """Give up a call that nobody waits for, unless that was done or its answer has been taken.

        A signal handler may raise after the call was sent and before somebody waits: its far side would wait for ever
        for what only its caller can do, a callback say.
        """
        pending = session.pending.pop(request, None)
        if pending is not None:
            self._stop(session, request)
            abandon(pending, Unwanted(session))

    def _unpacked(self, session: NearSession, message: Any) -> tuple[Any, RemoteException | None]:
        """Return the value or the error that an answer carries, after the output that belongs before it."""
        self._wait_for_output(message)
        return self._loaded(session, message)

    def _wait_for_output(self, message: Any) -> None:
        if message[1] & MARKED and self._endpoint is not None and self._endpoint.control is not None:
            self._endpoint.control.wait_mark(message[3], OUTPUT_TIME)

    def _loaded(self, session: NearSession, message: Any) -> tuple[Any, RemoteException | None]:
        value = session.load(message)
        if message[0] != Kind.RAISE:
            return value, None
        return None, self._rebuilt(session, value)

    def _rebuilt(self, session: NearSession, failure: Any) -> RemoteException:
        orig = failures.rebuild(failure, loads=session.values.loads, host=self._peername)
        if failures.kept(failure):
            from easycluster.client.debugger import note_kept

            client: Any = self  # as in _request
            note_kept(orig, client, failures.kept(failure))
        return RemoteException(orig, failures.text(failure))

    def _explained(self, session: NearSession, pending: Pending) -> Exception:
        """Return why a call of a session that has ended has no answer."""
        sleep_on()
        if session.ended is not None:
            # Kept by the session and raised in all its threads: their frames, and what these hold, are not to be kept.
            session.ended.__traceback__ = None
        endpoint = self._endpoint
        if endpoint is None or isinstance(endpoint, Forked):
            return self._why_unusable()
        error = endpoint.explain(session, pending)
        # What is raised gets a traceback, and with it the frames of the caller.
        self._ended_error = copy.copy(error)
        if self.connected:  # another thread may have reconnected meanwhile
            self._ended_error = None
        return error

    def _chosen(self, error: RemoteException, origexc: bool | str) -> BaseException:
        """Return which exception a caller wants to see, printing the traceback if that is wanted."""
        orig = error.orig
        if not origexc or orig is None:
            return error
        if origexc != "quiet" and not isinstance(orig, StopIteration):
            self.report_exception(error)
        return orig

    def _ask_for_items(self, session: NearSession, operation: tuple[Any, ...]) -> Pending:
        """Send a request for items without waiting for them."""
        try:
            return session.request(operation, self._thread_number(None), _deadline.get(), False)
        except OSError as exc:
            if exc is session.ended:
                raise self._explained(session, Pending(operation, False)) from exc
            raise

    # Deadlines -------------------------------------------------------------------------------------

    def _stop(self, session: NearSession, request: int) -> None:
        """Stop a call on the far side, if that is still the one it went to: another one numbers its own calls."""
        endpoint = self._endpoint
        if endpoint is not None and session is self._session and session.ended is None:
            endpoint.cancel(request)

    def _timed_out(self, session: NearSession, pending: Pending, timeout: float | None) -> Exception:
        """The deadline of a call has passed: stop it, and find out where it was."""
        endpoint = self._endpoint
        assert endpoint is not None
        call = describe_operation(pending.operation)
        span = timeout if timeout is not None else round(_monotonic() - pending.started, 3)
        self._stop(session, pending.request)
        try:
            message = session.wait_item(pending, _monotonic() + endpoint.cancel_time)
            while message[0] == Kind.CALL or message[0] == Kind.ITEM:
                # It asked something of us just before the end; it is told no by its own end.
                message = session.wait_item(pending, _monotonic() + endpoint.cancel_time)
        except Expired:
            session.pending.pop(pending.request, None)
            return CallTimeout(self._peername, call, span)
        except OSError:
            error = self._explained(session, pending)
            died = endpoint.control.died
            if died is None or not died.killed:
                return error
            # Only this call could not be stopped: the next one finds a fresh worker.
            self._respawn_due = True
            return CallTimeout(self._peername, call, span, died.stack, worker_replaced=True)
        stack = ""
        if message[0] == Kind.RAISE:
            with contextlib.suppress(Exception):
                stack = "".join(failures.text(session.load(message))[1:-1])
        else:
            session.late(message)
        return CallTimeout(self._peername, call, span, stack)
