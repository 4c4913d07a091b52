"""Commands of a disk that touch its blocks (SBC-3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Tuple

from easycluster.devices.iscsi.target.nexus import Check, Nexus, Reply, bad_cdb, bad_parameter
from easycluster.devices.iscsi.target.opcodes import command

if TYPE_CHECKING:
    from easycluster.devices.iscsi.target.unit import Unit

__all__ = ["MAX_ATOMIC", "MAX_COMPARE", "MAX_UNMAP", "MAX_UNMAP_RANGES", "MAX_WRITE_SAME", "max_transfer"]

# Said in the block limits page.  What a command may carry is bounded, because its data is held in memory.
MAX_TRANSFER_BYTES = 32 << 20
MAX_COMPARE = 128
MAX_WRITE_SAME = 1 << 20
MAX_UNMAP = 1 << 20
MAX_UNMAP_RANGES = 256
MAX_ATOMIC = 1024

Range = Tuple[int, int]


def max_transfer(unit: Unit) -> int:
    """Return how many blocks a command may carry."""
    return MAX_TRANSFER_BYTES // unit.block_size


def _range(unit: Unit, cdb: bytes) -> Range:
    """Return first block and number of blocks, inside of the unit."""
    group = cdb[0] >> 5
    if group == 0:
        lba, count = int.from_bytes(cdb[1:4], "big") & 0x1FFFFF, cdb[4] or 256
    elif group in (1, 2):
        lba, count = int.from_bytes(cdb[2:6], "big"), int.from_bytes(cdb[7:9], "big")
    elif group == 5:
        lba, count = int.from_bytes(cdb[2:6], "big"), int.from_bytes(cdb[6:10], "big")
    else:
        lba, count = int.from_bytes(cdb[2:10], "big"), int.from_bytes(cdb[10:14], "big")
    _inside(unit, lba, count)
    return lba, count


def _inside(unit: Unit, lba: int, count: int) -> None:
    # Also of nothing: a command for no block beyond the end is as wrong.
    if lba + count > unit.blocks or (not count and lba >= unit.blocks and lba > 0 and lba != unit.blocks):
        raise Check(5, 0x2100, unit.blocks if lba < unit.blocks else lba)


def _no_protection(cdb: bytes) -> None:
    if cdb[1] >> 5:
        raise bad_cdb(1, 7)


def _transfer(unit: Unit, cdb: bytes) -> Range:
    if cdb[0] >> 5:
        _no_protection(cdb)
    lba, count = _range(unit, cdb)
    if count > max_transfer(unit):
        raise bad_cdb(10)
    return lba, count


@command(0x08, "1fffffff00", "read")
@command(0x28, "18ffffffff00ffff00", "read")
@command(0xA8, "18ffffffffffffffff0000", "read")
@command(0x88, "18ffffffffffffffffffffffff0000", "read")
def read(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> memoryview:
    """READ."""
    lba, count = _transfer(unit, cdb)
    if unit.bad_reads:
        unit.check_medium(lba, count, False)
    view = memoryview(bytearray(count * unit.block_size))
    unit.storage.read_into(lba * unit.block_size, view)
    return view


@command(0x0A, "1fffffff00", "write")
@command(0x2A, "18ffffffff00ffff00", "write")
@command(0xAA, "18ffffffffffffffff0000", "write")
@command(0x8A, "18ffffffffffffffffffffffff0000", "write")
def write(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> Reply:
    """WRITE."""
    return _write(unit, _transfer(unit, cdb), data, bool(cdb[0] >> 5 and cdb[1] & 8))


def _write(unit: Unit, where: Range, data: memoryview, through: bool) -> Reply:
    lba, count = where
    size = count * unit.block_size
    if unit.bad_writes:
        unit.check_medium(lba, count, True)
    # Less came than the command is about: whole blocks of it are written (SPC-4 leaves it open).
    usable = min(size, len(data) // unit.block_size * unit.block_size)
    unit.storage.write(lba * unit.block_size, data[:usable])
    if through:
        unit.storage.flush()
    return Reply(taken=size)


@command(0x9C, "18ffffffffffffffff0000ffff0000", "write")
def write_atomic(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> Reply:
    """WRITE ATOMIC(16): all or nothing, as every write of ours is that holds the lock."""
    _no_protection(cdb)
    lba, count = int.from_bytes(cdb[2:10], "big"), int.from_bytes(cdb[12:14], "big")
    if int.from_bytes(cdb[10:12], "big"):
        raise bad_cdb(10)
    _inside(unit, lba, count)
    if count > MAX_ATOMIC:
        raise bad_cdb(12)
    with unit.lock:
        return _write(unit, (lba, count), data, bool(cdb[1] & 8))


@command(0x2E, "1affffffff00ffff00", "write")
@command(0xAE, "1affffffffffffffff0000", "write")
@command(0x8E, "1affffffffffffffffffffffff0000", "write")
def write_and_verify(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> Reply:
    """WRITE AND VERIFY."""
    if cdb[1] & 0x04:
        raise bad_cdb(1, 2)
    where = _transfer(unit, cdb)
    reply = _write(unit, where, data, True)
    _compare(unit, where, data[: where[1] * unit.block_size])
    return reply


@command(0x2F, "16ffffffff00ffff00", "read")
@command(0xAF, "16ffffffffffffffff0000", "read")
@command(0x8F, "16ffffffffffffffffffffffff0000", "read")
def verify(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> Reply:
    """VERIFY: that the blocks can be read, or that they are what comes with it."""
    _no_protection(cdb)
    how = cdb[1] >> 1 & 3
    where = _range(unit, cdb)
    if how == 2:
        raise bad_cdb(1, 2)
    if how and where[1] > max_transfer(unit):
        raise bad_cdb(10)
    unit.check_medium(*where, False)
    if how == 0:
        return Reply(taken=0)
    if how == 3:
        data = memoryview(bytes(data[: unit.block_size]) * where[1])
    _compare(unit, where, data)
    return Reply(taken=unit.block_size if how == 3 else None)


def _compare(unit: Unit, where: Range, data: memoryview) -> None:
    have = unit.storage.read(where[0] * unit.block_size, min(where[1] * unit.block_size, len(data)))
    want = bytes(data[: len(have)])
    if have != want:
        raise Check(0x0E, 0x1D00, _first_difference(have, want))


def _first_difference(one: bytes, other: bytes) -> int:
    """Return where two texts of the same length first differ, by halves: bytes one by one would take long."""
    low, high = 0, len(one)
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


@command(0x89, "18ffffffffffffffff000000ff0000", "write")
def compare_and_write(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> Reply:
    """COMPARE AND WRITE."""
    _no_protection(cdb)
    lba, count = int.from_bytes(cdb[2:10], "big"), cdb[13]
    _inside(unit, lba, count)
    if count > MAX_COMPARE:
        raise bad_cdb(13)
    size = count * unit.block_size
    if len(data) != 2 * size:
        raise bad_cdb(13)
    with unit.lock:
        unit.check_medium(lba, count, True)
        _compare(unit, (lba, count), data[:size])
        unit.storage.write(lba * unit.block_size, data[size : 2 * size])
    if cdb[1] & 8:
        unit.storage.flush()
    return Reply(taken=2 * size)


@command(0x8B, "18ffffffffffffffffffffffff0000", "write")
def or_write(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> Reply:
    """ORWRITE(16): what is there, or what comes with it, bit by bit."""
    lba, count = _transfer(unit, cdb)
    size = min(count * unit.block_size, len(data))
    with unit.lock:
        unit.check_medium(lba, count, True)
        have = int.from_bytes(unit.storage.read(lba * unit.block_size, size), "big")
        mixed = (have | int.from_bytes(data[:size], "big")).to_bytes(size, "big")
        unit.storage.write(lba * unit.block_size, mixed)
    return Reply(taken=count * unit.block_size)


@command(0x34, "02ffffffff00ffff00", "read")
@command(0x90, "02ffffffffffffffffffffffff0000", "read")
def prefetch(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """PRE-FETCH: nothing to do, the system has a cache."""
    _range(unit, cdb)
    return b""


@command(0x35, "02ffffffff00ffff00", "write")
@command(0x91, "02ffffffffffffffffffffffff0000", "write")
def synchronize(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """SYNCHRONIZE CACHE."""
    _range(unit, cdb)
    unit.storage.flush()
    return b""


@command(0x41, "18ffffffff00ffff00", "write")
@command(0x93, "19ffffffffffffffffffffffff0000", "write")
def write_same(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> Reply:
    """WRITE SAME: one block to many places, or with UNMAP the blocks given back."""
    _no_protection(cdb)
    giving_back, without_data = bool(cdb[1] & 0x08), cdb[0] == 0x93 and bool(cdb[1] & 0x01)
    if cdb[1] & 0x10 or (giving_back and not unit.thin) or cdb[1] & 0x06:
        raise bad_cdb(1, 4)
    lba, count = _range(unit, cdb)
    count = count or unit.blocks - lba
    if count > MAX_WRITE_SAME:
        raise bad_cdb(7 if cdb[0] == 0x41 else 10)
    size = unit.block_size
    if not without_data and len(data) != size:
        raise bad_cdb(0)
    unit.check_medium(lba, count, True)
    block = bytes(size) if without_data else bytes(data[:size])
    if giving_back and not any(block):
        unit.storage.discard(lba * size, count * size)
    else:
        many = block * min(count, 1 << 20 >> 9)
        end = (lba + count) * size
        for start in range(lba * size, end, len(many)):
            unit.storage.write(start, memoryview(many)[: end - start])
    return Reply(taken=0 if without_data else size)


@command(0x42, "000000000000ffff00", "write")
def unmap(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """UNMAP."""
    if not unit.thin:
        raise Check(5, 0x2000)
    if cdb[1] & 1:
        raise bad_cdb(1, 0)
    length = int.from_bytes(cdb[7:9], "big")
    if not length:
        return b""
    data = data[:length]
    if len(data) < 8:
        raise Check(5, 0x1A00)
    size = min(int.from_bytes(data[2:4], "big"), len(data) - 8)
    if size // 16 > MAX_UNMAP_RANGES:
        raise bad_parameter(2)
    ranges = []
    for start in range(8, 8 + size - 15, 16):
        lba, count = int.from_bytes(data[start : start + 8], "big"), int.from_bytes(data[start + 8 : start + 12], "big")
        if lba + count > unit.blocks:
            raise Check(5, 0x2100, lba)
        ranges.append((lba, count))
    if sum(count for _, count in ranges) > MAX_UNMAP:
        raise bad_parameter(8)
    for lba, count in ranges:
        unit.check_medium(lba, count, True)
        unit.storage.discard(lba * unit.block_size, count * unit.block_size)
    return b""


@command(0x9E, "1fffffffffffffffffffffffff0000", "any", action=0x12, medium=True)
def get_lba_status(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """GET LBA STATUS: which blocks have space of their own."""
    lba, length = int.from_bytes(cdb[2:10], "big"), int.from_bytes(cdb[10:14], "big")
    if lba >= unit.blocks:
        raise Check(5, 0x2100, lba)
    size, rows = unit.block_size, b""
    last = -1
    for start, end, used in unit.storage.extents(lba * size, unit.blocks * size):
        first, until = max(start // size, last), -(-end // size)
        if until <= first:
            continue
        if len(rows) >= length or len(rows) > 4096:
            break
        rows += first.to_bytes(8, "big") + (until - first).to_bytes(4, "big") + bytes([0 if used else 1, 0, 0, 0])
        last = until
    return ((len(rows) + 4).to_bytes(4, "big") + bytes(4) + rows)[:length]
