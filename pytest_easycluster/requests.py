"""What a test asks of the lab, as needs: read from its fixtures and markers without running anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_easycluster.markers import wishes_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from easycluster.lab import FixtureEntry, Lab, Need, NoHostFits


@dataclass(frozen=True)
class NoHosts:
    """Stands in for the host of an ``ec_each`` item when none fits."""

    error: NoHostFits


@dataclass(frozen=True)
class Asked:
    """What one fixture of a test asks for.

    Attributes:
        fixture: Its name.
        needs: What it needs; none if the hosts are known.
        names: The hosts, if they are known: the one of an ``ec_each`` item, all for an unmarked ``remote_hosts``.
        error: Why there are none.
    """

    fixture: str
    needs: tuple[Need, ...] = ()
    names: tuple[str, ...] = ()
    error: NoHostFits | None = None


def asked_by(item: pytest.Item, lab: Lab) -> Iterator[Asked]:
    """Everything that the fixtures of a test ask for, in their order; what it leases as it runs is not known."""
    for name in getattr(item, "fixturenames", ()):
        if name == "remote_hosts":
            needs = tuple(wanted.need() for wanted in wishes_of(item).hosts)
            yield Asked(name, needs) if needs else Asked(name, names=tuple(lab.hosts.names))
        elif name == "ec_host":
            host = item.callspec.params.get("ec_host")  # type: ignore[attr-defined]  # it was given a host
            yield Asked(name, error=host.error) if isinstance(host, NoHosts) else Asked(name, names=(str(host),))
        elif name in lab.inventory.fixtures and not is_unavailable(lab, lab.inventory.fixtures[name]):
            yield Asked(name, (need_of(lab.inventory.fixtures[name]),))


def need_of(entry: FixtureEntry) -> Need:
    """What an entry of ``fixtures:`` needs."""
    from easycluster.lab import Need

    return Need(entry.role, entry.count, entry.where, entry.distinct)


def is_unavailable(lab: Lab, entry: FixtureEntry) -> bool:
    """Whether this is a fixture that every lab has, in a lab without its role."""
    return entry.place is None and entry.role not in lab.inventory.roles


def fitting_hosts(lab: Lab, need: Need, test: str) -> dict[str, str]:
    """Names of the hosts that fit, in the order of the lab, and of those that would but for a quarantine, with it.

    Raises:
        LabRequestError: If the need names something that the lab does not have.
        NoHostFits: If no host fits even without a quarantine.
    """
    from easycluster.lab import candidates

    return candidates(lab.inventory, need, test)
