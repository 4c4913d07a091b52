"""GPUs in a suite: which devices tests accept, leases, faults of the hardware, samples in reports."""

from __future__ import annotations

import secrets
import textwrap
from xml.etree import ElementTree

import pytest
from devices.gpu_samples import recording

LAB = """
roles:
  gpu:
    code: |
      def burn(seconds):
          return "the role's own"
hosts:
  gpu01: {role: gpu, connect: local, gpu: {backend: cpu, emulated: true}}
  gpu02: {role: gpu, connect: local, gpu: {backend: cpu}}
"""


def test_devices_are_asked_of_the_host_and_role_code_comes_first(suite):
    suite.lab(LAB)
    suite.tests("""
        def test_it(gpu_node):
            assert gpu_node.devices == gpu_node.gpu.devices
            assert gpu_node.bandwidth(size=4096, seconds=0.0).size == 4096
            assert gpu_node.burn(1) == "the role's own"
            assert gpu_node.gpu.burn(0.01)[0].errors == 0
            assert (gpu_node.emulated, gpu_node.backend) == (True, "cpu")
        """)

    # The process that runs kernels ends with the lease, and counts as no leftover.
    suite.run("--ec-leaks=error").assert_outcomes(passed=1)


def test_whether_a_processor_is_accepted_is_said_by_the_test_or_the_lab(suite):
    suite.lab(LAB)
    suite.tests("""
        def use(ec, name):
            with ec.lease("gpu", count=2) as hosts:
                return hosts[name].gpu.burn(0.0)

        def test_lab_says_yes(ec):
            use(ec, "gpu01")

        def test_lab_says_nothing(ec):
            use(ec, "gpu02")

        @pytest.mark.ec_emulated
        def test_test_says_yes(ec):
            use(ec, "gpu02")

        @pytest.mark.ec_emulated(False)
        def test_test_says_no(gpu_node):
            assert False, "must not run"

        def test_lab_says_nothing_again(ec):
            use(ec, "gpu02")
        """)

    result = suite.run("-rs")

    result.assert_outcomes(passed=2, skipped=3)
    why = "has an emulated device only; a lab file accepts it with  gpu: {emulated: true}, a test with ec_emulated"
    result.stdout.fnmatch_lines_random([f"SKIPPED *: gpu: gpu02 {why}", f"SKIPPED *: gpu: gpu01 {why}"])


def test_a_wrong_marker_is_an_error_of_the_collection(suite):
    suite.lab(LAB)
    suite.tests("""
        @pytest.mark.ec_emulated("yes")
        def test_it(gpu_node):
            pass
        """)

    result = suite.run()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ec_emulated: write ec_emulated, or ec_emulated(False) for a test that needs*"])


def test_what_cannot_be_done_skips_the_test(suite):
    suite.lab(LAB)
    suite.tests("""
        def test_it(gpu_node):
            gpu_node.reset()
        """)

    result = suite.run("-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * reset: an emulated device is a processor; NVIDIA's and AMD's tools can"])


def test_samples_stand_in_the_report_and_in_junit(suite):
    suite.lab(LAB)
    suite.tests("""
        def test_it(gpu_node):
            with gpu_node.telemetry(0.005):
                gpu_node.gpu.burn(0.02)
            assert False, "so that the report is shown"
        """)

    result = suite.run("--junitxml=out.xml")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*- GPU telemetry [[]gpu01[]] -*", "* samples in *", "cpu-0-* utilization: * %, mean *"]
    )
    assert 'name="ec_telemetry[gpu01]"' in (suite.pytester.path / "out.xml").read_text()


# ------------------------------------------------------------ with a recording of nvidia-smi, which is no device

UUID = "GPU-11111111-2222-3333-4444-555555555555"

RECORDED = """
    from easycluster.devices.gpu.station import Opened

    @pytest.fixture
    def node(gpu_node):
        path = gpu_node.call("os.environ.get", "PATH")
        gpu_node.call("os.environ.__setitem__", "PATH", FOLDER + ":" + path)
        # A recording runs no kernel, so that proof is left out.
        gpu_node.gpu._opened = Opened("nvidia", False, ())
        gpu_node.gpu.begin_watch()
        return gpu_node
    """


