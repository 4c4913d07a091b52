"""A session as a test uses it: one I_T nexus, and what can be done with the disks behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Deque, List, Optional, Sequence, Tuple, Union

from easycluster.devices.iscsi import idle, scsi
from easycluster.devices.iscsi.commands import Commands
from easycluster.devices.iscsi.errors import CheckCondition, IscsiError
from easycluster.devices.iscsi.logon import INITIATOR, connect
from easycluster.devices.iscsi.negotiation import Wishes
from easycluster.devices.iscsi.pattern import BadBlock, check_blocks, make_blocks
from easycluster.devices.iscsi.pdu import Buffer, encode_lun
from easycluster.devices.iscsi.perf import Load, Perf, measure
from easycluster.devices.iscsi.reservations import Reservations, ReservationsMixin
from easycluster.objects.exports import ServerObject

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Type

    from easycluster.devices.iscsi.chap import Chap
    from easycluster.devices.iscsi.connection import Connection

__all__ = ["Reservations", "Session", "login"]


def login(
    portal: str,
    iqn: str,
    chap: Union[Chap, Sequence[str], None] = None,
    *,
    lun: Optional[int] = None,
    initiator: str = INITIATOR,
    timeout: float = 30.0,
    header_digest: bool = False,
    data_digest: bool = False,
    wishes: Optional[Wishes] = None,
) -> Session:
    """Log in to a target.

    Args:
        portal: ``host:port``.
        iqn: Name of the target.
        chap: ``(user, password)``, or with ``(user, password, target's user, target's password)`` mutual CHAP.
        lun: The logical unit that is meant where none is named; by default the first disk.
        initiator: Our name.
        timeout: Seconds that any command may take.
        header_digest: Whether headers get a CRC32C.
        data_digest: Whether data gets one: some 15 MB/s.
        wishes: What to agree on, in detail.

    Raises:
        LoginRefused: If the target does not want us; ChapRefused if it does not believe us.
        TargetGone: If nothing answers there.
        CommandTimeout: If it did not answer in time.
    """
    if wishes is None:
        wishes = Wishes("CRC32C" if header_digest else "None", "CRC32C" if data_digest else "None")
    return Session(
        connect(portal, iqn, chap, initiator, wishes, min(timeout, 10.0)), portal, iqn, initiator, lun, timeout
    )


class Session(Commands, ReservationsMixin, ServerObject):
    """One I_T nexus; made by :func:`login`.

    Threads may share it; their commands run one after the other.

    Args:
        connection: Logged in.
        portal: Where to.
        iqn: Name of the target.
        initiator: Our name.
        lun: The logical unit that is meant where none is named.
        timeout: Seconds that any command may take.
    """

    def __init__(
        self, connection: Connection, portal: str, iqn: str, initiator: str, lun: Optional[int], timeout: float
    ) -> None:
        super().__init__(connection, portal, iqn, lun, timeout)
        self.initiator = initiator
        idle.watch(self)

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"<Session {self.iqn} at {self.portal}{state}>"

    def __enter__(self) -> Session:  # noqa: PYI034  # Self is too new for the far side
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], exc: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    # ------------------------------------------------------------ the nexus

    @property
    def events(self) -> Deque[Tuple[float, str]]:
        """What the target said on its own: times (Unix) and sentences."""
        return self._connection.events

    def close(self) -> None:
        """Log out; closing a session that is gone does nothing."""
        idle.unwatch(self)
        with self._lock:
            self._connection.logout(min(self.timeout, 2.0))

    def abandon(self) -> None:
        """Close the connection without a word, as when a cable is pulled."""
        idle.unwatch(self)
        with self._lock:
            self._connection.end(IscsiError(f"{self.portal}: the session was abandoned here"))

    def ping(self) -> float:
        """Ask the target for a sign of life; return how long it took, in seconds."""
        with self._lock:
            return self._connection.ping(self.timeout)

    def manage(self, function: str, lun: Optional[int] = None) -> None:
        """Do a task management function, such as ``"lun reset"`` or ``"target warm reset"``.

        Raises:
            TaskRefused: If the target did not do it.
        """
        with self._lock:
            self._connection.manage(function, encode_lun(self._unit(lun)), self.timeout)

    def answer_idle(self) -> bool:
        """Answer what the target has asked; False if the session is gone."""
        if self._lock.acquire(blocking=False):
            try:
                self._connection.idle()
            except IscsiError:
                pass
            finally:
                self._lock.release()
        return not self.closed

    # ------------------------------------------------------------ what there is

    def page(self, number: int, lun: Optional[int] = None) -> bytes:
        """A page of vital product data, with its head."""
        data = self.command(scsi.inquiry(1024, number), 1024, lun=lun)
        return data[: 4 + int.from_bytes(data[2:4], "big")]

    def serial(self, lun: Optional[int] = None) -> str:
        """The unit's serial number."""
        return self.page(0x80, lun)[4:].decode("latin-1").strip()

    def ready(self, lun: Optional[int] = None) -> None:
        """TEST UNIT READY.

        Raises:
            CheckCondition: If the unit is not.
        """
        self.command(scsi.test_unit_ready(), lun=lun)

    # ------------------------------------------------------------ data

    def read(self, lba: int, blocks: int, lun: Optional[int] = None) -> bytes:
        """Return ``blocks`` blocks from ``lba`` on."""
        data = bytearray(blocks * self._block_size(lun))
        self.read_into(lba, data, lun)
        return bytes(data)

    def read_into(self, lba: int, buffer: Union[bytearray, memoryview], lun: Optional[int] = None) -> None:
        """Fill a buffer of whole blocks from ``lba`` on, without a copy."""
        view = memoryview(buffer).cast("B")
        pieces = self._pieces(lba, view, lun)
        self._pipeline(((scsi.read16(first, count), piece, None) for first, count, piece in pieces), lun)

    def write(self, lba: int, data: Buffer, lun: Optional[int] = None, *, fua: bool = False) -> None:
        """Write whole blocks from ``lba`` on.

        Args:
            lba: The first block.
            data: A multiple of the block size.
            lun: The unit.
            fua: Whether to answer only when it is on the medium.
        """
        pieces = self._pieces(lba, memoryview(data).cast("B"), lun)
        self._pipeline(((scsi.write16(first, count, fua), None, piece) for first, count, piece in pieces), lun)

    def flush(self, lun: Optional[int] = None) -> None:
        """Have all that was written on the medium."""
        self.command(scsi.synchronize16(), lun=lun)

    def unmap(self, lba: int, blocks: int, lun: Optional[int] = None) -> None:
        """Give blocks back."""
        cdb, data = scsi.unmap([(lba, blocks)])
        self.command(cdb, write=data, lun=lun)

    def write_same(self, lba: int, blocks: int, data: Buffer, lun: Optional[int] = None) -> None:
        """Write one block many times."""
        self.command(scsi.write_same16(lba, blocks), write=data, lun=lun)

    def compare_and_write(self, lba: int, old: bytes, new: bytes, lun: Optional[int] = None) -> bool:
        """Write ``new`` if the blocks are ``old``, in one step; whether they were."""
        count = len(old) // self._block_size(lun)
        try:
            self.command(scsi.compare_and_write(lba, count), write=old + new, lun=lun)
        except CheckCondition as exc:
            if exc.key == 0x0E:
                return False
            raise
        return True

    def allocated(self, lba: int, blocks: int, lun: Optional[int] = None) -> int:
        """How many of these blocks have space of their own (GET LBA STATUS)."""
        end, count = lba + blocks, 0
        while lba < end:
            data = self.command(scsi.get_lba_status(lba, 1024), 1024, lun=lun)
            before = lba
            for start in range(8, min(len(data), int.from_bytes(data[:4], "big") + 4) - 15, 16):
                first, length = (
                    int.from_bytes(data[start : start + 8], "big"),
                    int.from_bytes(data[start + 8 : start + 12], "big"),
                )
                if not data[start + 12] & 15:
                    count += max(0, min(first + length, end) - max(first, lba))
                lba = max(lba, first + length)
            if lba == before:
                break
        return count

    # ------------------------------------------------------------ integrity

    def fill(
        self, seed: int, lba: int = 0, blocks: Optional[int] = None, generation: int = 1, lun: Optional[int] = None
    ) -> None:
        """Write blocks that know their number and generation.

        Args:
            seed: Tells this run from others.
            lba: The first block.
            blocks: How many; by default to the end.
            generation: How many times these blocks have been written with this seed, this time included.
            lun: The unit.
        """
        size = self._block_size(lun)
        self._pipeline(
            (
                (scsi.write16(first, count), None, memoryview(make_blocks(seed, first, count, generation, size)))
                for first, count in self._parts(lba, blocks, lun)
            ),
            lun,
        )

    def verify(
        self, seed: int, lba: int = 0, blocks: Optional[int] = None, generation: int = 1, lun: Optional[int] = None
    ) -> List[BadBlock]:
        """Read what :meth:`fill` wrote and return the blocks that are not so, each with what is wrong."""
        size = self._block_size(lun)
        bad: List[BadBlock] = []
        for first, count in self._parts(lba, blocks, lun):
            bad += check_blocks(self.read(first, count, lun), seed, first, generation, size)
        return bad

    def perf(
        self,
        seconds: float = 1.0,
        size: int = 4096,
        depth: int = 16,
        *,
        writes: float = 0.0,
        shuffled: bool = True,
        lba: int = 0,
        blocks: Optional[int] = None,
        seed: int = 1,
        lun: Optional[int] = None,
    ) -> Perf:
        """Measure: keep ``depth`` commands in flight.

        Args:
            seconds: How long.
            size: Bytes in a command.
            depth: Commands in flight.
            writes: Share of writes; they overwrite what is there.
            shuffled: Whether at random places, else one after the other.
            lba: First block of the area.
            blocks: Blocks in the area; by default to the end.
            seed: For what is random.
            lun: The unit.
        """
        block_size = self._block_size(lun)
        if blocks is None:
            blocks = self._known(lun).blocks - lba
        load = Load(lba, blocks, block_size, max(1, size // block_size), depth, seconds, writes, shuffled, seed)
        with self._lock:
            self.ready(lun)
            unit = encode_lun(self._unit(lun))
            return measure(self._connection, unit, load, self.timeout, lambda task: self._failed(unit, task) is None)
