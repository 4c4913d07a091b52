"""``ThreadedClient``: a far-side thread for each near-side thread, and answers read at once."""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import TYPE_CHECKING, Any

from easycluster.client.client import BaseClient
from easycluster.client.process import is_ending, weakly
from easycluster.wire.frames import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from easycluster.client.endpoint import Endpoint
    from easycluster.client.session import NearSession

__all__ = ["ThreadingMixin"]


class _ThreadLocal(threading.local):
    number = 0


class ThreadingMixin(BaseClient):
    """What makes a client a threaded one.

    Each thread that makes calls gets a far-side thread of its own, which ends after it does; the
    main thread has the far side's main thread.  Completion functions run as soon as the answer is
    here, in a thread of the client's own.
    """

    _one_thread = False

    def __init__(self) -> None:
        super().__init__()
        self._local = _ThreadLocal()
        self._owners: dict[int, weakref.ref[threading.Thread]] = {}
        self._default_thread_set = False

    def _use(self, endpoint: Endpoint) -> None:
        # First these: what makes calls quickly looks at the numbers.
        self._local = _ThreadLocal()
        self._owners = {}
        super()._use(endpoint)
        session = self._session
        assert session is not None  # _use has set it
        session.notify_completed = self._make_notify(session)
        session.start_watcher(weakly(self._complete_quietly))
        endpoint.control.on_idle = weakly(self._idle)

    def _make_notify(self, session: NearSession) -> Callable[[bool], None]:
        arrivals = self._arrivals

        def notify(urgent: bool) -> None:
            if urgent:
                arrivals.urgent = True
                session.wake_watcher()

        return notify

    def _thread_number(self, threadid: int | None) -> int:
        if threadid is not None:
            return super()._thread_number(threadid)
        if self._default_thread_set:
            return super()._thread_number(None)
        number = self._local.number
        return number - 1 if number else self._new_number()

    def _numbers(self) -> Any:
        return None if self._default_thread_set else self._local

    def _new_number(self) -> int:
        """Choose the far-side thread of this thread; its number is kept one higher, 0 means none."""
        thread = threading.current_thread()
        if thread is threading.main_thread():
            self._local.number = 1
            return 0
        self.check_threads()
        with self._lock:
            number = next(self._wire_numbers)
            self._owners[number] = weakref.ref(thread)
        self._local.number = number + 1
        return number

    def set_default_thread(self, threadid: int) -> None:
        """Set one far-side thread for all calls that do not name one."""
        self._default_thread_set = True
        super().set_default_thread(threadid)

    def check_threads(self) -> None:
        """End the far-side threads of near-side threads that have ended."""
        done = []
        with self._lock:
            for number, ref in list(self._owners.items()):
                owner = ref()
                if owner is None or not owner.is_alive():
                    done.append(number)
                    del self._owners[number]
        session = self._session
        if session is not None:
            with contextlib.suppress(OSError):
                for number in done:
                    session.send(Kind.STOP_THREAD, 0, b"", thread=number)

    def _idle(self) -> None:
        """Look for threads that have ended; in the monitor's thread, which must not wait for anything."""
        endpoint = self._endpoint
        if endpoint is not None:
            endpoint.idle()
        if any(owner is None or not owner.is_alive() for owner in [ref() for ref in list(self._owners.values())]):
            threading.Thread(target=self.check_threads, name="easycluster-reaper", daemon=True).start()

    def _after_wait(self) -> None:
        """Nothing: a thread of our own handles completions."""

    def _watch(self, session: NearSession) -> None:
        """Nothing more: answers are read anyway."""
        session.wake_watcher()

    def _complete_rest(self) -> None:
        # The watcher has ended with the session.
        self._complete_quietly()

    def _complete_quietly(self) -> None:
        """Call completion functions, in the thread of our own, which must go on."""
        arrivals = self._arrivals
        if is_ending():
            return
        while arrivals.completions or arrivals.has_due():
            try:
                arrivals.sort()
                arrivals.run_due()
            except Exception:  # noqa: BLE001 - a completion function failed
                import traceback

                traceback.print_exc()
        arrivals.has_some()
        if self._owners:
            self.check_threads()

    def read_response(self, block: bool = True) -> bool:
        """Raise TypeError: answers are read by a thread of the client's own."""
        raise TypeError("read_response() must not be called on a ThreadedClient: it reads its answers by itself")

    def _read_once(self, session: Any, block: bool) -> bool:
        raise TypeError("a ThreadedClient reads its answers by itself")
