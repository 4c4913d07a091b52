"""The response to a nonblocking call."""

from __future__ import annotations

import threading
import time
import weakref
from _thread import allocate_lock
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from easycluster.errors import CallCancelled, CallTimeout, RemoteException
from easycluster.link.operations import describe_operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from easycluster.client.arrivals import ResponseSlot
    from easycluster.client.client import BaseClient
    from easycluster.client.session import NearSession
    from easycluster.link.pending import Pending

__all__ = ["NonblockingResponse"]


class _Outcome(NamedTuple):
    value: Any = None
    # What the call raised.
    error: RemoteException | None = None
    # Why there is no answer.
    failure: BaseException | None = None


class NonblockingResponse:
    """What a call with ``nonblocking=True`` returns.

    Besides its own methods it has those of a future (``result``, ``exception``, ``done``,
    ``add_done_callback``) and can be given to ``concurrent.futures.wait`` and ``as_completed``.

    Attributes:
        client: The client it belongs to.
        request_id: Number of the request in its session.
        taken: Whether somebody has waited for it, successfully or not.
    """

    def __init__(
        self, client: BaseClient, session: NearSession, pending: Pending, slot: ResponseSlot, origexc: bool | str
    ) -> None:
        self.client = client
        self.request_id = pending.request
        self.taken = False
        self._session = session
        self._pending = pending
        self._slot = slot
        self._origexc = origexc
        # Set once, in one store; whoever set it announces it.
        self._outcome: _Outcome | None = None
        self._cancelled = False
        # An RLock because it knows its owner: a signal may leave it locked.
        self._waiting = threading.RLock()
        self._callbacks: deque[Callable[[Any], object]] = deque()
        self._lazy_condition: threading.Condition | None = None
        # Guards the making of the condition: from then on it guards what follows.
        self._making = allocate_lock()
        self._announced = False
        self._waiters: list[Any] = []
        slot.response = weakref.ref(self)

    def __del__(self) -> None:
        # An answer that has come and that nobody took: the references in it go back.
        if getattr(self, "_outcome", self) is None:
            self._slot(self._pending)

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
        outcome = self._wait(timeout)
        try:
            if outcome.failure is not None:
                raise outcome.failure
            if outcome.error is not None:
                raise self.client._chosen(outcome.error, self._origexc if origexc is None else origexc)
            return outcome.value
        finally:
            # Else the exception holds its traceback, that this frame, and this frame the exception.
            del self, outcome

    def cancel(self) -> bool:
        """Stop the call on the far side; return False if it had finished already."""
        if self.have_response:
            return self._cancelled
        self._cancelled = True
        self._settle(_Outcome(failure=CallCancelled("the call was cancelled")))
        self.taken = True
        # Its answer still comes, soon: until then it stays with the requests that have none, so that
        # a thread that waits for it wakes up.
        self.client._stop(self._session, self._pending)
        return True

    def _wait(self, timeout: float | None) -> _Outcome:
        self.taken = True
        outcome = self._outcome or self._receive(timeout)
        self.client._after_wait()
        return outcome

    def _receive(self, timeout: float | None = None) -> _Outcome:
        """Wait for the answer and take it apart."""
        end = None if timeout is None else time.monotonic() + timeout
        if not self._waiting.acquire(timeout=-1 if timeout is None else timeout):
            # Another thread waits, for longer.
            self.client._stop(self._session, self._pending)
            call = describe_operation(self._pending.operation)
            return self._settle(_Outcome(failure=CallTimeout(self.client.peername, call, timeout or 0.0)))
        try:
            if self._outcome is not None:
                return self._outcome
            remaining = None if end is None else max(0.0, end - time.monotonic())
            outcome = _Outcome(failure=CallCancelled("the call was cancelled, because its wait was interrupted"))
            try:
                outcome = _Outcome(*self.client._await(self._session, self._pending, remaining, timeout))
            except Exception as exc:  # noqa: BLE001 - raised by wait(), whatever it is
                outcome = _Outcome(failure=exc)
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
        with self._making:
            condition = self._lazy_condition
            if condition is None:
                self._announced = True
        if condition is not None:
            with condition:
                # They stay in the list: who put them there takes them out.
                for waiter in () if self._announced else self._waiters:
                    waiter.add_result(self) if self._succeeded else waiter.add_exception(self)
                self._announced = True
                condition.notify_all()
        while self._callbacks:
            try:
                callback = self._callbacks.popleft()
            except IndexError:  # another thread took it
                break
            callback(self)
        self._slot.keep = None

    @property
    def _succeeded(self) -> bool:
        outcome = self._outcome
        return outcome is not None and outcome.failure is None and outcome.error is None

    def _arrived(self) -> None:
        """The answer is here; called in a thread that sorts answers."""
        if self._slot.keep is not None and self._outcome is None:
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
        return outcome.failure or (outcome.error.orig if outcome.error is not None else None)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call ``callback(response)`` once the call has finished."""
        self._callbacks.append(callback)
        self._attend()
        if self._outcome is not None:
            self._announce()

    def _attend(self) -> None:
        """Have the answer taken as soon as it is here, although nobody waits."""
        if self._outcome is None:
            self._slot.keep = self
            self.client._watch(self._session)
            if self.have_response:
                self._receive()

    @property
    def _condition(self) -> threading.Condition:
        """What ``concurrent.futures`` waits on; made when it is first asked for."""
        condition = self._lazy_condition
        if condition is None:
            with self._making:
                condition = self._lazy_condition = self._lazy_condition or threading.Condition()
            self._attend()
        return condition

    @property
    def _state(self) -> str:
        return "FINISHED" if self._announced else "RUNNING"
