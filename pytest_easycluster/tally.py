"""Counts verdicts and shows them: in the terminal, in JUnit's XML, in the exit code.  Runs where reports arrive."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_easycluster.verdicts import BUSY, CRASHED, LOST, REBOOTS, Verdict, verdict_of

if TYPE_CHECKING:
    from collections.abc import Generator

# Nothing failed, but hosts were lost or busy, so that not everything was seen.
HOSTS_MISSING: Final = 16

_CATEGORIES: Final = {LOST: ("lost", "L"), BUSY: ("busy", "B")}


class Tally:
    """Hooks of the process that shows results.

    Args:
        config: Of pytest.
        most_lost: Stop the run when so many hosts were lost, 0 for never.
    """

    def __init__(self, config: pytest.Config, most_lost: int = 0) -> None:
        self._config = config
        self._most_lost = most_lost
        # What else went wrong: then the exit code stays pytest's own.
        self._failed = False
        # Each with the test, and where in it.
        self._verdicts: list[tuple[str, Verdict]] = []
        self._reboots: list[tuple[str, str]] = []
        # Whether the run was ended because of --ec-max-lost.
        self._stopped = False
        self._session: pytest.Session | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Know what can be stopped."""
        self._session = session

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(
        self, report: pytest.TestReport
    ) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        """Give verdicts words and letters of their own."""
        verdict = verdict_of(report)
        if verdict is None:
            return None
        if verdict.word == CRASHED:
            category = "failed" if report.when == "call" else "error"
            return category, "C", (CRASHED, {"red": True})
        category, letter = _CATEGORIES[verdict.word]
        return category, letter, (verdict.word, {"yellow": True})

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note files that could not be collected."""
        self._failed = self._failed or report.failed

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, None, None]:
        """Count, and correct what JUnit's XML says of it."""
        yield
        for host, texts in getattr(report, REBOOTS, {}).items():
            self._reboots += [(host, text) for text in texts]
        verdict = verdict_of(report)
        if verdict is None:
            self._failed = self._failed or report.failed
            return
        self._failed = self._failed or verdict.word == CRASHED
        self._verdicts.append((_named(report), verdict))
        if verdict.word != CRASHED:
            _make_error(self._config, report, verdict)
        self._stop_at_most()

    def _stop_at_most(self) -> None:
        lost = self._hosts(LOST)
        if self._session is not None and 0 < self._most_lost <= len(lost):
            reason = f"{len(lost)} hosts lost (--ec-max-lost={self._most_lost}): {', '.join(lost)}"
            self._stopped = True
            self._session.shouldfail = reason
            distributor = self._config.pluginmanager.get_plugin("dsession")
            if distributor is not None:
                distributor.shouldstop = reason

    def _hosts(self, word: str) -> list[str]:
        """Hosts with that verdict, in the order in which they got it."""
        found = [verdict for _test, verdict in self._verdicts if verdict.word == word]
        return list(dict.fromkeys(host for verdict in found for host in verdict.hosts))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Tell a run that found a fault from one that lacked hosts."""
        known = [pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED]
        if self._stopped:
            known.append(pytest.ExitCode.INTERRUPTED)  # what pytest-xdist makes of it
        if exitstatus not in known:
            return
        if self._failed or self._reboots:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        elif self._verdicts:
            session.exitstatus = HOSTS_MISSING

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_row(self, report: pytest.TestReport, cells: list[str]) -> None:
        """Have the table of pytest-html say the verdict."""
        verdict = verdict_of(report)
        if verdict is not None and cells and "col-result" in cells[0]:
            cells[0] = f'<td class="col-result">{verdict.word}</td>'

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show each host that was lost or busy once, with the tests that this has cost."""
        words = [word for word in (LOST, BUSY) if self._hosts(word)]
        if words:
            terminalreporter.write_sep("=", " and ".join(word.lower() for word in words) + " hosts", yellow=True)
        for word in words:
            for host in self._hosts(word):
                self._show(terminalreporter, word, host)
        if self._reboots:
            terminalreporter.write_sep("=", "reboots nobody had asked for", red=True)
        for host, text in self._reboots:
            terminalreporter.write_line(f"{host} came back with another boot id, between tests", red=True)
            _write_indented(terminalreporter, text)

    def _show(self, terminalreporter: Any, word: str, host: str) -> None:
        mine = [(test, fault) for test, one in self._verdicts if one.word == word for fault in one.faults]
        mine = [(test, fault) for test, fault in mine if fault.host == host]
        tests = list(dict.fromkeys(test for test, _fault in mine))
        address = f" ({mine[0][1].address})" if mine[0][1].address else ""
        count = f"{len(tests)} test{'s' if len(tests) != 1 else ''}"
        terminalreporter.write_line(f"{host} {word.lower()}: {count}{address}", yellow=True)
        for what, details in dict.fromkeys((fault.what, fault.details) for _test, fault in mine):
            _write_indented(terminalreporter, what)
            _write_indented(terminalreporter, details, "    ")
        for test in tests:
            terminalreporter.write_line(f"  {word} {test}")


def _named(report: pytest.TestReport) -> str:
    """The test, and the line at which it lost its host."""
    # In a setup it is a line of ours.
    place = getattr(report.longrepr, "reprcrash", None) if report.when == "call" else None
    return report.nodeid if place is None else f"{report.nodeid} ({os.path.basename(place.path)}:{place.lineno})"


def _write_indented(terminalreporter: Any, text: str, indent: str = "  ") -> None:
    for line in text.splitlines():
        terminalreporter.write_line(indent + line)


def _make_error(config: pytest.Config, report: pytest.TestReport, verdict: Verdict) -> None:
    """Turn what JUnit's XML calls a failure of the test into an error, with the verdict as its message."""
    from _pytest.junitxml import xml_key

    xml = config.stash.get(xml_key, None)
    if xml is None or report.when == "teardown":
        return
    for node in xml.node_reporter(report).nodes:
        if node.tag in ("failure", "error") and node.get("type") is None:
            if node.tag == "failure":
                xml.stats["failure"] -= 1
                xml.stats["error"] += 1
                node.tag = "error"
            node.set("type", verdict.word)
            node.set("message", verdict.line)
