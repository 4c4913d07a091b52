"""The line of those who wait for locks of a host: first come, first served.

A place in it is a file of the lock directory that is held like a lock, so whoever dies leaves the line::

    .waiting-0  .waiting-1     one each: who it is, what it wants and since when, as JSON

The places are looked at under the directory's gate.  Who comes later stands back for somebody before him

- who could have all that he wants on this host now: he has been called, and takes it in a moment,
- and who waits for the end of one that shares what he wants alone, or sharers could relieve each other for ever.

Nothing else is kept for anybody: who waits for one thing does not keep others from another that he wants, too, so
nobody waits for each other.  For the same reason those who hold something already pass the second kind.

What is wanted is a resource by its ``name``, or with ``any`` and ``count`` so many of several: whichever is free first.
Who wants several at once and finds too few free keeps those who come later from these, as with the second kind.

This module is shipped to the far side.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

__all__ = ["Calls", "WaitingLine", "choice", "clashing", "competing"]

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


def choice(wish: Record) -> Tuple[List[str], int]:
    """The resources that would do, and how many of them are wanted."""
    return (wish["any"], wish["count"]) if "any" in wish else ([wish["name"]], 1)


class Calls:
    """Who of those in line could have all that he wants now, and so comes first; see the module.

    Args:
        before: Those in line, the first first.
        holders: Gives the holders of a resource but those of one session.
        reserved: Whether a resource is kept for somebody else than a waiter.
    """

    def __init__(
        self,
        before: Sequence[Record],
        holders: Callable[[str, Optional[int]], List[Record]],
        reserved: Callable[[str, Record], bool],
    ) -> None:
        self._before = before
        self._holders = holders
        self._reserved = reserved
        # Resource to those who get it, each with his place in line.
        self._called: Dict[str, List[Record]] = {}
        # The others, by place: what they cannot have now.
        self._short: Dict[int, List[Record]] = {}
        for place, waiter in enumerate(before):
            self._look(place, waiter)

    def _look(self, place: int, waiter: Record) -> None:
        wishes = _wishes(waiter)
        gets: List[Tuple[str, Record]] = []
        busy = []
        for wish in wishes:
            names, count = choice(wish)
            free = [name for name in names if self._is_free(name, wish, waiter.get("keeper"))]
            kept = [name for name in free if self._reserved(name, waiter)]
            if len(free) < count:
                busy.append(wish)
            gets += [(name, wish) for name in free if name not in kept][:count]
        if len(gets) == sum(choice(wish)[1] for wish in wishes):
            for name, wish in gets:
                self._called.setdefault(name, []).append(dict(waiter, mode=wish["mode"], place=place))
        else:
            self._short[place] = busy

    def _is_free(self, name: str, wish: Record, keeper: object) -> bool:
        others = self._holders(name, keeper if isinstance(keeper, int) else None) + self._called.get(name, [])
        return not clashing(wish["mode"], _slots(wish), others)

    def left_of(self, wish: Record) -> List[str]:
        """The resources of a wish that are free, as far as the holders go, and that nobody gets before."""
        names, _count = choice(wish)
        return [name for name in names if name not in self._called or self._is_free(name, wish, None)]

    def ahead_of(self, wanted: Sequence[Record], holding: bool) -> List[Record]:
        """Who in line comes before somebody, if anybody does: the first of them.

        Args:
            wanted: What he wants, without what he has; nobody's holding keeps it from him.
            holding: Whether he holds something already.
        """
        found: Set[int] = set()
        for place, wishes in self._short.items() if not holding else ():
            for theirs in wishes:
                found.update(place for mine in wanted if _compete(mine, theirs))
        for wish in wanted:
            names, count = choice(wish)
            if len(self.left_of(wish)) < count:
                found.update(waiter["place"] for name in names for waiter in self._called.get(name, ()))
        return [dict(self._before[place], mode="waiting") for place in sorted(found)[:1]]


def competing(wanted: Sequence[Record], before: Sequence[Record]) -> int:
    """How many of those before somebody want something of what he wants, and not only to share it."""
    return sum(any(_compete(mine, theirs) for mine in wanted for theirs in _wishes(waiter)) for waiter in before)


def _compete(mine: Record, theirs: Record) -> bool:
    """Whether two wishes are for the same, and not only to share it."""
    is_shared = mine["mode"] == theirs["mode"] == "shared"
    return not is_shared and not set(choice(mine)[0]).isdisjoint(choice(theirs)[0])


def _wishes(record: Record) -> List[Record]:
    """What somebody waits for; another account wrote it."""
    wanted = record.get("wanted")
    found = wanted if isinstance(wanted, list) else []
    return [one for one in found if isinstance(one, dict) and one.get("mode") in MODES and _names_something(one)]


def _names_something(wish: Record) -> bool:
    several = wish.get("any")
    if several is None:
        return isinstance(wish.get("name"), str)
    is_list = isinstance(several, list) and all(isinstance(name, str) for name in several)
    return is_list and isinstance(wish.get("count"), int)


def _since(record: Record) -> float:
    since = record.get("since")
    return float(since) if isinstance(since, (int, float)) else 0.0


def _slots(wish: Record) -> int:
    slots = wish.get("slots")
    return slots if isinstance(slots, int) and slots > 0 else MOST_WAITING
