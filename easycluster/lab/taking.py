"""Taking a lease: all of its locks or none, of other hosts where those would do as well; in line if none is free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from easycluster.lab.companions import companions_of
from easycluster.lab.holders import LeaseError, LockRule, Mode
from easycluster.lab.hosts import Hosts
from easycluster.lab.lease import Lease, Part, Wanted
from easycluster.lab.turns import Obstacle, Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from easycluster.lab.host import Host
    from easycluster.lab.leases import Leases

__all__ = ["Wish", "take"]

# Stands for what other hosts would not help against: a lock of the whole lab.
_ANYWHERE: Final = ""


@dataclass(frozen=True)
class Wish:
    """How hosts are wanted; see :meth:`easycluster.lab.Leases.take`."""

    shared: bool = False
    destructive: bool = False
    usually: Mode = "exclusive"
    locks: tuple[str, ...] = ()
    devices: Mapping[str, int | None] = field(default_factory=dict)
    among: Mapping[str, Iterable[str]] = field(default_factory=dict)
    label: str = ""


def take(
    leases: Leases,
    hosts: Iterable[Host],
    wish: Wish,
    wait: float,
    instead: Callable[[list[str]], Iterable[Host]] | None = None,
) -> Lease:
    """Lock hosts, all or none; see :meth:`easycluster.lab.Leases.take`.

    Which hosts are busy is seen by asking for them.  Where others would do, these are asked for next; only if there
    is no way left without a busy host it is waited for all of those at once.
    """
    turn = Turn(leases, wait)
    busy: dict[str, Obstacle] = {}
    try:
        while True:
            chosen = hosts if isinstance(hosts, Hosts) else Hosts(hosts)
            hosts = chosen
            if _ANYWHERE not in busy and busy.keys().isdisjoint(chosen.names):
                lease = _new_lease(leases, chosen, wish)
                with leases._lock:
                    in_the_way = leases._try(lease, turn.ticket)
                    if not in_the_way:
                        leases._open.append(lease)
                        return lease
                obstacle = Obstacle(lease, lease._parts[in_the_way[0].host], in_the_way)
                busy.update(dict.fromkeys(_to_avoid(leases, chosen, obstacle), obstacle))
            else:
                waited_for = [busy[_ANYWHERE]] if _ANYWHERE in busy else list(busy.values())
                called = turn.wait(waited_for)
                busy = {name: one for name, one in busy.items() if one.part.host.name != called}
            if instead is not None:
                hosts = instead([name for name in busy if name != _ANYWHERE])
    finally:
        turn.over()


def _to_avoid(leases: Leases, hosts: Hosts, obstacle: Obstacle) -> list[str]:
    """Which of the hosts are to be avoided because of an obstacle: itself, or those that it comes with."""
    name = obstacle.part.host.name
    if name in hosts.names:
        return [name]
    found = [one.name for one in hosts if name in (other.name for other, *_ in companions_of(leases._lab, [one]))]
    return found or [_ANYWHERE]


def _new_lease(leases: Leases, hosts: Hosts, wish: Wish) -> Lease:
    lease = Lease(leases, wish.label, hosts)
    for host in hosts:
        host._connection.check()
        if host.name not in lease._parts:
            rule = LockRule.of(host._entry)
            mode = rule.mode_for(shared=wish.shared, destructive=wish.destructive, usually=wish.usually)
            wanted = [] if mode == "none" else [_wanted(rule.name, mode, rule.slots)]
            _add(leases, lease, host, wanted)
            # Who has the host alone has its devices, too.
            if mode == "shared" and leases.enabled and host.name in lease._parts:
                lease._parts[host.name].kinds = dict(wish.devices)
                lease._parts[host.name].among = {kind: list(names) for kind, names in wish.among.items()}
    for host, rule, mode in companions_of(leases._lab, [part.host for part in lease._parts.values()]):
        _add(leases, lease, host, [] if mode == "none" else [_wanted(rule.name, mode, rule.slots)])
    for name in dict.fromkeys(wish.locks):
        _add(leases, lease, _home_of(leases, name), [_wanted(name, "exclusive")])
    for part in lease._parts.values():
        part.boots = wish.destructive
    return lease


def _add(leases: Leases, lease: Lease, host: Host, wanted: list[Wanted]) -> None:
    client = host._connection.session()
    if getattr(type(client), "_ask_keeper", None) is None:
        return  # a dialer of somebody's own, whose clients have no keeper
    part = lease._parts.setdefault(host.name, Part(host, client, {}))
    if leases.enabled:
        part.wanted.update({one["name"]: one for one in wanted})


def _home_of(leases: Leases, name: str) -> Host:
    """The host that has a lock of the whole lab: the first of the lab file that every controller reaches."""
    entries = [entry for entry in leases._lab.inventory.hosts.values() if entry.enabled]
    shared = [entry for entry in entries if entry.target.via != "local" and not entry.settings.get("runs_on")]
    if not entries:
        raise LeaseError(f"lock {name!r}: the lab has no host to keep it on")
    return leases._lab._every[(shared or entries)[0].name]


def _wanted(name: str, mode: str, slots: int | None = None) -> Wanted:
    return {"name": name, "mode": mode, "slots": slots}
