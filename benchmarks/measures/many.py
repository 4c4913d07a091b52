"""How many calls a second a client does that has many to do.

Near side on one core and far side on another, so that both can work at once and none is moved about.  Beside them
stands a floor: the same calls and results pickled, read and run in one process, with nothing between.  Every answer is
checked.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchmarks.measures.base import Taken, connected, pinned
from benchmarks.peers.base import Unsupported

if TYPE_CHECKING:
    from benchmarks.peers.base import Peer, Session

CALLS = 2000
THREADS = 8


Way = Callable[[int], list[int]]
"""Does so many calls and returns what they gave."""


def nonblocking(session: Session, count: int) -> list[int]:
    """Begin all calls, then wait for each."""
    return session.gather([session.start("add", number, 2) for number in range(count)])


def batch(session: Session, count: int) -> list[int]:
    """Make all calls in one message."""
    return session.batch("add", [(number, 2) for number in range(count)])


def in_threads(sessions: Sequence[Session], count: int) -> list[int]:
    """Call from several threads, each one call after the other, on the session that each has."""
    found: list[list[int]] = [[] for _ in sessions]
    errors: list[BaseException] = []

    def work(first: int) -> None:
        try:
            add = sessions[first].add
            found[first] = [add(number, 2) for number in range(first, count, len(sessions))]
        except BaseException as exc:  # noqa: BLE001  # raised below, in the thread that asked
            errors.append(exc)

    workers = [threading.Thread(target=work, args=(first,), daemon=True) for first in range(len(sessions))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return [found[number % len(sessions)][number // len(sessions)] for number in range(count)]


def floor(count: int) -> list[int]:
    """Do what no way can do without, in one process."""
    calls = [("add", (number, 2)) for number in range(count)]
    names = {"add": lambda a, b: a + b}
    received = pickle.loads(pickle.dumps(calls, 5))
    results: list[int] = pickle.loads(pickle.dumps([names[name](*args) for name, args in received], 5))
    return results


def rate(way: Way, taken: Taken, most: int = CALLS) -> dict[str, float]:
    """Return the median of how many calls a second a way does, and the fastest.

    Raises:
        ValueError: If an answer is wrong.
    """

    def once(count: int) -> float:
        begin = time.perf_counter()
        answers = way(count)
        seconds = time.perf_counter() - begin
        if list(answers) != list(range(2, count + 2)):
            raise ValueError(f"the far side cannot add, or not in order: {list(answers)[:3]} ...")
        return count / seconds

    seconds = taken.options.seconds / 2
    # A slow peer makes fewer calls.  The first calls of all are slower than the others, so they do not decide alone.
    count = 64
    for _ in range(2):
        count = max(count, min(most, int(once(count) * seconds * 2)))
    rates: list[float] = []
    end = time.monotonic() + seconds
    while len(rates) < 2 or (time.monotonic() < end and len(rates) < taken.options.many):
        rates.append(once(count))
    return {"rate": statistics.median(rates), "best": max(rates), "calls": count}


def shared(peer: Peer, session: Session, taken: Taken) -> dict[str, float]:
    """Let threads share the one session."""
    if not peer.shared:
        raise Unsupported("a session belongs to one thread")
    return rate(functools.partial(in_threads, [session.for_thread() for _ in range(THREADS)]), taken)


def own(peer: Peer, session: Session, taken: Taken) -> dict[str, float]:
    """Give each thread a connection of its own."""
    if "ssh" in type(peer).__name__.lower():
        raise Unsupported("eight logins for eight threads are not asked for")
    with contextlib.ExitStack() as stack:
        sessions = [peer.own(session) for _ in range(THREADS)]
        for each in sessions:
            if each is not session:
                stack.callback(each.close)
        with pinned(session, taken.options, two=True):
            return rate(functools.partial(in_threads, sessions), taken)


def run(peer: Peer, taken: Taken) -> None:
    """Measure."""
    with connected(peer) as session:
        with contextlib.suppress(Unsupported), pinned(session, taken.options, two=True):
            taken.part("floor", lambda: rate(floor, taken))
            taken.part("nonblocking", lambda: rate(functools.partial(nonblocking, session), taken))
            taken.part("batch", lambda: rate(functools.partial(batch, session), taken))
            taken.part("shared", lambda: shared(peer, session, taken))
        taken.part("own", lambda: own(peer, session, taken))
