"""Blocks that know where they belong: every way of being wrong has its own name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easycluster.devices.iscsi.pattern import BadBlock, check_blocks, make_blocks

SIZE = 512


def block(lba, generation=3, seed=7):
    return make_blocks(seed, lba, 1, generation, SIZE)


RIGHT = block(20)

WRONG = [
    ("torn in the middle", block(20, 3)[:256] + block(20, 2)[256:], BadBlock(20, "torn", 3, 20)),
    ("torn before anything new came", block(20, 2)[:256] + block(20, 3)[256:], BadBlock(20, "torn", 2, 20)),
    ("only its end was written", bytes(256) + RIGHT[256:], BadBlock(20, "torn")),
    ("not written the last time", block(20, 2), BadBlock(20, "stale", 2, 20)),
    ("written once too often", block(20, 4), BadBlock(20, "future", 4, 20)),
    ("of another place", block(21), BadBlock(20, "misplaced", 3, 21)),
    ("of another run", block(20, seed=8), BadBlock(20, "foreign", 3, 20)),
    ("never written", bytes(SIZE), BadBlock(20, "zero")),
    ("something else", b"x" * SIZE, BadBlock(20, "garbage")),
]


@pytest.mark.parametrize(("found", "bad"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_wrong_is_named(found, bad):
    assert check_blocks(block(19) + found + block(21), 7, 19, 3, SIZE) == [bad]


def test_messages_say_what_was_found():
    assert str(BadBlock(20, "stale", 2, 20)) == "block 20: stale, generation 2"
    assert str(BadBlock(20, "misplaced", 3, 21)) == "block 20: misplaced, belongs to block 21"
    assert str(BadBlock(20, "torn", 3, 20)) == "block 20: torn"


@given(st.integers(0, SIZE - 1), st.integers(1, 255))
def test_no_change_of_a_byte_is_missed(position, change):
    found = bytearray(RIGHT)
    found[position] ^= change
    assert [bad.lba for bad in check_blocks(found, 7, 20, 3, SIZE)] == [20]


@given(
    st.integers(-(1 << 70), 1 << 70),
    st.integers(0, 1 << 63),
    st.integers(0, 5),
    st.integers(0, 1 << 32),
    st.sampled_from([512, 520, 4096]),
)
def test_blocks_of_any_run_are_as_they_were_written(seed, lba, count, generation, size):
    data = make_blocks(seed, lba, count, generation, size)
    assert len(data) == count * size
    assert check_blocks(data, seed, lba, generation, size) == []
