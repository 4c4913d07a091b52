"""Which hosts fit what a test asks for, and why the others do not."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from easycluster.errors import EasyClusterError
from easycluster.lab.positions import did_you_mean
from easycluster.lab.ranges import collapse
from easycluster.lab.search import Slot, TooManySteps, assign
from easycluster.lab.shapes import described
from easycluster.lab.where import UnlikeTypes, Where, WhereError, lookup, short

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from easycluster.lab.inventory import HostEntry, Inventory


class NoHostFits(EasyClusterError, LookupError):
    """The lab has no hosts that fit; the message names every candidate and why not.

    Attributes:
        needs: What was asked for, in words.
        reasons: Why not, by host name; ``""`` for hosts that do fit.
        have: The same for people, hosts with one reason together: ``gpu[01:04]: gpus is 2``.
        unknown: Names in conditions that no host has as far as the file says; only a probe could find them.
    """

    def __init__(
        self,
        message: str,
        needs: str = "",
        reasons: Mapping[str, str] | None = None,
        have: Iterable[str] = (),
        unknown: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.needs = needs
        self.reasons = dict(reasons or {})
        self.have = tuple(have)
        self.unknown = tuple(unknown)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.needs, self.reasons, self.have, self.unknown)


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
        label: What the test calls its host, such as ``sender``, or ``""``.
        family: Needs with the same name, given together, must differ from each other in ``distinct``, too.
    """

    role: str
    count: int = 1
    where: Where | None = None
    distinct: tuple[str, ...] = ()
    label: str = ""
    family: str = ""

    def __str__(self) -> str:
        parts = [f"{self.count} host{'s' * (self.count != 1)} with role {self.role}"]
        if self.where is not None:
            parts.append(f"where {self.where}")
        if self.distinct:
            parts.append(f"of different {' and '.join(self.distinct)}")
        if self.label:
            parts.append(f"as {self.label}")
        return " ".join(parts)


def make_need(
    role: str,
    count: int = 1,
    where: str | Where | None = None,
    distinct: str | Sequence[str] = (),
    label: str = "",
    family: str = "",
) -> Need:
    """A need from what a test wrote; the arguments are the attributes of :class:`Need`.

    Raises:
        LabRequestError: If ``where`` is not a condition, ``distinct`` not names or ``count`` not a number above 0.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise LabRequestError(f"count={count!r} is not a number of hosts; write 1 or more")
    if isinstance(where, str):
        try:
            where = Where(where)
        except WhereError as exc:
            raise LabRequestError(str(exc)) from None
    elif where is not None and not isinstance(where, Where):
        raise LabRequestError(f"where={where!r} is not a condition; write a text such as where='gpus >= 4'")
    keys = (distinct,) if isinstance(distinct, str) else distinct
    if not isinstance(keys, (list, tuple)) or not all(isinstance(key, str) and key for key in keys):
        raise LabRequestError(f"distinct={distinct!r} names nothing; write distinct='rack' or a list of such names")
    return Need(role, count, where, tuple(keys), label, family)


def check_need(inventory: Inventory, need: Need) -> None:
    """Refuse a need that names something this lab has never heard of: a typo must not look like missing hardware.

    Raises:
        LabRequestError: If the role, or a name of the condition or of ``distinct``, is not known in the lab, or the
            condition compares what a host has with something of another kind.
    """
    if need.role not in inventory.roles:
        hint = did_you_mean(need.role, list(inventory.roles)) or f"its roles: {' '.join(inventory.roles) or 'none'}"
        raise LabRequestError(f"lab {inventory.name!r} has no role {need.role!r}; {hint}")
    if not inventory.roles[need.role].probe:  # else the hosts themselves may know more names
        for name in _unknown_names(inventory, need):
            known = inventory.known_names()
            hint = did_you_mean(name, list(known)) or f"known: {' '.join(sorted(known))}"
            raise LabRequestError(f"no host of lab {inventory.name!r} has a capability or variable {name!r}; {hint}")
    if need.where is not None:
        for host in inventory.hosts.values():
            if need.role in host.roles:
                try:
                    need.where.evaluate(host.values())
                except UnlikeTypes as exc:
                    text = f"host {host.name!r}: {exc.name!r} is {described(exc.value)}, compared with a {exc.wanted}"
                    raise LabRequestError(f"{text} in the condition {str(need.where)!r}") from None


def _unknown_names(inventory: Inventory, need: Need) -> list[str]:
    known = inventory.known_names()
    names = [*(name for name, _ in need.where.names()), *need.distinct] if need.where is not None else need.distinct
    return [name for name in names if name not in known and name.partition(".")[0] not in known]


def candidates(inventory: Inventory, need: Need, test: str = "") -> dict[str, str]:
    """Every host that fits a need, in the order of the lab, and every one that would but for a quarantine.

    Returns:
        The reason of the quarantine by host, ``""`` for those that fit.

    Raises:
        LabRequestError: If the need names something that the lab does not know.
        NoHostFits: If too few hosts fit even without quarantine.
    """
    check_need(inventory, need)
    free = replace(inventory, quarantine=())
    choose(free, [need])
    return {
        host.name: quarantine_reason(host.name, inventory, test)
        for host in inventory.hosts.values()
        if not reason_against(host, need, free)
    }


def reason_against(host: HostEntry, need: Need, inventory: Inventory, test: str = "") -> str:
    """Why ``host`` does not fit, in a few words; ``""`` if it does."""
    if need.role not in host.roles:
        return f"role {', '.join(host.roles)}" if host.roles else "no role"
    if not host.enabled:
        return f'disabled "{host.reason}"' if host.reason else "disabled"
    if host.left_out:
        return host.left_out
    reason = quarantine_reason(host.name, inventory, test)
    if reason:
        return reason
    values = host.values()
    if need.where is not None:
        try:
            outcome = need.where.evaluate(values)
        except UnlikeTypes as exc:
            return str(exc)
        if not outcome.holds:
            return outcome.why
    missing = [key for key in need.distinct if not lookup(values, key)[0]]
    return f"no {missing[0]}" if missing else ""


def quarantine_reason(host: str, inventory: Inventory, test: str) -> str:
    """Why ``test`` must keep off a host for now, ``""`` if it need not."""
    today = datetime.date.today()
    for entry in inventory.quarantine:
        if entry.applies(host, test, today):
            return f'quarantined "{entry.reason}"'
    return ""


def choose(
    inventory: Inventory,
    needs: Iterable[Need],
    test: str = "",
    prefer: Sequence[str] = (),
    avoid: Iterable[str] = (),
) -> list[HostEntry]:
    """Pick hosts for every need, each host once.

    Hosts to be avoided are taken only if there is no way without them.  Among several ways the first need gets the
    best hosts it can have, then the second, and so on; best are preferred hosts in their order, then those not to be
    avoided, then those that come first in the inventory.

    Args:
        inventory: The lab.
        needs: What is needed, in the order wanted.
        test: Name of the test, for the quarantine list.
        prefer: Names of hosts to take first where they fit: those leased already.
        avoid: Names of hosts to take only if others do not suffice: those that somebody else has.

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
    busy = set(avoid).difference(prefer)
    hosts = sorted(inventory.hosts.values(), key=lambda host: (rank.get(host.name, len(rank)), host.name in busy))
    fitting = [[host for host in hosts if not reason_against(host, need, inventory, test)] for need in wanted]
    others = [[host for host in fits if host.name not in busy] for fits in fitting] if busy else fitting
    try:
        picked = assign(_slots(wanted, others))
        if picked is None and busy:
            picked = assign(_slots(wanted, fitting))
    except TooManySteps as exc:
        raise LabRequestError(f"lab {inventory.name!r}: {' and '.join(map(str, wanted))}: {exc}") from None
    if picked is None:
        raise _no_fit(inventory, wanted, fitting, test)
    return [inventory.hosts[name] for name in picked]


