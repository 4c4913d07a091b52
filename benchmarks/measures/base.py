"""What every measure needs: options, where figures go, a clock beside the floor, and who is pinned where."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import sys
import time
import traceback
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import FAR, Peer, Session, Unsupported
from benchmarks.peers.raw import RawTcp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

BATCH = 100
WARM_UP = 200

# Of a part, in seconds beyond its time: what hangs must not hold up the others.  A small run is for tests, which run
# beside others.
LIMIT = 25
SMALL_LIMIT = 100


@dataclass(frozen=True)
class Options:
    """What the command says to its children.

    Attributes:
        seconds: Time of one measurement.
        connects: How often to connect, one after the other.
        many: How often to make 2,000 calls.
        sessions: How many to hold at once.
        small: Whether sizes and numbers are a fraction, to see that all works.
        cores: The core for what is pinned to one, and for the far side where there are two.
        ssh: What peers are told: ``ssh_config``, ``ssh_host``, ``ssh_master``; empty without an sshd.
    """

    seconds: float = 0.4
    connects: int = 200
    many: int = 20
    sessions: int = 256
    small: bool = False
    cores: tuple[int, ...] = ()
    ssh: dict[str, str] | None = None

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Options:
        """Read what came as JSON."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in settings.items() if name in known})

    @property
    def bulk(self) -> int:
        """Bytes of a large value."""
        return 1 << 20 if self.small else 64 << 20


class Taken:
    """The figures of one child, by name; and what could not be measured, and why.

    Attributes:
        figures: ``part_figure`` by name.
        cannot: By part, what the peer does not do.
        failed: By part, what went wrong.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.figures: dict[str, float] = {}
        self.cannot: dict[str, str] = {}
        self.failed: dict[str, str] = {}

    def part(self, name: str, measure: Callable[[], dict[str, float]]) -> None:
        """Measure a part under a time limit; its figures get the part's name in front."""
        limit = (SMALL_LIMIT if self.options.small else LIMIT) + int(4 * self.options.seconds)
        if any("no end after" in text for text in self.failed.values()):
            self.failed[name] = "not tried: the one before had no end"
            return

        def late(_number: int, _frame: FrameType | None) -> None:
            raise TimeoutError(f"no end after {limit} s")

        before = signal.signal(signal.SIGALRM, late)
        signal.alarm(limit)
        try:
            found = measure()
        except Unsupported as exc:
            self.cannot[name] = str(exc)
        except Exception as exc:  # noqa: BLE001  # whatever a peer raises is what the table says
            self.note_failure(name, exc)
        else:
            self.figures.update({f"{name}_{figure}": value for figure, value in found.items()})
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)

    def note_failure(self, name: str, exc: BaseException) -> None:
        """Note what went wrong with a part, or with all if it has no name."""
        traceback.print_exception(exc)
        self.failed[name] = f"{type(exc).__name__}: {exc}".replace("\n", " ")[:300]

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {"figures": self.figures, "cannot": self.cannot, "failed": self.failed}


# ---------------------------------------------------------------- time


def timed(call: Callable[[int], int], count: int) -> list[float]:
    """Return the time of each of ``count`` calls in microseconds; a call takes n and gives n + 2.

    Raises:
        ValueError: If an answer is wrong.
    """
    clock = time.perf_counter_ns
    times = []
    for number in range(count):
        start = clock()
        answer = call(number)
        times.append((clock() - start) / 1000)
        if answer != number + 2:
            raise ValueError(f"the far side answered {answer!r} to add({number}, 2)")
    return times


def percentile(times: list[float], share: float) -> float:
    """Return what this share of the times is below of."""
    return sorted(times)[min(len(times) - 1, int(len(times) * share))]


