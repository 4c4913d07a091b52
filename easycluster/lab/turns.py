"""Waiting for hosts that others have: in the line of the one that is in the way, first come, first served.

A lease stands in one line at a time, that of the first of its hosts that it cannot have, and holds nothing meanwhile.
When it is called there it tries for all of its hosts again; if another one is in the way then, it goes to that one's
line, as somebody who has waited since the beginning.  So it may be passed over on hosts that are free while it waits
for another; nobody is ever kept from a host that nobody uses.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

from easycluster.errors import SessionError
from easycluster.lab.holders import Holder, HostBusy, LeaseError, ordinal, span
from easycluster.lab.occupancy import ANSWER_TIME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from easycluster.lab.lease import Lease, Part
    from easycluster.lab.leases import Leases

# How often we say that we still wait, in seconds.
TELL_EVERY: Final = 60.0
# Seconds for a host that is to forget us; its lock directory notices by itself when we are gone.
LEAVE_TIME: Final = 5.0


class Turn:
    """One lease that waits.

    Args:
        leases: Those of this process.
        lease: Which.
        wait: How long at most, in seconds.

    Attributes:
        ticket: Its number in lines.
    """

    def __init__(self, leases: Leases, lease: Lease, wait: float) -> None:
        self.ticket = next(leases._tickets)
        self._leases = leases
        self._lease = lease
        self._wait = wait
        self._began = time.monotonic()
        self._told = 0.0
        # The host in whose line we are, and our place there when it was last asked.
        self._part: Part | None = None
        self._place = 0
        # Whether somebody in the way may reboot it.
        self._reboots = False

    def wait(self, in_the_way: Sequence[Holder]) -> None:
        """Stand in the line of the host that is in the way until we are called.

        Raises:
            HostBusy: If we have waited for long enough.
            SessionError: If the host is lost.
        """
        part = self._lease._parts[in_the_way[0].host]
        if any(one.mode == "dirty" for one in in_the_way):
            # Nobody will give it back: waiting is of no use.
            raise HostBusy(in_the_way, self._waited)
        if self._waited >= self._wait:
            raise HostBusy(in_the_way, self._waited, self._place)
        if self._part is not part:
            self.over()
            self._part = part
        seconds = 0.0
        while True:
            try:
                answer = self._ask(part, seconds)
            except SessionError:
                if not self._reboots:
                    raise
                # Whoever has it said that he would: we are still waiting for the same host.
                part.client = part.host._connection.come_back(self._began + self._wait)
                continue
            self._reboots = any(record.get("boots") for record in answer["in_the_way"])
            if not answer["in_the_way"]:
                return
            self._place = answer["place"]
            in_the_way = [Holder.from_record(part.host.name, record) for record in answer["in_the_way"]]
            if any(one.mode == "dirty" for one in in_the_way):
                raise HostBusy(in_the_way, self._waited, self._place)
            if self._waited >= self._wait:
                raise HostBusy(in_the_way, self._waited, self._place)
            if not self._told or time.monotonic() - self._told >= TELL_EVERY:
                self._tell(in_the_way)
            seconds = min(TELL_EVERY, max(0.0, self._wait - self._waited))

    def over(self) -> None:
        """Leave the line that we are in, if any."""
        part, self._part = self._part, None
        if part is not None:
            with contextlib.suppress(SessionError, LeaseError):
                self._leases._ask(part, {"op": "leave", "ticket": self.ticket}, LEAVE_TIME)

    @property
    def _waited(self) -> float:
        return time.monotonic() - self._began

    def _ask(self, part: Part, seconds: float) -> dict[str, Any]:
        with self._leases._lock:
            wanted, info = self._leases._wanted_with_choices(part), self._leases._info_of(self._lease)
        question = {"op": "wait", "wanted": wanted, "info": info, "ticket": self.ticket, "waited": self._waited}
        return self._leases._ask(part, {**question, "seconds": seconds}, seconds + ANSWER_TIME)

    def _tell(self, in_the_way: Sequence[Holder]) -> None:
        self._told = time.monotonic()
        for one in in_the_way:
            left = span(max(0.0, self._wait - self._waited))
            self._leases.tell(f"waiting for {one.host}: {one} ({ordinal(self._place)} in line, at most {left} more)")
