"""Hooks that suites and other plugins may implement, in a ``conftest.py`` as any hook of pytest.

Arguments that are not needed may be left out.  None of them is called in a run without a lab.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from easycluster.lab import Hosts, Lab


@pytest.hookspec
def pytest_easycluster_lab(config: pytest.Config, lab: Lab) -> None:
    """Called once the lab file has been read and found right; nothing is connected yet."""


@pytest.hookspec
def pytest_easycluster_leased(config: pytest.Config, node: pytest.Item | pytest.Collector, hosts: Hosts) -> None:
    """Called when hosts have been connected to and locked for a fixture, before the fixture gives them.

    What it raises is an error of the setup, and the hosts are given back.

    Args:
        config: Of pytest.
        node: Who has them: the test, or the module, class or session of a wider fixture.
        hosts: Which.
    """


@pytest.hookspec
def pytest_easycluster_release(config: pytest.Config, node: pytest.Item | pytest.Collector, hosts: Hosts) -> None:
    """Called when hosts are about to be given back: while they are as the test left them, before anything is undone.

    The place for evidence of one's own.  What it raises is an error of the teardown; they are set back all the same.

    Args:
        config: Of pytest.
        node: Who had them.
        hosts: Which; one that was lost raises when it is used.
    """


@pytest.hookspec
def pytest_easycluster_verdict(
    config: pytest.Config, item: pytest.Item, report: pytest.TestReport, word: str, hosts: list[str]
) -> None:
    """Called when a phase of a test did not fail by itself: its host crashed, was lost or was busy.

    Args:
        config: Of pytest.
        item: The test.
        report: Its report of this phase, which may be changed.
        word: ``"CRASHED"``, ``"LOST"`` or ``"BUSY"``.
        hosts: Names of the hosts that it is about.
    """


@pytest.hookspec
def pytest_easycluster_lost(config: pytest.Config, host: str, reason: str) -> None:
    """Called when a host was lost, once for each test that this has cost.

    Args:
        config: Of pytest.
        host: Its name.
        reason: What happened, in one line.
    """
