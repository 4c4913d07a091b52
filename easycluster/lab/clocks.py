"""The clocks of hosts, and calls that begin on all of them at the same moment.

A clock is compared as NTP does it: ask for it, and take it to be what it was in the middle of the time that this took.
Of several tries the quickest counts; the clock is wrong by at most half of what that took.  Moments are those of the
monotonic clocks, which nobody sets.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from easycluster.client.client import BaseClient
from easycluster.lab.fanout import Call, clients_of, distinct, outcomes
from easycluster.lab.parallel import HostErrors
from easycluster.lab.results import HostResults
from easycluster.link.operations import Op

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from easycluster.lab.host import Host

__all__ = ["Clock", "Start", "TimedResults", "as_time", "clocks_of", "start_at"]

# Tries for each host; fewer where one takes long.
TRIES: Final = 12
FEWEST: Final = 4
LONGEST: Final = 0.2
# Seconds that telling a host takes at most, by which a moment must be ahead.
TELLING: Final = 0.002


@dataclass(frozen=True)
class Clock:
    """The clock of a host against ours.

    Attributes:
        offset: Seconds by which its time of day is ahead of ours.
        error: By how much that is wrong at most, in seconds: half of the round trip.
        monotonic: Seconds by which its monotonic clock is ahead of ours.
    """

    offset: float
    error: float
    monotonic: float


@dataclass(frozen=True)
class Start:
    """When a host's call began.

    Attributes:
        late: Seconds after the moment, by the host's clock.
        clock: That clock, as it was measured before.
    """

    late: float
    clock: Clock


class TimedResults(HostResults):
    """Results of a call that was to begin on all hosts at the same moment.

    Attributes:
        moment: The moment, as of ``time.time()`` here.
        starts: When the call began on each host that began it and did not fail.
    """

    def __init__(
        self,
        what: str,
        values: Mapping[str, Any],
        errors: Mapping[str, Exception],
        order: Iterable[str],
        moment: float,
        starts: Mapping[str, Start],
    ) -> None:
        super().__init__(what, values, errors, order)
        self.moment = moment
        self.starts = dict(starts)

    @property
    def skew(self) -> float:
        """Seconds between the first and the last host, by their clocks."""
        late = [start.late for start in self.starts.values()]
        return max(late) - min(late) if late else 0.0

    @property
    def uncertainty(self) -> float:
        """By how much the skew is wrong at most, in seconds, since the clocks are not known better."""
        errors = sorted((start.clock.error for start in self.starts.values()), reverse=True)
        return sum(errors[:2])

    def _columns(self) -> tuple[str, ...]:
        return "clock ahead", "known to", "began after"

    def _cells(self, name: str) -> tuple[str, ...]:
        start = self.starts.get(name)
        if start is None:
            return "", "", ""
        clock = start.clock
        return f"{clock.offset * 1e3:+.3f} ms", f"{clock.error * 1e3:.3f} ms", f"{start.late * 1e3:.3f} ms"

    def table(self) -> str:
        """A line for each host: its clock, when it began, and its result; then the skew."""
        return f"{super().table()}\nskew {self.skew * 1e3:.3f} ms, known to {self.uncertainty * 1e3:.3f} ms"


def measure(client: BaseClient) -> Clock:
    """Compare a host's clock with ours."""
    best: Clock | None = None
    end = time.monotonic() + LONGEST
    for number in range(TRIES):
        if number >= FEWEST and time.monotonic() > end:
            break
        before, day = time.monotonic(), time.time()
        monotonic, theirs = client._call((Op.SERVICE, "clocks"))
        error = (time.monotonic() - before) / 2
        if best is None or error < best.error:
            best = Clock(theirs - day - error, error, monotonic - before - error)
    assert best is not None  # there is at least one try
    return best


def clocks_of(hosts: Sequence[Host]) -> dict[str, Clock]:
    """Compare the clocks of hosts with ours, one after the other: at once they would get in each other's way.

    Raises:
        HostErrors: If it fails on some.
    """
    clocks, errors = _measured(distinct(hosts))
    if errors:
        raise HostErrors.collect("comparing clocks", errors, clocks)
    return clocks


def _measured(hosts: Mapping[str, Host]) -> tuple[dict[str, Clock], dict[str, Exception]]:
    clients, errors = clients_of(hosts)
    clocks: dict[str, Clock] = {}
    for name in hosts:
        if name not in clients:
            continue
        try:
            if not isinstance(clients[name], BaseClient):
                raise TypeError(f"{name}: clocks are compared over sessions of easycluster.Client only")
            clocks[name] = measure(clients[name])
        except Exception as exc:  # noqa: BLE001  # handed back as this host's error
            errors[name] = exc
    return clocks, errors


def as_time(when: float | datetime | timedelta) -> float:
    """A moment as of ``time.time()``."""
    if isinstance(when, timedelta):
        return time.time() + when.total_seconds()
    if isinstance(when, datetime):
        return when.timestamp()
    if isinstance(when, (int, float)) and not isinstance(when, bool):
        return float(when)
    raise TypeError(f"a moment is a number as of time.time(), a datetime, or a timedelta from now, not {when!r}")


def start_at(
    hosts: Sequence[Host],
    when: float | datetime | timedelta,
    target: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> TimedResults:
    """See :meth:`easycluster.lab.Hosts.at`."""
    moment = as_time(when)
    _must_be_ahead(moment - time.time(), "has passed already", when)
    every, call = distinct(hosts), Call(target, args, kwargs)
    clocks, errors = _measured(every)
    if errors:
        # Before anything has begun anywhere.
        raise HostErrors.collect(f"{call.what} at a moment", errors, dict.fromkeys(clocks))
    remaining = moment - time.time()
    _must_be_ahead(
        remaining - TELLING * len(every),
        "passed while the hosts were connected and their clocks compared; nothing was begun",
        when,
    )
    ours = time.monotonic() + remaining
    calls = {name: (call, call.at(ours + clock.monotonic)) for name, clock in clocks.items()}
    values: dict[str, Any] = {}
    failed: dict[str, Exception] = {}
    starts: dict[str, Start] = {}
    with contextlib.closing(outcomes(every, calls, call.what)) as coming:
        for name, value, error in coming:
            if error is not None:
                failed[name] = error
                continue
            began, values[name] = value
            starts[name] = Start(began - ours - clocks[name].monotonic, clocks[name])
    ordered = {name: starts[name] for name in every if name in starts}
    results = TimedResults(call.what, values, failed, every, moment, ordered)
    return results.raise_()


def _must_be_ahead(seconds: float, what: str, when: object) -> None:
    if seconds <= 0:
        raise ValueError(f"the moment {when!r} {what}; give one that is later, such as time.time() + 1")
