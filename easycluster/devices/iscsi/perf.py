"""How fast a session is: many commands in flight, and how long each took."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Callable, Dict, List, NamedTuple

from easycluster.devices.iscsi.errors import CommandTimeout
from easycluster.devices.iscsi.scsi import read16, write16

if TYPE_CHECKING:
    from easycluster.devices.iscsi.connection import Connection
    from easycluster.devices.iscsi.task import Task

__all__ = ["Load", "Perf", "measure"]


class Load(NamedTuple):
    """What to do.

    Attributes:
        lba: First block of the area.
        blocks: Blocks in the area.
        block_size: Bytes in a block.
        each: Blocks in a command.
        depth: Commands in flight.
        seconds: How long.
        writes: Share of writes, 0 to 1.
        shuffled: Whether at random places, else one after the other.
        seed: For what is random.
    """

    lba: int
    blocks: int
    block_size: int
    each: int
    depth: int
    seconds: float
    writes: float
    shuffled: bool
    seed: int


class Perf(NamedTuple):
    """What came out.

    Attributes:
        iops: Commands in a second.
        mb_s: Megabytes (10**6 bytes) in a second.
        p50: Half of the commands took at most so many seconds.
        p99: 99 of 100 took at most so many seconds.
        slowest: The longest, in seconds.
        commands: Commands done; those that failed count nowhere else than in ``errors``.
        errors: Commands that failed.
        seconds: How long it took.
    """

    iops: float
    mb_s: float
    p50: float
    p99: float
    slowest: float
    commands: int
    errors: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.iops:.0f} iops, {self.mb_s:.1f} MB/s, p50 {self.p50 * 1e3:.3f} ms, p99 {self.p99 * 1e3:.3f} ms,"
            f" slowest {self.slowest * 1e3:.3f} ms, {self.errors} errors"
        )


def measure(connection: Connection, lun: bytes, load: Load, limit: float, is_attention: Callable[[Task], bool]) -> Perf:
    """Keep ``load.depth`` commands in flight for ``load.seconds``, and wait for the last ones.

    Args:
        connection: Nobody else may use it meanwhile.
        lun: The eight bytes of the unit.
        load: What to do.
        limit: Seconds that a command may take.
        is_attention: Asked of commands that did not end well: whether the unit only told something (UNIT ATTENTION), so
            that another one is done in its place.

    Raises:
        CommandTimeout: If a command takes longer.
        TargetGone: If the connection breaks.
        ValueError: If the area is smaller than a command.
    """
    if load.blocks < load.each:
        raise ValueError(f"an area of {load.blocks} blocks is smaller than a command of {load.each}")
    chance = random.Random(load.seed)
    size = load.each * load.block_size
    places = load.blocks // load.each
    buffers = [memoryview(bytearray(size)) for _ in range(load.depth)]
    source = memoryview(chance.getrandbits(8 * size).to_bytes(size, "big") if load.writes else b"")
    together = max(1, load.depth // 4)
    took: List[float] = []
    errors = place = 0
    finished: List[Task] = []
    connection.finished = finished
    begin = time.monotonic()
    end = begin + load.seconds

    def start(buffer: memoryview) -> None:
        nonlocal place
        place = chance.randrange(places) if load.shuffled else (place + 1) % places
        lba = load.lba + place * load.each
        if load.writes and chance.random() < load.writes:
            task = connection.submit(lun, write16(lba, load.each), None, source, limit, True)
        else:
            task = connection.submit(lun, read16(lba, load.each), buffer, None, limit, True)
        owners[task.itt] = buffer

    owners: Dict[int, memoryview] = {}
    try:
        for buffer in buffers:
            start(buffer)
        while owners:
            if not connection.pump(time.monotonic() + limit):
                raise CommandTimeout(
                    f"{connection.name}: no answer to any of {len(owners)} commands within {limit:g} s"
                )
            # Some of what has come with it, so that what follows goes together as well; all of it would leave the
            # target with nothing to do.
            while len(finished) < together and connection.stream.waiting and connection.pump(0.0):
                pass
            while finished:
                task = finished.pop()
                buffer = owners.pop(task.itt)
                assert task.ended is not None
                if not task.status:
                    took.append(task.ended - task.begun)
                elif not is_attention(task):
                    errors += 1
                if task.ended < end:
                    start(buffer)
    finally:
        connection.finished = None
    seconds = time.monotonic() - begin
    count = len(took)
    # Nothing took any time where nothing was done.
    took = sorted(took) or [0.0]
    last = len(took) - 1
    return Perf(
        count / seconds,
        count * size / seconds / 1e6,
        took[min(last, count // 2)],
        took[min(last, count * 99 // 100)],
        took[-1],
        count,
        errors,
        seconds,
    )
