"""How a run came to its end, in a sentence: a report that does not hold everything says so first."""

from __future__ import annotations

from dataclasses import dataclass

import pytest


@dataclass
class Ending:
    """What is known of the end.

    Attributes:
        interrupted: The signal that ended the run, ``""`` if none did.
        broken: What pytest itself, or a plugin, failed with.
        stopped: Why pytest was told to run no more tests, as by ``-x``.
        cut_off: Tests that had begun and not ended.
        not_run: Tests that had not begun.
        exitstatus: Of pytest.
    """

    interrupted: str = ""
    broken: str = ""
    stopped: str = ""
    cut_off: int = 0
    not_run: int = 0
    exitstatus: int = 0

    @property
    def state(self) -> str:
        """``interrupted``, ``broken``, ``stopped``, ``incomplete`` or ``complete``."""
        if self.interrupted:
            return "interrupted"
        if self.broken or self.exitstatus == pytest.ExitCode.INTERNAL_ERROR:
            return "broken"
        if self.stopped:
            return "stopped"
        if self.exitstatus == pytest.ExitCode.INTERRUPTED:
            return "interrupted"
        return "incomplete" if self.cut_off or self.not_run else "complete"

    @property
    def sentence(self) -> str:
        """The state, and what is lacking because of it."""
        why = {
            "interrupted": f"Incomplete: the run was interrupted ({self.interrupted or 'told to end'})",
            "broken": "Incomplete: pytest or a plugin failed",
            "stopped": f"Incomplete: the run was stopped ({self.stopped})",
            "incomplete": "Incomplete: the run ended early",
            "complete": "Complete: every test that was collected has run",
        }[self.state]
        lacking = []
        if self.cut_off:
            lacking.append(f"{self.cut_off} test{'s were' if self.cut_off != 1 else ' was'} cut off")
        if self.not_run:
            lacking.append(f"{self.not_run} {'have' if self.not_run != 1 else 'has'} not run")
        return "; ".join([why, *lacking])
