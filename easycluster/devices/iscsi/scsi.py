"""Command blocks of a disk (SPC-4, SBC-3), built by the initiator; names of what the target takes."""

from __future__ import annotations

from struct import Struct
from typing import Dict, List, NamedTuple, Tuple, Union

from easycluster.devices.iscsi.errors import (
    CheckCondition,
    ReservationConflict,
    ScsiError,
    TargetBusy,
    UnitAttention,
)
from easycluster.devices.iscsi.sense import parse_sense, sense_text

__all__ = [
    "COMMANDS",
    "Capacity",
    "Inquiry",
    "Status",
    "command_name",
    "inquiry",
    "parse_capacity",
    "parse_inquiry",
    "parse_luns",
    "persistent_in",
    "persistent_out",
    "read16",
    "read_capacity16",
    "report_luns",
    "status_error",
    "synchronize16",
    "test_unit_ready",
    "unmap",
    "write16",
    "write_same16",
]


class Status:
    """SCSI status bytes (SAM-5, 5.3.1)."""

    GOOD = 0x00
    CHECK_CONDITION = 0x02
    BUSY = 0x08
    RESERVATION_CONFLICT = 0x18
    TASK_SET_FULL = 0x28
    ACA_ACTIVE = 0x30
    TASK_ABORTED = 0x40


# Operation codes, and service actions of those that have them.
COMMANDS: Dict[int, str] = {
    0x00: "TEST UNIT READY",
    0x03: "REQUEST SENSE",
    0x08: "READ(6)",
    0x0A: "WRITE(6)",
    0x12: "INQUIRY",
    0x15: "MODE SELECT(6)",
    0x16: "RESERVE(6)",
    0x17: "RELEASE(6)",
    0x1A: "MODE SENSE(6)",
    0x1B: "START STOP UNIT",
    0x1E: "PREVENT ALLOW MEDIUM REMOVAL",
    0x25: "READ CAPACITY(10)",
    0x28: "READ(10)",
    0x2A: "WRITE(10)",
    0x2E: "WRITE AND VERIFY(10)",
    0x2F: "VERIFY(10)",
    0x34: "PRE-FETCH(10)",
    0x35: "SYNCHRONIZE CACHE(10)",
    0x37: "READ DEFECT DATA(10)",
    0x41: "WRITE SAME(10)",
    0x42: "UNMAP",
    0x5A: "MODE SENSE(10)",
    0x5E: "PERSISTENT RESERVE IN",
    0x5F: "PERSISTENT RESERVE OUT",
    0x88: "READ(16)",
    0x89: "COMPARE AND WRITE",
    0x8A: "WRITE(16)",
    0x8B: "ORWRITE(16)",
    0x8E: "WRITE AND VERIFY(16)",
    0x8F: "VERIFY(16)",
    0x90: "PRE-FETCH(16)",
    0x91: "SYNCHRONIZE CACHE(16)",
    0x93: "WRITE SAME(16)",
    0x9C: "WRITE ATOMIC(16)",
    0x9E: "SERVICE ACTION IN(16)",
    0xA0: "REPORT LUNS",
    0xA3: "MAINTENANCE IN",
    0xA8: "READ(12)",
    0xAA: "WRITE(12)",
    0xAE: "WRITE AND VERIFY(12)",
    0xAF: "VERIFY(12)",
    0xB7: "READ DEFECT DATA(12)",
}

_ACTIONS = {
    (0x9E, 0x10): "READ CAPACITY(16)",
    (0x9E, 0x12): "GET LBA STATUS",
    (0xA3, 0x0C): "REPORT SUPPORTED OPERATION CODES",
    (0xA3, 0x0D): "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
}

_STATUS_WORDS = {
    Status.BUSY: "busy",
    Status.RESERVATION_CONFLICT: "reservation conflict: another initiator holds the unit",
    Status.TASK_SET_FULL: "too many commands at the same time",
    Status.ACA_ACTIVE: "an auto contingent allegiance is active",
    Status.TASK_ABORTED: "aborted by another initiator",
}

_RW16 = Struct(">BBQIBB")


class Inquiry(NamedTuple):
    """Who a unit says it is.

    Attributes:
        type: Peripheral device type; 0 is a disk, 12 an array controller.
        vendor: T10 vendor.
        product: Product.
        revision: Revision.
        present: Whether there is a unit of this number at all.
    """

    type: int
    vendor: str
    product: str
    revision: str
    present: bool


class Capacity(NamedTuple):
    """How large a unit is.

    Attributes:
        blocks: Number of blocks.
        block_size: Bytes in a block.
        thin: Whether blocks can be given back (LBPME).
        zeroes: Whether blocks that were given back read as zeroes (LBPRZ).
        physical: Bytes in a physical block.
    """

    blocks: int
    block_size: int
    thin: bool
    zeroes: bool
    physical: int

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.blocks * self.block_size


def command_name(cdb: Union[bytes, bytearray, memoryview]) -> str:
    """Return what the standard calls a command."""
    action = _ACTIONS.get((cdb[0], cdb[1] & 0x1F)) if len(cdb) > 1 else None
    return action or COMMANDS.get(cdb[0], f"command 0x{cdb[0]:02x}")


