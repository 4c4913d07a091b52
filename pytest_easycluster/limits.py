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

from easycluster.client.debugger import is_open
from pytest_easycluster.again import names_of_hosts
from pytest_easycluster.markers import wishes_of

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

    from easycluster.lab import CallInProgress, Lab

# Seconds between looks, and at most this share of what is waited for.
LOOK: Final = 1.0
SHARE: Final = 0.1

# The limits of a test's phases in seconds, where nobody says anything.
_PHASES: Final = {"test": 30 * 60.0, "teardown": 60.0}

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
        test: Seconds for the setup and call of a test that does not say otherwise; None for what its hosts say.
        teardown: Seconds for its teardown; likewise.
        silence: Seconds of a call without any output, after which it is named; and again after each further span.
        fd: Where to write that.
    """

    def __init__(self, lab: Lab, *, test: float | None, teardown: float | None, silence: float, fd: int) -> None:
        self._lab = lab
        self._test, self._teardown, self._silence = test, teardown, silence
        self._fd = fd
        # What a test may take at most for now, whatever anybody says: it is repeated, see `twin`.
        self.at_most: float | None = None
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
        wanted = wishes_of(item).timeouts
        self._lab.limits.overrides.update({name: span for name, span in wanted.items() if name not in _PHASES})
        self._lab.limits.start()
        # Which hosts it gets is not known yet: what any of them says is enough for now.
        limit = max(self._limit(item, "test", self._lab.hosts.names), self._limit(item, "test", []))
        with self._limited(_Phase(item, "test", limit, time.monotonic() + limit)):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Go on with what is left of the test's time, as its hosts have it."""
        if self._phase is not None:
            limit = self._limit(item, "test", names_of_hosts(item))
            self._phase.end += limit - self._phase.limit
            self._phase.limit = limit
        with self._limited(self._phase):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Limit the teardown, that of wider fixtures that end here included."""
        limit = self._limit(item, "teardown", names_of_hosts(item))
        try:
            with self._limited(_Phase(item, "teardown", limit, time.monotonic() + limit)):
                return (yield)
        finally:
            self._lab.limits.overrides.clear()

    def _limit(self, item: pytest.Item, what: str, hosts: list[str]) -> float:
        """Seconds for a phase: the marker's, then the options', then the most that one of the hosts gives it."""
        option = {"test": self._test, "teardown": self._teardown}[what]
        entries = self._lab.inventory.hosts
        said = [entries[name].timeouts[what] for name in hosts if what in entries[name].timeouts]
        usual = max(said, default=_PHASES[what]) if option is None else option
        limit = wishes_of(item).timeouts.get(what, usual)
        return limit if self.at_most is None else min(limit, self.at_most)

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
        looked = time.monotonic()
        while not self._stop.wait(self._pause()):
            phase = self._phase
            now, before = time.monotonic(), looked
            looked = now
            if phase is None or not self._is_running:
                self._calls.clear()
                continue
            if is_open():
                # Whoever debugs has all the time in the world.
                phase.end += now - before
                self._calls.clear()
                continue
            self._name_slow_calls(phase, now)
            if now > phase.end and not phase.is_over:
                phase.is_over = True
                calls = ", ".join(f"still in {call.call} on {call.host}" for call in self._calls)
                self._reason = f"the {phase.what} took longer than {_span(phase.limit)}" + (
                    f": {calls}" if calls else ""
                )
                if NUMBER:
                    signal.pthread_kill(threading.main_thread().ident or 0, NUMBER)

    def _pause(self) -> float:
        phase = self._phase
        shortest = min(self._silence, phase.limit if phase is not None else self._silence)
        return min(LOOK, max(0.02, SHARE * shortest))

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
