"""Devices of hosts that are shared: whoever needs some gets any that are free, and nobody else has them meanwhile.

What a host has is its capability ``devices``, in the lab file or from its role's ``probe``: identifiers that are the
same whoever looks, by kind::

    devices: {gpu: [GPU-5a1f, GPU-77b0], nic: ["0000:3b:00.0"]}

Each is a lock of its own on the host, named by the identifier alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from easycluster.lab.holders import LeaseError

if TYPE_CHECKING:
    from easycluster.lab.host import Host
    from easycluster.lab.lab import Lab
    from easycluster.lab.leases import Leases, _Part

__all__ = ["ATTEMPTS", "LOOK_AGAIN", "devices_of", "pick"]

# Seconds in which somebody who waits for one device looks whether another one is free.
LOOK_AGAIN: Final = 0.5

# How often somebody else may be quicker at a device that was free a moment ago.
ATTEMPTS: Final = 3

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


def pick(leases: Leases, part: _Part) -> bool:
    """Choose the devices that a lease is to have on one host: what we have already, then free ones.

    Returns:
        Whether all of them were free just now.

    Raises:
        LeaseError: If the host has too few.
    """
    if not part.kinds:
        return False
    for name in [name for names in part.picked.values() for name in names]:
        part.wanted.pop(name, None)
    have = devices_of(leases._lab, part.host)
    ours = {name for other in leases._others(part) for names in other.picked.values() for name in names}
    every = [name for kind in part.kinds for name in have.get(kind, ())]
    records = leases._ask(part, {"op": "holders", "names": every})["holders"] if every else []
    taken = {record["name"] for record in records if record.get("token") != leases._info["token"]}
    part.picked = {kind: _some(part.host, kind, count, have, ours, taken) for kind, count in part.kinds.items()}
    picked = [name for names in part.picked.values() for name in names]
    part.wanted.update({name: {"name": name, "mode": "exclusive", "slots": None} for name in picked})
    return bool(picked) and not taken.intersection(picked)


def _some(
    host: Host, kind: str, count: int | None, have: dict[str, list[str]], ours: set[str], taken: set[str]
) -> list[str]:
    names = have.get(kind, [])
    if count is None:
        return names
    if len(names) < count:
        known = f"has {len(names)} ({', '.join(names)})" if names else "says of none which it is"
        advice = "its capability 'devices', in the lab file or from a probe, lists them"
        raise LeaseError(f"{count} of its devices of kind {kind!r} are wanted, and it {known}; {advice}", host.name)
    return sorted(names, key=lambda name: (name not in ours, name in taken))[:count]
