"""What the tools of NVIDIA say is read right, however oddly they say it.  No device takes part here."""

from __future__ import annotations

import os
import re
import time

import pytest
from devices import gpu_samples as samples
from hypothesis import given
from hypothesis import strategies as st

from easycluster.devices.gpu import smi
from easycluster.devices.gpu.errors import GpuError, GpuTimeout
from easycluster.devices.gpu.model import Device, Health, Link
from easycluster.devices.gpu.nvidia import NvidiaBackend, SmiSampler, read_sample
from easycluster.devices.gpu.plain import PlainBackend
from easycluster.devices.gpu.sampling import Sampling
from easycluster.devices.gpu.series import Series
from easycluster.devices.gpu.tools import run_tool
from easycluster.errors import Unsupported

GIB = 1 << 30
SAMPLE = f"{samples.H100}, 45, 176.98, 99, 12, 1024, 1980, 2619, 0x0000000000000000, 0, 0\n"


@pytest.fixture
def nvidia(tmp_path, monkeypatch):
    """Makes a backend whose nvidia-smi is a recording."""

    def make(*answers, **kwargs):
        samples.recording(tmp_path, "nvidia-smi", list(answers), **kwargs)
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


def test_a_device_without_memory_of_its_own_has_the_hosts(nvidia):
    (device,) = nvidia(("--query-gpu", 0, samples.UNIFIED)).devices()

    assert device.memory == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert (device.name, device.bus, device.ecc) == ("NVIDIA GB10", "000f:01:00.0", None)


def test_memory_that_cannot_be_read_is_not_the_hosts(nvidia):
    (device,) = nvidia(
        ("--query-gpu", 0, samples.UNIFIED.replace("0, [N/A], 580", "0, [Unknown Error], 580"))
    ).devices()

    assert device.memory == 0


def test_a_device_of_which_nothing_is_known_is_one_all_the_same(nvidia):
    (device,) = nvidia(("--query-gpu", 0, samples.OLD)).devices()

    assert (device.name, device.memory >> 20, device.driver) == ("GeForce GTX 770", 1999, "390.48")
    assert (device.compute_capability, device.ecc, device.pcie) == ("", None, Link(None, None, None, None))


@pytest.mark.parametrize("said", samples.NO_ANSWERS)
def test_what_stands_for_no_answer_is_none_in_every_cell(nvidia, said):
    cells = [samples.H100, *[said] * 10]
    counters = nvidia(("remapped", 0, ""), ("--query-gpu", 0, ", ".join(cells[:6]))).counters()

    assert counters == {samples.H100: {}}
    assert smi.parse_rows(", ".join(cells[:3]), ("uuid", "pid", "name"))[0]["name"] is None
    assert read_sample({"power.draw": smi.cell(said), "temperature.gpu": "40"}) == {"temperature": 40.0}


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
    lines = f"{samples.H100}, {os.getpid()}, 14195, /usr/bin/python3\n{samples.H100_2}, 4194305, [N/A], [Not Found]\n"

    ours, other = nvidia(("--query-compute-apps", 0, lines)).processes()

    assert (ours.pid, ours.name, ours.memory, ours.device) == (os.getpid(), "python3", 14195 << 20, samples.H100)
    assert ours.user
    assert (other.user, other.memory) == ("", None)


@pytest.mark.parametrize("name", ["/opt/train, the second", 'say "hello', "/usr/bin/a,b,c,"])
def test_a_process_may_be_called_what_its_user_likes(nvidia, name):
    lines = f"{samples.H100}, 4194305, 10, {name}\n{samples.H100_2}, 4194306, 20, python3\n"

    first, second = nvidia(("--query-compute-apps", 0, lines)).processes()

    assert (first.pid, first.name) == (4194305, os.path.basename(name))
    assert (second.device, second.name) == (samples.H100_2, "python3")


def test_processes_that_the_driver_does_not_show_are_none(nvidia):
    assert nvidia(("--query-compute-apps", 0, "[Not Supported], [Not Supported], [N/A], [N/A]\n")).processes() == []


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
    sampler = nvidia(("--query-gpu=uuid,temperature", 0, SAMPLE)).sampler([samples.H100], 0.01)
    try:
        found = [sampler.sample() for _ in range(3)]
    finally:
        sampler.close()

    assert [one[samples.H100]["power"] for one in found] == [176.98] * 3
    assert sampler.sample() is None


def test_samples_of_a_part_are_those_of_the_whole_device(nvidia):
    backend = nvidia(
        (f"--id={samples.H100}", 0, SAMPLE), ("--query-gpu", 0, samples.DIVIDED), ("-L", 0, samples.LIST_OF_PARTS)
    )
    sampler = backend.sampler(list(samples.PARTS), 0.01)
    series = Series("gpu01", 0.01)
    try:
        series.fill([(0.0, sampler.sample())], "")
    finally:
        sampler.close()

    assert series.max("power") == series.max("power", samples.H100) == 176.98
    assert backend.environment([samples.PARTS[1]]) == {"CUDA_VISIBLE_DEVICES": samples.PARTS[1]}
    with pytest.raises(KeyError, match=f"not sampled of {samples.PARTS[0]}; there is: temperature.* of {samples.H100}"):
        series.max("power", samples.PARTS[0])


