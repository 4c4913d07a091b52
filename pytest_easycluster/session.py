"""The part of the plugin that a run with a lab has: reads the file, keeps the lab, closes it."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from easycluster.lab import DEFAULT_FIXTURES, InventoryError, Lab, read_inventory
from easycluster.lab.sources import from_environment, seen_from_here
from pytest_easycluster import drift, evidence, hookspecs, leasing, pool, quarantine, secrets
from pytest_easycluster.access import LAB
from pytest_easycluster.again import Again
from pytest_easycluster.farside import enable
from pytest_easycluster.giving import make_fixtures
from pytest_easycluster.gpus import GpuTests
from pytest_easycluster.guards import register
from pytest_easycluster.options import setting
from pytest_easycluster.plugin import FARSIDE
from pytest_easycluster.report import LiveOutput, add_hosts, add_sections, header
from pytest_easycluster.unsupported import Skipper

if TYPE_CHECKING:
    from collections.abc import Generator

OUR_FIXTURES = frozenset({"ec", "ec_host", "remote_hosts", *DEFAULT_FIXTURES})


def start(config: pytest.Config) -> None:
    """Read the lab file and register what goes with it.

    Raises:
        pytest.UsageError: With every problem of the file.
    """
    try:
        inventory = read_inventory(inventory_sources(config), changes=pool.changes(config))
    except InventoryError as exc:
        message = str(exc)
        raise pytest.UsageError(f"the lab file cannot be used\n{message}") from None
    inventory = pool.narrow(config, inventory)
    pool.missing(config)  # a wrong word is to be known before anything runs
    is_worker = hasattr(config, "workerinput")
    live = None
    if config.getoption("capture") == "no" and not is_worker:
        live = LiveOutput(config=config)
        config.add_cleanup(live.finish)
    simulation = None
    if config.getoption("ec_simulate"):
        from pytest_easycluster.simulating import begin

        simulation = begin(config, inventory)
    if config.getoption("ec_offline"):
        from pytest_easycluster.recording import offline

        lab = offline(config, inventory)
    else:
        lab = Lab(inventory, live=live, simulation=simulation)
    config.stash[LAB] = lab
    config.pluginmanager.add_hookspecs(hookspecs)
    # A run that ends before its session began has no pytest_sessionfinish.
    config.add_cleanup(partial(_close, lab))
    config.pluginmanager.register(LabSession(lab), "easycluster-lab")
    register(config, lab)
    leasing.register(config, lab)
    # Outside of those who judge: a host that was lost may answer again by then.
    evidence.register(config, lab)
    quarantine.register(config, lab)
    secrets.register(config, lab)
    config.pluginmanager.register(Again(config, lab), "easycluster-again")
    config.pluginmanager.register(GpuTests(lab), "easycluster-gpus")
    # Last: a fault of the hardware may be what cannot be done.
    config.pluginmanager.register(Skipper(), "easycluster-unsupported")
    drift.register(config, lab)
    if config.getoption("ec_twin"):
        from pytest_easycluster.twin import Twin

        config.pluginmanager.register(Twin(config, lab), "easycluster-twin")
    if setting(config, "chaos").value:
        from pytest_easycluster.chaos import begin as begin_chaos

        begin_chaos(config, lab)
    if setting(config, "record").value or setting(config, "replay").value:
        from pytest_easycluster.recording import begin as begin_recording

        begin_recording(config, lab)
    if config.getoption("ec_plan"):
        from pytest_easycluster.plan import Plan

        config.pluginmanager.register(Plan(lab), "easycluster-plan")
    module = ModuleType("easycluster_lab_fixtures", "Fixtures of the lab file.")
    make_fixtures([entry for name, entry in inventory.fixtures.items() if name not in DEFAULT_FIXTURES], module)
    config.pluginmanager.register(module, "easycluster-lab-fixtures")
    config.hook.pytest_easycluster_lab(config=config, lab=lab)


def _close(lab: Lab) -> None:
    lab.close()


def inventory_sources(config: pytest.Config) -> list[str]:
    """The lab files as messages should name them: as given, or from the ini file's directory as seen from here."""
    given = config.getoption("ec_inventory")
    if given or from_environment():
        return [str(one) for one in given] or from_environment()
    folder = config.inipath.parent if config.inipath is not None else config.rootpath
    return [seen_from_here(str(one), folder) for one in config.getini("ec_inventory")]


class LabSession:
    """Hooks of a run with a lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._still_open: list[str] = []
        self._fixtures = OUR_FIXTURES | set(lab.inventory.fixtures)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Let far sides know what this run wishes of them, before anybody connects one."""
        if not session.config.pluginmanager.is_blocked(FARSIDE):
            enable(session.config)

    def pytest_report_header(self) -> list[str]:
        """Say which lab this is, and how much of it is used."""
        lines = [header(self.lab.inventory), pool.header(self.lab.inventory)]
        return [line for line in lines if line]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add what far sides printed."""
        report = yield
        # What a far side says while another kind of test runs is for the next one that uses the lab.
        if self._fixtures.intersection(getattr(item, "fixturenames", ())):
            add_sections(item, report, self.lab)
            add_hosts(item, report, self.lab)
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Close every connection, after the last fixture has ended."""
        self._still_open = self.lab.close()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Name hosts that did not let go."""
        if self._still_open:
            hosts = ", ".join(self._still_open)
            terminalreporter.write_line(f"lab: connections that did not close in time: {hosts}", yellow=True)
