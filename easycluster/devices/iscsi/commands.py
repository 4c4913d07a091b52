"""Commands of a session: some at the same time, done again after a unit attention, split into pieces."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Dict, Iterable, Iterator, List, Optional, Tuple

from easycluster.devices.iscsi import scsi
from easycluster.devices.iscsi.errors import CommandTimeout, IscsiError, ScsiError, UnitAttention
from easycluster.devices.iscsi.pdu import Buffer, decode_lun, encode_lun

if TYPE_CHECKING:
    from easycluster.devices.iscsi.connection import Connection
    from easycluster.devices.iscsi.scsi import Capacity, Inquiry
    from easycluster.devices.iscsi.task import Task

__all__ = ["CHUNK", "Commands", "Step"]

# 1 MiB in a command and four of them in flight keep a link full; targets say how much they take at once, and
# practically all take that.
CHUNK = 1 << 20
AHEAD = 4

# Power on, inquiry data changed, LUNs changed: a new session may get several before its first answer.
ATTENTIONS = 8

# One command: command block, where to read to, what to write.
Step = Tuple[bytes, Optional[memoryview], Optional[memoryview]]


class Commands:
    """The part of a session that does commands.

    Args:
        connection: Logged in.
        portal: Where to, for messages.
        iqn: Name of the target, for messages.
        lun: The logical unit that is meant where none is named.
        timeout: Seconds that any command may take.

    Attributes:
        attentions: What units have told with UNIT ATTENTION, oldest first; the command was done again.
    """

    def __init__(self, connection: Connection, portal: str, iqn: str, lun: Optional[int], timeout: float) -> None:
        self.portal, self.iqn, self.timeout = portal, iqn, timeout
        self.attentions: List[UnitAttention] = []
        self._connection = connection
        self._lun = lun
        self._capacities: Dict[int, Capacity] = {}
        self._lock = threading.RLock()

    @property
    def closed(self) -> bool:
        """Whether it is not usable any more: closed here, or lost."""
        return self._connection.broken is not None

    def luns(self) -> List[int]:
        """Numbers of the logical units."""
        length = 4096
        while True:
            data = self.command(scsi.report_luns(length), length, lun=0)
            if int.from_bytes(data[:4], "big") + 8 <= length:
                return [decode_lun(entry) for entry in scsi.parse_luns(data)]
            length = int.from_bytes(data[:4], "big") + 8

    def inquiry(self, lun: Optional[int] = None) -> Inquiry:
        """Who the unit says it is."""
        return scsi.parse_inquiry(self.command(scsi.inquiry(), 255, lun=lun))

    def capacity(self, lun: Optional[int] = None) -> Capacity:
        """How large the unit is; asks every time."""
        unit = self._unit(lun)
        found = scsi.parse_capacity(self.command(scsi.read_capacity16(), 32, lun=unit))
        self._capacities[unit] = found
        return found

    def command(self, cdb: bytes, read: int = 0, write: Buffer = b"", lun: Optional[int] = None) -> bytes:
        """Do any SCSI command and return what it brings.

        Args:
            cdb: Command block.
            read: Bytes to read at most.
            write: Data that goes with it.
            lun: The unit.

        Raises:
            ScsiError: If its status is not GOOD; CheckCondition, with sense data, ReservationConflict, TargetBusy.
            CommandTimeout: If no answer came within ``timeout`` seconds.
            TargetGone: If the connection is lost.
        """
        buffer = memoryview(bytearray(read)) if read else None
        source = memoryview(write).cast("B") if len(write) else None
        task = self._pipeline([(cdb, buffer, source)], lun)
        return bytes(buffer[: read - max(task.residual, 0)]) if buffer is not None and task is not None else b""

    def _pipeline(self, steps: Iterable[Step], lun: Optional[int]) -> Optional[Task]:
        """Do commands, some at the same time; return the last, or raise what went wrong first."""
        unit = encode_lun(self._unit(lun))
        with self._lock:
            waiting: List[Tuple[Task, Step]] = []
            task = None
            try:
                for step in steps:
                    waiting.append((self._connection.submit(unit, step[0], step[1], step[2], self.timeout), step))
                    if len(waiting) >= AHEAD:
                        task = self._finish(unit, *waiting.pop(0))
                while waiting:
                    task = self._finish(unit, *waiting.pop(0))
            except CommandTimeout:
                raise
            except IscsiError:
                # The others run to their end: what is known of them must not be left to chance.
                for other, _ in waiting:
                    if not self.closed and other.failure is None:
                        self._settle(other)
                raise
            return task

    def _settle(self, task: Task) -> None:
        try:
            self._connection.wait(task, self.timeout)
        except IscsiError:
            pass

    def _finish(self, unit: bytes, task: Task, step: Step) -> Task:
        connection = self._connection
        for _ in range(ATTENTIONS):
            connection.wait(task, self.timeout)
            if not task.status:
                return task
            error = self._failed(unit, task)
            if error is not None:
                raise error
            task = connection.submit(unit, step[0], step[1], step[2], self.timeout)
        raise self.attentions[-1]

    def _failed(self, unit: bytes, task: Task) -> Optional[ScsiError]:
        """Why a command failed; None if the unit only had something to tell, which is kept."""
        error = scsi.status_error(f"{self.portal} lun {decode_lun(unit)}", task.name, task.status, task.sense)
        if not isinstance(error, UnitAttention):
            return error
        self.attentions.append(error)
        return None

    # ------------------------------------------------------------ units

    @property
    def lun(self) -> int:
        """The unit that is meant where none is named: as given to :func:`login`, or the first disk."""
        return self._unit(None)

    def _unit(self, lun: Optional[int]) -> int:
        if lun is not None:
            return lun
        if self._lun is None:
            for unit in self.luns():
                if unit >= 0:
                    found = self.inquiry(unit)
                    if found.present and found.type == 0:
                        self._lun = unit
                        return unit
            raise IscsiError(f"{self.portal}: {self.iqn} has no disk; give lun= to mean something else")
        return self._lun

    def _known(self, lun: Optional[int]) -> Capacity:
        unit = self._unit(lun)
        return self._capacities.get(unit) or self.capacity(unit)

    def _block_size(self, lun: Optional[int]) -> int:
        return self._known(lun).block_size

    def _parts(self, lba: int, blocks: Optional[int], lun: Optional[int]) -> Iterator[Tuple[int, int]]:
        if blocks is None:
            blocks = self.capacity(lun).blocks - lba
        step, end = CHUNK // self._block_size(lun), lba + blocks
        for first in range(lba, end, step):
            yield first, min(step, end - first)

    def _pieces(self, lba: int, view: memoryview, lun: Optional[int]) -> Iterator[Tuple[int, int, memoryview]]:
        size = self._block_size(lun)
        if len(view) % size:
            raise ValueError(f"{len(view)} bytes are not whole blocks of {size}")
        for first, count in self._parts(lba, len(view) // size, lun):
            start = (first - lba) * size
            yield first, count, view[start : start + count * size]
