"""One host with role ``gpu``: `gpu_node` is its proxy, the functions of remote/gpu.py are its attributes."""

from __future__ import annotations

import time

import pytest

import easycluster


def test_vectors_are_added_on_the_device(gpu_node):
    gpu = gpu_node.Gpu()
    left = gpu.upload([1.0, 2.0, 3.0])
    right = gpu.upload([10.0, 20.0, 30.0])

    assert gpu.add(left, right).read() == [11.0, 22.0, 33.0]


def test_a_buffer_stays_on_the_host_and_counts_there(gpu_node):
    gpu = gpu_node.Gpu()
    buffer = gpu.upload(range(1000))

    assert isinstance(buffer, easycluster.RemoteProxy)
    assert len(buffer) == 1000
    assert gpu.allocated == buffer.size == 8000

    buffer.release()
    assert gpu.allocated == 0


def test_running_out_of_memory_raises_the_exception_of_the_device_code(gpu_node):
    gpu = gpu_node.Gpu(memory=1000)

    with pytest.raises(Exception, match="1600 bytes wanted, 1000 free") as caught:
        gpu.upload(range(200))

    assert type(caught.value).__name__ == "OutOfDeviceMemory"
    assert caught.value.wanted == 1600


def test_a_fault_deep_in_device_code_is_the_original_exception(gpu_node):
    gpu = gpu_node.Gpu()
    ones, zeros = gpu.upload([1.0]), gpu.upload([0.0])

    with pytest.raises(ZeroDivisionError) as caught:
        gpu.checked_divide(ones, zeros)

    assert caught.traceback[-1].name == "divide_one"


def test_temperatures_are_streamed_as_they_are_taken(gpu_node):
    hottest = 0.0
    for temperature in gpu_node.Gpu().temperatures(20):
        hottest = max(hottest, temperature)

    assert hottest == 49.5


def test_a_kernel_that_hangs_is_stopped_and_the_host_stays_usable(gpu_node):
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match="hang"), easycluster.deadline(0.5):
        gpu_node.hang()

    assert time.monotonic() - begin < 10
    assert gpu_node.device_count() == 1


@pytest.mark.ec_each("gpu")
def test_every_gpu_host_has_a_device(ec_host):
    assert ec_host.device_count() >= 1
