"""Devices of hosts that are shared: whoever needs some gets any that are free, and nobody else has them meanwhile.

What a host has is its capability ``devices``, in the lab file or from its role's ``probe``: identifiers that are the
same whoever looks, by kind::

    devices: {gpu: [GPU-5a1f, GPU-77b0], nic: ["0000:3b:00.0"]}

Each is a lock of its own on the host, named by the identifier alone.  Which of several somebody gets, the host says
when it locks them; until then he stands in its line for any of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from easycluster.lab.holders import LeaseError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from easycluster.lab.host import Host
    from easycluster.lab.lab import Lab
    from easycluster.lab.lease import Part, Wanted
    from easycluster.lab.leases import Leases

__all__ = ["choices", "devices_of", "note"]

# A name of a lock has at most so many characters.
_LONGEST: Final = 100


def devices_of(lab: Lab, host: Host) -> dict[str, list[str]]:
    """The devices of a host by kind, as far as they can be told apart.

    Raises:
        LeaseError: If its capability ``devices`` is something else.
    """
    # Not host._entry: a probe may have said it.
    said = lab.inventory.hosts[host.name].capabilities.get("devices")
    if said is None:
        return {}
    advice = "a mapping such as {'gpu': ['GPU-5a1f', 'GPU-77b0']} is wanted"
    if not hasattr(said, "items"):
        raise LeaseError(f"capability 'devices' is {said!r}; {advice}", host.name)
    found: dict[str, list[str]] = {}
    for kind, names in said.items():
        is_list = isinstance(names, (list, tuple))
        if not is_list or not all(isinstance(name, str) and 0 < len(name) <= _LONGEST for name in names):
            raise LeaseError(f"capability 'devices' has {names!r} for {kind!r}; {advice}", host.name)
        found[str(kind)] = list(dict.fromkeys(names))
    return found


def choices(leases: Leases, part: Part) -> list[Wanted]:
    """What a lease wants of the devices of one host: so many of each kind, rather those that we have already.

    Where it wants all of a kind, these are added to ``part.wanted`` by name.

    Raises:
        LeaseError: If the host has too few.
    """
    for name in [name for names in part.picked.values() for name in names]:
        part.wanted.pop(name, None)
    part.picked = {}
    if not part.kinds:
        return []
    have = {**devices_of(leases._lab, part.host), **part.among} if part.among else devices_of(leases._lab, part.host)
    ours = {name for other in leases._others(part) for names in other.picked.values() for name in names}
    found: list[Wanted] = []
    for kind, count in part.kinds.items():
        names = have.get(kind, [])
        if count is None:
            note(part, {kind: names})
        else:
            _need(part.host, kind, count, names)
            ours_first = sorted(names, key=lambda name: name not in ours)
            found.append({"any": ours_first, "count": count, "mode": "exclusive", "kind": kind})
    return found


def note(part: Part, picked: Mapping[str, list[str]]) -> None:
    """Note which devices a lease has, or is to have, by kind."""
    part.picked.update(picked)
    for names in picked.values():
        part.wanted.update({name: {"name": name, "mode": "exclusive", "slots": None} for name in names})


def _need(host: Host, kind: str, count: int, names: list[str]) -> None:
    if len(names) < count:
        known = f"has {len(names)} ({', '.join(names)})" if names else "says of none which it is"
        advice = "its capability 'devices', in the lab file or from a probe, lists them"
        raise LeaseError(f"{count} of its devices of kind {kind!r} are wanted, and it {known}; {advice}", host.name)
