"""Connect, first call and close, one after the other; over ssh in turn with plain ``ssh host python3 -c pass``.

Not pinned: a connect is the work of several processes at once.  The floor of what starts a Python is to start one.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks.measures.base import Taken, percentile
from benchmarks.peers.base import FAR

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.peers.base import Peer


def milliseconds(function: Callable[[], Any]) -> float:
    """Return how long a function takes."""
    begin = time.perf_counter()
    function()
    return (time.perf_counter() - begin) * 1000


def connects(peer: Peer, taken: Taken, floor: list[str]) -> dict[str, float]:
    """Connect so many times, at most for a while.

    Raises:
        ValueError: If the first call gives a wrong answer.
    """
    times: list[float] = []
    floors: list[float] = []

    def first_call() -> None:
        begin = time.perf_counter()
        session = peer.open()
        answer = session.add(2, 3)
        times.append((time.perf_counter() - begin) * 1000)
        session.close()
        if answer != 5:
            raise ValueError("the far side cannot add")

    first_call()
    times.clear()
    end = time.monotonic() + 12 * taken.options.seconds
    # A floor that costs as much as what is measured is measured as often, a cheap connect is not made to wait for it.
    while len(times) < taken.options.connects and (time.monotonic() < end or len(times) < 3):
        first_call()
        if len(floors) < len(times) / (20 if times[0] < 20 else 1):
            floors.append(milliseconds(lambda: subprocess.run(floor, stdin=subprocess.DEVNULL, check=True)))
    middle, beside = statistics.median(times), statistics.median(floors)
    return {
        "ms": middle,
        "p90_ms": percentile(times, 0.9),
        "floor_ms": beside,
        "more_ms": middle - beside,
        "count": len(times),
    }


def run(peer: Peer, taken: Taken) -> None:
    """Measure."""
    sys.path.insert(0, str(FAR))
    peer.lean = True
    over_ssh = "ssh" in type(peer).__name__.lower() and peer.settings
    floor = [*peer.ssh, "python3 -c pass"] if over_ssh else [sys.executable, "-c", "pass"]
    with peer:
        taken.part("cold", lambda: connects(peer, taken, floor))
    if over_ssh and hasattr(peer, "master"):
        peer.master = True
        plain = [*peer.ssh[:-1], peer.settings["ssh_master"]]
        # Its first connection is the one that is shared, as the first session is of those that are measured.
        subprocess.run([*plain, "true"], stdin=subprocess.DEVNULL, check=True)
        try:
            with peer:
                taken.part("master", lambda: connects(peer, taken, [*plain, "python3 -c pass"]))
        finally:
            subprocess.run([*plain[:-1], "-O", "exit", plain[-1]], stderr=subprocess.DEVNULL, check=False)
