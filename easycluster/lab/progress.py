"""What is shown while a call on many hosts takes long."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Progress"]

# Seconds before anything is shown, and between two plain lines.
PATIENCE: Final = 2.0
EVERY: Final = 10.0
# Names of hosts that a line has.
NAMED: Final = 4


def _is_wanted() -> bool:
    """Whether anybody would see it: in a test of pytest only where it takes no output, with ``-s``."""
    return "PYTEST_CURRENT_TEST" not in os.environ or sys.stderr is sys.__stderr__


class Progress:
    """Says how far a call on many hosts is: on one line that changes if ``rich`` is installed, else in plain lines.

    Args:
        what: What is called.
        total: How many results there will be.
        unit: What is counted, in the plural.
        stream: Where to write; standard error by default.
    """

    def __init__(self, what: str, total: int | None, unit: str = "hosts", stream: Any = None) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._stream = sys.stderr if stream is None else stream
        self._began = time.monotonic()
        self._next = self._began + PATIENCE
        self._done = self._failed = 0
        self._live: Any = None
        self._task: Any = None
        self._is_wanted = _is_wanted() and total != 1

    def __enter__(self) -> Progress:  # noqa: PYI034  # Self is newer than Python 3.10
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, failed: bool) -> None:
        """Count one result."""
        self._done += 1
        self._failed += failed

    def look(self, waiting: Callable[[], Sequence[str]]) -> None:
        """Show how far it is, if it is time to; ``waiting`` gives the hosts that have not answered."""
        now = time.monotonic()
        if not self._is_wanted or now < self._next:
            return
        names = list(waiting())
        with contextlib.suppress(OSError, ValueError):  # a closed terminal is no reason to end the call
            if self._live is None and self._stream.isatty():
                self._start_live()
            if self._live is not None:
                self._next = now
                self._live.update(self._task, completed=self._done, description=self._text(names, now))
            else:
                self._next = now + EVERY
                self._stream.write(self._text(names, now) + "\n")
                self._stream.flush()

    def _start_live(self) -> None:
        try:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bars
        except ImportError:
            return
        columns = (BarColumn(20), TextColumn("{task.description}", markup=False))
        self._live = Bars(*columns, console=Console(file=self._stream), transient=True)
        self._task = self._live.add_task("", total=self._total)
        self._live.start()

    def _text(self, names: Sequence[str], now: float) -> str:
        total = "" if self._total is None else f" of {self._total}"
        failed = f", {self._failed} failed" if self._failed else ""
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        waiting = f", waiting for {' '.join(names[:NAMED])}{more}" if names else ""
        return f"{self._what}: {self._done}{total} {self._unit} done{failed}{waiting}, {now - self._began:.0f} s"
