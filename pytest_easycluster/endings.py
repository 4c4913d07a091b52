"""How a run with a lab ends when it is told to: Ctrl-C, SIGTERM (an aborted job), SIGHUP (a closed terminal).

The first signal ends what runs, or lets a teardown that has begun go on; what is left of the teardown gets
:data:`TEARDOWN` seconds.  A second one ends that too.  Either way pytest writes its reports and ends with 2, and every
connection is closed.  Should even that hang, the process leaves: far sides end by themselves when nobody is there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

    from easycluster.lab import Lab

# Seconds of teardown after the first signal.
TEARDOWN: Final = 10.0
# Seconds between the attempts to end a teardown that is over its time, and from the first of them to the hard end.
AGAIN: Final = 0.5
HARD: Final = 5.0
# Seconds to write reports in, when nothing is left to be taken down.
REPORTS: Final = 60.0
# Seconds to close all connections in, when told to hurry.
CLOSE: Final = 1.0
# A terminal sends Ctrl-C to workers of pytest-xdist too, and so does our controller: both are the same one.
SAME: Final = 0.5

# Of the calls that a signal has interrupted, those that are named.
MOST_CALLS: Final = 3

SIGNALS: Final = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

# pytest's own for Ctrl-C.
INTERRUPTED: Final = 2


class Ended(KeyboardInterrupt):
    """The run was told to end; pytest treats it as Ctrl-C, and shows where that was only under this name."""

    __module__ = "builtins"
    __qualname__ = "KeyboardInterrupt"


class Endings:
    """Hooks and signal handlers of one process.

    Args:
        config: Of pytest.
        lab: What is closed at the end.
    """

    def __init__(self, config: pytest.Config, lab: Lab) -> None:
        self._config = config
        self._lab = lab
        self._is_worker = hasattr(config, "workerinput")
        # The signal that came first, "" while none has.
        self.reason = ""
        self._first = 0.0
        self._is_hurried = False
        # Whether fixtures are being taken down, which a first signal does not interrupt.
        self._in_teardown = False
        # Whether everything is taken down and closed: what is left are reports, which nothing is gained by cutting off.
        self._is_reporting = False
        self._is_over = threading.Event()
        self._before: dict[int, Any] = {}
        self._worker_pids: list[int] = []

    # Signals -----------------------------------------------------------------------------------

    def install(self) -> None:
        """Handle the signals from now on; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            before = signal.getsignal(number)
            # Ignored by who started us (nohup, a shell's background job), or somebody else's business already.
            if before in (signal.SIG_DFL, signal.default_int_handler):
                self._before[number] = signal.signal(number, self._take)
        self._config.add_cleanup(self.uninstall)

    def uninstall(self) -> None:
        """Put back what was there."""
        self._is_over.set()
        for number, before in self._before.items():
            with contextlib.suppress(ValueError):
                signal.signal(number, before)
        self._before.clear()

    def _take(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.reason and (self._is_reporting or (self._is_worker and now - self._first < SAME)):
            return
        if self.reason:
            self._hurry(f"{self.reason}, then {signal.Signals(number).name}")
        self.reason, self._first = signal.Signals(number).name, now
        threading.Thread(target=self._watch, name="easycluster-ending", daemon=True).start()
        self._pass_on()
        if not self._in_teardown:
            raise Ended(self.reason + self._whereabouts())

    def _whereabouts(self) -> str:
        """What is interrupted: the test, and the calls that are waited for."""
        test = os.environ.get("PYTEST_CURRENT_TEST", "")
        found = [f" in {test}"] if test else []
        with contextlib.suppress(Exception):
            found += [f", {call.call} on {call.host}" for call in self._lab.calls_in_progress()[:MOST_CALLS]]
        return "".join(found)

    def _hurry(self, why: str) -> None:
        self._is_hurried = True
        self._pass_on()
        raise Ended(why)

    def _pass_on(self) -> None:
        """Tell the workers of pytest-xdist; those that have not taken their fixtures down in 5 s hear of it again."""
        for pid in self._worker_pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGTERM)

    def _watch(self) -> None:
        """See to it that the run ends; in a thread of its own."""
        hurry_at = self._first + TEARDOWN
        while not self._is_over.wait(AGAIN / 5):
            now = time.monotonic()
            if self._is_hurried or self._is_reporting or now > hurry_at:
                break
        if self._is_over.is_set():
            return
        end = time.monotonic() + HARD
        while time.monotonic() < (end if not self._is_reporting else end + REPORTS):
            if not self._is_hurried and not self._is_reporting:
                self._say(f"teardown has not ended within {TEARDOWN:g} s of {self.reason}: it is cut off")
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            if self._is_over.wait(AGAIN):
                return
        self._say(f"{self.reason}: the run does not end by itself, so it is left")
        recorder = self._config.pluginmanager.get_plugin("easycluster-report")
        if recorder is not None:
            # Another thread still runs, so nothing is certain any more; better half a report than none.
            with contextlib.suppress(Exception):
                recorder.give_up(self.reason)
        os._exit(INTERRUPTED)

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"\neasycluster: {text}\n".encode())

    # pytest ------------------------------------------------------------------------------------

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self, node: Any) -> None:
        """Know the processes of pytest-xdist's workers."""
        process = getattr(getattr(node.gateway, "_io", None), "popen", None)
        if process is not None:
            self._worker_pids.append(process.pid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Forget a worker that has ended."""
        process = getattr(getattr(node.gateway, "_io", None), "popen", None)
        if process is not None and process.pid in self._worker_pids:
            self._worker_pids.remove(process.pid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Have the place that is shown be one in the user's code."""
        from pytest_easycluster.tracebacks import leave_out_our_own

        if isinstance(excinfo.value, Ended) and not self._config.getoption("fulltrace", False):
            leave_out_our_own(excinfo.value)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        """Let a teardown that has begun go on."""
        self._in_teardown = True
        try:
            result = yield
        finally:
            self._in_teardown = False
            if self.reason:
                raise Ended(self.reason)
        return result

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Take down the rest, within its time, and close every connection."""
        self._in_teardown = True
        result = None
        try:
            result = yield
        except Exception as exc:
            if not self.reason:
                raise
            # pytest has nowhere to report it, and would lose the reports of everything else.
            self._warn(f"teardown after {self.reason} failed: {type(exc).__name__}: {exc}")
        except Ended:
            self._warn(f"teardown after {self.reason} was cut off")
        finally:
            if self.reason:
                session.exitstatus = session.exitstatus or INTERRUPTED
                self._close()
            self._is_reporting = True
        return result

    def _close(self) -> None:
        while True:
            try:
                self._lab.close(CLOSE)
            except Ended:
                continue
            return

    def _warn(self, text: str) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(f"easycluster: {text}", red=True)
        else:
            sys.stderr.write(f"easycluster: {text}\n")
