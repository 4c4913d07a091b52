"""--ec-chaos: faults on purpose have the right verdicts, and the summary says when they came."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

LAB = """
roles:
  gpu:
    code: |
      import time
      def count(x):
          return x + 1
      def work(seconds):
          print("working", flush=True)
          time.sleep(seconds)
          return seconds
  san:
    code: "def ping(): return 'pong'"
hosts:
  gpu[01:02]: {role: gpu, connect: local, power: {cycle: "true"}}
  san1: {role: san, connect: local}
"""


@pytest.fixture
def lab(suite):
    suite.lab(LAB)
    return suite


def words(result):
    """The verdicts of ``-v``, by test."""
    return dict(re.findall(r"::(\w+(?:\[[\w-]+\])?) ([A-Z]+) ", result.stdout.str()))


TESTS = """
    import time, pytest
    def test_first(gpu_node): assert gpu_node.count(1) == 2
    @pytest.mark.parametrize("fault", ["drop", "kill", "crash", "freeze", "slow"])
    @pytest.mark.parametrize("name", ["gpu01", "gpu02"])
    def test_many(ec, fault, name):
        for number in range(3):
            began = time.monotonic()
            assert ec[name].count(number) == number + 1
        if name == "gpu02":
            assert fault != "slow" or time.monotonic() - began >= 0.3
