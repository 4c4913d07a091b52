"""Hosts with role ``gpu``: objects that live there, streams, callbacks, faults and deadlines."""

from __future__ import annotations

import logging
import time

import pytest

import easycluster


def test_numbers_stay_on_the_host(gpu_node):
    device = gpu_node.device()

    assert isinstance(device, easycluster.RemoteProxy)
    assert device.load(range(100)) == 100
    device.scale(2.0)
    assert device.total() == 9900.0


def test_what_a_device_prints_is_captured_here(gpu_node, ec):
    device = gpu_node.device(3)
    device.load([1.0])
    device.scale(1.0)

    assert ec.take_output()[gpu_node.name]["stdout"] == "device 3: scaling 1 numbers\n"


def test_what_a_device_logs_is_in_caplog(gpu_node, caplog):
    with caplog.at_level(logging.INFO, "gpu"):
        gpu_node.device(2)

    assert [(record.ec_host, record.getMessage()) for record in caplog.records] == [(gpu_node.name, "device 2 opened")]


def test_a_fault_is_the_exception_of_the_device_code(gpu_node):
    with pytest.raises(Exception, match="device 1: fault 0x1f") as caught:
        gpu_node.device(1).fault(0x1F)

    assert type(caught.value).__name__ == "DeviceFault"
    assert (caught.value.device, caught.value.code) == (1, 0x1F)


def test_samples_are_streamed_as_they_are_taken(gpu_node):
    assert list(gpu_node.device().samples(5)) == [40.0, 40.5, 41.0, 41.5, 42.0]


def test_a_training_reports_to_the_test(gpu_node):
    heard = []

    loss = gpu_node.train(5, easycluster.callback(lambda step, loss: heard.append((step, loss))))

    assert [step for step, _ in heard] == list(range(5))
    assert heard[-1][1] == loss == pytest.approx(0.9**5)


def test_a_kernel_that_hangs_is_stopped_and_the_host_stays_usable(gpu_node):
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match="hang"), easycluster.deadline(0.3):
        gpu_node.hang()

    assert time.monotonic() - begin < 10
    assert gpu_node.train(1) == 0.9


def test_a_driver_that_crashes_says_its_last_words(gpu_node):
    with pytest.raises(easycluster.WorkerDied, match="SIGSEGV") as caught:
        gpu_node.crash()

    assert "dma: bad descriptor" in str(caught.value)


@pytest.mark.ec_each("gpu")
def test_every_host_computes(ec_host):
    device = ec_host.device()
    device.load([1.0, 2.0])

    assert device.total() == 3.0


def test_the_big_host_is_picked_by_what_it_can_do(big_gpu):
    assert big_gpu.name == "gpu02"


@pytest.mark.ec_hosts("gpu", count=2, distinct="rack")
def test_two_hosts_work_at_the_same_time(remote_hosts):
    pending = [host.train(100, nonblocking=True) for host in remote_hosts]

    assert [response.wait() for response in pending] == [pytest.approx(0.9**100)] * 2


@pytest.mark.ec_hosts("gpu", count=2)
def test_two_hosts_begin_together(remote_hosts):
    """The clocks of a box are one clock; in a real lab they are as good as its NTP."""
    moment = time.time() + 0.3
    pending = [host.work_at(moment, nonblocking=True) for host in remote_hosts]
    began = [response.wait() for response in pending]

    assert all(0 <= late - moment < 2.0 for late in began)
