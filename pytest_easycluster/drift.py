"""What has changed about hosts since their tests were last green: said in the report of a test that fails."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import easycluster
from easycluster.client.observing import unobserved
from easycluster.lab.green import GreenError, GreenRuns, changes, read_green, slower, write_green
from easycluster.lab.parallel import run_all
from pytest_easycluster.again import names_of_hosts
from pytest_easycluster.options import setting

if TYPE_CHECKING:
    from collections.abc import Generator

    from easycluster.lab import Host, Hosts, Lab

# Where facts that are new, and the hosts of the test, hang on a report: plain values, which pytest-xdist can carry.
FACTS: Final = "ec_facts"
HOSTS: Final = "ec_used"
_CACHE: Final = "easycluster/green"
_MODULE: Final = "easycluster.devices.facts"
# Seconds for a host to say what it is.
_TIME: Final = 5.0


def register(config: pytest.Config, lab: Lab) -> None:
    """Compare from now on, if there is somewhere to keep what was.

    Raises:
        pytest.UsageError: If the file cannot be used.
    """
    said = setting(config, "facts")
    is_lab = lab.simulation is None and not config.getoption("ec_offline") and not config.getoption("ec_plan")
    if said.value == "off" or not is_lab:
        return
    path = Path(said.value) if said.value else None
    cache: Any = getattr(config, "cache", None)
    if path is None and cache is None:
        return
    try:
        green = read_green(path, lab.inventory.name) if path else _from_cache(cache, lab.inventory.name)
    except GreenError as exc:
        raise pytest.UsageError(f"{said.source}: {exc}") from None
    config.pluginmanager.register(Drift(lab, green, path), "easycluster-drift")


def _from_cache(cache: Any, lab: str) -> GreenRuns:
    try:
        return GreenRuns(lab, cache.get(_CACHE, None))
    except GreenError:
        return GreenRuns(lab)  # of another version; it is only a cache


class Drift:
    """Hooks of a run whose hosts are compared with what they were.

    Args:
        lab: The lab.
        green: What they were.
        path: Where that is kept, None for pytest's cache.
    """

    def __init__(self, lab: Lab, green: GreenRuns, path: Path | None) -> None:
        self._lab = lab
        self._green = green
        self._path = path
        # What hosts said of themselves in this process, and what of it no report has carried yet.
        self._facts: dict[str, dict[str, str]] = {}
        self._new: dict[str, dict[str, str]] = {}
        # What reports have brought; see pytest_sessionfinish.
        self._brought: dict[str, dict[str, str]] = {}
        self._red: set[str] = set()
        self._used: set[str] = set()
        self._times: dict[str, float] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_easycluster_leased(self, hosts: Hosts) -> None:
        """Have hosts that are used for the first time say what they are."""
        wanted = {host.name: host for host in hosts if host.name not in self._facts}
        if not wanted:
            return
        found, _errors = run_all({name: partial(_facts_of, host) for name, host in wanted.items()})
        for name in wanted:
            # One that cannot say it is not asked again; whatever is wrong with it, its tests will find.
            capabilities = self._lab.inventory.hosts[name].capabilities
            said = {**found.get(name, {}), **{f"capability {key}": str(one) for key, one in capabilities.items()}}
            masked = {key: self._lab.inventory.mask(value) for key, value in said.items()}
            self._facts[name] = self._new[name] = masked if name in found else {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Say what has changed if the test fails."""
        report = yield
        used = names_of_hosts(item)
        if used:
            setattr(report, HOSTS, used)
        if self._new:
            setattr(report, FACTS, self._new)
            self._new = {}
        if report.failed and used:
            lines = self._lines(report, used)
            if lines:
                report.sections.append(("Since the last green run", "\n".join(lines)))
                item.user_properties.append(("ec_drift", "; ".join(lines)))
                report.user_properties = list(item.user_properties)
        return report

    def _lines(self, report: pytest.TestReport, used: list[str]) -> list[str]:
        lines = []
        for name in used:
            before, at = self._green.facts_of(name)
            found = changes(before, self._facts.get(name, {}))
            if found:
                when = at.replace("T", " ").partition("+")[0]
                lines.append(f"since the last green run on {name} ({when} UTC): {'; '.join(found)}")
        late = slower(report.duration, self._green.times_of(report.nodeid)) if report.when == "call" else ""
        return [*lines, *([late] if late else [])]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect; in the controller of pytest-xdist, too."""
        self._brought.update(getattr(report, FACTS, {}))
        hosts = getattr(report, HOSTS, ())
        self._used.update(hosts)
        if report.failed:
            self._red.update(hosts)
        elif report.when == "call" and report.passed and hosts:
            self._times[report.nodeid] = report.duration

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Keep what was green: hosts whose tests have all passed."""
        if hasattr(session.config, "workerinput"):
            return
        facts = {name: one for name, one in self._brought.items() if one and name in self._used - self._red}
        if not facts and not self._times:
            return
        if self._path is None:
            cache: Any = session.config.cache
            green = _from_cache(cache, self._lab.inventory.name)
            green.add(facts, self._times)
            cache.set(_CACHE, green.data)
            return
        try:
            write_green(self._path, self._lab.inventory.name, facts, self._times)
        except GreenError as exc:
            reporter = session.config.pluginmanager.get_plugin("terminalreporter")
            if reporter is not None:
                reporter.ensure_newline()
                reporter.write_line(f"lab: --ec-facts: {exc}", yellow=True)


def _facts_of(host: Host) -> dict[str, str]:
    with easycluster.deadline(_TIME), unobserved():
        host.remote.import_module(_MODULE)
        found = host.remote.call(f"{_MODULE}.facts")
    return {str(key): str(value) for key, value in found.items()}
