"""One host with role ``san``: over ssh where this machine has an sshd."""

from __future__ import annotations

import hashlib

import pytest

MIB = 1 << 20


@pytest.fixture
def lun(san_target):
    """A unit of one mebibyte that is gone after the test."""
    with san_target.create_lun(MIB) as unit:
        yield unit


def test_a_block_reads_back_as_it_was_written(lun):
    lun.write(4096, b"x" * 512)

    assert lun.read(4096, 512) == b"x" * 512


def test_a_checksum_is_computed_where_the_data_is(lun):
    data = bytes(range(256)) * (MIB // 256)
    lun.write(0, data)

    assert lun.checksum() == hashlib.sha256(data).hexdigest()


def test_a_snapshot_brings_the_old_contents_back(lun):
    lun.write(0, b"before")
    lun.snapshot("first")
    lun.write(0, b"AFTER!")

    lun.roll_back("first")

    assert lun.read(0, 6) == b"before"


def test_a_unit_is_read_block_by_block(lun):
    assert sum(len(block) for block in lun.blocks(64 * 1024)) == MIB


def test_writing_behind_the_end_is_refused(lun):
    with pytest.raises(ValueError, match="end behind the unit"):
        lun.write(MIB - 1, b"too long")


def test_the_host_has_its_own_system_calls(san_target):
    """Any other name is a module of the far side; nothing was defined for this."""
    assert san_target.remote.os.getpid() == san_target.who()
    assert san_target.remote.os.path.join("dev", "sda") == "dev/sda"