@pytest.fixture
def played(suite, tmp_path):
    """Has the suite's host play a recording of nvidia-smi, of one device; gives its place on the bus."""

    def play(processes=""):
        bus = f"{secrets.randbelow(200) + 16:02X}:{secrets.randbelow(32):02X}"
        cells = f"0, {UUID}, NVIDIA H100 80GB HBM3, 00000000:{bus}.0, 81559, 570.158.01, 9.0, Enabled"
        recording(
            tmp_path,
            "nvidia-smi",
            [
                ("--query-gpu=index", 0, f"{cells}, 5, 16, 5, 16, Disabled\n"),
                ("--query-gpu=uuid,ecc", 0, f"{UUID}, 0, 0, No, 0, 0\n"),
                ("--query-remapped-rows", 0, f"{UUID}, 0, 0, No, No\n"),
                ("--query-compute-apps", 0, processes),
            ],
        )
        suite.lab("roles: {gpu: {}}\nhosts: {gpu01: {role: gpu, connect: local}}\n")
        return f"0000:{bus.lower()}"

    return play


def recorded_suite(suite, tmp_path, text, **names):
    head = "".join(f"{name} = {value!r}\n" for name, value in {"FOLDER": str(tmp_path), "UUID": UUID, **names}.items())
    path = suite.pytester.path / "test_recorded.py"
    path.write_text(f"import pytest\n{head}{textwrap.dedent(RECORDED)}\n{textwrap.dedent(text)}")


def test_a_lease_pins_by_uuid_and_sets_back(suite, tmp_path, played):
    played()
    recorded_suite(
        suite,
        tmp_path,
        """
        def seen(node):
            return node.run("echo $CUDA_VISIBLE_DEVICES").stdout.strip()

        def test_it(node):
            node.call("os.environ.__setitem__", "CUDA_VISIBLE_DEVICES", "before")
            with node.lease(memory="40 GiB", name="h100") as lease:
                assert lease.uuids == [UUID]
                assert lease.variables == {"CUDA_VISIBLE_DEVICES": UUID}
                assert seen(node) == UUID
                with pytest.raises(Exception, match="1 device wanted, and of 1 fits 1: .*leased here already"):
                    node.lease()
            assert seen(node) == "before"
            with pytest.raises(Exception, match="1 device with 90 GiB wanted, and of 1 fit 0: "):
                node.lease(memory="90 GiB")
        """,
    )

    suite.run().assert_outcomes(passed=1)


def test_a_device_is_reset_by_who_has_it(suite, tmp_path, played):
    played()
    recorded_suite(
        suite,
        tmp_path,
        """
        def test_without_a_lease(node):
            with pytest.raises(Exception, match=f"{UUID} is not leased, so somebody may begin to use it; lease"):
                node.reset()

        def test_with_a_lease(node):
            node.eval("setattr(__import__('os'), 'geteuid', lambda: 0)")
            with node.lease() as lease:
                node.reset(lease.devices[0])
        """,
    )
    (program,) = tmp_path.glob("nvidia-smi")
    program.write_text(
        program.read_text().replace("case", f'case "$*" in *--gpu-reset*--id={UUID}*) exit 0;; esac\ncase', 1)
    )

    suite.run().assert_outcomes(passed=2)


def test_a_device_that_somebody_uses_is_refused_with_his_name(suite, tmp_path, played):
    played(processes=f"{UUID}, 1, 14195, /sbin/init\n")
    recorded_suite(
        suite,
        tmp_path,
        """
        from easycluster.devices.gpu import GpuBusy

        def test_it(node):
            with pytest.raises(GpuBusy, match="0 of 1 is free: GPU-.* has pid 1 init of root, 14195 MiB") as caught:
                node.lease()
            assert [one.pid for one in caught.value.processes] == [1]
        """,
    )

    suite.run().assert_outcomes(passed=1)


def test_devices_that_somebody_uses_are_busy_and_no_fault_of_the_product(suite, tmp_path, played):
    played(processes=f"{UUID}, 1, 14195, /sbin/init\n")
    recorded_suite(
        suite,
        tmp_path,
        """
        def test_it(node):
            node.lease()

        @pytest.fixture
        def device(node):
            with node.lease() as lease:
                yield lease

        def test_with_a_fixture(device):
            pass
        """,
    )

    result = suite.run("--junitxml=junit.xml")

    assert result.ret == 16
    busy = "1 device wanted, and 0 of 1 is free: GPU-* has pid 1 init of root, 14195 MiB"
    result.stdout.fnmatch_lines(["gpu01 busy: 2 tests (a Python on this machine)", f"  {busy}", "*= 2 busy in *"])
    tree = ElementTree.parse(suite.pytester.path / "junit.xml")
    assert [(error.get("type"), error.get("message")[:11]) for error in tree.iter("error")] == [
        ("BUSY", "BUSY gpu01 ")
    ] * 2


def write_to_kernel_log(text):
    try:
        with open("/dev/kmsg", "w") as file:
            file.write(f"{text}\n")  # without its end a line may go on, and is not shown yet
    except OSError as exc:
        pytest.skip(f"needs root: nobody else writes into the kernel's log ({exc.strerror})")


