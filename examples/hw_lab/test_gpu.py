"""One host with role ``gpu``: `gpu_node` has its devices, and the functions of remote/gpu.py are its attributes.

Where there is no GPU, processors stand in for one, real kernels and all; `gpu_node.emulated` says so, and what only
hardware has is asserted only of hardware.
"""

from __future__ import annotations

import time

import pytest

import easycluster


@pytest.mark.ec_each("gpu")
def test_every_gpu_host_has_devices(ec_host):
    for device in ec_host.gpu.devices:
        assert device.name
        assert device.memory > 0
        assert device.emulated == ec_host.gpu.emulated


@pytest.fixture
def leased(gpu_node):
    """One device that nobody else uses meanwhile; what starts on the host sees only this one."""
    with gpu_node.gpu.lease(1) as lease:
        yield lease


def test_data_goes_to_a_device_and_back_unchanged_and_fast(gpu_node, leased):
    measured = gpu_node.gpu.bandwidth(size=8 << 20, seconds=0.1)

    # In GB/s; of a real device ten times as much is asked for.
    least = 0.05 if gpu_node.gpu.emulated else 5.0
    assert min(measured.to_device, measured.from_device, measured.on_device) > least, measured


def test_a_device_under_load_computes_right_and_is_watched_meanwhile(gpu_node, leased):
    with gpu_node.gpu.telemetry(0.05) as series:
        (burn,) = gpu_node.gpu.burn(0.4)

    assert (burn.errors, burn.rounds > 0) == (0, True)
    assert len(series) >= 2
    if not gpu_node.gpu.emulated:
        assert series.max("temperature") < 95


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
