"""Takes the reports of all tests as they arrive, and writes the page, the traces and the step summary.

Runs in the process that shows results: under pytest-xdist that is the controller.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_easycluster.access import find_lab
from pytest_easycluster.options import Setting, setting
from pytest_easycluster.reporting import build, extras, rows, summary, targets, trace
from pytest_easycluster.reporting.ending import Ending
from pytest_easycluster.reporting.evidence import readable
from pytest_easycluster.reporting.records import (
    CUT_OFF,
    ERROR,
    NOT_RUN,
    USED,
    WORDS,
    WRONG,
    Attempt,
    Phase,
    Record,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from pytest_easycluster.reporting.rows import Row

# Where GitHub has a step write what it shows of it.
STEP_SUMMARY: Final = "GITHUB_STEP_SUMMARY"


def start(config: pytest.Config) -> None:
    """Register the recorder if anything is to be written.

    Raises:
        pytest.UsageError: If it could not be.
    """
    if hasattr(config, "workerinput"):
        return
    said, traces = setting(config, "report"), setting(config, "trace")
    page = targets.file_to_write(targets.placed(config, said), said.source) if said.value else None
    folder = targets.folder_to_write(targets.placed(config, traces), traces.source) if traces.value else None
    config.pluginmanager.register(Recorder(config, page, folder), "easycluster-report")


class Recorder:
    """Hooks.

    Args:
        config: Of pytest.
        page: Where the page goes, if there is to be one.
        traces: Where the traces go, if there are to be any.
    """

    def __init__(self, config: pytest.Config, page: Path | None, traces: Path | None) -> None:
        self._config = config
        self._page = page
        self._traces = trace.Folder(traces) if traces is not None else None
        self._started = time.time()
        self._ending = Ending()
        # Tests that run, by worker and name, and those that were begun but of which nothing has come yet.
        self._open: dict[tuple[str, str], Record] = {}
        self._begun: dict[str, None] = {}
        self._collected: dict[str, None] = {}
        self._deselected = 0
        self._rows: list[Row] = []
        self._details: list[bytes] = []
        self._is_written = False
        self._said: list[tuple[str, bool]] = []
        self._session: pytest.Session | None = None

    # What arrives -----------------------------------------------------------------------------

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Know the beginning."""
        self._session = session
        self._started = time.time()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Know what is to run."""
        self._collected.update(dict.fromkeys(item.nodeid for item in session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Know it from workers."""
        self._collected.update(dict.fromkeys(ids))

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Count what was left out on purpose."""
        self._deselected += len(items)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Take files that could not be collected as tests that failed."""
        if report.failed:
            phase = Phase("collect", ERROR, time.time(), 0.0, readable(self._mask(str(report.longrepr))))
            self._seal(Record(self._name(report.nodeid) or "collection", attempts=[Attempt([phase], is_over=True)]))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Know what was running, should the run end here."""
        self._begun[nodeid] = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a phase of a test; pytest-html, whose turn is later, is given its extras."""
        self._begun.pop(report.nodeid, None)
        worker = _worker(report)
        key = worker, report.nodeid
        record = self._open.setdefault(key, Record(self._name(report.nodeid), worker))
        record.add(report, self._mask)
        if record.is_over:
            del self._open[key]
            self._seal(record)
            if self._config.getoption("htmlpath", None):
                extras.add(report, record, self._link_to_page(record.test))

    def _seal(self, record: Record) -> None:
        """Keep a test in as little as the page needs of it."""
        self._rows.append(rows.row(record))
        if self._traces is not None:
            self._traces.write(record, find_lab(self._config))
        if self._page is not None:
            details = rows.details(record, rows.address_of(record.seen.folder, self._page))
            if self._traces is not None:
                details["trace"] = self._traces.address(self._page)
            self._details.append(build.squeezed(details))

    def _link_to_page(self, test: str) -> str:
        """The address of a test on the page as seen from the report of pytest-html."""
        if self._page is None:
            return ""
        html = targets.placed(self._config, Setting(os.path.expandvars(self._config.getoption("htmlpath")), "--html"))
        return summary.deep_link(targets.link(self._page, html.parent), test)

    def _name(self, nodeid: str) -> str:
        """A test as all reports call it: it may have been given a secret as a parameter."""
        return readable(self._mask(nodeid))

    def _mask(self, text: str) -> str:
        lab = find_lab(self._config)
        return lab.inventory.mask(text) if lab is not None else text

    # What it ends with ------------------------------------------------------------------------

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Know that the run was told to end."""
        # Which test it was, where that is known, is in the list.
        self._ending.interrupted = str(excinfo.value).partition(" in ")[0] or "Ctrl-C"

    def pytest_internalerror(self, excrepr: object) -> None:
        """Know that pytest itself, or a plugin, has failed."""
        self._ending.broken = readable(self._mask(str(excrepr)))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Write if nobody has shown a summary, as after a teardown that was interrupted."""
        try:
            return (yield)
        finally:
            self._write(int(session.exitstatus))
            if any(is_bad for _line, is_bad in self._said) and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def pytest_terminal_summary(self, terminalreporter: Any, exitstatus: int) -> None:
        """Write, after all tests and teardowns, and say where."""
        self._write(exitstatus)
        for line, is_bad in self._said:
            terminalreporter.write_line(line, red=is_bad)

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_summary(self, prefix: list[str]) -> None:
        """Have pytest-html link to the page."""
        if self._page is not None:
            prefix.append(extras.paragraph(self._link_to_page("")))

    def give_up(self, why: str) -> None:
        """Write what there is, from a thread: the process ends now, whatever the main thread does."""
        self._ending.interrupted = f"{why}; it did not end by itself"
        self._write(int(pytest.ExitCode.INTERRUPTED))

    def _write(self, exitstatus: int) -> None:
        if self._is_written:
            return
        self._is_written = True
        self._end(exitstatus)
        if self._page is not None:
            self._try(f"lab report: {self._page.as_uri()}", "lab report", self._write_page)
        if self._traces is not None:
            self._said += self._traces.said()
        place = os.environ.get(STEP_SUMMARY)
        if place and (self._page is not None or find_lab(self._config) is not None):
            self._try("", f"step summary {place}", lambda: summary.append(place, self._run(), self._rows))

    def _try(self, line: str, what: str, write: Any) -> None:
        try:
            write()
        except OSError as exc:
            self._said.append((f"{what} could not be written: {exc}", True))
        else:
            self._said += [(line, False)] if line else []

    def _end(self, exitstatus: int) -> None:
        """Take the tests that have not come to their end, or to their beginning."""
        known = {row.test for row in self._rows} | {record.test for record in self._open.values()}
        unfinished = list(self._open.values())
        begun = [self._name(test) for test in self._begun]
        unfinished += [Record(test, attempts=[Attempt()]) for test in begun if test not in known]
        self._open.clear()
        for record in unfinished:
            self._seal(record)
        known |= {record.test for record in unfinished}
        for test in map(self._name, self._collected):
            if test not in known:
                self._seal(Record(test))
        self._ending.exitstatus = exitstatus
        self._ending.cut_off = sum(row.word == CUT_OFF for row in self._rows)
        self._ending.not_run = sum(row.word == NOT_RUN for row in self._rows)
        if self._session is not None:
            self._ending.stopped = str(self._session.shouldfail or self._session.shouldstop or "")

    def _write_page(self) -> None:
        assert self._page is not None
        targets.write(self._page, build.page(self._run(), self._rows, self._details))

    def _run(self) -> dict[str, Any]:
        """What is said of the run as a whole."""
        lab = find_lab(self._config)
        inventory = lab.inventory if lab is not None else None
        seen = {host: about for row in self._rows for host, about in row.seen.items()}
        clocks = {host: clock for row in self._rows for host, clock in row.clocks.items()}
        used = {host for row in self._rows for host in row.hosts}
        known = list(inventory.hosts) if inventory is not None else []
        names = [host for host in known if host in used] + sorted(used.difference(known))
        hosts = []
        for name in names:
            entry = inventory.hosts.get(name) if inventory is not None else None
            role, label = seen.get(name, ("", ""))
            roles = " ".join(entry.roles) if entry is not None else role
            address = self._mask(str(entry.target)) if entry is not None else ""
            clock = [round(1000 * part, 3) for part in clocks[name]] if name in clocks else None
            hosts.append([name, roles, label if label != name else "", address, clock])
        number = {name: at for at, name in enumerate(names)}
        self._rows, self._details = _in_order(self._rows, self._details)
        counts = {word: sum(row.word == word for row in self._rows) for word in WORDS}
        return {
            "format": 1,
            "title": f"Lab report: {inventory.name if inventory is not None else self._config.rootpath.name}",
            "started": self._started,
            "duration": round(1000 * (time.time() - self._started)),
            "state": self._ending.state,
            "state_text": self._ending.sentence,
            "trouble": self._ending.broken,
            "counts": {word: count for word, count in counts.items() if count},
            "words": [*WORDS, USED],
            "wrong": list(WRONG),
            "about": self._about(inventory.path if inventory is not None else None),
            "unused": len([name for name in known if name not in used]),
            "hosts": hosts,
            "tests": [rows.packed(row, self._started, number) for row in self._rows],
        }

    def _about(self, lab: Path | None) -> list[list[str]]:
        from easycluster import __version__

        command = shlex.join(["pytest", *map(str, self._config.invocation_params.args)])
        found = [
            ["Command", self._mask(command)],
            ["Folder", str(self._config.invocation_params.dir)],
            ["Lab file", str(lab) if lab is not None else "none"],
            ["Exit status", str(self._ending.exitstatus)],
            ["Python", sys.version.split()[0]],
            ["pytest", pytest.__version__],
            ["EasyCluster", __version__],
        ]
        workers = sorted({row.worker for row in self._rows if row.worker})
        if workers:
            found.append(["Workers", f"{len(workers)} ({' '.join(workers[:16])})"])
        if self._deselected:
            found.append(["Deselected tests", str(self._deselected)])
        return found


def _worker(report: pytest.TestReport) -> str:
    node = getattr(report, "node", None)
    return str(getattr(getattr(node, "gateway", None), "id", "") or getattr(report, "worker_id", ""))


def _in_order(found: list[Row], details: list[bytes]) -> tuple[list[Row], list[bytes]]:
    """Tests in the order in which they began; those that did not come last, as they were collected."""
    order = sorted(range(len(found)), key=lambda at: (found[at].start == 0, found[at].start, at))
    if not details:
        return [found[at] for at in order], details
    return [found[at] for at in order], [details[at] for at in order]
