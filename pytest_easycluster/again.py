"""The command that runs a failed test again on the same hosts, for the end of the run."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from _pytest.nodes import Node

    from easycluster.lab import Lab

# Where the command hangs on a report: a text, which pytest-xdist can carry.
ATTRIBUTE: Final = "ec_again"

MOST_SHOWN: Final = 10

# Hosts by fixture, at the node whose scope the fixture has.
_CHOSEN = pytest.StashKey[dict[str, list[str]]]()


def remember(node: Node, fixture: str, names: list[str]) -> None:
    """Note which hosts a fixture gave to the tests below ``node``."""
    node.stash.setdefault(_CHOSEN, {})[fixture] = names


def chosen(item: pytest.Item) -> dict[str, list[str]]:
    """The hosts that a test has, by fixture, in the order of its fixtures."""
    found: dict[str, list[str]] = {}
    for node in item.listchain():
        here: dict[str, list[str]] = node.stash.get(_CHOSEN, {})
        found.update(here)
    return {name: found[name] for name in getattr(item, "fixturenames", ()) if name in found}


def own_hosts(item: pytest.Item) -> dict[str, list[str]]:
    """The hosts that fixtures of this test only have given it, by fixture."""
    found: dict[str, list[str]] = item.stash.get(_CHOSEN, {})
    return {name: list(names) for name, names in found.items() if name in getattr(item, "fixturenames", ())}


def names_of_hosts(item: pytest.Item) -> list[str]:
    """Names of the hosts that fixtures of the lab have given to a test."""
    return list(dict.fromkeys(name for names in chosen(item).values() for name in names))


class Again:
    """Shows the commands of the failures in which other hosts would have fitted, too."""

    def __init__(self, config: pytest.Config, lab: Lab) -> None:
        self._config = config
        self._lab = lab
        self._commands: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add the command if this is a failure of a test whose hosts were chosen among several."""
        report = yield
        if report.failed:
            hosts = chosen(item)
            if hosts and _had_a_choice(self._lab, item):
                setattr(report, ATTRIBUTE, command(self._config, self._lab, item, hosts))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the command, each once: a test can fail and its teardown, too."""
        text = getattr(report, ATTRIBUTE, "")
        if text and text not in self._commands:
            self._commands.append(text)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> Generator[None, None, None]:
        """Show the commands below everything else."""
        yield
        for text in self._commands[:MOST_SHOWN]:
            terminalreporter.write_line(f"same hosts again: {text}")
        if len(self._commands) > MOST_SHOWN:
            terminalreporter.write_line(f"  (and {len(self._commands) - MOST_SHOWN} more)")


def _had_a_choice(lab: Lab, item: pytest.Item) -> bool:
    from easycluster.lab import candidates
    from pytest_easycluster.requests import asked_by

    needs = [need for one in asked_by(item, lab) for need in one.needs]
    return any(len(candidates(lab.inventory, need)) > need.count for need in needs)


def command(config: pytest.Config, lab: Lab, item: pytest.Item, hosts: dict[str, list[str]]) -> str:
    """What to type; the order of ``--ec-limit`` is the order in which hosts are taken."""
    sources = lab.inventory.sources or (str(lab.inventory.path),)
    words = ["pytest", *(f"--ec-inventory={source}" for source in sources)]
    words += [f"--ec-set={one}" for one in config.getoption("ec_set") or []]
    words.append(f"--ec-limit={','.join(_order(lab, item, hosts))}")
    return " ".join(shlex.quote(word) for word in [*words, item.nodeid])


def _order(lab: Lab, item: pytest.Item, hosts: dict[str, list[str]]) -> list[str]:
    """Hosts in an order that has every fixture pick the same again.

    The order of the lab does, unless some were preferred for having been leased, or avoided for being busy.
    """
    from easycluster.lab import NoHostFits
    from pytest_easycluster.requests import asked_by

    used = list(dict.fromkeys(name for names in hosts.values() for name in names))
    by_lab = [name for name in lab.inventory.hosts if name in used]
    for order in (by_lab, used):
        try:
            picked = {
                one.fixture: lab.preview(one.needs, item.name, among=order).names
                for one in asked_by(item, lab)
                if one.needs
            }
        except NoHostFits:
            continue
        if all(hosts.get(fixture, names) == names for fixture, names in picked.items()):
            return order
    return used
