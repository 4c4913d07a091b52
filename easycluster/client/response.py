"""The response to a nonblocking call."""

from __future__ import annotations

import pickle
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from easycluster.errors import CallCancelled, CallTimeout, RemoteException
from easycluster.link.operations import describe_operation
from easycluster.wire.frames import Kind
from easycluster.wire.pickling import STACK_GLOBAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from easycluster.client.arrivals import Outstanding
    from easycluster.client.client import BaseClient
    from easycluster.client.session import NearSession

__all__ = ["NonblockingResponse"]

_REPLY = Kind.REPLY
_loads = pickle.loads
# One response of so many, a power of two, sees when it is waited for to the completions, where answers lie that were
# waited for.  Each would do this for one answer only, if many came at once.
_OTHERS = 64 - 1


# The value, what the call raised, and why there is no answer.
_Outcome = tuple[Any, "RemoteException | None", "BaseException | None"]


class NonblockingResponse:
    """What a call with ``nonblocking=True`` returns.

    Besides its own methods it has those of a future (``result``, ``exception``, ``done``,
    ``add_done_callback``) and can be given to ``concurrent.futures.wait`` and ``as_completed``.

    Attributes:
        client: The client it belongs to.
        request_id: Number of the request in its session.
        taken: Whether somebody has waited for it, successfully or not.
    """

    # Most responses are waited for once, by one thread, and need none of these.
    _outcome: _Outcome | None = None
    _origexc: bool | str = True
    _cancelled = False
    _callbacks: deque[Callable[[Any], object]] | None = None
    _lazy_condition: threading.Condition | None = None
    # Whether there is an outcome that all may know of, and whether those who wait as for a future do.
    _announced = False
    _told = False

    def __init__(
        self, client: BaseClient, session: NearSession, pending: Outstanding, origexc: bool | str = True
    ) -> None:
        self._session = session
        self._pending = pending
        self.client = client
        if origexc is not True:
            self._origexc = origexc

    def __del__(self) -> None:
        # As little as can be: an exception of a signal handler that comes in here is dropped.
        if self._outcome is None and "_pending" in self.__dict__:
            pending = self._pending
            pending.dropped = True
            self._session.unwanted.append(pending)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Which refuses, and says why.
        return self.client.__reduce_ex__(protocol)

    @property
    def request_id(self) -> int:
        """Number of the request in its session."""
        return self._pending.request

    @property
    def taken(self) -> bool:
        """Whether somebody has waited for it, successfully or not."""
        return self._pending.taken

    def __repr__(self) -> str:
        state = "cancelled" if self._cancelled else "done" if self.have_response else "pending"
        return f"<NonblockingResponse {self.request_id} from {self.client.peername}, {state}>"

    @property
    def have_response(self) -> bool:
        """Whether the answer is here, or will never be, so that :meth:`wait` returns at once."""
        return self._outcome is not None or bool(self._pending.items) or self._session.ended is not None

    def fileno(self) -> int:
        """Return the descriptor of the client, for ``select``."""
        return self.client.fileno()

    def read_response(self, block: bool = True) -> bool:
        """Read one response of the client, not necessarily this one; see :meth:`Client.read_response`."""
        return self.client.read_response(block)

    def wait(self, origexc: bool | str | None = None, timeout: float | None = None) -> Any:
        """Wait for the call to finish.

        Args:
            origexc: Which exception to raise, as in the call itself; None keeps what was said there.
            timeout: Seconds; when they have passed the far side is told to stop.

        Returns:
            What the call returned.

        Raises:
            CallTimeout: If it did not finish in time.
            CallCancelled: If it was cancelled.
            SessionError: If the session has ended.
            Exception: What the call raised.
        """
        pending = self._pending
        items = pending.items
        outcome: _Outcome | None = None
        if items.__class__ is tuple:
            if items and not pending.taken and pending.keep is None:
                pending.taken = True
                self._outcome = outcome = (items[0][4], None, None)
        elif items and self._outcome is None and pending.keep is None:
            try:
                kind, flags, _request, _thread, body, buffers = items[0]
            except IndexError:  # another thread has just taken it
                kind = flags = 0
            if kind == _REPLY and not flags and not buffers and STACK_GLOBAL not in body:
                pending.taken = True
                try:
                    value = _loads(body)
                except Exception as exc:
                    raise self._session.values.not_rebuilt(exc) from exc
                # One step, so that two threads that do this get the same.
                outcome = self.__dict__.setdefault("_outcome", (value, None, None))
        if outcome is not None:
            client = self.client
            arrivals = client._arrivals
            if arrivals.urgent or arrivals.notifier is not None or not pending.request & _OTHERS:
                client._after_wait()
            return outcome[0]
        outcome = self._wait(timeout)
        value, error, failure = outcome
        try:
            if failure is not None:
                raise failure
            if error is not None:
                raise self.client._chosen(error, self._origexc if origexc is None else origexc)
            return value
        finally:
            # Else the exception holds its traceback, that this frame, and this frame the exception.
            del self, outcome, error, failure

    def cancel(self) -> bool:
        """Stop the call on the far side; return False if it had finished already."""
        if self.have_response:
            return self._cancelled
        self._cancelled = True
        self._settle((None, None, CallCancelled("the call was cancelled")))
        self._pending.taken = True
        # Its answer still comes, soon: until then it stays with the requests that have none, so that
        # a thread that waits for it wakes up.
        self.client._stop(self._session, self._pending.request)
        return True

    def _wait(self, timeout: float | None) -> _Outcome:
        self._pending.taken = True
        outcome = self._outcome or self._receive(timeout)
        self.client._after_wait()
        return outcome

    def _receive(self, timeout: float | None = None) -> _Outcome:
        """Wait for the answer and take it apart."""
        end = None if timeout is None else time.monotonic() + timeout
        if not self._waiting.acquire(timeout=-1 if timeout is None else timeout):
            # Another thread waits, for longer.
            self.client._stop(self._session, self._pending.request)
            call = describe_operation(self._pending.operation)
            return self._settle((None, None, CallTimeout(self.client.peername, call, timeout or 0.0)))
        try:
            if self._outcome is not None:
                return self._outcome
            remaining = None if end is None else max(0.0, end - time.monotonic())
            outcome: _Outcome = (None, None, CallCancelled("the call was cancelled, because its wait was interrupted"))
            try:
                outcome = (*self.client._await(self._session, self._pending, remaining, timeout), None)
            except Exception as exc:  # noqa: BLE001 - raised by wait(), whatever it is
                outcome = (None, None, exc)
            finally:
                # Also after Ctrl-C: the call has been stopped then.  Before it, if it was cancelled.
                self._outcome = self._outcome or outcome
            return self._outcome
        finally:
            self._waiting.release()
            if self._outcome is not None:
                self._announce()

    def _settle(self, outcome: _Outcome) -> _Outcome:
        """Set the outcome, unless another thread has; tell everybody."""
        self._outcome = self._outcome or outcome
        self._announce()
        return self._outcome

    def _announce(self) -> None:
        """Tell those who wait as for a future, once."""
        # In this order: who makes the condition looks at this afterwards.
        self._announced = True
        condition = self._lazy_condition
        if condition is not None:
            with condition:
                # They stay in the list: who put them there takes them out.
                for waiter in () if self._told else self._waiters:
                    waiter.add_result(self) if self._succeeded else waiter.add_exception(self)
                self._told = True
                condition.notify_all()
        while self._callbacks:
            try:
                callback = self._callbacks.popleft()
            except IndexError:  # another thread took it
                break
            callback(self)
        self._pending.keep = None

    @property
    def _succeeded(self) -> bool:
        outcome = self._outcome
        return outcome is not None and outcome[1] is None and outcome[2] is None

    def _arrived(self) -> None:
        """The answer is here; called in a thread that sorts answers."""
        if self._pending.keep is not None and self._outcome is None:
            self._receive()

    # As a future ---------------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether the call has finished or was cancelled."""
        return self.have_response

    def running(self) -> bool:
        """Whether the call has not finished."""
        return not self.have_response

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        return self._cancelled

    def result(self, timeout: float | None = None) -> Any:
        """Return what the call returned; as :meth:`wait`, but without printing anything."""
        return self.wait("quiet", timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call raised, None if it raised nothing."""
        outcome = self._wait(timeout)
        _value, error, failure = outcome
        return failure or (error.orig if error is not None else None)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call ``callback(response)`` once the call has finished."""
        self.__dict__.setdefault("_callbacks", deque()).append(callback)
        self._attend()
        if self._outcome is not None:
            self._announce()

    def _attend(self) -> None:
        """Have the answer taken as soon as it is here, although nobody waits."""
        if self._outcome is None:
            pending = self._pending
            pending.keep, pending.quiet = self, False
            self.client._watch(self._session)
            if self.have_response:
                self._receive()

    @property
    def _condition(self) -> threading.Condition:
        """What ``concurrent.futures`` waits on; made when it is first asked for."""
        condition = self._lazy_condition
        if condition is None:
            self._waiters: list[Any] = self.__dict__.setdefault("_waiters", [])
            condition = self.__dict__.setdefault("_lazy_condition", threading.Condition())
            self._attend()
        return condition

    @property
    def _waiting(self) -> Any:
        """Held by the one thread that waits; an RLock because it knows its owner: a signal may leave it locked."""
        return self.__dict__.get("_lock") or self.__dict__.setdefault("_lock", threading.RLock())

    @property
    def _state(self) -> str:
        return "FINISHED" if self._announced else "RUNNING"