def status_error(where: str, command: str, status: int, sense: bytes) -> ScsiError:
    """Return the exception for a status that is not GOOD.

    Args:
        where: Portal and unit, for the message.
        command: Name of the command.
        status: SCSI status byte.
        sense: Sense data, without the two bytes of its length.
    """
    if status == Status.CHECK_CONDITION:
        said = parse_sense(sense)
        kind = UnitAttention if said.key == 6 else CheckCondition
        message = f"{where}: {command}: {sense_text(said)}"
        return kind(message, command, said.key, said.asc, said.ascq, said.information)
    words = _STATUS_WORDS.get(status, "failed")
    if status == Status.RESERVATION_CONFLICT and command == "PERSISTENT RESERVE OUT":
        # SPC-5 has this status for those who are not registered, too.
        words += ", or we are not registered there with this key"
    message = f"{where}: {command}: {words} (status 0x{status:02x})"
    if status == Status.RESERVATION_CONFLICT:
        return ReservationConflict(message, command, status)
    if status in (Status.BUSY, Status.TASK_SET_FULL):
        return TargetBusy(message, command, status)
    return ScsiError(message, command, status)


def read16(lba: int, blocks: int, fua: bool = False) -> bytes:
    """READ(16)."""
    return _RW16.pack(0x88, 8 if fua else 0, lba, blocks, 0, 0)


def write16(lba: int, blocks: int, fua: bool = False) -> bytes:
    """WRITE(16)."""
    return _RW16.pack(0x8A, 8 if fua else 0, lba, blocks, 0, 0)


def write_same16(lba: int, blocks: int, unmap: bool = False) -> bytes:
    """WRITE SAME(16)."""
    return _RW16.pack(0x93, 8 if unmap else 0, lba, blocks, 0, 0)


def synchronize16(lba: int = 0, blocks: int = 0) -> bytes:
    """SYNCHRONIZE CACHE(16); no blocks means all from ``lba`` on."""
    return _RW16.pack(0x91, 0, lba, blocks, 0, 0)


def compare_and_write(lba: int, blocks: int) -> bytes:
    """COMPARE AND WRITE; its data is what must be there, then what is to be there."""
    return _RW16.pack(0x89, 0, lba, blocks, 0, 0)


def read_capacity16() -> bytes:
    """READ CAPACITY(16), for 32 bytes."""
    return bytes([0x9E, 0x10]) + bytes(8) + b"\0\0\0\x20\0\0"


def get_lba_status(lba: int, length: int) -> bytes:
    """GET LBA STATUS."""
    return bytes([0x9E, 0x12]) + lba.to_bytes(8, "big") + length.to_bytes(4, "big") + bytes(2)


def test_unit_ready() -> bytes:
    """TEST UNIT READY."""
    return bytes(6)


def inquiry(length: int = 255, page: int = -1) -> bytes:
    """INQUIRY, for standard data or a page of vital product data."""
    return bytes([0x12, page >= 0, max(page, 0)]) + length.to_bytes(2, "big") + b"\0"


def report_luns(length: int) -> bytes:
    """REPORT LUNS."""
    return bytes([0xA0]) + bytes(5) + length.to_bytes(4, "big") + bytes(2)


def persistent_in(action: int, length: int) -> bytes:
    """PERSISTENT RESERVE IN: 0 keys, 1 reservation, 2 capabilities, 3 full status."""
    return bytes([0x5E, action]) + bytes(5) + length.to_bytes(2, "big") + b"\0"


def persistent_out(
    action: int, key: int, new_key: int = 0, kind: int = 0, through_power_loss: bool = False
) -> Tuple[bytes, bytes]:
    """PERSISTENT RESERVE OUT: command block and parameter list.

    Args:
        action: 0 register, 1 reserve, 2 release, 3 clear, 4 preempt, 5 preempt and abort, 6 register and ignore.
        key: The key we are registered with.
        new_key: The key to register, or whose holder to preempt.
        kind: Type of the reservation.
        through_power_loss: Whether registrations outlive a power loss (APTPL).
    """
    cdb = bytes([0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0])
    return cdb, key.to_bytes(8, "big") + new_key.to_bytes(8, "big") + bytes(4) + bytes([through_power_loss, 0, 0, 0])


def unmap(ranges: List[Tuple[int, int]]) -> Tuple[bytes, bytes]:
    """UNMAP of ranges (first block, number of blocks): command block and parameter list."""
    body = b"".join(lba.to_bytes(8, "big") + count.to_bytes(4, "big") + bytes(4) for lba, count in ranges)
    data = (len(body) + 6).to_bytes(2, "big") + len(body).to_bytes(2, "big") + bytes(4) + body
    return bytes([0x42]) + bytes(6) + len(data).to_bytes(2, "big") + b"\0", data


def parse_inquiry(data: Union[bytes, bytearray, memoryview]) -> Inquiry:
    """Return what standard inquiry data says."""
    data = bytes(data).ljust(36, b" ")
    vendor, product, revision = (
        data[start:end].decode("latin-1").strip(" \0") for start, end in ((8, 16), (16, 32), (32, 36))
    )
    return Inquiry(data[0] & 0x1F, vendor, product, revision, data[0] >> 5 == 0)


def parse_capacity(data: Union[bytes, bytearray, memoryview]) -> Capacity:
    """Return what the data of READ CAPACITY(16) says."""
    data = bytes(data).ljust(32, b"\0")
    size = int.from_bytes(data[8:12], "big")
    last = int.from_bytes(data[:8], "big")
    return Capacity(last + 1, size, bool(data[14] & 0x80), bool(data[14] & 0x40), size << (data[13] & 15))


def parse_luns(data: Union[bytes, bytearray, memoryview]) -> List[bytes]:
    """Return the eight bytes of each unit that REPORT LUNS names."""
    data = bytes(data)
    end = min(len(data), 8 + int.from_bytes(data[:4], "big"))
    return [data[position : position + 8] for position in range(8, end - 7, 8)]
