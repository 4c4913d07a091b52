"""Our calls of CUDA's driver and of NVML are well formed.  A stand-in takes them, which is no device."""

from __future__ import annotations

import array
import ctypes
import subprocess
from pathlib import Path

import pytest
from support.parts import require

from easycluster.devices.gpu import jobs
from easycluster.devices.gpu.cuda import CudaContext
from easycluster.devices.gpu.errors import GpuError, KernelBuildError
from easycluster.devices.gpu.kernels import PTX
from easycluster.devices.gpu.nvml import NvmlSampler
from easycluster.errors import Unsupported
from easycluster.lab.sampler import read_nvml

UUID = "GPU-60616263-6465-6667-6869-6a6b6c6d6e6f"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("cuda") / "libcuda_stand_in.so"
    source = Path(__file__).with_name("cuda_stand_in.c")
    subprocess.run([require("cc", "gcc"), "-O1", "-w", "-shared", "-fPIC", str(source), "-o", str(path)], check=True)
    return str(path)


@pytest.fixture
def context(library, monkeypatch):
    monkeypatch.setattr(CudaContext, "_libraries", (library,))
    return CudaContext(UUID)


def test_a_device_is_found_by_its_uuid_and_others_are_named(context, library):
    with pytest.raises(GpuError, match=r"does not show GPU-0 to this process, only: GPU-10111213-.*, GPU-60616263-"):
        CudaContext("GPU-0")


def test_a_device_computes_and_gives_all_memory_back(context, library):
    jobs.probe(context)
    found = jobs.bandwidth(context, 1 << 16, 0.0)
    burnt = jobs.burn(context, 0.0, 4096)

    assert found["to_device"] > 0
    assert (burnt["errors"], burnt["rounds"]) == (0, 1)
    count = ctypes.CDLL(library).stand_in_allocated
    count.restype = ctypes.c_long
    assert count() == 0


def test_items_are_divided_into_groups_that_fit(context):
    program, _log = context.build(PTX)
    numbers = array.array("I", range(96))
    data = (ctypes.c_ubyte * 384).from_buffer(numbers)
    memory = context.alloc(384)
    context.write(memory, data, 384)
    context.launch(context.function(program, "ec_probe"), [memory], [96], None)
    context.launch(context.function(program, "ec_probe"), [memory], [96], [48])
    context.read(memory, data, 384)
    context.free(memory)

    assert numbers.tolist() == [9 * number + 4 for number in range(96)]
    with pytest.raises(ValueError, match=r"groups of \[50, 1, 1\] do not divide \[96, 1, 1\]"):
        context.launch(context.function(program, "ec_probe"), [memory], [96], [50])


def test_errors_of_the_driver_have_their_names(context):
    memory = context.alloc(16)
    with pytest.raises(GpuError, match=r"^cuMemcpyHtoD_v2: CUDA_ERROR_INVALID_VALUE: invalid argument \(1\)$"):
        context.write(memory, (ctypes.c_ubyte * 32)(), 32)
    context.free(memory)
    with pytest.raises(KernelBuildError, match="the source has no kernel 'nothing'"):
        context.function(context.build(PTX)[0], "nothing")


def test_a_call_that_an_old_driver_lacks_is_unsupported(context):
    with pytest.raises(Unsupported, match="cuFromTheFuture: the driver is too old and does not have it"):
        context._driver.named("cuFromTheFuture")


def test_samples_are_read_by_nvml_and_what_it_lacks_is_left_out(library):
    sampler = NvmlSampler(ctypes.CDLL(library), [UUID])

    assert sampler.sample() == {
        UUID: {
            "temperature": 45.0,
            "power": pytest.approx(176.98),
            "clock": 1980.0,
            "memory_clock": 2619.0,
            "ecc_corrected": 7.0,
            "ecc_uncorrected": 8.0,
            "utilization": 99.0,
            "memory_utilization": 12.0,
            "memory_used": 40.0,
        }
    }
    with pytest.raises(GpuError, match="NVML does not know GPU-0: error 6"):
        NvmlSampler(ctypes.CDLL(library), ["GPU-0"])


def test_a_flight_recorder_reads_every_device_by_nvml(library):
    values = {}
    read_nvml(library)(values)

    assert values == {
        "gpu 0 busy %": 99.0,
        "gpu 0 memory MiB": 0.0,
        "temperature gpu 0 C": 45.0,
        "power gpu 0 W": pytest.approx(176.98),
    }
    assert read_nvml("libnot-there.so.1") is None
