"""Hosts with role ``san``: disks that are mounted for a test, units on them, files that go there and back."""

from __future__ import annotations

import errno
import hashlib
import os

import pytest

import easycluster

MIB = 1 << 20


@pytest.fixture
def disk(san_target):
    """A small disk on the host; the host unmounts it, whatever becomes of the test."""
    return san_target.make_disk("/srv/disk", 4)


@pytest.fixture
def unit(san_target, disk):
    """A unit of one mebibyte on it."""
    with san_target.create_unit(f"{disk}/unit", MIB) as unit:
        yield unit


def test_a_block_reads_back_as_it_was_written(unit):
    unit.write(4096, b"x" * 512)

    assert unit.read(4096, 512) == b"x" * 512


def test_a_checksum_is_computed_where_the_data_is(unit):
    data = bytes(range(256)) * (MIB // 256)
    unit.write(0, data)

    assert unit.checksum() == hashlib.sha256(data).hexdigest()


def test_a_unit_is_read_block_by_block(unit):
    unit.write(0, b"\1" * MIB)

    assert sum(block.count(1) for block in unit.blocks()) == MIB


def test_the_test_hears_how_far_the_host_is(unit):
    heard = []
    unit.fill(easycluster.callback(lambda done, size: heard.append(done / size)))

    assert heard == [number / 8 for number in range(1, 9)]


def test_a_full_disk_is_the_error_of_the_system(san_target, disk):
    with san_target.create_unit(f"{disk}/large", MIB) as unit:
        for number in range(4):
            unit.write(number * MIB, b"y" * MIB)
        with pytest.raises(OSError, match="No space left") as caught:
            unit.write(4 * MIB, b"y" * MIB)

    assert caught.value.errno == errno.ENOSPC


def test_a_disk_is_gone_when_its_lease_is(ec):
    with ec.lease("san", label="mount") as hosts:
        name = hosts[0].name
        hosts[0].make_disk("/srv/other", 1)
        assert hosts[0].remote.os.path.ismount("/srv/other")

    with ec.lease("san", where=f"name == '{name}'") as hosts:
        assert not hosts[0].remote.os.path.ismount("/srv/other")


def test_a_file_goes_to_a_host_and_comes_back(san_target, disk, tmp_path):
    image = tmp_path / "image"
    image.write_bytes(os.urandom(2 * MIB))
    seen = []

    san_target.put(image, f"{disk}/image", progress=lambda done, size: seen.append((done, size)))
    san_target.get(f"{disk}/image", tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == image.read_bytes()
    assert seen[-1] == (2 * MIB, 2 * MIB)


@pytest.mark.ec_hosts("san", count=2)
def test_data_goes_from_one_host_to_the_other_without_passing_here(remote_hosts):
    source, target = remote_hosts
    with target.sink() as service:
        _, checksum = source.pour(target.address, service.port(), 4 * MIB)

        assert service.result() == (4 * MIB, checksum)


@pytest.mark.ec_hosts("san", where="disk_mb >= 16")
def test_capabilities_are_what_the_host_says(remote_hosts):
    assert remote_hosts[0].probe_disk()["disk_mb"] >= 16
