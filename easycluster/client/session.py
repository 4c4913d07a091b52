"""The near end of a data link."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from easycluster.link.operations import Op, PeerSession
from easycluster.link.session import Waiter
from easycluster.wire.frames import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from easycluster.wire.frames import Frame

__all__ = ["NearSession"]


class NearSession(PeerSession):
    """The near end: calls go out, callbacks and requests for modules come in.

    What the far side asks runs in the thread that waits for the call it belongs to, or, if there
    is none, in a thread of the session's own.
    """

    label = ""

    def __init__(self, *args: Any, services: dict[str, Callable[..., Any]], **kwargs: Any) -> None:
        self._services = services
        super().__init__(*args, **kwargs)
        self.hello = Waiter()
        self.notify_completed: Callable[[], None] | None = None
        self._callbacks = Waiter()
        self._callback_thread: threading.Thread | None = None

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
        if self._callback_thread is None:
            self._callback_thread = threading.Thread(
                target=self._run_callbacks, name="easycluster-callbacks", daemon=True
            )
            self._callback_thread.start()
        return self._callbacks

    def _run_callbacks(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.answer(self.wait_handed(self._callbacks))

    def completed(self) -> None:
        """Tell whoever handles completions."""
        if self.notify_completed is not None:
            self.notify_completed()
