"""What far sides print: in labelled sections of reports, or line by line when output is not captured."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Final, TextIO

import pytest

from pytest_easycluster.again import names_of_hosts

if TYPE_CHECKING:
    from easycluster.lab import Inventory, Lab

# How long one host may keep a report waiting for output that is on its way.
FLUSH_TIMEOUT = 0.5

# Names of the hosts that fixtures of the lab gave to the test, as they hang on a report.
GIVEN: Final = "ec_given"

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


def add_hosts(item: pytest.Item, report: pytest.TestReport, lab: Lab) -> None:
    """Say on the report which hosts the test has, those of its module or session included; JUnit has them, too."""
    names = names_of_hosts(item)
    if not names:
        return
    setattr(report, GIVEN, names)
    if report.when == "teardown":
        known = lab.inventory.hosts
        roles = dict.fromkeys(role for name in names if name in known for role in known[name].roles)
        found = [("ec_hosts", " ".join(names)), ("ec_roles", " ".join(roles))]
        item.user_properties += found
        report.user_properties += found


class LiveOutput:
    """Prints far sides' output as it comes, whole lines only, each with its host: ``[gpu01] text``.

    Args:
        file: Where to, by default standard output.
        config: Of a run with a terminal; a line that pytest has begun there is ended before.
    """

    def __init__(self, file: TextIO | None = None, config: pytest.Config | None = None) -> None:
        self._file = file
        self._config = config
        self._lock = threading.Lock()
        # The beginning of a line whose end has not come yet.
        self._begun: dict[tuple[str, str], str] = {}

    def __call__(self, host: str, stream: str, text: str) -> None:
        """Take output of one host; from any thread."""
        with self._lock:
            *lines, rest = (self._begun.pop((host, stream), "") + text).split("\n")
            if rest:
                self._begun[host, stream] = rest
            self._print([f"[{host}] {line}\n" for line in lines])

    def finish(self) -> None:
        """Print what was written without an end of line behind it: nothing follows any more."""
        with self._lock:
            begun, self._begun = self._begun, {}
            self._print([f"[{host}] {rest}\n" for (host, _), rest in begun.items()])

    def _print(self, lines: list[str]) -> None:
        if not lines:
            return
        if self._config is not None and self._config.pluginmanager.hasplugin("terminalreporter"):
            writer = self._config.get_terminal_writer()
            if writer.width_of_current_line:
                writer.line()
        file = self._file or sys.stdout
        file.write("".join(lines))
        file.flush()


def header(inventory: Inventory) -> str:
    """One line about the lab, for the top of the run."""
    name = f"{inventory.name} ({inventory.path})" if inventory.name != inventory.path.name else str(inventory.path)
    return f"lab: {name}: {inventory.summary()}"
