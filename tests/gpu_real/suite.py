"""What must hold on a real device.  Collected only when it is named; ``python -m tests.gpu_real`` does."""

from __future__ import annotations

import array
import os
import re
from pathlib import Path

import pytest

from easycluster.devices.gpu import GpuBusy, GpuError, GpuTimeout
from easycluster.devices.gpu.kernels import PTX
from easycluster.errors import Unsupported
from easycluster.lab import Lab

SECONDS = float(os.environ.get("EC_GPU_SECONDS", "5"))
SCALE = "KERNEL void scale(GLOBAL float *data, float factor) { data[INDEX] *= factor; }"
SPIN = "KERNEL void spin(GLOBAL int *data) { volatile int x = 0; while (data[0] == 0) x++; }"
# Far outside of what was allocated: the device refuses, and says so in the kernel's log (Xid 31, or 13).
STRAY = "KERNEL void stray(GLOBAL int *data) { data[INDEX + 0x4000000000ull] = 1; }"


@pytest.fixture(autouse=True)
def found(gpu_node):
    """Leave word for the transcript's name."""
    if "EC_GPU_FOUND" in os.environ:
        Path(os.environ["EC_GPU_FOUND"]).write_text(gpu_node.backend)


def needs(gpu_node, *backends):
    if gpu_node.backend not in backends:
        pytest.skip(f"of {', '.join(backends)}, and this is {gpu_node.backend}")


def test_devices_say_what_they_are(gpu_node):
    for device in gpu_node.devices:
        print(device, device.driver, device.compute_capability, device.pcie, "ECC", device.ecc, device.bus)
        assert device.uuid
        assert device.memory > 1 << 30
        assert device.driver
    if gpu_node.backend == "nvidia":
        assert all(re.fullmatch(r"(GPU|MIG)-[0-9a-f-]{36}", device.uuid) for device in gpu_node.devices)
        assert all(re.fullmatch(r"\d+\.\d", device.compute_capability) for device in gpu_node.devices)


def test_a_source_that_runs_everywhere_runs_here(gpu_node):
    with gpu_node.lease(1):
        run = gpu_node.run_kernel(SCALE, array.array("f", range(4096)), 2.0)
    print(f"{run.seconds * 1e6:.0f} us on {run.device}")
    assert list(run.results[0]) == [2.0 * number for number in range(4096)]


def test_ptx_runs_without_a_compiler(gpu_node):
    needs(gpu_node, "nvidia")
    run = gpu_node.run_kernel(PTX, array.array("I", range(64)), name="ec_probe")
    assert list(run.results[0]) == [3 * number + 1 for number in range(64)]


def test_data_goes_to_every_device_and_back(gpu_node):
    for device in gpu_node.devices:
        found = gpu_node.bandwidth(device, size=256 << 20 if not device.emulated else 16 << 20, seconds=1.0)
        print(found)
        assert min(found.to_device, found.from_device) > 0.5
        assert found.on_device > found.to_device or device.emulated


def test_all_devices_compute_right_under_load(gpu_node):
    with gpu_node.telemetry(0.1) as series:
        burns = gpu_node.burn(SECONDS)
    for burn in burns:
        print(burn)
    print(series.table())
    assert len(burns) == len(gpu_node.devices)
    assert len(series) >= SECONDS
    assert series.max("utilization") > 50
    if gpu_node.backend in ("nvidia", "amd"):
        assert series.max("power") > series.values("power")[0]
        assert 10 < series.max("temperature") < 110


def test_a_lease_shows_programs_one_device(gpu_node):
    before = gpu_node.run("env", live=False).stdout
    with gpu_node.lease(1) as lease:
        print(lease, lease.variables)
        seen = gpu_node.run("env", live=False).stdout
        for name, value in lease.variables.items():
            assert f"{name}={value}\n" in seen
        assert gpu_node.burn(0.2)[0].device == lease.uuids[0]
    assert gpu_node.run("env", live=False).stdout == before


def test_a_device_with_a_process_on_it_is_refused(gpu_node, ec):
    needs(gpu_node, "nvidia")
    with Lab(ec.inventory) as somebody:
        # His process keeps the device open until his session ends.
        somebody[gpu_node.name].gpu.run_kernel(PTX, array.array("I", range(64)), name="ec_probe")
        with pytest.raises(GpuBusy, match=r"pid \d+ python") as caught:
            gpu_node.lease(len(gpu_node.devices))
        print(caught.value)
    with gpu_node.lease(len(gpu_node.devices)) as lease:
        print(lease)


def test_a_kernel_that_hangs_is_ended_and_the_device_goes_on(gpu_node):
    with pytest.raises(GpuTimeout):
        gpu_node.run_kernel(SPIN, [0], timeout=3.0)
    assert gpu_node.run_kernel(SCALE, [3.0], 2.0).results[0][0] == 6.0


def test_the_state_of_the_hardware_is_read(gpu_node):
    health = gpu_node.health()
    print(health)
    assert health.problems == []
    assert set(health.counters) >= {device.part_of or device.uuid for device in gpu_node.devices}


def test_a_stray_write_is_a_fault_that_the_hardware_reports(gpu_node):
    needs(gpu_node, "nvidia")
    if gpu_node.health().unread:
        pytest.skip(f"the kernel's log: {gpu_node.health().unread}")
    with gpu_node.expect_faults() as faults, pytest.raises(GpuError) as caught:
        gpu_node.run_kernel(STRAY, [0])
    print(caught.value, faults, sep="\n")
    assert any("Xid" in fault for fault in faults)
    assert gpu_node.run_kernel(SCALE, [3.0], 2.0).results[0][0] == 6.0


def test_a_device_is_reset(gpu_node):
    if os.environ.get("EC_GPU_RESET") != "1":
        pytest.skip("it is reset only with EC_GPU_RESET=1")
    with gpu_node.lease(1):
        gpu_node.reset()
        assert gpu_node.burn(0.2)[0].errors == 0


def test_source_in_c_is_compiled_where_the_compiler_is(gpu_node):
    needs(gpu_node, "nvidia")
    try:
        run = gpu_node.run_kernel('extern "C" __global__ void f(int *x) { x[threadIdx.x] = warpSize; }', [0] * 32)
    except Unsupported as exc:
        pytest.skip(str(exc))
    assert list(run.results[0]) == [32] * 32
