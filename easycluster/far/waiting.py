"""The line of those who wait for locks of a host: first come, first served.

A place in it is a file of the lock directory that is held like a lock, so whoever dies leaves the line::

    .waiting-0  .waiting-1     one each: who it is, what it wants and since when, as JSON

The places are looked at under the directory's gate.  Who comes later stands back for somebody before him

- who could have all that he wants on this host now: he has been called, and takes it in a moment,
- and who waits for the end of one that shares what he wants alone, or sharers could relieve each other for ever.

Nothing else is kept for anybody: who waits for one thing does not keep others from another that he wants, too, so
nobody waits for each other.  For the same reason those who hold something already pass the second kind.

This module is shipped to the far side.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

__all__ = ["WaitingLine", "clashing", "competing", "standing_back"]

# More at once than there are engineers and workers in any lab.
MOST_WAITING = 1000
MODES = ("shared", "exclusive")

Record = Dict[str, Any]


def clashing(mode: str, slots: int, others: Sequence[Record]) -> List[Record]:
    """Those of the ``others`` who have a resource that keep somebody from having it in this mode, too."""
    if mode != "shared":
        return list(others)
    exclusive = [record for record in others if record.get("mode") != "shared"]
    return exclusive or (list(others) if len(others) >= slots else [])


class WaitingLine:
    """The places of one process, and a view of all.

    Args:
        open_file: Opens a file of the directory by name; -1 if there is none and none is to be made.
        lock: Tries to lock a descriptor.
        read: Reads the record of one.
        write: Writes it.
    """

    def __init__(
        self,
        open_file: Callable[[str, bool], int],
        lock: Callable[[int], bool],
        read: Callable[[int], Record],
        write: Callable[[int, Record], None],
    ) -> None:
        self._open_file = open_file
        self._lock = lock
        self._read = read
        self._write = write
        # Ticket to the descriptor of its file, and the number of that.
        self._mine: Dict[int, Tuple[int, int]] = {}

    def join(self, ticket: int, record: Record) -> None:
        """Get in line; who is in it keeps his place, also if he wants something else now."""
        if ticket in self._mine:
            fd, _number = self._mine[ticket]
            known = self._read(fd)
            if known.get("wanted") != record["wanted"]:
                self._write(fd, dict(record, since=known.get("since", record["since"])))
            return
        for number in range(MOST_WAITING):
            fd = self._open_file(f".waiting-{number}", True)
            if self._lock(fd):
                self._write(fd, record)
                self._mine[ticket] = (fd, number)
                return
            os.close(fd)

    def leave(self, ticket: int) -> None:
        """Give a place up; without one, do nothing."""
        fd, _number = self._mine.pop(ticket, (-1, -1))
        if fd >= 0:
            os.close(fd)

    def leave_all(self) -> None:
        """Give all places up; a child does that, too, for it would hold them otherwise."""
        for ticket in list(self._mine):
            self.leave(ticket)

    def everybody(self) -> List[Tuple[int, Record]]:
        """All who wait, the first first, each with the number of his file."""
        mine = {number: fd for fd, number in self._mine.values()}
        found = []
        for number in range(MOST_WAITING):
            fd = self._open_file(f".waiting-{number}", False) if number not in mine else mine[number]
            if fd < 0:
                break
            try:
                if number in mine or not self._lock(fd):
                    found.append((number, self._read(fd)))
            finally:
                if number not in mine:
                    os.close(fd)
        return sorted(found, key=lambda place: (_since(place[1]), str(place[1].get("token")), place[0]))

    def before(self, ticket: int) -> List[Record]:
        """All who come before a ticket; before one without a place everybody does."""
        _fd, mine = self._mine.get(ticket, (-1, -1))
        found = []
        for number, record in self.everybody():
            if number == mine:
                break
            found.append(record)
        return found


def standing_back(
    wanted: Sequence[Record],
    before: Sequence[Record],
    holders: Callable[[str, Optional[int]], List[Record]],
    reserved: Callable[[str, Record], bool],
    holding: bool,
) -> List[Record]:
    """Who in line gets what somebody wants before him, if anybody does: the first of them; see the module.

    Args:
        wanted: What he wants: ``name``, ``mode`` and ``slots`` each, without what he has.
        before: Those before him.
        holders: Gives the holders of a resource but those of one session.
        reserved: Whether a resource is kept for somebody else than a waiter.
        holding: Whether he holds something already.
    """
    called: Dict[str, List[Record]] = {}
    found: Dict[int, Record] = {}
    for place, waiter in enumerate(before):
        theirs = _wishes(waiter)
        busy = set()
        for one in theirs:
            others = holders(one["name"], waiter.get("keeper")) + called.get(one["name"], [])
            if clashing(one["mode"], _slots(one), others):
                busy.add(one["name"])
        kept = any(reserved(one["name"], waiter) for one in theirs)
        if not busy and not kept:
            for one in theirs:
                called.setdefault(one["name"], []).append(dict(waiter, mode=one["mode"], place=place))
            continue
        if holding:
            continue
        for one in theirs:
            mine = [other for other in wanted if other["name"] == one["name"]]
            if one["name"] in busy and mine and "exclusive" in (one["mode"], mine[0]["mode"]):
                found[place] = waiter
    for one in wanted:
        soon = called.get(one["name"], [])
        if soon and clashing(one["mode"], _slots(one), holders(one["name"], None) + soon):
            found.update({waiter["place"]: before[waiter["place"]] for waiter in soon})
    return [dict(found[place], mode="waiting") for place in sorted(found)[:1]]


def competing(wanted: Sequence[Record], before: Sequence[Record]) -> int:
    """How many of those before somebody want something of what he wants, and not only to share it."""
    modes = {one["name"]: one["mode"] for one in wanted}
    count = 0
    for waiter in before:
        theirs = [(one["mode"], modes.get(one["name"])) for one in _wishes(waiter)]
        count += any(mine is not None and (mode, mine) != ("shared", "shared") for mode, mine in theirs)
    return count


def _wishes(record: Record) -> List[Record]:
    """What somebody waits for; another account wrote it."""
    wanted = record.get("wanted")
    found = wanted if isinstance(wanted, list) else []
    return [
        one for one in found if isinstance(one, dict) and isinstance(one.get("name"), str) and one.get("mode") in MODES
    ]


def _since(record: Record) -> float:
    since = record.get("since")
    return float(since) if isinstance(since, (int, float)) else 0.0


def _slots(wish: Record) -> int:
    slots = wish.get("slots")
    return slots if isinstance(slots, int) and slots > 0 else MOST_WAITING
