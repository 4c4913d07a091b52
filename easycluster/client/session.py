"""The near end of a data link."""

from __future__ import annotations

import contextlib
import threading
from _thread import get_ident
from collections import deque
from itertools import repeat
from typing import TYPE_CHECKING, Any

from easycluster.link.operations import Op, PeerSession
from easycluster.link.pending import Waiter, wake
from easycluster.wire.frames import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from easycluster.errors import SessionError
    from easycluster.link.pending import Pending
    from easycluster.wire.frames import Frame

__all__ = ["NearSession", "Unwanted", "abandon"]


class NearSession(PeerSession):
    """The near end: calls go out, callbacks and requests for modules come in.

    What the far side asks runs in the thread that waits for the call it belongs to, or, if there
    is none, in a thread of the session's own.
    """

    label = ""
    entry_kind = Kind.CALL

    def __init__(self, *args: Any, services: dict[str, Callable[..., Any]], **kwargs: Any) -> None:
        self._services = services
        super().__init__(*args, **kwargs)
        self.hello = Waiter()
        # Set by whoever first finds out; calls that are asked about later get the same reason.
        self.why_ended: SessionError | None = None
        self.notify_completed: Callable[[bool], None] | None = None
        # What the far side knows of our wishes.
        self.told_wishes: dict[str, Any] | None = None
        # Requests whose responses were dropped before anybody has waited.
        self.unwanted: deque[Pending] = deque()
        self._callbacks = Waiter()
        # What ended a callback and is no Exception, by thread.
        self._exits: dict[int, BaseException] = {}
        self._callback_thread: threading.Thread | None = None
        # Who runs callbacks instead of that thread: an event loop.
        self.callback_taker: Waiter | None = None

    def operations(self) -> dict[int, Callable[..., Any]]:
        """Return what the far side may ask for."""
        table = super().operations()
        table[Op.SERVICE] = self._service
        return table

    def _service(self, name: str, *args: Any) -> Any:
        return self._services[name](*args)

    def route(self, message: Frame) -> Waiter | None:
        """Return who handles a request of the far side."""
        kind = message[0]
        if kind == Kind.HELLO:
            return self.hello
        if kind == Kind.GOODBYE:
            self.end(EOFError())
            return None
        if kind == Kind.ITEM:
            return self.pending.get(message[2])
        if self.callback_taker is not None:
            return self.callback_taker
        if self._callback_thread is None:
            self._callback_thread = threading.Thread(
                target=self._run_callbacks, name="easycluster-callbacks", daemon=True
            )
            self._callback_thread.start()
        return self._callbacks

    def run_callbacks_of(self, taker: Waiter) -> None:
        """Run in a thread what somebody was to run who is gone."""
        if self.callback_taker is taker:
            self.callback_taker = None
        with contextlib.suppress(IndexError):  # another thread does this too
            while True:
                message = taker.items.popleft()
                waiter = self.route(message)
                if waiter is not None:
                    waiter.items.append(message)
                    wake(waiter.lock)

    def _run_callbacks(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                message = self.wait_handed(self._callbacks)
                # What ended the callback has no meaning here but for the far side, which has been told.
                with contextlib.suppress(BaseException):
                    self.answer(message)

    def answer(self, message: Frame) -> None:
        """Carry out a request and send its answer.

        Raises:
            BaseException: What ended the callback without being an Exception: Ctrl-C, ``pytest.fail``.
                The far side has been told, too.
        """
        super().answer(message)
        if self._exits:
            exit_ = self._exits.pop(get_ident(), None)
            if exit_ is not None:
                raise exit_

    def dump_failure(self, exc: BaseException) -> tuple[bytes, list[memoryview]]:
        """Return an exception as plain pickled values, and keep it if it is for this side, too."""
        if not isinstance(exc, Exception):
            self._exits[get_ident()] = exc
        return super().dump_failure(exc)

    def drop_unwanted(self) -> None:
        """Have the answers dropped to which there is no response any more."""
        while self.unwanted:
            try:
                pending = self.unwanted.popleft()
            except IndexError:  # another thread took it
                break
            abandon(pending, Unwanted(self))

    def flush_releases(self) -> None:
        """Send what was dropped, if the link is free; for idle times."""
        self.drop_unwanted()
        super().flush_releases()

    def on_ended(self) -> None:
        """Count requests without an answer as completed: there will be none."""
        late = [number for number, pending in list(self.pending.items()) if pending.on_done is not None]
        # In one step: a signal handler may raise between two of them, and two threads may be here.
        self.completions.extend(filter(None, map(self.pending.pop, late, repeat(None))))
        self.completed(True)

    def completed(self, urgent: bool) -> None:
        """Tell whoever handles completions."""
        if self.notify_completed is not None:
            self.notify_completed(urgent)


class Unwanted:
    """Gives back the references in an answer that nobody wants any more; an ``on_done``."""

    def __init__(self, session: NearSession) -> None:
        self._session = session

    def __call__(self, pending: Pending) -> None:
        """Drop all that has come."""
        if pending.items.__class__ is tuple:
            # A value or none: there is nothing to give back.
            return
        with contextlib.suppress(IndexError):  # another thread does this too
            while True:
                self.drop(self._session, pending.take())

    def drop(self, session: NearSession, message: Frame) -> None:
        """Give back what one frame brought."""
        session.late(message)


def abandon(pending: Pending, unwanted: Unwanted) -> None:
    """Have an answer dropped, whether it has come or is on its way."""
    pending.on_done = unwanted
    # In this order: whoever reads the link takes the request off the list before it looks at on_done.
    if pending.request not in unwanted._session.pending:
        unwanted(pending)
