"""The GPUs of a host, whole: over ssh and in spawned sessions, on OpenCL and on a plain processor.

Kernels are built and run for real here; that a processor runs them is what ``emulated`` says.
"""

from __future__ import annotations

import array
import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.interpreters import interpreters
from support.opencl import require_opencl
from support.parts import require

import easycluster.devices.gpu
from easycluster import Client, deadline
from easycluster.devices.gpu import GpuError, GpuTimeout, KernelBuildError, open_gpus
from easycluster.devices.gpu.bench import MODULES
from easycluster.devices.gpu.jobs import _Check
from easycluster.devices.gpu.kernels import affine_power
from easycluster.devices.gpu.sampling import Sampling
from easycluster.errors import Unsupported
from easycluster.server import spawn_local

ROOT = Path(easycluster.devices.gpu.__file__).parent
SCALE = "KERNEL void scale(GLOBAL float *data, float factor) { data[INDEX] *= factor; }"
SPIN = "KERNEL void spin(GLOBAL int *data) { volatile int x = 0; while (data[0] == 0) x++; }"
# PoCL compiles a kernel once for each machine; a far side of sshd has a home of its own.
CACHE = os.environ.get("POCL_CACHE_DIR") or str(Path("~/.cache/pocl/kcache").expanduser())

PLACES = ["spawned opencl", "ssh opencl", "spawned cpu"]


@pytest.fixture(scope="module", params=PLACES)
def place(request):
    """A far side and what is to drive its devices."""
    way, backend = request.param.split()
    if backend == "opencl":
        require_opencl()
    else:
        require("cc", "gcc")
    if way == "ssh":
        sshd = request.getfixturevalue("sshd")
        client = Client(host=sshd.host, ssh=True, extra_args=sshd.extra_args)
    else:
        client = spawn_local()
    with client:
        client.call("os.environ.__setitem__", "POCL_CACHE_DIR", CACHE)
        yield client, backend


@pytest.fixture
def gpus(place):
    client, backend = place
    with open_gpus(client, backend=backend) as found:
        yield found


def test_a_device_says_what_it_is_and_that_it_is_emulated(gpus, place):
    (device,) = gpus.devices

    assert gpus.backend == device.backend == place[1]
    assert gpus.emulated
    assert device.emulated
    assert (device.index, device.pcie, device.part_of) == (0, None, "")
    assert device.memory > 1 << 28
    assert device.uuid.startswith(f"{place[1]}-0-")
    assert all((device.name, device.vendor, device.driver))
    assert str(device).endswith("emulated)")
    assert gpus.processes == []


def test_a_kernel_changes_arrays_and_knows_numbers(gpus):
    data = array.array("f", range(1, 9))

    run = gpus.run_kernel(SCALE, data, 2.5)

    assert run.results == (array.array("f", [2.5 * number for number in range(1, 9)]),)
    assert data[0] == 1.0
    assert run.seconds > 0
    assert run.device == gpus.devices[0].uuid


def test_a_kernel_has_up_to_three_dimensions_and_numbers_of_any_type(gpus):
    source = """KERNEL void place(GLOBAL double *out, double step, unsigned char offset)
    {
        out[(INDEX_Z * 2 + INDEX_Y) * 3 + INDEX] = step * (100 * INDEX_Z + 10 * INDEX_Y + INDEX) + offset;
    }"""

    run = gpus.run_kernel(source, array.array("d", bytes(8 * 12)), ("d", 0.5), ("B", 200), size=(3, 2, 2))

    assert list(run.results[0]) == [
        0.5 * (100 * z + 10 * y + x) + 200 for z in range(2) for y in range(2) for x in range(3)
    ]


def test_a_kernel_that_is_wrong_comes_back_with_the_words_of_the_compiler(gpus):
    with pytest.raises(KernelBuildError, match="the kernel cannot be built") as caught:
        gpus.run_kernel(SCALE.replace("*= factor", "*= fctor"), [1.0], 2.0)

    assert "fctor" in caught.value.log
    assert gpus.run_kernel(SCALE, [1.0], 2.0).results[0][0] == 2.0


def test_a_kernel_that_hangs_is_ended_and_the_next_one_runs(gpus):
    begin = time.monotonic()

    with pytest.raises(GpuTimeout, match=r"run_kernel did not end within 0\.5 s; its process was killed"):
        gpus.run_kernel(SPIN, [0], timeout=0.5)

    assert time.monotonic() - begin < 20
    assert gpus.run_kernel(SCALE, [3.0], 2.0).results[0][0] == 6.0


def test_a_deadline_ends_a_kernel_too(gpus):
    with pytest.raises(TimeoutError), deadline(0.5):
        gpus.run_kernel(SPIN, [0])

    assert gpus.run_kernel(SCALE, [3.0], 2.0).results[0][0] == 6.0


