"""The near side of a host's flight recorder, and of its clock."""

from __future__ import annotations

import inspect
import json
import time
import zlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from easycluster.errors import SessionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Clock", "ClockTrack", "measure_clock", "read_recorder", "series_of", "start_recorder"]

ANSWER_TIME: Final = 3.0
# The shortest way there and back of so many counts; more did not make it shorter on a quiet network.
ROUNDS: Final = 5

Series = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Clock:
    """How a host's clocks stood to this machine's, at one moment.

    Attributes:
        at: When, in seconds since 1970 of this machine.
        offset: How far the host's wall clock was ahead, in seconds.
        monotonic: The same for its monotonic clock, against this machine's wall clock.
        error: How wrong either may be: half of the way there and back.
    """

    at: float
    offset: float
    monotonic: float
    error: float


def measure_clock(client: Any, rounds: int = ROUNDS) -> Clock:
    """Ask a host for its time, whatever its worker does.

    Raises:
        SessionError: If it does not answer.
    """
    best: Clock | None = None
    for _ in range(rounds):
        before, began = time.time(), time.monotonic()
        answer = client._ask_keeper({"op": "clock"}, ANSWER_TIME)
        half = (time.monotonic() - began) / 2
        middle = before + half
        one = Clock(middle, answer["wall"] - middle, answer["monotonic"] - middle, half)
        if best is None or one.error < best.error:
            best = one
    assert best is not None
    return best


class ClockTrack:
    """The clock of one host over a session: it may drift, be set, or start anew with another boot."""

    # The first ones and the last ones; what is between says nothing that its neighbours do not.
    MOST = 32

    def __init__(self) -> None:
        self.seen: list[Clock] = []

    def add(self, clock: Clock) -> None:
        """Take another measurement."""
        self.seen.append(clock)
        if len(self.seen) > self.MOST:
            del self.seen[1]

    @property
    def offset(self) -> float:
        """How far the host's clock is ahead, as it was measured last."""
        return self.seen[-1].offset if self.seen else 0.0

    @property
    def error(self) -> float:
        """How wrong corrected times may be: the error of the last measurement, and what the clock did between two."""
        if not self.seen:
            return 0.0
        last = self.seen[-2:]
        return last[-1].error + abs(last[-1].offset - last[0].offset)

    def from_wall(self, there: float) -> float:
        """This machine's time at which the host's wall clock said ``there``."""
        if not self.seen:
            return there
        return there - min(self.seen, key=lambda one: abs(there - one.offset - one.at)).offset

    def from_monotonic(self, there: float) -> float:
        """The same for its monotonic clock, which nobody sets."""
        if not self.seen:
            return there
        return there - min(self.seen, key=lambda one: abs(there - one.monotonic - one.at)).monotonic

    def to_wall(self, here: float) -> float:
        """What the host's wall clock says at a time of this machine."""
        return here + (min(self.seen, key=lambda one: abs(here - one.at)).offset if self.seen else 0.0)

    def to_monotonic(self, here: float) -> float:
        """What its monotonic clock says then."""
        return here + (min(self.seen, key=lambda one: abs(here - one.at)).monotonic if self.seen else 0.0)


@cache
def _source() -> bytes:
    from easycluster.lab import sampler

    return zlib.compress(inspect.getsource(sampler).encode(), 9)


def start_recorder(client: Any, *, nvml: bool = False, period: float | None = None) -> int:
    """Have the host of a client sample its counters from now on, for as long as the session lasts.

    Returns:
        The process that does, on the host.

    Raises:
        SessionError: If it cannot be started.
    """
    settings = {"nvml": nvml, "period": period}
    answer = client._ask_keeper({"op": "record", "source": _source(), "settings": settings}, ANSWER_TIME)
    if "fault" in answer:
        raise SessionError(f"the flight recorder cannot be started: {answer['fault']}", client.peername)
    return int(answer["pid"])


def read_recorder(client: Any) -> list[dict[str, Any]]:
    """The samples that a host's recorder has, oldest first; :mod:`easycluster.far.flight` draws them.

    Raises:
        SessionError: If the host does not answer.
    """
    data = client._ask_keeper({"op": "recorded"}, ANSWER_TIME).get("data", b"")
    return sorted(_samples(data), key=lambda one: float(one["t"]))


def series_of(samples: Iterable[dict[str, Any]], correct: Callable[[float], float]) -> Series:
    """Samples by metric: its unit and points of time and value, oldest first.

    Args:
        samples: The samples.
        correct: From the host's monotonic clock to the time that is wanted.
    """
    series: Series = {}
    for sample in samples:
        at = round(correct(float(sample["t"])), 3)
        for full, value in sample["v"].items():
            name, _, unit = full.rpartition(" ")
            if isinstance(value, (int, float)):
                metric = series.setdefault(name or full, {"unit": "" if unit == "1" else unit, "points": []})
                metric["points"].append([at, value])
    return series


def _samples(data: bytes) -> list[dict[str, Any]]:
    found = []
    for line in zlib.decompress(data).split(b"\n") if data else ():
        try:
            one = json.loads(line)
            float(one["t"])
            one["v"].items()
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # it was being written
        found.append(one)
    return found
