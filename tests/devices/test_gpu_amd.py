"""What the tools of AMD say is read right, of every release that is about.  No device takes part here."""

from __future__ import annotations

import functools
import json
import os
import time

import pytest
from devices import gpu_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st

from easycluster.devices.gpu import amd, amdjson
from easycluster.devices.gpu.amd import AmdBackend
from easycluster.devices.gpu.errors import GpuError
from easycluster.devices.gpu.model import Device, Link
from easycluster.devices.gpu.sampling import Sampling
from easycluster.devices.gpu.tools import run_tool


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: {"gpu_data": data}], ids=["list", "gpu_data"])
def test_devices_of_amd_are_read_in_both_forms(wrap):
    (device,) = amdjson.amd_devices(wrap(samples.AMD_LIST), wrap(samples.AMD_STATIC), wrap(samples.AMD_METRIC))

    assert device == Device(
        index=0,
        uuid="abff74a1-0000-1000-80d1-3c23a9580558",
        name="AMD Instinct MI300X",
        vendor="AMD",
        backend="amd",
        memory=196592 << 20,
        driver="6.12.12",
        compute_capability="gfx942",
        ecc=True,
        pcie=Link(5, 16, 5, 16),
        bus="0000:05:00.0",
    )


def test_measures_of_amd_are_read():
    values = amdjson.amd_values(samples.AMD_METRIC)[0]

    assert values == {
        "temperature": 41.0,
        "power": 139.0,
        "utilization": 42.0,
        "memory_utilization": 1.0,
        "memory_used": 283 * 2.0**20,
        "clock": 132.0,
        "memory_clock": 900.0,
        "ecc_corrected": 3.0,
        "ecc_uncorrected": 0.0,
    }
    assert amdjson.counted(values) == {"ecc_corrected": 3, "ecc_uncorrected": 0}


def test_older_names_of_amd_are_read_too():
    old = amdjson.amd_devices(samples.AMD_STATIC_OLD, samples.AMD_STATIC_OLD, samples.AMD_METRIC_OLD)
    values = amdjson.amd_values(samples.AMD_METRIC_OLD)[0]

    assert (old[0].name, old[0].memory, old[0].driver) == ("Instinct MI250X", 65520 << 20, "6.3.6")
    assert (old[0].pcie, old[0].bus) == (Link(4, 16, 4, 16), "0000:c1:00.0")
    assert values == {
        "temperature": 51.0,
        "power": 305.0,
        "utilization": 100.0,
        "memory_utilization": 7.0,
        "memory_used": 11 * 2.0**20,
        "clock": 1700.0,
        "memory_clock": 1600.0,
        "ecc_corrected": 1.0,
        "ecc_uncorrected": 0.0,
    }


def test_of_a_device_in_parts_each_says_what_it_can():
    first, second = amdjson.amd_values(samples.AMD_METRIC_PARTS).values()

    assert first["power"] == 139.0
    assert second == {"memory_used": 141 * 2.0**20}


def test_a_status_of_amd_smi_that_speaks_of_one_device_does_not_silence_the_others(tmp_path, monkeypatch):
    answers = [
        ("list", 0, json.dumps(samples.AMD_LIST)),
        ("static", 1, samples.WARNING + json.dumps({"gpu_data": samples.AMD_STATIC})),
        ("metric", 1, json.dumps({"error": "AMDSMI_STATUS_NOT_SUPPORTED", "code": -2})),
    ]
    samples.recording(tmp_path, "amd-smi", answers)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    assert AmdBackend().devices()[0].name == "AMD Instinct MI300X"
    with pytest.raises(GpuError, match=r"amd-smi metric ended with status 1: .*NOT_SUPPORTED"):
        AmdBackend().counters()


def test_processes_of_amd_are_read():
    assert amdjson.amd_processes(samples.AMD_PROCESSES) == {0: [{"name": "python3", "pid": 4711, "memory": 4096}]}


