"""``ThreadedClient``: a far-side thread for each near-side thread, and answers read at once."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from easycluster.client.client import BaseClient
from easycluster.wire.frames import Kind

if TYPE_CHECKING:
    from easycluster.client.endpoint import Endpoint

__all__ = ["ThreadingMixin"]


class _ThreadLocal(threading.local):
    number = 0


class ThreadingMixin(BaseClient):
    """What makes a client a threaded one.

    Each thread that makes calls gets a far-side thread of its own, which ends after it does; the
    main thread has the far side's main thread.  Completion functions run as soon as the answer is
    here, in a thread of the client's own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._local = _ThreadLocal()
        self._owners: dict[int, weakref.ref[threading.Thread]] = {}
        self._default_thread_set = False

    def _use(self, endpoint: Endpoint) -> None:
        super()._use(endpoint)
        self._local = _ThreadLocal()
        self._owners = {}
        session = self._session
        assert session is not None  # _use has set it
        session.notify_completed = session.wake_watcher
        session.start_watcher(self._run_completions_quietly)

    def _thread_number(self, threadid: int | None) -> int:
        if threadid is not None:
            return super()._thread_number(threadid)
        if self._default_thread_set:
            return super()._thread_number(None)
        number = self._local.number
        return number - 1 if number else self._new_number()

    def _new_number(self) -> int:
        """Choose the far-side thread of this thread; its number is kept one higher, 0 means none."""
        thread = threading.current_thread()
        if thread is threading.main_thread():
            self._local.number = 1
            return 0
        self.check_threads()
        with self._lock:
            # Keys of a kind that no caller's threadid can be.
            number = self._thread_numbers.setdefault(("thread", id(self._local), object()), len(self._thread_numbers))
            self._owners[number] = weakref.ref(thread)
        self._local.number = number + 1
        return number

    def set_default_thread(self, threadid: int) -> None:
        """Set one far-side thread for all calls that do not name one."""
        super().set_default_thread(threadid)
        self._default_thread_set = True

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
        if session is not None and session.ended is None:
            for number in done:
                session.send(Kind.STOP_THREAD, 0, b"", thread=number)

    def _run_completions(self, fail_rest: bool = False) -> int:
        # Only in the thread of our own, not in that of a caller who happened to read an answer.
        session = self._session
        watcher = session._watcher if session is not None else None
        if watcher is not None and watcher.is_alive() and threading.current_thread() is not watcher and not fail_rest:
            session.wake_watcher()  # type: ignore[union-attr]  # it has a watcher
            return 0
        count = super()._run_completions(fail_rest)
        if self._owners:
            self.check_threads()
        return count

    def read_response(self, block: bool = True) -> bool:
        """Raise TypeError: answers are read by a thread of the client's own."""
        raise TypeError("read_response() must not be called on a ThreadedClient: it reads its answers by itself")

    def _read_once(self, session: Any, block: bool) -> bool:
        raise TypeError("a ThreadedClient reads its answers by itself")
