"""Several hosts in one test."""

from __future__ import annotations

import os

import pytest


def test_every_host_is_a_python_of_its_own(remote_hosts):
    pids = {host.name: host.remote.os.getpid() for host in remote_hosts}

    assert len(set(pids.values())) == len(pids) >= 3
    assert os.getpid() not in pids.values()


@pytest.mark.ec_hosts("gpu", count=2)
def test_two_devices_work_at_the_same_time(remote_hosts):
    first, second = remote_hosts
    assert first.name != second.name

    pending = [host.Gpu().upload(range(100), nonblocking=True) for host in remote_hosts]

    assert [len(response.wait()) for response in pending] == [100, 100]


@pytest.mark.ec_hosts("gpu", "san")
def test_a_result_of_one_host_is_stored_on_another(remote_hosts):
    gpu_host, san_host = remote_hosts
    gpu = gpu_host.Gpu()
    total = gpu.add(gpu.upload([1.0] * 8), gpu.upload([2.0] * 8)).read()

    with san_host.create_lun(4096) as lun:
        lun.write(0, bytes(int(number) for number in total))

        assert lun.read(0, 8) == b"\x03" * 8


def test_a_host_of_each_role_can_be_asked_for_by_name(gpu_node, san_target):
    assert gpu_node.name.startswith("gpu")
    assert san_target.name.startswith("san")


def test_a_command_runs_on_each_host(remote_hosts):
    for host in remote_hosts:
        assert host.run(["cat"], input="hello", check=True).stdout == "hello"


def test_a_file_goes_to_a_host_and_comes_back(san_target, tmp_path):
    image = tmp_path / "image"
    image.write_bytes(os.urandom(100_000))
    there = san_target.remote.tempfile.mktemp()

    san_target.put(image, there)
    san_target.get(there, tmp_path / "copy")
    san_target.remote.os.unlink(there)

    assert (tmp_path / "copy").read_bytes() == image.read_bytes()


def test_hosts_are_picked_by_name(remote_hosts):
    assert remote_hosts["gpu01"].device_count() == 1
    assert "gpu02" in remote_hosts.names