def test_the_older_tool_of_amd_is_read_too():
    first, second = amdjson.rocm_devices(samples.ROCM)

    assert (first.uuid, first.name, first.memory) == ("0x1f2e3d4c5b6a7988", "AMD Radeon RX 7900 XT", 21458059264)
    assert (first.driver, first.bus, first.compute_capability) == ("6.10.5", "0000:c4:00.0", "gfx1100")
    assert (second.name, second.uuid) == ("Phoenix3", "0000:c5:00.0")
    assert amdjson.rocm_values(samples.ROCM)[0] == {
        "temperature": 38.0,
        "power": 7.222,
        "utilization": 19.0,
        "memory_used": 27856896.0,
        "clock": 800.0,
        "memory_clock": 96.0,
    }


def test_warnings_before_the_json_do_no_harm():
    assert amdjson.parse_json("amd-smi list", samples.WARNING + json.dumps(samples.AMD_LIST)) == samples.AMD_LIST
    with pytest.raises(GpuError, match="amd-smi list printed no JSON: 'WARNING"):
        amdjson.parse_json("amd-smi list", samples.WARNING)


@settings(max_examples=50)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["gpu_data", "gpu", "asic", "vram", "size", "value", "card0"]), inner)
        ),
        max_leaves=20,
    )
)
def test_any_json_is_read_or_refused(data):
    amdjson.amd_devices(data, data, data)
    amdjson.amd_values(data)
    amdjson.amd_processes(data)
    amdjson.rocm_devices(data)
    amdjson.rocm_values(data)


def test_amd_devices_are_pinned_by_their_unique_id(tmp_path, monkeypatch):
    answers = [("--show", 0, json.dumps(samples.ROCM))]
    samples.recording(tmp_path, "rocm-smi", answers)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    backend = AmdBackend()

    uuids = [device.uuid for device in backend.devices()]

    assert backend.environment(uuids) == {"ROCR_VISIBLE_DEVICES": "GPU-1f2e3d4c5b6a7988,1"}
    assert backend.is_fault("amdgpu 0000:c4:00.0: amdgpu: ring gfx_0.0.0 timeout, signaled seq=1", [])
    assert not backend.is_fault("amdgpu 0000:c4:00.0: amdgpu: GPU reset begin!", [uuids[1]])


def test_newer_devices_of_amd_are_pinned_by_their_serial_number(tmp_path, monkeypatch):
    answers = [
        ("list", 0, json.dumps(samples.AMD_LIST)),
        ("static", 0, samples.WARNING + json.dumps({"gpu_data": samples.AMD_STATIC})),
        ("metric", 1, "AMDSMI_STATUS_NOT_SUPPORTED"),
    ]
    samples.recording(tmp_path, "amd-smi", answers)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    backend = AmdBackend()

    (device,) = backend.devices()

    assert backend.environment([device.uuid]) == {"ROCR_VISIBLE_DEVICES": "GPU-1234567890abcdef"}
    assert device.pcie == Link(None, None, 5, 16)


def test_a_slow_tool_is_not_waited_for_without_end(tmp_path, monkeypatch):
    samples.recording(tmp_path, "rocm-smi", [("--showtemp", "hang", ""), ("--show", 0, json.dumps(samples.ROCM))])
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(amd, "run_tool", functools.partial(run_tool, limit=0.5))
    begin = time.monotonic()
    sampling = Sampling(AmdBackend().sampler(["0x1f2e3d4c5b6a7988"], 0.01), 0.01, paced=False, patience=10.0)

    taken, trouble = sampling.stop()

    assert (taken, trouble) == ([], "rocm-smi did not answer within 0.5 s")
    assert time.monotonic() - begin < 20


def test_a_device_of_amd_is_reset_by_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    answers = [
        ("list", 0, json.dumps(samples.AMD_LIST)),
        ("static", 0, json.dumps(samples.AMD_STATIC)),
        ("metric", 0, json.dumps(samples.AMD_METRIC)),
        ("reset --gpureset --gpu 0", 0, "Successfully reset GPU 0"),
    ]
    samples.recording(tmp_path, "amd-smi", answers)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    backend = AmdBackend()
    (device,) = backend.devices()

    backend.reset(device.uuid)

    with pytest.raises(GpuError, match="another is not a device of this host"):
        backend.reset("another")
