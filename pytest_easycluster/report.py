"""What far sides print: in labelled sections of reports, or line by line when output is not captured."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, TextIO

import pytest

if TYPE_CHECKING:
    from easycluster.lab import Inventory, Lab

# How long one host may keep a report waiting for output that is on its way.
FLUSH_TIMEOUT = 0.5

Sections = list[tuple[str, str]]
SECTIONS = pytest.StashKey[Sections]()


def add_sections(item: pytest.Item, report: pytest.TestReport, lab: Lab) -> None:
    """Add what far sides wrote during this test so far to its report."""
    sections = item.stash.setdefault(SECTIONS, [])
    for host, streams in lab.take_output(FLUSH_TIMEOUT).items():
        for stream, text in streams.items():
            # pytest looks for the word "teardown" to print a section beside a failed call.
            phase = "" if report.when == "call" else f" {report.when}"
            sections.append((f"Captured remote {stream} [{host}]{phase}", text))
    report.sections.extend(sections)


class LiveOutput:
    """Prints far sides' output as it comes, whole lines only, each with its host: ``[gpu01] text``."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        # The beginning of a line whose end has not come yet.
        self._begun: dict[tuple[str, str], str] = {}

    def __call__(self, host: str, stream: str, text: str) -> None:
        """Take output of one host; from any thread."""
        with self._lock:
            *lines, rest = (self._begun.pop((host, stream), "") + text).split("\n")
            if rest:
                self._begun[host, stream] = rest
            if lines:
                file = self._file or sys.stdout
                file.write("".join(f"[{host}] {line}\n" for line in lines))
                file.flush()


def header(inventory: Inventory) -> str:
    """One line about the lab, for the top of the run."""
    name = f"{inventory.name} ({inventory.path})" if inventory.name != inventory.path.name else str(inventory.path)
    return f"lab: {name}: {inventory.summary()}"
