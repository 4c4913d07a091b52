"""Commands that ask a unit who and how it is: INQUIRY with its pages, capacity, readiness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Dict

from easycluster.devices.iscsi.sense import Sense, encode_sense
from easycluster.devices.iscsi.target import blocks
from easycluster.devices.iscsi.target.nexus import Nexus, Reply, bad_cdb
from easycluster.devices.iscsi.target.opcodes import command

if TYPE_CHECKING:
    from easycluster.devices.iscsi.target.unit import Unit

__all__ = ["absent_inquiry", "refuse"]

# SAM-5, SPC-4, SBC-3, iSCSI: the version descriptors of SPC-4, 6.6.2.
_VERSIONS = (0x00A0, 0x0460, 0x04C0, 0x0960)


@command(0x12, "01ffffff00", past_reserve=True)
def inquiry(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """INQUIRY."""
    length = int.from_bytes(cdb[3:5], "big")
    if cdb[1] & 1:
        make = _PAGES.get(cdb[2])
        if make is None or (cdb[2] == 0xB2 and not unit.thin):
            raise bad_cdb(2)
        body = make(unit, nexus)
        return (bytes([0, cdb[2]]) + len(body).to_bytes(2, "big") + body)[:length]
    if cdb[2]:
        raise bad_cdb(2)
    vendor, product = unit.vendor.encode()[:8].ljust(8), unit.product.encode()[:16].ljust(16)
    # Not removable; SPC-4; answers of format 2 with HISUP; CMDQUE.
    answer = bytearray(b"\x00\x00\x06\x12\x00\x00\x00\x02" + vendor + product + b"0001")
    answer += bytes(22)
    for version in _VERSIONS:
        answer += version.to_bytes(2, "big")
    answer = answer.ljust(96, b"\0")
    answer[4] = len(answer) - 5
    return bytes(answer[:length])


def absent_inquiry(length: int) -> bytes:
    """INQUIRY data of a number that no unit has: qualifier 3, type 0x1F."""
    return (b"\x7f\x00\x06\x12\x1f" + bytes(31))[:length]


def _supported(unit: Unit, nexus: Nexus) -> bytes:
    return bytes(sorted(page for page in _PAGES if page != 0xB2 or unit.thin))


def _serial(unit: Unit, nexus: Nexus) -> bytes:
    return unit.serial.encode()


def _identification(unit: Unit, nexus: Nexus) -> bytes:
    vendor = unit.vendor.encode()[:8].ljust(8) + unit.serial.encode()
    name = b"naa." + unit.naa.encode() + b"\0"
    name += bytes(-len(name) % 4)
    return b"".join(
        (
            bytes([1, 3, 0, 8]) + bytes.fromhex(unit.naa),
            bytes([2, 1, 0, len(vendor)]) + vendor,
            # Names of iSCSI: the unit by its NAA, and the port that was asked.
            bytes([0x53, 8, 0, len(name)]) + name,
            bytes([0x51, 0x94, 0, 4]) + bytes(2) + nexus.group.to_bytes(2, "big"),
            bytes([0x51, 0x95, 0, 4]) + bytes(2) + nexus.group.to_bytes(2, "big"),
        )
    )


def _limits(unit: Unit, nexus: Nexus) -> bytes:
    page = bytearray(60)
    page[1] = blocks.MAX_COMPARE
    for start, value in (
        (2, 8),
        (4, blocks.max_transfer(unit)),
        (8, 1024),
        (12, blocks.max_transfer(unit)),
        (16, blocks.MAX_UNMAP if unit.thin else 0),
        (20, blocks.MAX_UNMAP_RANGES if unit.thin else 0),
        (24, 4096 // unit.block_size or 1),
    ):
        size = 2 if start == 2 else 4
        page[start : start + size] = value.to_bytes(size, "big")
    page[32:40] = blocks.MAX_WRITE_SAME.to_bytes(8, "big")
    page[40:44] = blocks.MAX_ATOMIC.to_bytes(4, "big")
    return bytes(page)


def _characteristics(unit: Unit, nexus: Nexus) -> bytes:
    # Does not rotate; VBULS.
    return b"\x00\x01\x00\x00\x02" + bytes(55)


def _provisioning(unit: Unit, nexus: Nexus) -> bytes:
    # UNMAP and WRITE SAME give back, what was given back reads as zero; thin.
    return b"\x00\xe4\x02\x00"


_PAGES: Dict[int, Callable[[Unit, Nexus], bytes]] = {
    0x00: _supported,
    0x80: _serial,
    0x83: _identification,
    0xB0: _limits,
    0xB1: _characteristics,
    0xB2: _provisioning,
}


@command(0x00, "0000000000", medium=True)
def test_unit_ready(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """TEST UNIT READY."""
    return b""


@command(0x03, "010000ff00", past_reserve=True)
def request_sense(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """REQUEST SENSE: the attention that waits."""
    code = unit.pending(nexus)
    sense = Sense(6 if code else 0, code >> 8, code & 0xFF)
    return encode_sense(sense, bool(cdb[1] & 1))[: cdb[4]]


@command(0x25, "00ffffffff00000100", medium=True, past_reserve=True)
def read_capacity10(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """READ CAPACITY(10)."""
    if not cdb[8] & 1 and any(cdb[2:6]):
        raise bad_cdb(2)
    return min(unit.blocks - 1, 0xFFFFFFFF).to_bytes(4, "big") + unit.block_size.to_bytes(4, "big")


@command(0x9E, "1fffffffffffffffffffffffff0100", action=0x10, medium=True, past_reserve=True)
def read_capacity16(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """READ CAPACITY(16)."""
    if not cdb[14] & 1 and any(cdb[2:10]):
        raise bad_cdb(2)
    # Memory and files are given back by pages of 4 KiB.
    exponent = max((4096 // unit.block_size).bit_length() - 1, 0)
    answer = (unit.blocks - 1).to_bytes(8, "big") + unit.block_size.to_bytes(4, "big")
    answer += bytes([0, exponent, 0xC0 if unit.thin else 0, 0]) + bytes(16)
    return answer[: int.from_bytes(cdb[10:14], "big")]


@command(0x1B, "01000ff700", medium=False)
def start_stop(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """START STOP UNIT; the medium cannot be taken out, so LOEJ is an error."""
    if cdb[4] & 0x02:
        raise bad_cdb(4, 1)
    if not cdb[4] >> 4:
        unit.stopped = not cdb[4] & 1
    return b""


@command(0x37, "001f00000000ffff00", medium=False)
def read_defects10(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """READ DEFECT DATA(10): there are none."""
    return bytes([0, cdb[2] & 0x1F, 0, 0])[: int.from_bytes(cdb[7:9], "big")]


@command(0xB7, "1fffffffffffffffff0000", medium=False)
def read_defects12(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """READ DEFECT DATA(12)."""
    return bytes([0, cdb[1] & 0x1F, 0, 0, 0, 0, 0, 0])[: int.from_bytes(cdb[6:10], "big")]


def refuse(code: int) -> Reply:
    """Return the answer to a command for a unit that is not there."""
    return Reply(2, sense=encode_sense(Sense(5, code >> 8, code & 0xFF)))