def test_arguments_that_no_kernel_takes_are_refused_here(gpus):
    with pytest.raises(TypeError, match="'no' is no argument of a kernel"):
        gpus.run_kernel(SCALE, [1.0], "no")
    with pytest.raises(ValueError, match="needs size="):
        gpus.run_kernel("KERNEL void nothing(int x) {}", 1)
    with pytest.raises(ValueError, match=r"the source has 2 kernels that we can see \(a, b\); give name="):
        gpus.run_kernel("KERNEL void a(GLOBAL int *x) {} KERNEL void b(GLOBAL int *x) {}", [1])
    with pytest.raises(IndexError, match="there is no device 1; there are 1, from 0"):
        gpus.bandwidth(1)


def test_a_number_that_does_not_fit_is_no_other_number(gpus):
    with pytest.raises(ValueError, match="1099511627776 is no number of type code 'i'"):
        gpus.run_kernel("KERNEL void f(GLOBAL int *x, int y) { x[0] = y; }", [1], 1 << 40)


def test_copies_have_a_speed_and_come_back_as_they_went(gpus):
    found = gpus.bandwidth(size=1 << 20, seconds=0.03)

    assert min(found.to_device, found.from_device, found.on_device) > 0.01
    assert (found.size, found.device) == (1 << 20, gpus.devices[0].uuid)


def test_a_burn_compares_its_results_while_samples_are_taken(gpus):
    with gpus.telemetry(0.01) as series:
        (burn,) = gpus.burn(0.1)

    assert burn.errors == 0
    assert burn.rounds >= 1
    assert burn.gops > 0
    assert 0.1 <= burn.seconds <= series.seconds
    assert series.devices == [burn.device]
    assert 0 <= series.min("utilization") <= series.mean("utilization") <= series.max("utilization") <= 100
    assert series.max("memory_used") > 1 << 20
    assert series.table().splitlines()[1].startswith(f"{burn.device} utilization: ")
    assert gpus.take_series() == [series]
    with pytest.raises(KeyError, match="'power' was not sampled; there is: utilization"):
        series.values("power")


def test_samples_cross_in_one_call(gpus, place, monkeypatch):
    client, _backend = place
    asked = []
    original = client.call
    monkeypatch.setattr(client, "call", lambda *args, **kwargs: (asked.append(args[2]), original(*args, **kwargs))[1])

    with gpus.telemetry(0.005) as series:
        gpus.burn(0.1)

    assert len(series) >= 3
    assert asked.count("sample_start") == asked.count("sample_stop") == 1
    assert not [name for name in asked if name.startswith("sample") and name not in ("sample_start", "sample_stop")]


def test_samples_of_a_block_that_fails_are_kept(gpus):
    with pytest.raises(ZeroDivisionError), gpus.telemetry(0.005):
        raise ZeroDivisionError

    (series,) = gpus.take_series()
    assert len(series) >= 1


def test_what_a_processor_cannot_do_says_so(gpus):
    with pytest.raises(Unsupported, match="reset: an emulated device is a processor"):
        gpus.reset()
    with pytest.raises(Unsupported, match="lease: the locks of devices are a lab's"):
        gpus.lease()
    with pytest.raises(Unsupported, match=r"run_kernel: this device takes \w+, and there are sources for cuda"):
        gpus.run_kernel({"cuda": "__global__ void f(int *x) {}"}, [1])


def test_a_processor_is_not_taken_where_it_is_not_accepted(place):
    client, backend = place
    with (
        open_gpus(client, backend=backend, accepts_emulated=False) as gpus,
        pytest.raises(Unsupported, match=r"gpu: .* has an emulated device only"),
    ):
        gpus.burn(0.1)


def test_nothing_is_left_of_the_process_that_runs_kernels(place):
    client, backend = place
    with open_gpus(client, backend=backend) as gpus:
        with pytest.raises(GpuTimeout):
            gpus.run_kernel(SPIN, [0], timeout=0.1)  # which may end a compiler in the middle, too
        gpus.bandwidth(size=4096, seconds=0.0)
        assert _below(client.call("os.getpid"))
        scratch = client.eval("__import__('sys').modules['easycluster.devices.gpu.station']._station._scratch")
        assert os.path.isdir(scratch)
    assert _below(client.call("os.getpid")) == []
    assert not os.path.exists(scratch)


