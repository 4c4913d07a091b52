"""``easycluster reserve`` and ``release``: hosts kept for a person, all of several or none, and given back."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from easycluster.lab.holders import HostBusy, LeaseError
from easycluster.lab.occupancy import person
from easycluster.lab.visits import visit_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from easycluster.lab.holders import Holder
    from easycluster.lab.inventory import HostEntry, Inventory
    from easycluster.lab.visits import Visit

__all__ = ["Outcome", "release", "reserve"]

# Seconds for all hosts together; undoing what a test did, when it is ended by force, takes its time.
TIMEOUT, FORCE_TIMEOUT = 60.0, 120.0
UNDO_TIME = 60.0


@dataclass(frozen=True)
class Outcome:
    """What came of it on one host.

    Attributes:
        host: Its name.
        trouble: Why nothing was done, ``""`` if something was.
        busy: Whether that is because somebody else has reserved or uses it.
        until: When the reservation ends, of our clock.
        users: Who uses it now, all the same.
        ended: Whose sessions and reservations have ended.
    """

    host: str
    trouble: str = ""
    busy: bool = False
    until: float = 0.0
    users: tuple[Holder, ...] = ()
    ended: tuple[Holder, ...] = ()


def reserve(
    inventory: Inventory, hosts: Sequence[HostEntry], seconds: float, why: str = "", *, force: bool = False
) -> list[Outcome]:
    """Keep hosts for whoever runs this: all, or none.

    Args:
        inventory: The lab.
        hosts: Which.
        seconds: How long.
        why: What others see that it is for.
        force: Whether to take the place of others' reservations.
    """
    us = person()
    # How it was before, for those where it was done.
    before: dict[str, Holder | None] = {}

    def one(visit: Visit) -> Outcome:
        had = [holder for holder in _of_host(visit) if holder.mode == "reserved" and holder.owner == us["owner"]]
        try:
            visit.occupancy.reserve(seconds, {**us, "label": why}, force=force)
        except HostBusy as exc:
            return Outcome(visit.entry.name, str(exc.holder), busy=True)
        before[visit.entry.name] = had[0] if had else None
        now = _of_host(visit)
        until = next((holder.until or 0.0 for holder in now if holder.mode == "reserved"), time.time() + seconds)
        users = [holder for holder in now if holder.mode in ("shared", "exclusive")]
        return Outcome(visit.entry.name, until=until, users=tuple(users))

    def give_back(visit: Visit) -> None:
        had = before[visit.entry.name]
        left = (had.until or 0.0) - time.time() if had is not None else 0.0
        visit.occupancy.reserve(max(0.0, left), {**us, "label": had.label if had is not None else ""})

    outcomes = _everywhere(inventory, hosts, one, TIMEOUT)
    if before and any(outcome.trouble for outcome in outcomes):
        some = [entry for entry in hosts if entry.name in before]
        visit_all(inventory.hosts, some, give_back, directory=_directory(), timeout=TIMEOUT)
    return outcomes


def release(inventory: Inventory, hosts: Sequence[HostEntry], *, force: bool = False) -> list[Outcome]:
    """Give hosts back that are reserved for whoever runs this.

    Args:
        inventory: The lab.
        hosts: Which.
        force: Whether to end everybody's reservations and sessions; what those changed is undone first.
    """
    us = person()

    def one(visit: Visit) -> Outcome:
        name = visit.entry.name
        if force:
            return Outcome(name, ended=tuple(visit.occupancy.force_release(UNDO_TIME)))
        had = _of_host(visit)
        users = tuple(holder for holder in had if holder.mode not in ("reserved", "waiting"))
        reserved = [holder for holder in had if holder.mode == "reserved"]
        if not reserved:
            return Outcome(name, users=users)
        try:
            visit.occupancy.reserve(0, us)
        except HostBusy as exc:
            return Outcome(name, str(exc.holder), busy=True)
        return Outcome(name, users=users, ended=tuple(reserved))

    return _everywhere(inventory, hosts, one, FORCE_TIMEOUT if force else TIMEOUT)


def _everywhere(
    inventory: Inventory, hosts: Sequence[HostEntry], do: Callable[[Visit], Outcome], timeout: float
) -> list[Outcome]:
    def checked(visit: Visit) -> Outcome:
        try:
            return do(visit)
        except LeaseError as exc:
            return Outcome(visit.entry.name, exc.reason)

    done, troubles = visit_all(inventory.hosts, hosts, checked, directory=_directory(), timeout=timeout)
    failed = {name: Outcome(name, inventory.mask(text)) for name, text in troubles.items()}
    return [{**done, **failed}[entry.name] for entry in hosts]


def _of_host(visit: Visit) -> list[Holder]:
    """Who has the host itself, as opposed to devices and the like."""
    return [one for one in visit.occupancy.holders() if one.name == visit.occupancy.lock]


def _directory() -> str:
    return os.environ.get("EC_LOCK_DIRECTORY", "")
