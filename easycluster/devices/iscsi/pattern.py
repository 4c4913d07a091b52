"""Blocks that know where they belong, so that what is wrong with one can be named.

A block of an integrity run::

    0x00   8s   8   b"ECBLOCK1"
    0x08   Q    8   seed of the run
    0x10   Q    8   number of the block
    0x18   Q    8   generation: how many times the block was written
    0x20   -    n   a word of seed, number and generation, again and again
    last 4 I    4   CRC-32 of all before it

A write that was cut in the middle leaves a wrong checksum (*torn*), one that was lost the generation before
(*stale*), one that went elsewhere another number (*misplaced*).
"""

from __future__ import annotations

import zlib
from struct import Struct
from typing import List, NamedTuple, Union

__all__ = ["BadBlock", "check_blocks", "make_blocks"]

MAGIC = b"ECBLOCK1"
_HEAD = Struct(">8sQQQ")
_SUM = Struct(">I")
_MASK = (1 << 64) - 1


class BadBlock(NamedTuple):
    """A block that is not what was written.

    Attributes:
        lba: Its number.
        kind: ``"torn"``, ``"stale"``, ``"future"``, ``"misplaced"``, ``"foreign"``, ``"zero"`` or ``"garbage"``.
        generation: The generation found in it, or -1.
        found: The block number found in it, or -1.
    """

    lba: int
    kind: str
    generation: int = -1
    found: int = -1

    def __str__(self) -> str:
        more = {
            "stale": f", generation {self.generation}",
            "future": f", generation {self.generation}",
            "misplaced": f", belongs to block {self.found}",
        }.get(self.kind, "")
        return f"block {self.lba}: {self.kind}{more}"


def _block(seed: int, lba: int, generation: int, size: int) -> bytes:
    head = _HEAD.pack(MAGIC, seed & _MASK, lba, generation)
    # A word that differs by block, generation and seed, repeated: what tears a block is found by the checksum, and by
    # its parts being of two writes.
    word = ((seed * 0x9E3779B97F4A7C15 ^ lba * 0xD1B54A32D192ED03 ^ generation * 0x94D049BB133111EB) & _MASK).to_bytes(
        8, "big"
    )
    body = head + word * ((size - _HEAD.size - _SUM.size) // 8 + 1)
    body = body[: size - _SUM.size]
    return body + _SUM.pack(zlib.crc32(body))


def make_blocks(seed: int, lba: int, count: int, generation: int, block_size: int) -> bytes:
    """Return the content of ``count`` blocks from ``lba`` on."""
    return b"".join(_block(seed, number, generation, block_size) for number in range(lba, lba + count))


def check_blocks(
    data: Union[bytes, bytearray, memoryview], seed: int, lba: int, generation: int, block_size: int
) -> List[BadBlock]:
    """Return what is wrong with blocks that were read, in order of their numbers.

    Args:
        data: What was read; whole blocks.
        seed: Seed of the run.
        lba: Number of the first block.
        generation: The generation that was written last.
        block_size: Bytes in a block.
    """
    bad = []
    view = memoryview(data)
    for number, start in enumerate(range(0, len(view), block_size), lba):
        block = view[start : start + block_size]
        if zlib.crc32(block[:-4]) == _SUM.unpack(block[-4:])[0]:
            magic, found_seed, found, found_generation = _HEAD.unpack_from(block)
            if (magic, found_seed, found, found_generation) == (MAGIC, seed & _MASK, number, generation):
                continue
        bad.append(_name(block, seed, number, generation))
    return bad


def _name(block: memoryview, seed: int, lba: int, generation: int) -> BadBlock:
    magic, found_seed, found, found_generation = _HEAD.unpack_from(block)
    if magic != MAGIC:
        if not any(block):
            return BadBlock(lba, "zero")
        # The head may be of something else, and the tail still of ours.
        return BadBlock(lba, "torn" if _ours(block, seed, lba, generation) else "garbage")
    if zlib.crc32(block[:-4]) != _SUM.unpack(block[-4:])[0]:
        return BadBlock(lba, "torn", found_generation, found)
    if found_seed != seed & _MASK:
        return BadBlock(lba, "foreign", found_generation, found)
    if found != lba:
        return BadBlock(lba, "misplaced", found_generation, found)
    return BadBlock(lba, "stale" if found_generation < generation else "future", found_generation, found)


def _ours(block: memoryview, seed: int, lba: int, generation: int) -> bool:
    right = _block(seed, lba, generation, len(block))
    return block[-12:] == right[-12:] or block[len(block) // 2 : -4] == right[len(block) // 2 : -4]