"""
VERDICTS = {"drop": "LOST", "kill": "CRASHED", "crash": "CRASHED", "freeze": "PASSED", "slow": "PASSED"}


@pytest.mark.timeout(180)  # ten workers die or are replaced
@pytest.mark.parametrize("options", [(), ("--ec-simulate",)], ids=["real", "simulated"])
def test_the_test_that_is_hit_has_the_right_verdict_and_others_pass(lab, options):
    lab.tests(TESTS)
    written = {"freeze": "freeze=700ms", "slow": "slow=300ms"}
    faults = [f"gpu02:{written.get(what, what)}@test=*gpu02-{what}?@call=2" for what in VERDICTS]

    result = lab.run("-v", f"--ec-chaos={','.join(faults)}", *options)

    wanted = {f"test_many[gpu02-{what}]": word for what, word in VERDICTS.items()}
    wanted.update({f"test_many[gpu01-{what}]": "PASSED" for what in VERDICTS})
    assert words(result) == {"test_first": "PASSED", **wanted}
    lines = ["lab: CHAOS: 5 faults on purpose; --ec-chaos-seed=*", "*= chaos =*"]
    for what, fault in zip(VERDICTS, faults, strict=True):
        lines.append(f"{fault}: {what} of gpu02 at *.* s, call 2, count()")
        lines.append(f"  {VERDICTS[what]} *::test_many?gpu02-{what}?")
    result.stdout.fnmatch_lines(lines)
    result.stdout.no_fnmatch_line("*is no fault of the product*")
    assert result.ret == 1  # two have crashed


def test_a_link_that_stays_cut_costs_the_tests_of_its_host_only(lab):
    lab.tests("""
        import pytest
        @pytest.mark.parametrize("name", ["gpu02", "gpu01", "gpu02", "san1"])
        def test_many(ec, name): ec[name].remote.os.getpid()
        """)

    result = lab.run("--ec-chaos=gpu02:drop=600s")

    result.stdout.fnmatch_lines(
        ["gpu02 lost: 2 tests *", "*the link is cut, by --ec-chaos*", "*= 2 passed, 2 lost in *"]
    )
    assert result.ret == 16


def test_a_fault_comes_in_the_middle_of_a_call_when_its_time_has_come(lab):
    lab.tests("def test_works(gpu_node): gpu_node.work(60)")

    result = lab.run("-v", "--ec-chaos=gpu:kill@time=500ms")

    assert words(result) == {"test_works": "CRASHED"}
    result.stdout.fnmatch_lines(["gpu:kill@time=500ms: kill of gpu01 at *, call 1, work()", "  CRASHED *::test_works"])


def test_a_simulated_host_reboots_by_itself(lab):
    lab.tests("""
        @pytest.mark.ec_destructive
        def test_boots(gpu_node): gpu_node.count(1)
        def test_next(gpu_node): gpu_node.count(1)
        """)

    result = lab.run("-v", "--ec-simulate", "--ec-chaos=*:reboot")

    assert words(result) == {"test_boots": "CRASHED", "test_next": "PASSED"}
    result.stdout.fnmatch_lines(["?:reboot: reboot of gpu01 at * s, call 1, count()", "  CRASHED *::test_boots"])


def test_a_suite_that_takes_the_lab_for_the_product_is_told_so(lab):
    lab.tests("""
        def test_hides(gpu_node):
            try:
                gpu_node.count(1)
            except OSError:
                raise AssertionError("the product is wrong")
        """)

    result = lab.run("--ec-chaos=gpu:drop")

    result.stdout.fnmatch_lines(["  FAILED *::test_hides: wrong, for drop is no fault of the product"])


def test_what_never_came_is_said_and_the_run_has_a_status_of_its_own(lab):
    lab.tests("""
        @pytest.mark.ec_shared
        def test_first(gpu_node): gpu_node.count(1)
        """)

    result = lab.run("--ec-chaos=san1:drop@call=3,gpu:reboot,gpu:slow=1ms@random=0.01", "--ec-chaos-seed=7")

    result.stdout.fnmatch_lines(
        [
            "gpu:reboot: reboot of gpu01 at *; could not be done: *gpu01: chaos reboot needs the host exclusively*",
            "san1:drop@call=3: never came",
            "gpu:reboot: never came",
            "random faults came 0 times; again with --ec-chaos-seed=7",
        ]
    )
    assert result.ret == 17


def test_random_faults_come_again_with_the_same_seed(lab):
    lab.tests("""
        import pytest
        @pytest.mark.parametrize("number", range(6))
        def test_many(ec, number): ec["gpu01"].count(number)
        """)

    runs = [lab.run("-v", "--ec-chaos=gpu01:kill@random=0.4", "--ec-chaos-seed=5") for _ in range(2)]

    assert words(runs[0]) == words(runs[1])
    assert set(words(runs[0]).values()) == {"PASSED", "CRASHED"}


def test_a_fault_comes_once_among_the_workers_of_xdist(lab):
    pytest.importorskip("xdist")
    lab.tests("""
        import pytest
        @pytest.mark.parametrize("number", range(4))
        def test_many(ec, number): ec["gpu01"].count(number)
        """)

    result = lab.run("-p", "xdist", "-n2", "--ec-chaos=gpu01:drop@call=2")

    result.stdout.fnmatch_lines(["gpu01:drop@call=2: drop of gpu01 at *, call 2, count()", "*3 passed, 1 lost in *"])


@pytest.mark.parametrize(
    ("text", "wrong", "caret"),
    [
        ("gpu2:drop", "'gpu2' is no host, group, role or tag of lab 'lab.yaml'; did you mean 'gpu02'?", "^^^^"),
        ("gpu02", "'gpu02' names no fault; write  gpu02:drop  or another of drop, kill, crash, freeze", "^^^^^"),
        ("gpu02:dorp", "there is no fault 'dorp'; did you mean 'drop'?", "      ^^^^"),
        ("gpu02:freeze", "freeze takes how long; write  freeze=20s", "      ^^^^^^"),
        ("gpu02:freeze=long", "'long' is no span of time; write 500ms, 20s or 5m", "             ^^^^"),
        ("gpu02:kill=3", "kill takes no value", "          ^^"),
        ("gpu02:drop, san1:drop@cal=3", "there is no condition 'cal'; did you mean 'call'?", " " * 22 + "^^^"),
        ("gpu02:drop@call=0", "'0' is no number of a call, which count from 1", "                ^"),
        ("gpu02:drop@call", "call lacks its value; write  @call=3", "           ^^^^"),
        ("gpu[01:02]:drop@random=2", "'2' is no probability; write one above 0, up to 1", " " * 23 + "^"),
        ("gpu02:drop@call=1@call=2", "call is given twice", " " * 18 + "^^^^^^"),
        (" ", "no fault is given; write  gpu02:drop@call=3", "^"),
    ],
)
def test_what_cannot_be_understood_is_shown_where_it_stands(lab, monkeypatch, text, wrong, caret):
    from easycluster.lab import read_inventory
    from easycluster.lab.chaos import ChaosError, read_chaos

    monkeypatch.chdir(lab.pytester.path)
    with pytest.raises(ChaosError) as caught:
        read_chaos(text, read_inventory("lab.yaml"))

    assert wrong in str(caught.value)
    assert " " * caught.value.position + "^" * caught.value.width == caret


def test_a_wrong_list_ends_the_run_before_anything_is_connected(lab):
    lab.tests("def test_first(gpu_node): pass")

    result = lab.run("--ec-chaos=gpu2:drop@call=3")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --ec-chaos: *did you mean 'gpu02'?*", "  gpu2:drop@call=3", "  ^^^^"])


@pytest.mark.timeout(180)
def test_the_example_survives_its_lab(lab):
    """By TCP, ssh and a spawned Python: who is hit is lost or has crashed, and everything else passes."""
    example = Path(__file__).parents[2] / "examples" / "hw_lab"
    faults = [
        "san01:drop@test=*of_its_own",
        "video01:kill@test=*moment",
        "gpu:drop@test=*file*@call=2",
        "san:freeze=1s",
    ]
    lab.pytester.path.joinpath("pytest.ini").write_text("[pytest]\n")

    result = lab.run(
        f"--ec-chaos={','.join(faults)}", "-v", "-c", "pytest.ini", example / "test_hosts.py", lab=example / "lab.yaml"
    )

    with_sshd = "san01" in result.stdout.str().partition("= chaos =")[2]
    assert words(result) == {
        "test_every_host_is_a_python_of_its_own": "LOST" if with_sshd else "PASSED",
        "test_a_command_runs_on_each_host": "PASSED",
        "test_all_hosts_start_at_the_same_moment": "CRASHED",
        "test_a_result_of_one_host_is_stored_on_another": "PASSED",
        "test_a_checksum_is_computed_where_the_data_is": "PASSED",
        "test_a_file_goes_to_a_host_and_comes_back": "LOST",
    }
    result.stdout.fnmatch_lines(["gpu:drop@test=?file*: drop of gpu01 at *, call 2, *", "  LOST *"])
    result.stdout.no_fnmatch_line("*is no fault of the product*")
