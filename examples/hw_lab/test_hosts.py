"""All hosts of the lab: Python, commands and files on each, and everybody at the same moment."""

from __future__ import annotations

import hashlib
import os
import time

import pytest


def test_every_host_is_a_python_of_its_own(remote_hosts):
    pids = remote_hosts.each(lambda host: (host.name, host.os.getpid()))

    assert len(set(pids.values())) == len(pids) >= 4


def test_a_command_runs_on_each_host(remote_hosts):
    done = remote_hosts.run(["cat"], input="hello", check=True)

    assert {answer.stdout for answer in done.values()} == {"hello"}


def test_all_hosts_start_at_the_same_moment(remote_hosts):
    remote_hosts.connect()
    moment = time.time() + 0.3

    began = remote_hosts.call("start_at", moment)

    assert len(began) == len(remote_hosts)
    assert all(0 <= at - moment < 1.0 for at in began.values()), began


@pytest.mark.ec_hosts("gpu", "san")
def test_a_result_of_one_host_is_stored_on_another(remote_hosts):
    gpu_host, san_host = remote_hosts
    gpu = gpu_host.Gpu()
    total = gpu.add(gpu.upload([1.0] * 8), gpu.upload([2.0] * 8)).read()

    with san_host.scratch(4096) as space:
        space.write(0, bytes(int(number) for number in total))

        assert space.read(0, 8) == b"\x03" * 8


@pytest.mark.ec_hosts("san")
def test_a_checksum_is_computed_where_the_data_is(remote_hosts):
    data = os.urandom(1 << 20)

    with remote_hosts[0].scratch(len(data)) as space:
        space.write(0, data)

        assert space.checksum() == hashlib.sha256(data).hexdigest()
        assert sum(len(block) for block in space.blocks(64 * 1024)) == len(data)


def test_a_file_goes_to_a_host_and_comes_back(gpu_node, tmp_path):
    image = tmp_path / "image"
    image.write_bytes(os.urandom(100_000))
    there = gpu_node.remote.tempfile.mktemp()

    gpu_node.put(image, there)
    gpu_node.get(there, tmp_path / "copy")
    gpu_node.remote.os.unlink(there)

    assert (tmp_path / "copy").read_bytes() == image.read_bytes()