def _below(pid):
    """The children of a process that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(path.parent.name))
    return found


def test_a_process_that_dies_is_an_error_and_replaced(place):
    client, backend = place
    with open_gpus(client, backend=backend) as gpus:
        gpus.bandwidth(size=4096, seconds=0.0)
        (child,) = _below(client.call("os.getpid"))
        os.kill(child, signal.SIGKILL)
        with pytest.raises(GpuError, match="the device's process has ended"):
            gpus.bandwidth(size=4096, seconds=0.0)
        assert gpus.run_kernel(SCALE, [3.0], 2.0).results[0][0] == 6.0


# ------------------------------------------------------------ this machine


def test_the_first_backend_that_works_is_taken_and_the_others_say_why_not():
    require_opencl()
    with open_gpus() as gpus:
        if not gpus.emulated:
            pytest.skip("this machine has a GPU")
        assert gpus.backend == "opencl"
        passed = gpus._open().passed
    assert passed == ("nvidia: neither nvidia-smi nor its driver is here", "amd: neither amd-smi nor rocm-smi is here")


def test_a_backend_that_is_not_here_says_what_is_missing():
    with pytest.raises(GpuError, match=r"amd: .*neither amd-smi nor rocm-smi is installed"):
        open_gpus(backend="amd").devices  # noqa: B018
    with pytest.raises(GpuError, match="'vulkan' is no backend; there are nvidia, amd, opencl, cpu"):
        open_gpus(backend="vulkan").devices  # noqa: B018


@pytest.mark.parametrize("python", [interpreters()[version] for version in list(interpreters())[:1]])
def test_the_oldest_python_will_do(python):
    with spawn_local(python=python) as client, open_gpus(client, backend="cpu") as gpus, gpus.telemetry(0.01) as series:
        assert gpus.burn(0.02)[0].errors == 0
        assert gpus.bandwidth(size=4096, seconds=0.0).size == 4096
        assert gpus.health().counters == {gpus.devices[0].uuid: {}}
    assert len(series) >= 1


# ------------------------------------------------------------ how results are judged


def test_the_host_foretells_what_the_burn_kernel_computes():
    numbers = [1, 77, 2**32 - 1]
    for rounds in (0, 1, 2, 5, 1000):
        factor, summand = affine_power(rounds)
        expected = []
        for number in numbers:
            for _ in range(rounds):
                number = (number * 1664525 + 1013904223) % 2**32
            expected.append(number)
        assert [(number * factor + summand) % 2**32 for number in numbers] == expected


def test_a_flipped_bit_is_found_and_placed():
    seeds = array.array("I", range(4096))
    check = _Check(seeds, 8192)
    factor, summand = affine_power(64)
    right = array.array("I", ((seed * factor + summand) % 2**32 for seed in seeds)).tobytes() * 2
    check.look("whole", right, 64)
    assert check.errors == 0

    wrong = bytearray(right)
    wrong[4 * 5000] ^= 1
    check.look("whole", bytes(wrong), 64)

    assert check.errors == 1
    assert check.first.startswith("a whole number of item 5000 is ")


def test_floating_point_results_are_held_against_those_of_the_same_seed():
    check = _Check(array.array("I", range(4096)), 8192)
    block = array.array("f", range(4096)).tobytes()
    check.look("floating", block * 2, 64)
    check.look("floating", block * 2, 64)
    assert check.errors == 0

    check.look("floating", block + block[:-4] + b"\0\0\0\0", 64)

    assert (check.errors, check.first[:32]) == (1, "a floating number of item 8191 i")


class Steps:
    """Gives samples as fast as it is asked."""

    def __init__(self):
        self.asked = 0

    def sample(self):
        self.asked += 1
        return {"a": {"step": float(self.asked)}}

    def close(self):
        pass


def test_of_very_many_samples_every_other_one_is_kept_again_and_again():
    steps = Steps()
    sampling = Sampling(steps, 0.0, paced=True, most=16)
    end = time.monotonic() + 30
    while steps.asked < 500 and time.monotonic() < end:
        time.sleep(0.001)

    taken, trouble = sampling.stop()

    assert trouble == ""
    assert len(taken) < 16
    numbers = [values["a"]["step"] for _moment, values in taken]
    assert numbers == sorted(numbers)
    assert numbers[-1] > 200


# ------------------------------------------------------------ what is sent


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda path: path.name)
def test_what_is_sent_needs_only_python_3_8_and_what_is_there(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    needed = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            needed |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            needed.add(node.module)
    ours = {name for name in needed if name.partition(".")[0] == "easycluster"}
    assert all(name.startswith(("easycluster.devices", "easycluster.errors")) for name in ours)
    assert {name.partition(".")[0] for name in needed - ours} <= sys.stdlib_module_names


def test_the_process_that_runs_kernels_is_sent_all_that_it_needs_and_no_more():
    program = (
        "import sys; before = set(sys.modules); import easycluster.devices.gpu.bench, easycluster.devices.gpu.cpu,"
        "easycluster.devices.gpu.cuda, easycluster.devices.gpu.opencl;"
        "print(*sorted(n for n in set(sys.modules) - before if n.startswith('easycluster.devices')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) | {"easycluster.errors"} == set(MODULES)