def test_a_test_that_causes_an_xid_fails_and_only_that_one(suite, tmp_path, played):
    """The log is the kernel's own, with a line that we write; only the device is a recording."""
    place = played()
    write_to_kernel_log(f"NVRM: Xid (PCI:{place}): 13, of before the tests")
    recorded_suite(
        suite,
        tmp_path,
        """
        def fault(text):
            with open("/dev/kmsg", "w") as file:
                file.write(text + chr(10))

        def test_before(node):
            pass

        def test_causes_it(node):
            fault(f"NVRM: Xid (PCI:{PLACE}): 31, pid=4711, name=python3, MMU Fault")

        def test_fails_itself(node):
            fault(f"NVRM: Xid (PCI:{PLACE}): 43, pid=4711, name=python3, Ch 00000010")
            assert False

        def test_wants_it(node):
            with node.expect_faults() as found:
                fault(f"NVRM: Xid (PCI:{PLACE}): 45, pid=4711, name=python3, preempted")
            assert [line.partition(" ")[2][:3] for line in found] == ["Xid"]

        def test_after(node):
            fault("NVRM: Xid (PCI:0000:fe:1e): 79, of a device of somebody else")
        """,
        PLACE=place,
    )

    result = suite.run()

    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(
        [
            "the hardware reported faults during the test:",
            f"  gpu01: NVRM: Xid (PCI:{place}): 31, pid=4711, name=python3, MMU Fault",
            "*- Captured GPU faults call -*",
            f"gpu01: NVRM: Xid (PCI:{place}): 43, *",
        ]
    )


def test_a_test_after_which_the_tool_fails_is_told(suite, tmp_path, played):
    played()
    recording(tmp_path, "lost", [("--query", 15, "Unable to determine the device handle for GPU0: GPU is lost.")])
    recorded_suite(
        suite,
        tmp_path,
        """
        def test_it(node):
            import os
            os.rename(FOLDER + "/lost", FOLDER + "/nvidia-smi")
        """,
    )

    result = suite.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["  gpu01: the state of its GPUs cannot be read any more: nvidia-smi: a device has fallen off the bus: *"]
    )


def test_a_test_after_which_the_tool_hangs_is_told_and_the_run_goes_on(suite, tmp_path, played):
    played()
    recording(tmp_path, "stuck", [("--query", "hang", "")])
    recorded_suite(
        suite,
        tmp_path,
        """
        def test_it(node):
            import os
            os.rename(FOLDER + "/stuck", FOLDER + "/nvidia-smi")

        def test_of_something_else():
            pass
        """,
    )
    (suite.pytester.path / "conftest.py").write_text("import pytest_easycluster.gpus as gpus\ngpus._TIME = 2.0\n")

    result = suite.run()

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["  gpu01: the state of its GPUs cannot be read any more: *"])


# ------------------------------------------------------------ locks


HOLDER = """
import sys, time
from easycluster.lab import Lab
lease = Lab.load("lab.yaml")["gpu01"].gpu.lease(label="training")
print(lease.uuids[0], flush=True)
time.sleep(1000)
"""


def test_devices_are_locked_by_identifier_until_their_owner_dies(suite):
    suite.lab(LAB)
    (suite.pytester.path / "holder.py").write_text(HOLDER)
    suite.tests("""
        import subprocess, sys, time
        from easycluster.lab import HostBusy

        def test_it(ec):
            with subprocess.Popen([sys.executable, "holder.py"], stdout=subprocess.PIPE, text=True) as owner:
                try:
                    uuid = owner.stdout.readline().strip()
                    with ec.lease("gpu", shared=True) as (host,):
                        with pytest.raises(HostBusy, match=f"in use by .* pid {owner.pid}.*training"):
                            host.gpu.lease(wait=0)
                        owner.kill()
                        begin = time.monotonic()
                        with host.gpu.lease(wait=30) as lease:
                            assert lease.uuids == [uuid]
                            assert uuid in [one.name for one in ec.leases.holders(host)]
                        assert time.monotonic() - begin < 20
                        assert uuid not in [one.name for one in ec.leases.holders(host)]
                finally:
                    owner.kill()
        """)

    suite.run().assert_outcomes(passed=1)


def test_a_lease_of_devices_ends_with_the_test_if_it_was_forgotten(suite):
    suite.lab(LAB)
    suite.tests("""
        def test_forgets(gpu_node):
            gpu_node.lease()

        def test_has_it(gpu_node):
            assert gpu_node.lease(wait=0).uuids
        """)

    suite.run("--ec-leaks=error").assert_outcomes(passed=2)
