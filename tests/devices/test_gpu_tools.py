"""What the tools of NVIDIA and AMD say is read right, however oddly they say it.  No device takes part here."""

from __future__ import annotations

import json
import os
import time

import pytest
from devices import gpu_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st

from easycluster.devices.gpu import amdjson, smi
from easycluster.devices.gpu.amd import AmdBackend
from easycluster.devices.gpu.errors import GpuError, GpuTimeout
from easycluster.devices.gpu.model import Device, Health, Link
from easycluster.devices.gpu.nvidia import NvidiaBackend, read_sample
from easycluster.devices.gpu.tools import run_tool

GIB = 1 << 30


@pytest.fixture
def nvidia(tmp_path, monkeypatch):
    """Makes a backend whose nvidia-smi is a recording."""

    def make(*answers):
        samples.recording(tmp_path, "nvidia-smi", list(answers))
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return NvidiaBackend()

    return make


def test_devices_of_a_data_centre_are_read(nvidia):
    first, second = nvidia(("--query-gpu", 0, samples.DATA_CENTRE)).devices()

    assert first == Device(
        index=0,
        uuid=samples.H100,
        name="NVIDIA H100 80GB HBM3",
        vendor="NVIDIA",
        backend="nvidia",
        memory=81559 << 20,
        driver="570.158.01",
        compute_capability="9.0",
        ecc=True,
        pcie=Link(5, 16, 5, 16),
        bus="0000:3b:00.0",
    )
    assert (second.uuid, second.pcie.generation, str(second.pcie)) == (samples.H100_2, 1, "PCIe 1x16 of 5x16")


def test_what_a_device_does_not_have_is_none_and_no_number(nvidia):
    (device,) = nvidia(("--query-gpu", 0, samples.DESKTOP)).devices()

    assert (device.ecc, device.memory, device.compute_capability) == (None, 4044 << 20, "5.0")


def test_of_a_divided_device_its_parts_are_the_devices(nvidia):
    backend = nvidia(("--query-gpu", 0, samples.DIVIDED), ("-L", 0, samples.LIST_OF_PARTS))

    small, large = backend.devices()

    assert (small.uuid, small.part_of, small.memory) == (samples.PARTS[0], samples.H100, 10 * GIB)
    assert (large.uuid, large.name, large.index) == (samples.PARTS[1], "NVIDIA A100-SXM4-80GB MIG 3g.40gb", 1)


def test_a_divided_device_without_parts_is_no_device(nvidia):
    backend = nvidia(("--query-gpu", 0, samples.DIVIDED), ("-L", 0, f"GPU 0: NVIDIA A100 (UUID: {samples.H100})\n"))

    assert backend.devices() == []


@pytest.mark.parametrize(("status", "said", "meaning"), samples.REFUSALS)
def test_a_tool_that_cannot_answer_says_what_to_do(nvidia, status, said, meaning):
    with pytest.raises(GpuError, match=meaning) as caught:
        nvidia(("--query-gpu", status, said)).devices()

    # Its own words are there, too.
    assert said.splitlines()[0][:40] in str(caught.value)
    assert f"exit status {status}" in str(caught.value)


def test_a_lost_device_among_good_lines_is_an_error_with_its_place(nvidia):
    with pytest.raises(GpuError, match=r"'GPU is lost'.*00000000:3B:00\.0|GPU is lost.*fallen off the bus"):
        nvidia(("--query-gpu", 0, samples.LOST_CELLS)).devices()


def test_an_error_printed_among_the_lines_is_an_error(nvidia):
    text = samples.DATA_CENTRE + "Unable to determine the device handle for GPU2: 0000:AF:00.0: Unknown Error\n"

    with pytest.raises(GpuError, match="fallen off the bus"):
        nvidia(("--query-gpu", 0, text)).devices()


def test_a_column_that_an_old_driver_does_not_know_is_left_out(nvidia):
    cells = samples.DATA_CENTRE.splitlines()[0].split(", ")
    without = ", ".join(cells[:6] + cells[7:-1]) + "\n"
    backend = nvidia(
        ("compute_cap", 2, 'Field "compute_cap" is not a valid field to query.\n'),
        ("mig.mode.current", 2, 'Field "mig.mode.current" is not a valid field to query.\n'),
        ("--query-gpu", 0, without),
    )

    (device,) = backend.devices()

    assert (device.compute_capability, device.driver, device.ecc) == ("", "570.158.01", True)