def wait_for(is_so, seconds=30.0):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"it did not become so within {seconds:g} s"
        time.sleep(0.005)


def is_group(number):
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_samples_of_a_tool_that_hangs_end_and_say_so(nvidia):
    """The tool is a script here, as on many clusters, so that its end leaves the pipe open to the program behind it."""
    sampler = nvidia(("--query-gpu=uuid,temperature", 0, SAMPLE), rounds=3).sampler([samples.H100], 0.01)
    child = sampler._talk._process.pid
    sampling = Sampling(sampler, 0.01, paced=True, patience=0.05)
    wait_for(lambda: time.monotonic() - sampling._heard > 0.1 and len(sampling._taken) == 3)

    taken, trouble = sampling.stop()

    assert [values[samples.H100]["power"] for _moment, values in taken] == [176.98] * 3
    assert re.fullmatch(r"no sample came in the last \d+\.\d s: what samples hangs, or is too slow", trouble)
    assert not sampling._thread.is_alive()
    # Nobody of its group is left, whoever of them had the pipe.
    wait_for(lambda: not is_group(child))


def test_a_tool_that_stays_silent_is_given_up_while_samples_are_taken(tmp_path):
    program = samples.recording(tmp_path, "nvidia-smi", [("--query-gpu", 0, SAMPLE)], rounds=1)
    sampling = Sampling(SmiSampler(str(program), [samples.H100], 0.01, limit=0.2), 0.01, paced=True)
    wait_for(lambda: not sampling._thread.is_alive())

    taken, trouble = sampling.stop()

    assert len(taken) == 1
    assert trouble == "nvidia-smi has said nothing for 0.21 s; it hangs, and maybe the driver"


@pytest.mark.parametrize(
    "noise",
    ["\xff\xfe", "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.", "Failed", "a\0b, c"],
)
def test_noise_among_samples_is_left_out(nvidia, noise):
    line = SAMPLE.replace("0x0000000000000000", "0xsomething")
    sampler = nvidia(("--never", 0, f"{noise}\n{line}"), ("--query-gpu", 0, SAMPLE)).sampler([samples.H100], 0.01)
    try:
        found = [sampler.sample(), sampler.sample()]
    finally:
        sampler.close()

    assert found[0] == {}
    assert found[1][samples.H100]["power"] == 176.98
    assert "throttle" not in found[1][samples.H100]


IN_USE = "GPU 00000000:3B:00.0 is currently in use by another process.\n1 device is currently being used by one or more"


def test_a_device_is_reset_by_its_uuid(nvidia, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    done = "GPU 00000000:3B:00.0 was successfully reset.\nAll done.\n"

    nvidia((f"--gpu-reset --id={samples.H100}", 0, done)).reset(samples.H100)


@pytest.mark.parametrize(
    ("status", "said", "error", "why"),
    [
        (
            3,
            "Resetting GPU 00000000:3B:00.0 is not supported.",
            Unsupported,
            "reset: nvidia-smi: Resetting .* supported",
        ),
        (19, IN_USE, GpuError, r"^nvidia-smi: exit status 19 \(.*it said: .* in use by another process"),
        (255, "Unable to reset this GPU because it's being used by some other process", GpuError, "some other process"),
    ],
)
def test_a_reset_that_is_refused_says_why(nvidia, monkeypatch, status, said, error, why):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(error, match=why):
        nvidia(("--gpu-reset", status, said)).reset(samples.H100)


def test_a_part_of_a_device_and_a_plain_account_reset_nothing(nvidia, monkeypatch):
    backend = nvidia(("--query-gpu", 0, samples.DIVIDED), ("-L", 0, samples.LIST_OF_PARTS))
    backend.devices()
    with pytest.raises(Unsupported, match=f"{samples.PARTS[0]} is a part of {samples.H100}, which can only be reset"):
        backend.reset(samples.PARTS[0])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unsupported, match="nvidia-smi --gpu-reset needs root"):
        backend.reset(samples.H100)


def test_devices_of_others_are_pinned_for_level_zero_by_number():
    listed = [{"index": number, "uuid": f"opencl-{number}", "name": "Max 1550", "vendor": "Intel"} for number in (0, 1)]
    backend = PlainBackend("opencl", lambda: listed)

    assert backend.environment(["opencl-1"]) == {"ZE_AFFINITY_MASK": "1"}
    assert backend.environment(["opencl-0", "opencl-1"]) == {"ZE_AFFINITY_MASK": "0,1"}


@given(st.text(max_size=200))
def test_any_noise_in_the_place_of_lines_is_read_or_refused(text):
    try:
        rows = smi.parse_rows(text, ("index", "uuid"))
    except GpuError:
        return
    assert all(set(row) == {"index", "uuid"} for row in rows)
