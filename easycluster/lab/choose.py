"""Which hosts fit what a test asks for, and why the others do not."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING

from easycluster.errors import EasyClusterError
from easycluster.lab.positions import did_you_mean
from easycluster.lab.where import UnlikeTypes, Where, WhereError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from easycluster.lab.inventory import HostEntry, Inventory

# Choosing tries combinations; with honest labs it never comes near this.
MAX_STEPS = 100_000


class NoHostFits(EasyClusterError, LookupError):
    """The lab has no hosts that fit; the message names every candidate and why not.

    Attributes:
        needs: What was asked for, in words.
        reasons: Why not, by host name; ``""`` for hosts that do fit.
    """

    def __init__(self, message: str, needs: str = "", reasons: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.needs = needs
        self.reasons = dict(reasons or {})

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.needs, self.reasons)


class LabRequestError(EasyClusterError, ValueError):
    """What was asked of the lab makes no sense in it: an unknown role, a malformed condition."""


@dataclass(frozen=True)
class Need:
    """``count`` hosts of one role.

    Attributes:
        role: Name of the role.
        count: How many hosts.
        where: Condition on each of them, or None.
        distinct: Capabilities or variables in which they must all differ.
    """

    role: str
    count: int = 1
    where: Where | None = None
    distinct: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.count} host{'s' * (self.count != 1)} with role {self.role}"]
        if self.where is not None:
            parts.append(f"where {self.where}")
        if self.distinct:
            parts.append(f"of different {' and '.join(self.distinct)}")
        return " ".join(parts)


def make_need(role: str, count: int = 1, where: str | Where | None = None, distinct: str | Sequence[str] = ()) -> Need:
    """A need from what a test wrote.

    Raises:
        LabRequestError: If ``where`` is not a condition or ``count`` not a number above 0.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise LabRequestError(f"count={count!r} is not a number of hosts; write 1 or more")
    if isinstance(where, str):
        try:
            where = Where(where)
        except WhereError as exc:
            raise LabRequestError(str(exc)) from None
    return Need(role, count, where, (distinct,) if isinstance(distinct, str) else tuple(distinct))


def check_need(inventory: Inventory, need: Need) -> None:
    """Refuse a need that names something this lab has never heard of: a typo must not look like missing hardware.

    Raises:
        LabRequestError: If the role, or a name of the condition or of ``distinct``, is not known in the lab.
    """
    if need.role not in inventory.roles:
        roles = {name: role.place for name, role in inventory.roles.items()}
        hint = did_you_mean(need.role, roles) or f"its roles: {' '.join(roles) or 'none'}"
        raise LabRequestError(f"lab {inventory.name!r} has no role {need.role!r}; {hint}")
    if inventory.roles[need.role].probe:
        return  # the hosts themselves may know more names
    known = inventory.known_names()
    names = [name for name, _ in need.where.names()] if need.where is not None else []
    for name in [*names, *need.distinct]:
        if name.partition(".")[0] not in known:
            hint = did_you_mean(name, list(known)) or f"known: {' '.join(sorted(known))}"
            raise LabRequestError(f"no host of lab {inventory.name!r} has a capability or variable {name!r}; {hint}")


def reason_against(host: HostEntry, need: Need, inventory: Inventory, test: str = "") -> str:
    """Why ``host`` does not fit, in a few words; ``""`` if it does."""
    if need.role not in host.roles:
        return f"role {', '.join(host.roles)}" if host.roles else "no role"
    if not host.enabled:
        return f'disabled "{host.reason}"' if host.reason else "disabled"
    today = datetime.date.today()
    for entry in inventory.quarantine:
        if entry.applies(host.name, test, today):
            return f'quarantined "{entry.reason}"'
    if need.where is not None:
        try:
            outcome = need.where.evaluate(host.values())
        except UnlikeTypes as exc:
            return str(exc)
        if not outcome.holds:
            return outcome.why
    return ""


def choose(inventory: Inventory, needs: Iterable[Need], test: str = "", prefer: Sequence[str] = ()) -> list[HostEntry]:
    """Pick hosts for every need, each host once.

    Args:
        inventory: The lab.
        needs: What is needed, in the order wanted.
        test: Name of the test, for the quarantine list.
        prefer: Names of hosts to take first where they fit; otherwise the order of the file decides.

    Returns:
        The hosts of the first need, then those of the second, and so on.

    Raises:
        LabRequestError: If a need names something the lab does not know.
        NoHostFits: If there are not enough hosts.
    """
    wanted = list(needs)
    for need in wanted:
        check_need(inventory, need)
    rank = {name: number for number, name in enumerate(prefer)}
    hosts = sorted(inventory.hosts.values(), key=lambda host: rank.get(host.name, len(rank)))
    fitting = [[host for host in hosts if not reason_against(host, need, inventory, test)] for need in wanted]
    picked = _Assignment(wanted, fitting).find()
    if picked is not None:
        return picked
    raise _no_fit(inventory, wanted, fitting, test)


class _Assignment:
    """Gives every need its hosts; tries the first fitting ones and goes back where that leads nowhere."""

    def __init__(self, needs: list[Need], fitting: list[list[HostEntry]]) -> None:
        self._slots = [(number, need) for number, need in enumerate(needs) for _ in range(need.count)]
        self._fitting = fitting
        self._picked: list[HostEntry] = []
        self._steps = 0

    def find(self) -> list[HostEntry] | None:
        needed: dict[int, int] = {}
        for number, _ in self._slots:
            needed[number] = needed.get(number, 0) + 1
        if any(len(self._fitting[number]) < count for number, count in needed.items()):
            return None
        return list(self._picked) if self._fill(0) else None

    def _fill(self, slot: int) -> bool:
        if slot == len(self._slots):
            return True
        number, need = self._slots[slot]
        first = self._first(slot, number)
        for index in range(first, len(self._fitting[number])):
            host = self._fitting[number][index]
            self._steps += 1
            if self._steps > MAX_STEPS:
                return False
            if host in self._picked or not self._differs(host, slot, number, need):
                continue
            self._picked.append(host)
            if self._fill(slot + 1):
                return True
            self._picked.pop()
        return False

    def _first(self, slot: int, number: int) -> int:
        """Hosts of one need keep their order, so that no combination is tried twice."""
        if slot and self._slots[slot - 1][0] == number:
            return self._fitting[number].index(self._picked[-1]) + 1
        return 0

    def _differs(self, host: HostEntry, slot: int, number: int, need: Need) -> bool:
        if not need.distinct:
            return True
        others = [self._picked[one] for one in range(slot) if self._slots[one][0] == number]
        mine = host.values()
        return all(
            key in mine and all(other.values().get(key) != mine[key] for other in others) for key in need.distinct
        )


def _no_fit(inventory: Inventory, needs: list[Need], fitting: list[list[HostEntry]], test: str) -> NoHostFits:
    """Say what is missing, and about every host of the lab why it is not the one."""
    short = [need for need, hosts in zip(needs, fitting, strict=True) if len(hosts) < need.count]
    blamed = short or needs
    words = " and ".join(str(need) for need in blamed)
    reasons: dict[str, str] = {}
    lines = []
    for host in inventory.hosts.values():
        against = [reason_against(host, need, inventory, test) for need in blamed]
        reasons[host.name] = "" if "" in against else against[0]
        lines.append(f"{host.name}: {reasons[host.name] or 'fits'}")
    fits = "" if short else "; the hosts that fit do not suffice for all of it at once"
    have = "; ".join(lines) if lines else "no hosts"
    return NoHostFits(f"lab {inventory.name!r} lacks {words} (have: {have}){fits}", words, reasons)
