"""Hosts that come with others: those that do the I/O of a target are leased with its host, and shared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from easycluster.lab.holders import LockRule
from easycluster.lab.releases import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from easycluster.lab.holders import Mode
    from easycluster.lab.host import Host
    from easycluster.lab.lab import Lab

__all__ = ["companions_of", "end_devices"]


def companions_of(lab: Lab, hosts: Iterable[Host]) -> list[tuple[Host, LockRule, Mode]]:
    """The initiators of some hosts' targets that are not among these themselves, each with how it is locked."""
    given = {host.name: host for host in hosts}
    names = [name for host in given.values() for name in host._entry.settings.get("san", {}).get("initiators", ())]
    found = []
    for name in dict.fromkeys(names):
        if name not in given:
            rule = LockRule.of(lab._every[name]._entry)
            found.append((lab._every[name], rule, rule.mode_for(shared=True)))
    return found


def end_devices(hosts: Iterable[Host]) -> list[Failure]:
    """Have devices end what they have on hosts that are about to be set back."""
    return [
        Failure(host.name, "the end of its devices", str(exc))
        for host in hosts
        for exc in host._connection.end_devices()
    ]
