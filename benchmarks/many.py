"""Measure how many calls a second a client does that has many to do, and print one JSON line.

``python -m benchmarks`` starts it.  By hand: ``python many.py WHAT ROUNDS '{}'``, one of the names in WHATS, from a
checkout that is on PYTHONPATH.

Not pinned to a core: with many calls on their way both sides work at once.  A round measures each way once, beside a
floor: the same calls and results pickled, read and run in this one process, with nothing between.  Every answer is
checked.
"""

from __future__ import annotations

import functools
import json
import pickle
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.connects import TRANSPORTS, Settings

CALLS = 2000
THREADS = 8

WANTED = [number + 2 for number in range(CALLS)]

Way = Callable[[Any], list[int]]
"""Does all the calls with a client, and returns what they gave."""


def nonblocking(client: Any) -> list[int]:
    """Begin all calls, then wait for each."""
    responses = [client.add(number, 2, nonblocking=True) for number in range(CALLS)]
    return [response.wait() for response in responses]


def batch(client: Any) -> list[int]:
    """Record all calls and run them."""
    calls = client.batch()
    for number in range(CALLS):
        calls.add(number, 2)
    results: list[int] = calls.run()
    return results


def threads(client: Any) -> list[int]:
    """Call from several threads, each one call after the other."""
    found: dict[int, list[int]] = {}

    def work(first: int) -> None:
        found[first] = [client.add(number, 2) for number in range(first, CALLS, THREADS)]

    workers = [threading.Thread(target=work, args=(first,)) for first in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [found[number % THREADS][number // THREADS] for number in range(CALLS)]


def floor(_client: Any) -> list[int]:
    """Do what no way can do without, in one process."""
    calls = [("add", (number, 2)) for number in range(CALLS)]
    names = {"add": lambda a, b: a + b}
    received = pickle.loads(pickle.dumps(calls, 5))
    results: list[int] = pickle.loads(pickle.dumps([names[name](*args) for name, args in received], 5))
    return results


WAYS: dict[str, Way] = {"floor": floor, "nonblocking": nonblocking, "batch": batch, "threads": threads}


def rate(way: Way, client: Any) -> float:
    """Return how many calls a second a way does.

    Raises:
        ValueError: If an answer is wrong.
    """
    begin = time.perf_counter()
    answers = way(client)
    seconds = time.perf_counter() - begin
    if answers != WANTED:
        raise ValueError(f"the far side cannot add, or not in order, {way.__name__}: {answers[:3]} ...")
    return CALLS / seconds


def many(transport: str, rounds: int, settings: Settings) -> dict[str, float]:
    """Return the median rate of each way, the fastest one as ``best_...``, and how many times slower than the floor."""
    import easycluster
    from benchmarks.child import DEFINITIONS

    easycluster.define_common(DEFINITIONS)
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    with TRANSPORTS[transport](settings) as open_one, open_one() as client:
        for number in range(rounds + 1):
            for name, way in WAYS.items():
                found = rate(way, client)
                # The first round warms up.
                if number:
                    rates[name].append(found)
    result = {}
    for name, found_rates in rates.items():
        result[name] = statistics.median(found_rates)
        result[f"best_{name}"] = max(found_rates)
        result[f"ratio_{name}"] = statistics.median(
            beside / each for beside, each in zip(rates["floor"], found_rates, strict=True)
        )
    return result


WHATS: dict[str, Callable[[int, Settings], dict[str, float]]] = {
    f"many {name}": functools.partial(many, name) for name in ("tcp", "spawned")
}


def main() -> None:
    """Measure what the command line says."""
    what, count, settings = sys.argv[1:4]
    print(json.dumps(WHATS[what](int(count), json.loads(settings))))


if __name__ == "__main__":
    main()
