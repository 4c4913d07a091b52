"""The response to a nonblocking call."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from easycluster.errors import CallCancelled, RemoteException

if TYPE_CHECKING:
    from collections.abc import Callable

    from easycluster.client.client import Client
    from easycluster.link.session import Pending

__all__ = ["NonblockingResponse"]


class NonblockingResponse:
    """What a call with ``nonblocking=True`` returns.

    Besides its own methods it has those of a future (``result``, ``exception``, ``done``,
    ``add_done_callback``) and can be given to ``concurrent.futures.wait`` and ``as_completed``.

    Attributes:
        client: The client it belongs to.
        request_id: Number of the request in its session.
    """

    def __init__(self, client: Client, pending: Pending, origexc: bool | str) -> None:
        self.client = client
        self.request_id = pending.request
        self._pending = pending
        self._origexc = origexc
        self._done = False
        self._cancelled = False
        self._value: Any = None
        self._error: RemoteException | None = None
        self._plain_error: BaseException | None = None
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[Any], object]] = []
        self._lazy_condition: threading.Condition | None = None
        self._waiters: list[Any] = []

    def __repr__(self) -> str:
        state = "done" if self.have_response else "pending"
        return f"<NonblockingResponse {self.request_id} from {self.client.peername}, {state}>"

    @property
    def have_response(self) -> bool:
        """Whether the answer is here, so that :meth:`wait` returns at once."""
        return self._done or bool(self._pending.items)

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
            SessionError: If the session has ended.
            Exception: What the call raised.
        """
        self._finish(timeout)
        try:
            if self._plain_error is not None:
                raise self._plain_error
            if self._error is not None:
                raise self.client._chosen(self._error, self._origexc if origexc is None else origexc)
            return self._value
        finally:
            # Else the exception holds its traceback, that this frame, and this frame the exception.
            del self

    def cancel(self) -> bool:
        """Stop the call on the far side; return False if it had finished already."""
        if self.have_response:
            return False
        self.client._cancel(self._pending)
        self._settle(None, CallCancelled("the call was cancelled"))
        self._cancelled = True
        return True

    def _finish(self, timeout: float | None = None) -> None:
        """Wait for the answer and take it apart, once."""
        with self._lock:
            if self._done:
                return
            try:
                value, error = self.client._await(self._pending, timeout)
            except (OSError, CallCancelled) as exc:
                self._plain_error = exc
            else:
                self._value, self._error = value, error
            self._done = True
        self._announce()

    def _settle(self, value: Any, error: BaseException | None) -> None:
        with self._lock:
            if self._done:
                return
            self._value, self._plain_error, self._done = value, error, True
        self._announce()

    def _arrived(self, _pending: Pending) -> None:
        """The answer is here; called in the thread that handles completions."""
        if self._callbacks or self._lazy_condition is not None:
            self._finish()

    def _announce(self) -> None:
        condition = self._lazy_condition
        if condition is not None:
            with condition:
                for waiter in self._waiters:
                    if self._plain_error is not None or self._error is not None:
                        waiter.add_exception(self)
                    else:
                        waiter.add_result(self)
                condition.notify_all()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

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
        self._finish(timeout)
        return self._plain_error or (self._error.orig if self._error is not None else None)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call ``callback(response)`` once the call has finished."""
        with self._lock:
            if not self._done:
                self._callbacks.append(callback)
                self.client._watch()
                if not self._pending.items:
                    return
        self._finish()
        if callback in self._callbacks:
            self._callbacks.remove(callback)
            callback(self)
        elif self._done:
            return

    @property
    def _condition(self) -> threading.Condition:
        """What ``concurrent.futures`` waits on; made when it is first asked for."""
        with self._lock:
            if self._lazy_condition is None:
                self._lazy_condition = threading.Condition()
                self.client._watch()
        if self.have_response:
            self._finish()
        return self._lazy_condition

    @property
    def _state(self) -> str:
        return "FINISHED" if self._done else "RUNNING"
