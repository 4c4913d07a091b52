"""``--ec-plan``: which test would get which hosts, and what cannot run and exactly why.  It runs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_easycluster.markers import wishes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from easycluster.lab import Lab, NoHostFits
    from pytest_easycluster.requests import Asked

_NO_LAB = "--ec-plan needs a lab: give --ec-inventory FILE"


def prepare(config: pytest.Config, has_lab: bool) -> None:
    """Plan in this process: workers of pytest-xdist would each make the same plan, and show none.

    It has read its options by now, and starts them when it is configured, which it is last of all.

    Raises:
        pytest.UsageError: Without a lab.
    """
    for name, value in (("numprocesses", None), ("dist", "no"), ("tx", [])):
        if hasattr(config.option, name):
            setattr(config.option, name, value)
    if not has_lab:
        raise pytest.UsageError(_NO_LAB)


@dataclass(frozen=True)
class Planned:
    """The plan of one test.

    Attributes:
        nodeid: The test.
        hosts: Names of its hosts by fixture; the fixture's words if it gets them only as it runs.
        error: Why it cannot run, with the fixture that cannot be had.
        skipped: Why it would be skipped whatever the hosts.
        terms: How it holds its hosts: ``alone``, ``shared``, ``lock fabric-A``.
    """

    nodeid: str
    hosts: dict[str, str]
    error: tuple[str, NoHostFits] | None = None
    skipped: str = ""
    terms: tuple[str, ...] = ()


class Plan:
    """Takes the place of running the tests."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Show the plan."""
        planned = [one for item in session.items if (one := plan_of(item, self._lab)) is not None]
        others = len(session.items) - len(planned)
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            for line in rendered(planned, others, session.testsfailed):
                reporter.write_line(line)
        if session.testsfailed and not session.config.option.continue_on_collection_errors:
            raise session.Interrupted(f"{session.testsfailed} errors during collection")
        # pytest's own count, from which it makes the exit status 1.
        session.testsfailed += sum(one.error is not None for one in planned)
        return True


def plan_of(item: pytest.Item, lab: Lab) -> Planned | None:
    """The plan of one test, None if it needs no host."""
    from easycluster.lab import NoHostFits
    from pytest_easycluster.requests import asked_by

    asked = list(asked_by(item, lab))
    fixtures = getattr(item, "fixturenames", ())
    unavailable = [name for name in ("gpu_node", "san_target") if name in fixtures]
    unavailable = [name for name in unavailable if name not in {one.fixture for one in asked}]
    if not asked and not unavailable and "ec" not in fixtures:
        return None
    terms = _terms(item)
    skip = item.get_closest_marker("skip")
    if skip is not None:
        return Planned(item.nodeid, {}, skipped=str(skip.kwargs.get("reason", skip.args[0] if skip.args else "")))
    if unavailable:
        role = lab.inventory.fixtures[unavailable[0]].role
        why = f"{unavailable[0]}: lab {lab.inventory.name!r} has no role {role!r}"
        return Planned(item.nodeid, {}, skipped=why)
    hosts: dict[str, str] = {}
    for one in asked:
        try:
            hosts[one.fixture] = _hosts(one, lab, item.name)
        except NoHostFits as exc:
            return Planned(item.nodeid, hosts, error=(one.fixture, exc), terms=terms)
    if "ec" in fixtures:
        hosts["ec"] = "what it leases as it runs"
    return Planned(item.nodeid, hosts, terms=terms)


def _hosts(asked: Asked, lab: Lab, test: str) -> str:
    """Names of the hosts that a fixture would give, with what the test calls them."""
    from easycluster.lab import NoHostFits

    if asked.error is not None:
        raise asked.error
    if not asked.needs:
        return " ".join(asked.names)
    labels = [need.label for need in asked.needs for _ in range(need.count)]
    try:
        names = lab.preview(asked.needs, test).names
    except NoHostFits as exc:
        if exc.unknown:
            return f"depends on what a probe says of {' and '.join(exc.unknown)}"
        raise
    return " ".join(f"{label}={name}" if label else name for label, name in zip(labels, names, strict=True))


def _terms(item: pytest.Item) -> tuple[str, ...]:
    wishes = wishes_of(item)
    terms = ["alone"] if wishes.destructive else []
    terms += ["shared"] if wishes.shared else []
    return (*terms, *(f"lock {name}" for name in wishes.locks))


def rendered(planned: Sequence[Planned], others: int, faulty: int = 0) -> list[str]:
    """The plan as lines.

    Args:
        planned: The tests that need hosts.
        others: How many tests need none.
        faulty: How many files could not be collected.
    """
    width = min(60, max((len(one.nodeid) for one in planned if not one.error), default=0))
    lines = ["", "plan (nothing is run or connected):"]
    for one in planned:
        lines += _lines(one, width)
    can = [one for one in planned if not one.error and not one.skipped]
    cannot = sum(one.error is not None for one in planned)
    counts = [f"{len(can)} can run"]
    counts += [f"{cannot} cannot"] if cannot else []
    counts += [f"{len(planned) - len(can) - cannot} skipped"] if len(planned) > len(can) + cannot else []
    total = f"{len(planned)} test{'s' * (len(planned) != 1)} with hosts: {', '.join(counts)}"
    total += f"; {others} need{'s' * (others == 1)} none" if others else ""
    total += f"; {faulty} file{'s' * (faulty != 1)} with errors, see below" if faulty else ""
    return [*lines, "", total]


def _lines(one: Planned, width: int) -> list[str]:
    if one.skipped:
        return [f"  {one.nodeid:<{width}}  skipped: {one.skipped}"]
    if one.error is not None:
        fixture, exc = one.error
        why = str(exc).rpartition("); ")[2] if "); " in str(exc) else ""
        head = [f"  {one.nodeid}", f"    cannot run: {fixture} lacks {exc.needs}"]
        return [*head, *(f"      {line}" for line in exc.have), *([f"      {why}"] if why else [])]
    gets = ", ".join(f"{fixture}: {hosts}" for fixture, hosts in one.hosts.items())
    terms = f"  [{', '.join(one.terms)}]" if one.terms else ""
    return [f"  {one.nodeid:<{width}}  {gets}{terms}"]
