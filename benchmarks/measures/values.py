"""Values of many objects each way: a list of a million ints, a dict of 100,000 records, 10,000 small objects."""

from __future__ import annotations

import functools
import statistics
from typing import TYPE_CHECKING, Any

from benchmarks.measures.base import Taken, connected, pinned, repeated

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.peers.base import Peer, Session

KINDS = {
    "ints": ("make_ints", 1_000_000),
    "records": ("make_records", 100_000),
    "objects": ("make_objects", 10_000),
}


def milliseconds(session: Session, way: str, kind: str, taken: Taken, patient: bool) -> dict[str, float]:
    """Return how long a value of a kind takes one way.

    Raises:
        ValueError: If it did not arrive whole.
    """
    maker, full = KINDS[kind]
    if taken.options.small:
        full //= 100
    with pinned(session, taken.options, two=len(taken.options.cores) > 1):

        def once(count: int) -> float:
            if way == "send":
                make: Any = getattr(session.functions(), maker)
                move: Callable[[], int] = functools.partial(session.send, make(count))
            else:
                session.call("keep", maker, count)
                move = lambda: len(session.fetch(maker))  # noqa: E731
            if move() != count:
                raise ValueError(f"not all of {count} arrived")
            return statistics.median(repeated(move, taken.options.seconds / 2, most=9))

        # What would take long is not done in full, and said to be so; we and our floor always are.  By tens, since a
        # small value may take a time that the large one does not: 40 ms until an acknowledgement comes, say.
        count = full if patient else full // 100
        took = once(count)
        while count < full and took * 10 < 1.0 + taken.options.seconds:
            count *= 10
            took = once(count)
        return {"ms": took * 1e3 * full / count, "share": count / full}


def run(peer: Peer, taken: Taken) -> None:
    """Measure."""
    patient = type(peer).__module__.endswith((".raw", ".ours"))
    with connected(peer) as session:
        for kind in KINDS:
            for way in ("send", "fetch"):
                taken.part(f"{way}_{kind}", functools.partial(milliseconds, session, way, kind, taken, patient))
