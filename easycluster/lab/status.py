"""``easycluster status``: who has which host of a lab, and who waits."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from easycluster.lab.holders import LockRule, clock, ordinal
from easycluster.lab.visits import visit_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from easycluster.lab.holders import Holder
    from easycluster.lab.inventory import HostEntry, Inventory

__all__ = ["STATUS_COLUMNS", "HostStatus", "as_json", "look_around", "rows"]

STATUS_COLUMNS = ("host", "what", "state", "who", "since", "until", "for")


@dataclass(frozen=True)
class HostStatus:
    """What is known of one host.

    Attributes:
        name: Its name.
        lock: The name of its own lock.
        holders: Who holds, has reserved or waits for what there: the host itself first, those who wait at the end.
        trouble: Why that is not known, ``""`` if it is.
    """

    name: str
    lock: str
    holders: tuple[Holder, ...] = ()
    trouble: str = ""

    @property
    def waiting(self) -> list[Holder]:
        """Those in line, the first first."""
        return [one for one in self.holders if one.mode == "waiting"]

    @property
    def is_free(self) -> bool:
        """Whether nobody has or wants anything there."""
        return not self.trouble and not self.holders


def look_around(inventory: Inventory, hosts: Iterable[HostEntry], timeout: float) -> list[HostStatus]:
    """Ask hosts, all at the same time, who has what on them.

    Args:
        inventory: The lab.
        hosts: Which; disabled ones are not asked.
        timeout: Seconds for all of them together.
    """
    wanted = list(hosts)
    directory = os.environ.get("EC_LOCK_DIRECTORY", "")
    enabled = [entry for entry in wanted if entry.enabled]
    results, troubles = visit_all(
        inventory.hosts, enabled, lambda visit: visit.occupancy.holders(), directory=directory, timeout=timeout
    )
    locks = {LockRule.of(entry).name: entry.name for entry in inventory.hosts.values()}
    found, seen = [], set()
    for entry in wanted:
        lock = LockRule.of(entry).name
        mine = []
        for holder in results.get(entry.name, ()):
            # Hosts that are one machine have one directory; each lock is shown once, where it belongs.
            key = (holder.token, holder.name, holder.mode, holder.since, holder.controller)
            elsewhere = holder.name != lock and holder.name in locks
            if elsewhere or (holder.name != lock and key in seen):
                continue
            seen.add(key)
            mine.append(holder)
        mine.sort(key=lambda one: (one.mode == "waiting", one.name != lock))
        trouble = troubles.get(entry.name, "")
        if not entry.enabled:
            trouble = f"disabled: {entry.reason}" if entry.reason else "disabled"
        found.append(HostStatus(entry.name, lock, tuple(mine), inventory.mask(trouble)))
    return found


def rows(states: Sequence[HostStatus]) -> list[list[tuple[str, str]]]:
    """A row for each who has or wants something, or one for a host without; cells are text and kind."""
    found = []
    for state in states:
        if state.trouble:
            kind = "dim" if state.trouble.startswith("disabled") else "fail"
            word = "disabled" if kind == "dim" else "unreachable"
            text = state.trouble.removeprefix("disabled: ").removeprefix("disabled").partition("\n")[0]
            found.append([(state.name, ""), ("", ""), (word, kind), *[("", "")] * 3, (text, "")])
        elif state.is_free:
            found.append([(state.name, ""), ("host", ""), ("free", "ok"), *[("", "")] * 4])
        name = state.name
        for holder in state.holders:
            place = state.waiting.index(holder) + 1 if holder.mode == "waiting" else 0
            what = "host" if holder.name == state.lock else holder.name
            mode = f"{ordinal(place)} in line" if place else holder.mode
            until = clock(holder.until) if holder.until is not None else ""
            kind = "dim" if place else "warn"
            texts = [(what, ""), (mode, kind), (holder.who, ""), (clock(holder.since), ""), (until, "")]
            found.append([(name, ""), *texts, (holder.label, "")])
            name = ""
    return found


def as_json(states: Sequence[HostStatus]) -> list[dict[str, Any]]:
    """The same for programs; times are seconds since 1970 of this machine's clock."""
    found = []
    for state in states:
        held = [
            {"is_host": one.name == state.lock, **{key: value for key, value in asdict(one).items() if key != "token"}}
            for one in state.holders
        ]
        state_word = "unknown" if state.trouble else "free" if state.is_free else "taken"
        found.append({"host": state.name, "state": state_word, "trouble": state.trouble, "holders": held})
    return found