def paired(call: Callable[[int], int], floor: Callable[[int], int], seconds: float) -> dict[str, float]:
    """Time calls in batches that alternate with the floor's; microseconds, and the ratio of one to the other.

    A batch's ratio is its median call by the median ping-pong just before it, so a busy machine moves both.
    """
    timed(floor, WARM_UP)
    one = timed(call, 2)[-1] / 1e6
    batch = max(3, min(BATCH, int(seconds / 4 / one)))
    timed(call, min(WARM_UP, max(1, int(seconds / 4 / one))))
    floors: list[float] = []
    times: list[float] = []
    ratios: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or not ratios:
        before = timed(floor, BATCH)
        these = timed(call, batch)
        floors += before
        times += these
        ratios.append(statistics.median(these) / statistics.median(before))
    return {
        "median_us": statistics.median(times),
        "p99_us": percentile(times, 0.99),
        "raw_us": statistics.median(floors),
        "ratio": statistics.median(ratios),
    }


def repeated(function: Callable[[], Any], seconds: float, least: int = 2, most: int = 1000) -> list[float]:
    """Return how many seconds a function takes, each time, for about so many seconds."""
    times: list[float] = []
    end = time.monotonic() + seconds
    while len(times) < least or (time.monotonic() < end and len(times) < most):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return times


# ---------------------------------------------------------------- processes and cores


def parents() -> dict[int, int]:
    """Return the parent of every process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return found


def name_of(pid: int) -> str:
    """Return what the kernel calls a process, "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def below(roots: set[int], above: dict[int, int]) -> set[int]:
    """Return these processes and all that descend from them."""
    found = set(roots)
    grown = True
    while grown:
        more = {pid for pid, parent in above.items() if parent in found} - found
        grown = bool(more)
        found |= more
    return found


def line_of(pid: int, above: dict[int, int]) -> list[int]:
    """Return a process and those it descends from, up to this one, to init, or to what started an sshd."""
    line = [pid]
    while (parent := above.get(line[-1], 0)) not in (0, 1, os.getpid()):
        if name_of(line[-1]).startswith("sshd") and not name_of(parent).startswith("sshd"):
            break
        line.append(parent)
    return line


def sides(session: Session) -> tuple[set[int], set[int]]:
    """Return the processes of this side and those of the far side, as far as it says who answers."""
    above = parents()
    far: set[int] = set()
    with contextlib.suppress(Unsupported):
        pid = session.call("process_id")
        if pid != os.getpid():
            line = line_of(pid, above)
            if name_of(line[-1]).startswith("sshd"):
                # The listener, which serves others too.
                line.pop()
            far = below(set(line), above)
    near = below({os.getpid()}, above) - far
    return near, far


def pin(pids: set[int], cpus: set[int]) -> None:
    """Pin every thread of these processes."""
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*"):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(task.name), cpus)


@contextlib.contextmanager
def pinned(session: Session, options: Options, two: bool) -> Iterator[None]:
    """Keep both sides on one core, or each on one of its own, for a block."""
    if not options.cores or not hasattr(os, "sched_setaffinity"):
        if two:
            raise Unsupported("no second core to pin to")
        yield
        return
    if two and len(options.cores) < 2:
        raise Unsupported("no second core to pin to")
    everywhere = os.sched_getaffinity(0) | set(options.cores)
    near, far = sides(session)
    pin(near, {options.cores[0]})
    pin(far, {options.cores[1 if two else 0]})
    try:
        yield
    finally:
        near, far = sides(session)
        pin(near | far, everywhere)


@contextlib.contextmanager
def raw_floor(options: Options, two: bool = False) -> Iterator[Callable[[int], int]]:
    """Give a ping-pong of 100 bytes over TCP; its far side is on the core that ``pinned`` gives to far sides."""
    session = RawTcp({}).open()
    if options.cores and hasattr(os, "sched_setaffinity") and len(options.cores) > two:
        os.sched_setaffinity(session.process.pid, {options.cores[int(two)]})
    try:
        yield lambda number: session.add(number, 2)
    finally:
        session.close()


@contextlib.contextmanager
def connected(peer: Peer) -> Iterator[Session]:
    """Start what a peer needs and open one session that has answered."""
    sys.path.insert(0, str(FAR))
    with peer, contextlib.closing(peer.open()) as session:
        if session.add(2, 3) != 5:
            raise ValueError("the far side cannot add")
        yield session


def megabytes(size: int, seconds: float) -> float:
    """Return a rate in MB/s."""
    return size / 1e6 / seconds
