"""``--ec-simulate``: the tests run on sessions of this machine, and everything that reports the run says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from easycluster.lab.simulate import Simulation

if TYPE_CHECKING:
    from easycluster.lab import Inventory

# Where workers of pytest-xdist find the hosts of their controller.
_KEY: Final = "easycluster_simulation"


def begin(config: pytest.Config, inventory: Inventory) -> Simulation:
    """Make the hosts, once for all processes of a run, and have the reports say that they are simulated."""
    given = getattr(config, "workerinput", {}).get(_KEY, "")
    simulation = Simulation(inventory, given)
    config.add_cleanup(simulation.close)
    config.pluginmanager.register(Simulating(simulation), "easycluster-simulating")
    return simulation


class Simulating:
    """Says that a run was simulated.

    Args:
        simulation: Its hosts.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Let JUnit's XML say it."""
        from _pytest.junitxml import xml_key

        xml = session.config.stash.get(xml_key, None)
        if xml is not None:
            xml.add_global_property("ec_simulated", "true")

    def pytest_report_header(self) -> list[str]:
        """Say what is fake."""
        return [f"lab: SIMULATED: {self._simulation.describe()}"]

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give a worker of pytest-xdist the same hosts."""
        node.workerinput[_KEY] = str(self._simulation.folder)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Leave no doubt what has passed."""
        terminalreporter.write_line("lab: SIMULATED: nothing of the real lab was used", yellow=True)