def test_a_tool_that_hangs_is_ended(tmp_path):
    program = samples.recording(tmp_path, "nvidia-smi", [("--query-gpu", "hang", "")])
    begin = time.monotonic()

    with pytest.raises(GpuTimeout, match=r"^nvidia-smi did not answer within 0\.5 s$"):
        run_tool([str(program), "--query-gpu=index"], 0.5)

    assert time.monotonic() - begin < 20


def test_processes_come_with_their_user_and_memory(nvidia):
    lines = f"{samples.H100}, {os.getpid()}, /usr/bin/python3, 14195\n{samples.H100_2}, 4194305, [Not Found], [N/A]\n"

    ours, other = nvidia(("--query-compute-apps", 0, lines)).processes()

    assert (ours.pid, ours.name, ours.memory, ours.device) == (os.getpid(), "python3", 14195 << 20, samples.H100)
    assert ours.user
    assert (other.user, other.memory) == ("", None)


def test_counters_are_numbers_and_words_both(nvidia):
    backend = nvidia(
        (
            "--query-gpu=uuid,ecc",
            0,
            f"{samples.H100}, 7, 0, Yes, 2, 1\n{samples.H100_2}, [N/A], [N/A], [N/A], [N/A], [N/A]\n",
        ),
        ("--query-remapped-rows", 0, f"{samples.H100}, 0, 4, Yes, No\n"),
    )

    counters = backend.counters()

    assert counters[samples.H100] == {
        "ecc_corrected": 7,
        "ecc_uncorrected": 0,
        "retirement_pending": 1,
        "retired_pages": 3,
        "remapped_rows": 0,
        "remapped_rows_uncorrectable": 4,
        "remap_pending": 1,
        "remap_failed": 0,
    }
    assert counters[samples.H100_2] == {}
    assert Health(counters).problems == [
        f"{samples.H100}: memory pages wait for a reset to be retired",
        f"{samples.H100}: memory rows wait for a reset to be remapped",
    ]


def test_faults_are_what_got_worse_and_a_device_that_is_gone():
    before = Health({"a": {"ecc_corrected": 1, "ecc_uncorrected": 0, "retired_pages": 2}, "b": {}})
    after = Health({"a": {"ecc_corrected": 9, "ecc_uncorrected": 2, "retired_pages": 2}}, ("NVRM: Xid 48",))

    assert after.faults_since(before) == [
        "NVRM: Xid 48",
        "a: ecc_uncorrected rose by 2 to 2",
        "b: is not there any more",
    ]
    assert after.faults_since(before, ["b"]) == ["NVRM: Xid 48", "b: is not there any more"]


def test_lines_of_the_kernel_belong_to_the_device_that_they_name(nvidia):
    backend = nvidia(("--query-gpu", 0, samples.DATA_CENTRE))
    backend.devices()

    assert backend.is_fault(samples.XID_79, [])
    assert backend.is_fault(samples.XID_79, [samples.H100])
    assert not backend.is_fault(samples.XID_79, [samples.H100_2])
    assert backend.is_fault(samples.XID_31, [samples.H100_2])
    assert backend.is_fault(samples.OFF_THE_BUS, [samples.H100])
    # Another device's, and a line that is no fault.
    assert not backend.is_fault(samples.XID_79.replace("0000:3b", "0000:af"), [])
    assert not backend.is_fault("NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  570.158.01", [])


def test_a_line_of_samples_is_read():
    cells = dict(zip(("temperature.gpu", "power.draw", "memory.used"), ("45", "176.98", "1024"), strict=True))

    values = read_sample({**cells, "clocks_throttle_reasons.active": "0x0000000000000004", "utilization.gpu": "ERR!"})

    assert values == {"temperature": 45.0, "power": 176.98, "memory_used": 1024 * 2.0**20, "throttle": 4.0}


def test_samples_come_from_one_tool_that_keeps_running(nvidia):
    line = f"{samples.H100}, 45, 176.98, 99, 12, 1024, 1980, 2619, 0x0000000000000000, 0, 0\n"
    sampler = nvidia(("--query-gpu=uuid,temperature", 0, line)).sampler([samples.H100], 0.01)
    try:
        found = [sampler.sample() for _ in range(3)]
    finally:
        sampler.close()

    assert [one[samples.H100]["power"] for one in found] == [176.98] * 3
    assert sampler.sample() is None


@given(st.text(max_size=200))
def test_any_noise_in_the_place_of_lines_is_read_or_refused(text):
    try:
        rows = smi.parse_rows(text, ("index", "uuid"))
    except GpuError:
        return
    assert all(set(row) == {"index", "uuid"} for row in rows)


# ------------------------------------------------------------ AMD


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
