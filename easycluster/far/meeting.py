"""What hosts do at the same time: functions that begin at a moment, clocks, and the far end of barriers.

The near half is in :mod:`easycluster.lab.clocks` and :mod:`easycluster.lab.barrier`.  This module is shipped to the far
side.
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any, Callable, Dict, Optional, Tuple

__all__ = ["FarBarrier", "Place", "apply", "clocks", "release", "start_at"]

# Seconds before its moment that a function stops to sleep and watches the clock: Linux wakes a sleeper 0.1 ms late on a
# machine that is idle.  Longer, and the sessions of one machine keep each other from its processors.
SPIN = 0.0005
# Seconds of one sleep: outside of the main thread a cancel is an exception that only byte code sees.
NAP = 0.1


class Place:
    """Where a thread waits for the others."""

    def __init__(self) -> None:
        self.left = threading.Event()
        # Why the barrier is broken, "" if all have come.
        self.reason = ""

    def leave(self, reason: str) -> None:
        """Let the thread go on, or tell it why the barrier is broken."""
        self.reason = reason
        self.left.set()


_waiting: Dict[int, Place] = {}
_tickets = itertools.count(1)


def apply(function: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
    """Call a function that came by value."""
    return function(*args, **kwargs)


def clocks() -> Tuple[float, float]:
    """Return the monotonic clock and the time of day."""
    return time.monotonic(), time.time()


def start_at(
    function: Callable[..., Any], moment: float, args: Tuple[Any, ...], kwargs: Dict[str, Any]
) -> Tuple[float, Any]:
    """Call a function at a moment of our monotonic clock; return when it began and its result.

    Raises:
        TimeoutError: If the moment has passed already.
    """
    late = time.monotonic() - moment
    if late > 0:
        raise TimeoutError(f"the call came {late * 1000:.1f} ms after the moment it was to begin at; give a later one")
    while True:
        remaining = moment - time.monotonic() - SPIN
        if remaining <= 0:
            break
        time.sleep(min(NAP, remaining))
    while time.monotonic() < moment:
        pass
    began = time.monotonic()
    return began, function(*args, **kwargs)


class FarBarrier:
    """A barrier of the near side, as a host has it.

    Args:
        host: Name of the host.
        arrive: Tells the near side that we are here; gives our number, and whether we were the last.
        give_up: Tells the near side why we do not wait any longer; gives whether all had come by then.
        timeout: Seconds that each wait takes at most, None for no limit.
    """

    def __init__(self, host: str, arrive: Any, give_up: Any, timeout: Optional[float]) -> None:
        self.host = host
        self._arrive = arrive
        self._give_up = give_up
        self.timeout = timeout

    def __repr__(self) -> str:
        return f"<barrier as {self.host} has it>"

    def wait(self, timeout: Optional[float] = None) -> int:
        """Wait until all are here; return who we were, from 0 for the one that came first.

        Args:
            timeout: Seconds; without it, what the barrier has.

        Raises:
            threading.BrokenBarrierError: If one of them will not come.
        """
        span = self.timeout if timeout is None else timeout
        end = None if span is None else time.monotonic() + span
        ticket, place = next(_tickets), Place()
        _waiting[ticket] = place
        try:
            number, was_last = self._arrive(ticket)
            while not was_last and not place.left.is_set():
                remaining = NAP if end is None else end - time.monotonic()
                if remaining <= 0:
                    if self._give_up(f"{self.host} waited for {span:g} s"):
                        break
                    place.left.wait(1.0)
                    place.reason = place.reason or f"{self.host} waited for {span:g} s"
                    break
                place.left.wait(min(NAP, remaining))
        finally:
            _waiting.pop(ticket, None)
        if place.reason:
            raise threading.BrokenBarrierError(place.reason)
        return int(number)


def release(ticket: int, reason: str) -> None:
    """Let a thread go on, or tell it why the barrier is broken; for the near side."""
    place = _waiting.get(ticket)
    if place is not None:
        place.leave(reason)
