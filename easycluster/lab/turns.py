"""Waiting for hosts that others have: in the line of each one that would do, first come, first served.

A lease that can have one of several hosts stands in the lines of all of them at once, and takes the first that calls
it.  One that needs a certain host stands in the line of that: the first of its hosts that it cannot have.  It holds
nothing meanwhile.  When it is called it tries for all of its hosts again; if another one is in the way then, it goes
to that one's line, as somebody who has waited since the beginning.  So it may be passed over on hosts that are free
while it waits for another; nobody is ever kept from a host that nobody uses.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from easycluster.errors import ConnectError, ConnectionLost, SessionError
from easycluster.lab.holders import Holder, HostBusy, LeaseError, ordinal, span
from easycluster.lab.occupancy import ANSWER_TIME
from easycluster.lab.parallel import LOOK_UP
from easycluster.lab.ranges import collapse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from easycluster.lab.lease import Lease, Part
    from easycluster.lab.leases import Leases

__all__ = ["Obstacle", "Turn"]

# How often we say that we still wait, in seconds.
TELL_EVERY: Final = 60.0
# Seconds for hosts that are to forget us; their lock directories notice by themselves when we are gone.
LEAVE_TIME: Final = 5.0
# Of several hosts, how many are named with who has them.
MOST_TOLD: Final = 3

# What comes of a question: the answer, why there is none, or a new session of a host that was rebooted.
News = dict[str, Any] | Exception


@dataclass
class Obstacle:
    """A host that a lease cannot have.

    Attributes:
        lease: Which wants it.
        part: What it wants there.
        in_the_way: Who has it.
    """

    lease: Lease
    part: Part
    in_the_way: list[Holder]

    @property
    def is_hopeless(self) -> bool:
        """Whether nobody will give it back: waiting is of no use."""
        return any(one.mode == "dirty" for one in self.in_the_way)


@dataclass
class _Line:
    """Our place in the line of one host.

    Attributes:
        obstacle: What we wait for.
        place: Our place when it was last asked, 0 before.
        reboots: Whether somebody in the way may reboot it.
        answer_by: When an answer is overdue, None if nothing was asked.
        forget: Lets go of the question.
        over: Set when nobody waits here any more.
    """

    obstacle: Obstacle
    place: int = 0
    reboots: bool = False
    answer_by: float | None = None
    forget: Callable[[], None] = lambda: None
    over: threading.Event = field(default_factory=threading.Event)


class Turn:
    """One that waits for a lease.

    Args:
        leases: Those of this process.
        wait: How long at most, in seconds.

    Attributes:
        ticket: Its number in lines.
    """

    def __init__(self, leases: Leases, wait: float) -> None:
        self.ticket = next(leases._tickets)
        self._leases = leases
        self._wait = wait
        self._began = time.monotonic()
        self._told: float | None = None
        self._lines: dict[str, _Line] = {}
        # Put into by the thread that hears the hosts, each with the line that it is about.
        self._news: queue.SimpleQueue[tuple[_Line, News]] = queue.SimpleQueue()

    def wait(self, obstacles: Iterable[Obstacle]) -> str:
        """Stand in the lines of some hosts until one of them calls us.

        Returns:
            The name of that host; the places in the other lines are kept until :meth:`over`, or until another set of
            hosts is waited for.

        Raises:
            HostBusy: If we have waited for long enough, or nobody will give any of them back.
            SessionError: If all of them are lost.
        """
        wanted = {one.part.host.name: one for one in obstacles}
        in_vain = [one for one in wanted.values() if one.is_hopeless]
        if len(in_vain) == len(wanted) or not self._wait:
            raise self._busy([holder for one in wanted.values() for holder in one.in_the_way])
        self._leave(name for name in list(self._lines) if name not in wanted or wanted[name].is_hopeless)
        for name, one in wanted.items():
            if not one.is_hopeless:
                self._lines.setdefault(name, _Line(one)).obstacle = one
        while True:
            for line in self._lines.values():
                if line.answer_by is None:
                    self._ask(line)
            news = self._hear()
            if news is not None:
                self._take_in(*news)
                if not news[0].obstacle.in_the_way and news[0].obstacle.part.host.name in self._lines:
                    return news[0].obstacle.part.host.name
            if all(line.place for line in self._lines.values()):
                # Every host has said what there is to say.
                if self._waited >= self._wait:
                    raise self._busy(self._holders())
                if self._told is None or time.monotonic() - self._told >= TELL_EVERY:
                    self._tell()

    def over(self) -> None:
        """Leave the lines that we are in, if any."""
        self._leave(list(self._lines))

    @property
    def _waited(self) -> float:
        return time.monotonic() - self._began

    def _holders(self) -> list[Holder]:
        return [holder for line in self._lines.values() for holder in line.obstacle.in_the_way]

    def _busy(self, holders: Sequence[Holder]) -> HostBusy:
        first = self._lines.get(holders[0].host)
        return HostBusy(holders, self._waited, first.place if first is not None else 0)

    # One line --------------------------------------------------------------------------------------

    def _ask(self, line: _Line) -> None:
        """Have a host say when it is our turn, or who is in the way then; first at once, to know our place."""
        obstacle, leases = line.obstacle, self._leases
        seconds = min(TELL_EVERY, max(0.0, self._wait - self._waited)) if line.place else 0.0
        with leases._lock:
            wanted, info = leases._wanted_with_choices(obstacle.part), leases._info_of(obstacle.lease)
        question = {"op": "wait", "wanted": wanted, "info": info, "ticket": self.ticket, "waited": self._waited}
        line.answer_by = time.monotonic() + seconds + ANSWER_TIME
        try:
            line.forget = leases._ask_later(
                obstacle.part, {**question, "seconds": seconds}, lambda answer: self._news.put((line, answer))
            )
        except SessionError as exc:
            self._news.put((line, exc))

    def _hear(self) -> tuple[_Line, News] | None:
        """The next piece of news, None if there is none for a moment."""
        now = time.monotonic()
        for line in self._lines.values():
            if line.answer_by is not None and now > line.answer_by:
                line.forget()
                return line, ConnectionLost("the keeper does not answer", line.obstacle.part.host.name)
        try:
            line, news = self._news.get(timeout=LOOK_UP)
        except queue.Empty:
            return None
        return None if line.over.is_set() else (line, news)

    def _take_in(self, line: _Line, news: News) -> None:
        """Note what a host has said, or that it is lost.

        Raises:
            LeaseError: If it cannot lock anything.
            HostBusy: If that was the last one that may be given back.
            SessionError: If that was the last one that was not lost.
        """
        name = line.obstacle.part.host.name
        line.answer_by = None
        if isinstance(news, Exception):
            if line.reboots:
                # Whoever has it said that he would: we are still waiting for the same host.
                self._await_boot(line)
                return
            self._leave([name])
            if not self._lines:
                raise news
            return
        if "fault" in news:
            raise LeaseError(news["fault"], name)
        line.reboots = any(record.get("boots") for record in news["in_the_way"])
        line.place = news["place"]
        line.obstacle.in_the_way = [Holder.from_record(name, record) for record in news["in_the_way"]]
        if line.obstacle.is_hopeless:
            error = self._busy(self._holders())
            self._leave([name])
            if not self._lines:
                raise error

    def _await_boot(self, line: _Line) -> None:
        """Have a host that is rebooted tell us when it is back; in a thread of its own, others may call us first."""
        line.answer_by = self._began + self._wait + ANSWER_TIME
        part, connection = line.obstacle.part, line.obstacle.part.host._connection

        def come_back() -> None:
            try:
                part.client = connection.come_back(self._began + self._wait, line.over)
            except (SessionError, ConnectError) as exc:
                line.reboots = False
                self._news.put((line, exc))
            else:
                # What there was to ask is asked anew.
                line.answer_by = None

        line.forget = lambda: None
        threading.Thread(target=come_back, name="easycluster-come-back", daemon=True).start()

    def _leave(self, names: Iterable[str]) -> None:
        left = [self._lines.pop(name) for name in list(names)]
        gone: queue.SimpleQueue[object] = queue.SimpleQueue()
        asked = 0
        for line in left:
            line.over.set()
            line.forget()
            try:
                self._leases._ask_later(line.obstacle.part, {"op": "leave", "ticket": self.ticket}, gone.put)
                asked += 1
            except SessionError:
                pass  # and so are we from its line
        end = time.monotonic() + LEAVE_TIME
        while asked and time.monotonic() < end:
            try:
                gone.get(timeout=LOOK_UP)
                asked -= 1
            except queue.Empty:
                continue

    # What people see -------------------------------------------------------------------------------

    def _tell(self) -> None:
        self._told = time.monotonic()
        left = span(max(0.0, self._wait - self._waited))
        lines = [(name, line) for name, line in self._lines.items() if line.obstacle.in_the_way]
        if len(lines) == 1:
            ((name, line),) = lines
            for one in line.obstacle.in_the_way:
                self._leases.tell(f"waiting for {name}: {one} ({ordinal(line.place)} in line, at most {left} more)")
        elif lines:
            said = [
                f"{name} is {line.obstacle.in_the_way[0]} ({ordinal(line.place)} in line)"
                for name, line in lines[:MOST_TOLD]
            ]
            if len(lines) > MOST_TOLD:
                said.append(f"and {len(lines) - MOST_TOLD} more")
            names = collapse([name for name, _ in lines])
            self._leases.tell(f"waiting for the first of {names}: {'; '.join(said)} (at most {left} more)")
