"""64 MiB of random bytes, and a numpy array of the same size, each way; and what memory that takes at its peak.

A peak is what a process had more than before the value was there, by the size of the value: 1.0 is the value alone.
"""

from __future__ import annotations

import functools
import statistics
import time
from typing import TYPE_CHECKING, Any

from benchmarks.measures.base import Taken, connected, megabytes, pinned, repeated
from benchmarks.peers.base import Unsupported

if TYPE_CHECKING:
    from benchmarks.peers.base import Peer, Session

MIB = 1 << 20
PARTS = {
    "send_bytes": "make_bytes",
    "fetch_bytes": "make_bytes",
    "send_array": "make_array",
    "fetch_array": "make_array",
}


def importable(maker: str) -> None:
    """Say so where there is no numpy.

    Raises:
        Unsupported: If it is needed and not there.
    """
    if maker == "make_array":
        try:
            import numpy  # noqa: F401
        except ImportError:
            raise Unsupported("numpy is not installed") from None


class Load:
    """One kind of value, one way."""

    def __init__(self, session: Session, part: str) -> None:
        import bench_far

        self.local: Any = bench_far
        self.session = session
        self.maker = PARTS[part]
        self.there = part.startswith("send")

    def once(self, value: Any, size: int) -> None:
        """Move the value once and look at it.

        Raises:
            ValueError: If it did not arrive whole.
        """
        if self.there:
            arrived = self.session.send(value)
        else:
            arrived = self.local.size(self.session.fetch(self.maker))
        if arrived != size:
            raise ValueError(f"{arrived} of {size} bytes arrived")

    def prepare(self, size: int) -> Any:
        """Make the value where it starts."""
        if self.there:
            return getattr(self.local, self.maker)(size)
        self.session.call("keep", self.maker, size)
        return None

    def peaks(self, size: int) -> dict[str, float]:
        """Move a fresh value once, and return what memory it took on each side; nothing where that is not known."""
        try:
            far = self.session.call("resident")
        except Unsupported:
            self.once(self.prepare(size), size)
            return {}
        near = self.local.resident()
        self.once(self.prepare(size), size)
        return {
            "near_peak": (self.local.peak() - near) * 1024 / size,
            "far_peak": (self.session.call("peak") - far) * 1024 / size,
        }


def rate(session: Session, part: str, taken: Taken, patient: bool) -> dict[str, float]:
    """Return MB/s, and peaks of memory; less is moved where it takes long, unless one is patient."""
    importable(PARTS[part])
    load = Load(session, part)
    small = load.prepare(MIB)
    load.once(small, MIB)
    begin = time.perf_counter()
    load.once(small, MIB)
    one = time.perf_counter() - begin
    size = taken.options.bulk
    while not patient and size > MIB and one * size / MIB > 2 * taken.options.seconds + 0.2:
        size //= 8
    found = load.peaks(size)
    value = load.prepare(size)
    times = repeated(lambda: load.once(value, size), taken.options.seconds / 2, most=9)
    return {"mbs": megabytes(size, statistics.median(times)), "mib": size / MIB, **found}


def run(peer: Peer, taken: Taken) -> None:
    """Measure."""
    # We and our floors are compared at full size.
    patient = type(peer).__module__.endswith((".raw", ".ours"))
    with connected(peer) as session:
        for part in PARTS:
            taken.part(part, functools.partial(pinned_rate, session, part, taken, patient))


def pinned_rate(session: Session, part: str, taken: Taken, patient: bool) -> dict[str, float]:
    """Measure with both sides on a core of their own, where there are two."""
    with pinned(session, taken.options, two=len(taken.options.cores) > 1):
        return rate(session, part, taken, patient)