def _slots(needs: Sequence[Need], fitting: Sequence[Sequence[HostEntry]]) -> list[Slot]:
    """A slot for every host that is needed."""
    found: list[Slot] = []
    families: dict[tuple[str, tuple[str, ...]], int] = {}
    for number, (need, hosts) in enumerate(zip(needs, fitting, strict=True)):
        traits = {host.name: tuple(_trait(host, key) for key in need.distinct) for host in hosts}
        names = tuple(host.name for host in hosts)
        family = families.setdefault((need.family, need.distinct), number) if need.family else number
        found += [Slot(names, number, family, traits)] * need.count
    return found


def _trait(host: HostEntry, key: str) -> str:
    """A value as something that can be compared and hashed: lists are values, too."""
    return repr(lookup(host.values(), key)[1])


def _no_fit(inventory: Inventory, needs: list[Need], fitting: list[list[HostEntry]], test: str) -> NoHostFits:
    """Say what is missing, and about every host of the lab why it is not the one."""
    scarce = [need for need, hosts in zip(needs, fitting, strict=True) if len(hosts) < need.count]
    blamed = list(dict.fromkeys(scarce or needs))
    reasons: dict[str, str] = {}
    words: dict[str, str] = {}
    for host in inventory.hosts.values():
        against = [reason_against(host, need, inventory, test) for need in blamed]
        fits = [need for need, reason in zip(blamed, against, strict=True) if not reason]
        # Of several reasons the one about a host of the right role says more than that it has another.
        best = next((one for one, need in zip(against, blamed, strict=True) if need.role in host.roles), against[0])
        reasons[host.name] = "" if fits else best
        words[host.name] = best if not fits else _how_it_fits(host, fits, [] if scarce else blamed)
    asked = " and ".join(str(need) for need in blamed)
    have = [f"{collapse(names)}: {why}" for why, names in _by_reason(words).items()] or ["no hosts"]
    unknown = dict.fromkeys(name for need in blamed for name in _unknown_names(inventory, need))
    end = "" if scarce else "; the hosts that fit do not suffice for all of it at once"
    if unknown:
        end += f"; no host is known to have {' or '.join(map(repr, unknown))} before a probe was made"
    message = f"lab {inventory.name!r} lacks {asked} (have: {'; '.join(have)}){end}"
    return NoHostFits(message, asked, reasons, have, unknown)


def _how_it_fits(host: HostEntry, fits: list[Need], blamed: list[Need]) -> str:
    """``fits``; with what must differ, and with the role where several are asked for."""
    keys = dict.fromkeys(key for need in fits for key in need.distinct) if blamed else ()
    shown = [f"{key} {short(lookup(host.values(), key)[1])}" for key in keys]
    roles = dict.fromkeys(need.role for need in fits)
    several = len({need.role for need in blamed}) > 1
    return " ".join(
        ["fits", *([" and ".join(roles)] if several else []), *([f"({', '.join(shown)})"] if shown else [])]
    )


def _by_reason(words: Mapping[str, str]) -> dict[str, list[str]]:
    """Hosts of which the same is to be said, together."""
    found: dict[str, list[str]] = {}
    for name, why in words.items():
        found.setdefault(why, []).append(name)
    return found
