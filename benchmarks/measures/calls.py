"""A synchronous call, and an attribute read through a proxy, beside a raw ping-pong in turn.

Unpinned, a call takes one of two times by chance, because waking another virtual core costs more than the call; so both
sides are on one core, which shows what the software costs, and then on two, which adds the machine's wake-up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.measures.base import Taken, connected, paired, pinned, raw_floor

if TYPE_CHECKING:
    from benchmarks.peers.base import Peer, Session


def latency(session: Session, taken: Taken, two: bool, seconds: float) -> dict[str, float]:
    """Time ``add``."""
    with pinned(session, taken.options, two), raw_floor(taken.options, two) as floor:
        return paired(lambda number: session.add(number, 2), floor, seconds)


def attribute(session: Session, taken: Taken, seconds: float) -> dict[str, float]:
    """Time the attribute.

    Raises:
        ValueError: If it is not what it should be.
    """

    def read(number: int) -> int:
        return number + session.attribute() - 40

    session.attribute()
    with pinned(session, taken.options, two=False), raw_floor(taken.options) as floor:
        return paired(read, floor, seconds)


def run(peer: Peer, taken: Taken) -> None:
    """Measure."""
    seconds = taken.options.seconds
    with connected(peer) as session:
        taken.part("one", lambda: latency(session, taken, False, seconds))
        taken.part("two", lambda: latency(session, taken, True, seconds))
        taken.part("attribute", lambda: attribute(session, taken, seconds / 2))
