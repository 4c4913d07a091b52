"""Time limits of tests and teardowns, and a word on calls that take long.

A thread looks at the clock; what is over its time is stopped in the main thread by an exception from a signal handler,
which ends calls to hosts, sleeps and everything else that Python waits in.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_easycluster.markers import wishes_of

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

    from easycluster.lab import CallInProgress, Lab

# Seconds between looks, and at most this share of what is waited for.
LOOK: Final = 1.0
SHARE: Final = 0.1

# A real-time signal means nothing to anybody else; pytest-timeout has SIGALRM.  None on Windows, where nothing limits.
NUMBER: Final = int(signal.SIGRTMIN) + 9 if hasattr(signal, "SIGRTMIN") else 0


@dataclass
class _Phase:
    """What runs now, and until when.

    Attributes:
        item: The test.
        what: ``"test"`` or ``"teardown"``.
        limit: Seconds it may take.
        end: Its end on the monotonic clock.
        is_over: Whether it was told to stop.
    """

    item: pytest.Item
    what: str
    limit: float
    end: float
    is_over: bool = False


class Limits:
    """Hooks and the thread of one process.

    Args:
        lab: Whose calls are watched.
        test: Seconds for the setup and call of a test that does not say otherwise.
        teardown: Seconds for its teardown.
        silence: Seconds of a call without any output, after which it is named; and again after each further span.
        fd: Where to write that.
    """

    def __init__(self, lab: Lab, *, test: float, teardown: float, silence: float, fd: int) -> None:
        self._lab = lab
        self._test, self._teardown, self._silence = test, teardown, silence
        self._fd = fd
        self._phase: _Phase | None = None
        # Whether the phase runs; between phases nothing is stopped.
        self._is_running = False
        self._reason = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        # When each call that is in progress was first seen, and when it was last named.
        self._calls: dict[CallInProgress, tuple[float, float]] = {}

    def install(self, config: pytest.Config) -> None:
        """Handle our signal; only the main thread can, and without that only slow calls are named."""
        if NUMBER and threading.current_thread() is threading.main_thread():
            before = signal.signal(NUMBER, self._interrupt)
            config.add_cleanup(partial(_restore, before))
        config.add_cleanup(self.close)

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(LOOK)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # pytest ------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Begin a test; its time covers setup and call."""
        limit = wishes_of(item).timeouts.get("test", self._test)
        with self._limited(_Phase(item, "test", limit, time.monotonic() + limit)):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Go on with what is left of the test's time."""
        with self._limited(self._phase):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Limit the teardown, that of wider fixtures that end here included."""
        limit = wishes_of(item).timeouts.get("teardown", self._teardown)
        with self._limited(_Phase(item, "teardown", limit, time.monotonic() + limit)):
            return (yield)

    @contextlib.contextmanager
    def _limited(self, phase: _Phase | None) -> Generator[None, None, None]:
        self._start()
        self._phase = phase
        self._is_running = True
        try:
            yield
        finally:
            self._is_running = False

    # The thread --------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="easycluster-limits", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        pause = min(LOOK, max(0.02, SHARE * min(self._test, self._teardown, self._silence)))
        while not self._stop.wait(pause):
            phase = self._phase
            if phase is None or not self._is_running:
                self._calls.clear()
                continue
            now = time.monotonic()
            self._name_slow_calls(phase, now)
            if now > phase.end and not phase.is_over:
                phase.is_over = True
                calls = ", ".join(f"still in {call.call} on {call.host}" for call in self._calls)
                self._reason = f"the {phase.what} took longer than {_span(phase.limit)}" + (
                    f": {calls}" if calls else ""
                )
                if NUMBER:
                    signal.pthread_kill(threading.main_thread().ident or 0, NUMBER)

    def _name_slow_calls(self, phase: _Phase, now: float) -> None:
        calls = self._lab.calls_in_progress()
        known, self._calls = self._calls, {}
        for call in calls:
            first, said = known.get(call, (now, now))
            quiet_since = max(first, said, self._lab.last_output(call.host))
            if now - quiet_since >= self._silence:
                said = now
                self._say(f"{phase.item.nodeid}: still in {call.call} on {call.host} ({_span(now - first)})")
            self._calls[call] = (first, said)

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._fd, f"\n{text}\n".encode(errors="replace"))

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        """Runs in the main thread, whatever that is in."""
        reason, self._reason = self._reason, ""
        if reason and self._is_running:
            pytest.fail(reason)


def _restore(before: Any) -> None:
    signal.signal(NUMBER, before)


def _span(seconds: float) -> str:
    return f"{seconds / 60:g} m" if seconds >= 60 and seconds % 60 == 0 else f"{seconds:.3g} s"
