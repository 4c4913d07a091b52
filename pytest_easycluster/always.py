"""Hooks of every run, also of one without a lab.  Each looks whether there is anything to do, and imports only then.

They are three plugins, so that each can be left out: ``-p no:easycluster-collecting``, ``-tracebacks``, ``-farside``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from pytest_easycluster.access import find_lab

if TYPE_CHECKING:
    from collections.abc import Generator


class Collecting:
    """Looks at what tests ask for; see :mod:`pytest_easycluster.collecting`."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make one item per host of tests marked ``ec_each``."""
        if "ec_host" in metafunc.fixturenames:
            from pytest_easycluster.collecting import make_items

            make_items(metafunc)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Turn the report of a file or class into a failure if markers of its tests are faulty."""
        report = yield
        if report.passed:
            items = [one for one in report.result or () if isinstance(one, pytest.Item) and _concerns_us(one)]
            if items:
                from pytest_easycluster.collecting import judge

                judge(report, items)
        return report


def _concerns_us(item: pytest.Item) -> bool:
    """Whether a test has a marker of ours, or takes what is no fixture but may be meant to be one of ours."""
    if any(mark.name.startswith("ec_") for mark in item.iter_markers()):
        return True
    names = getattr(item, "fixturenames", ())
    known = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", names)
    return "ec_host" in names or any(name not in known and name != "request" for name in names)


class Tracebacks:
    """Keeps our own frames out of tracebacks; see :mod:`pytest_easycluster.tracebacks`."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Leave our own frames out of what the report shows."""
        # Not imported, it has no part in the failure.
        if call.excinfo is not None and "easycluster.errors" in sys.modules and not item.config.getoption("fulltrace"):
            from pytest_easycluster.tracebacks import leave_out_our_own

            leave_out_our_own(call.excinfo.value)


class FarSides:
    """Tells far sides what this run wishes of them; see :mod:`pytest_easycluster.farside`."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Begin, if there is a lab, or test modules have imported EasyCluster."""
        _enable_if_used(session.config)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Begin, if the test before has imported EasyCluster."""
        _enable_if_used(item.config)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Name in the title of a failure the hosts that it happened on."""
        report = yield
        if report.failed and call.excinfo is not None and "easycluster.errors" in sys.modules:
            from pytest_easycluster.farside import hosts_of

            hosts = hosts_of(call.excinfo.value)
            if hosts:
                path, line, title = report.location
                report.location = (path, line, f"{title} on {', '.join(hosts)}")
        return report


def _enable_if_used(config: pytest.Config) -> None:
    if "easycluster.client.client" in sys.modules or find_lab(config) is not None:
        from pytest_easycluster.farside import enable

        enable(config)


PLUGINS = {
    "easycluster-tracebacks": Tracebacks,
    "easycluster-farside": FarSides,
    "easycluster-collecting": Collecting,
}
