"""``--ec-twin``: a failure on one host is repeated on an equivalent one, so that the report can say whose fault it is.

The repetition has its own setup and teardown, and hosts that nobody else has; it never waits for any.  What the test
came to stays as it was: only the report learns something.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
from _pytest.runner import runtestprotocol

from easycluster.lab import LabRequestError, NoHostFits
from pytest_easycluster.again import chosen, own_hosts
from pytest_easycluster.farside import hosts_of
from pytest_easycluster.giving import SWAPPED
from pytest_easycluster.markers import wishes_of
from pytest_easycluster.requests import asked_by
from pytest_easycluster.verdicts import BUSY, LOST, errors_behind, verdict_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from easycluster.lab import Lab, Need
    from pytest_easycluster.limits import Limits

# Where the result hangs on a report: a text, which pytest-xdist can carry.
ATTRIBUTE: Final = "ec_twin"

# How many hosts of a test are swapped, one after the other, and how many twins of one are tried if they are busy.
MOST_SWAPS: Final = 3
MOST_TWINS: Final = 3
# A repetition may take so many times what the test took, and a bit.
TIMES, MARGIN = 3.0, 30.0

# Capabilities that are each host's own.
_OWN: Final = frozenset({"devices"})

_BLAMED = pytest.StashKey[list[str]]()


@dataclass(frozen=True)
class _Seat:
    """One host of a test that another could take the place of."""

    fixture: str
    names: list[str]
    index: int

    @property
    def host(self) -> str:
        return self.names[self.index]

    def with_host(self, name: str) -> list[str]:
        return [*self.names[: self.index], name, *self.names[self.index + 1 :]]


class Twin:
    """Repeats tests that have failed.

    Args:
        config: Of pytest.
        lab: The lab.
    """

    def __init__(self, config: pytest.Config, lab: Lab) -> None:
        self._config = config
        self._lab = lab
        self._told: dict[str, str] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Run the test, and once more with another host if it fails."""
        # Two debuggers at the same place help nobody.
        if self._config.getoption("usepdb", False) or not any(asked_by(item, self._lab)):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        began = time.monotonic()
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        try:
            failed = next((one for one in reports if one.failed and one.when != "teardown"), None)
            verdict = verdict_of(failed)
            # Of a host that is lost or busy it is known that it is not the product.
            if failed is not None and (verdict is None or verdict.word not in (LOST, BUSY)):
                text, word = self._repeated(item, failed, nextitem, time.monotonic() - began)
                if text:
                    _write(item, reports, failed, text, word)
        finally:
            for report in reports:
                item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note which hosts an error names."""
        report = yield
        if call.excinfo is not None and report.failed:
            exc = call.excinfo.value
            named = [str(getattr(error, "host", "")) for error in errors_behind(exc)]
            item.stash[_BLAMED] = [*named, *hosts_of(exc)]
        return report

    def _repeated(
        self, item: pytest.Item, failed: pytest.TestReport, nextitem: pytest.Item | None, seconds: float
    ) -> tuple[str, str]:
        """What a repetition has shown, as a sentence and in a word; two empty texts if the test has no host."""
        seats = list(_seats(item))
        if not seats:
            wide = [name for names in chosen(item).values() for name in names]
            why = "it has its hosts from a fixture for several tests, which keeps them"
            return (f"not repeated: {why}", "none") if wide else ("", "")
        blamed = [seat for seat in seats if seat.host in item.stash.get(_BLAMED, [])]
        said: list[tuple[str, str]] = []
        for seat in (blamed or seats)[:MOST_SWAPS]:
            said.append(self._swapped(item, seat, failed, nextitem, seconds))
            if said[-1][1] == "machine":
                break
        words = {word for _text, word in said}
        if len(said) > 1 and words == {"product"}:
            swapped = ", ".join(seat.host for seat in (blamed or seats)[:MOST_SWAPS])
            return f"fails whichever of {swapped} is another host: the product", "product"
        # The clearest of all.
        text, word = min(said, key=lambda one: ("machine", "product", "unclear", "none").index(one[1]))
        return text, word

    def _swapped(
        self,
        item: pytest.Item,
        seat: _Seat,
        failed: pytest.TestReport,
        nextitem: pytest.Item | None,
        seconds: float,
    ) -> tuple[str, str]:
        """Repeat a test with another host in one seat."""
        twins = list(self._twins_of(item, seat))
        if not twins:
            return f"no twin of {seat.host}: no other host of the lab fits this test", "none"
        busy = []
        for name, differs in twins[:MOST_TWINS]:
            report = self._run(item, seat, name, nextitem, seconds)
            verdict = verdict_of(report)
            if verdict is not None and verdict.word == BUSY:
                busy.append(name)
                continue
            return _told(seat, name + differs, failed, report)
        return f"no twin of {seat.host} was free: {', '.join(busy)}", "none"

    def _twins_of(self, item: pytest.Item, seat: _Seat) -> Iterator[tuple[str, str]]:
        """Hosts that could sit there: those most like the one that does first, each with what differs."""
        entries = self._lab.inventory.hosts
        taken = {name for names in chosen(item).values() for name in names}
        found = []
        for name in _fitting(self._lab, item, seat):
            if name not in taken:
                one, other = entries[seat.host], entries[name]
                keys = {*one.capabilities, *other.capabilities} - _OWN
                odd = [key for key in sorted(keys) if one.capabilities.get(key) != other.capabilities.get(key)]
                if one.roles == other.roles:
                    differs = ", ".join(f"{key} {other.capabilities.get(key, 'unknown')}" for key in odd)
                    found.append((len(odd), name, f" ({differs})" if odd else ""))
        for _count, name, differs in sorted(found, key=lambda one: one[0]):
            yield name, differs

    def _run(
        self, item: pytest.Item, seat: _Seat, name: str, nextitem: pytest.Item | None, seconds: float
    ) -> pytest.TestReport:
        """Run a test with another host; return the report that says what it came to."""
        leases, properties = self._lab.leases, list(item.user_properties)
        limits: Limits | None = self._config.pluginmanager.get_plugin("easycluster-limits")
        wait, leases.wait = leases.wait, 0.0
        item.stash[SWAPPED] = {seat.fixture: seat.with_host(name)}
        if limits is not None:
            limits.at_most = seconds * TIMES + MARGIN
        try:
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
        finally:
            del item.stash[SWAPPED]
            leases.wait = wait
            item.user_properties[:] = properties
            if limits is not None:
                limits.at_most = None
        return next((one for one in reports if not one.passed and one.when != "teardown"), reports[-2])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect; in the controller of pytest-xdist, too."""
        text = getattr(report, ATTRIBUTE, "")
        if text:
            self._told[report.nodeid] = text

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say it of all tests together."""
        if self._told:
            terminalreporter.write_sep("=", "machine or product", yellow=True)
        for test, text in self._told.items():
            terminalreporter.write_line(test)
            terminalreporter.write_line(f"  {text}")


def _seats(item: pytest.Item) -> Iterator[_Seat]:
    for fixture, names in own_hosts(item).items():
        for index in range(len(names)):
            yield _Seat(fixture, names, index)


def _needs_of(lab: Lab, item: pytest.Item, seat: _Seat) -> tuple[list[Need], Need | None]:
    """What the test asks of all hosts of a fixture, and of the one in a seat."""
    if seat.fixture == "ec_host":
        wanted = wishes_of(item).each
        return [], wanted.need() if wanted is not None else None
    asked = next((one for one in asked_by(item, lab) if one.fixture == seat.fixture), None)
    needs = list(asked.needs) if asked is not None else []
    seats = [need for need in needs for _ in range(need.count)]
    return needs, seats[seat.index] if seat.index < len(seats) else None


def _fitting(lab: Lab, item: pytest.Item, seat: _Seat) -> Iterator[str]:
    """Names of the hosts that could sit there, beside those that sit there now."""
    needs, need = _needs_of(lab, item, seat)
    with contextlib.suppress(LabRequestError, NoHostFits):
        for name in lab.fitting(need, item.name).names if need is not None else ():
            with contextlib.suppress(LabRequestError, NoHostFits):
                lab.preview(needs, item.name, among=seat.with_host(name))
                yield name


def _told(seat: _Seat, name: str, failed: pytest.TestReport, report: pytest.TestReport) -> tuple[str, str]:
    """A sentence and a word about a repetition."""
    host = seat.host
    verdict = verdict_of(report)
    if report.passed:
        return f"fails on {host} only, and passes on {name}: the machine", "machine"
    if report.skipped:
        return f"fails on {host}; on {name} it was skipped, so that it is not known", "unclear"
    if verdict is not None and verdict.word == LOST:
        return f"fails on {host}; {name} was lost meanwhile, so that it is not known", "unclear"
    if _kind(failed) != _kind(report):
        return f"fails on {host}, and on {name} in another way ({_message(report)}): not clear", "unclear"
    return f"fails on {host} and on {name}: the product", "product"


def _message(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    return text.strip().splitlines()[0][:200] if text.strip() else ""


def _kind(report: pytest.TestReport) -> str:
    """The type of an error; of an assert in the test, where it is."""
    crash = getattr(report.longrepr, "reprcrash", None)
    name = _message(report).partition(":")[0]
    return f"{name} {crash.lineno}" if crash is not None and name.startswith("assert") else name


def _write(
    item: pytest.Item, reports: list[pytest.TestReport], failed: pytest.TestReport, text: str, word: str
) -> None:
    setattr(failed, ATTRIBUTE, text)
    failed.sections.append(("Machine or product", text))
    properties: list[tuple[str, object]] = [("ec_twin", word), ("ec_twin_says", text)]
    item.user_properties += properties
    # JUnit takes those of the last report.
    for report in reports[reports.index(failed) :]:
        report.user_properties += properties
