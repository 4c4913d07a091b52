"""Verdicts: crashed, lost and busy hosts are told from product faults, and from each other."""

from __future__ import annotations

import re
import textwrap
import time
from xml.etree import ElementTree

import pytest

from easycluster import Lab, generate_key, write_key_file

LAB = """
roles:
  gpu:
    code: |
      import os, signal, time
      def crash():
          import ctypes
          ctypes.string_at(0)
      def leave():
          os._exit(3)
      def wrong():
          raise ValueError("a fault of the product")
      def rebuild():
          print("md0: resync 41%", flush=True)
          import sys
          sys.stderr.write("resync slow\\n")
          time.sleep(600)
      def keeper():
          with open("/proc/%d/stat" % os.getppid()) as file:
              return int(file.read().rpartition(")")[2].split()[1])
hosts:
  gpu[01:02]: {role: gpu, connect: local}
  down: {role: gpu, connect: {via: tcp, address: 127.0.0.1, port: 1, key_file: lab.key}}
"""

TOOLS = """
import os, signal, threading, time

def cut(host):
    "Lose a host in the middle of a call."
    keeper = host.keeper()
    threading.Timer(0.3, os.kill, (keeper, signal.SIGKILL)).start()
    host.rebuild()
"""


@pytest.fixture
def lab(suite):
    """A suite with hosts that can be crashed and lost, and one that is down."""
    suite.lab(LAB)
    write_key_file(suite.pytester.path / "lab.key", generate_key())
    tests = suite.tests
    suite.tests = lambda text: tests(TOOLS + "\n" + textwrap.dedent(text))
    return suite


def cases(suite):
    """What JUnit's report has: name of the test, then tag and type of what went wrong, and its properties."""
    found = {}
    for case in ElementTree.parse(suite.pytester.path / "junit.xml").iter("testcase"):
        wrong = [(part.tag, part.get("type")) for part in case if part.tag in ("failure", "error", "skipped")]
        found[case.get("name")] = wrong, {one.get("name"): one.get("value") for one in case.iter("property")}
    return found


def words(result):
    """The verdicts of ``-v``, by test."""
    return dict(re.findall(r"::(\w+) ([A-Z]+) ", result.stdout.str()))


def test_each_kind_of_end_has_its_verdict(lab):
    lab.tests("""
        def test_passes(gpu_node): assert gpu_node.keeper()
        def test_fails(gpu_node): gpu_node.wrong()
        def test_crashes(gpu_node): gpu_node.crash()
        def test_leaves(gpu_node): gpu_node.leave()
        def test_loses(gpu_node): cut(gpu_node)
        def test_next(gpu_node): assert gpu_node.keeper()
        """)

    result = lab.run("-v", "--junitxml=junit.xml")

    assert words(result) == {
        "test_passes": "PASSED",
        "test_fails": "FAILED",
        "test_crashes": "CRASHED",
        "test_leaves": "CRASHED",
        "test_loses": "LOST",
        "test_next": "PASSED",
    }
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "E   *WorkerDied: gpu01: the worker was killed by SIGSEGV (during crash(), * s into it)",
            "E   it was here on gpu01:",
            "E   Current thread 0x* (most recent call first):",
            'E     File "*lab.yaml", line * in crash',
            "*= lost hosts =*",
            "gpu01 lost: 1 test (a Python on this machine)",
            "  the far-side process was killed by signal 9, 0 s into rebuild(); answers again",
            "    last output: *resync*",
            "  LOST *::test_loses (*.py:*)",
            "*= 3 failed, 2 passed, 1 lost in *",
        ]
    )
    found = cases(lab)
    assert found["test_crashes"][0] == [("failure", None)]
    assert found["test_loses"][0] == [("error", "LOST")]
    assert found["test_loses"][1]["ec_verdict"] == "LOST"
    assert found["test_loses"][1]["ec_hosts_at_fault"] == "gpu01"
    whole = ElementTree.parse(lab.pytester.path / "junit.xml").find("testsuite")
    assert (whole.get("errors"), whole.get("failures")) == ("1", "3")


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n2")], ids=["alone", "xdist"])
def test_a_run_that_lacked_only_hosts_ends_with_16(lab, workers):
    lab.tests("""
        def test_passes(gpu_node): assert gpu_node.keeper()
        def test_down(ec): ec.hosts["down"].keeper()
        def test_again(ec): ec.hosts["down"].keeper()
        @pytest.mark.ec_hosts("gpu", where="name == 'down'")
        def test_fixture(remote_hosts): pass
        @pytest.mark.xfail(reason="whatever the product does")
        def test_expected_to_fail(ec): ec.hosts["down"].keeper()
        """)

    result = lab.run("-v", *workers)

    assert result.ret == 16
    assert result.stdout.str().count(" LOST ") >= 4
    result.stdout.fnmatch_lines(
        ["down lost: 4 tests (tcp 127.0.0.1:1)", "  *refused*", "  LOST *::test_down (*", "*= 1 passed, 4 lost in *"]
    )
    assert "not tried again" not in result.stdout.str()


def test_a_fault_beside_a_loss_is_a_fault(lab):
    lab.tests("""
        def test_both(ec):
            with pytest.raises(Exception) as caught:
                ec.hosts.call("wrong")
            raise caught.value
        def test_while_handling(gpu_node):
            try:
                cut(gpu_node)
            except OSError:
                assert 1 == 2
        def test_because(gpu_node):
            try:
                cut(gpu_node)
            except OSError as exc:
                raise RuntimeError("the driver is gone") from exc
        """)

    result = lab.run("-v")

    assert words(result) == {"test_both": "FAILED", "test_while_handling": "FAILED", "test_because": "LOST"}
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_a_loss_that_is_expected_is_none(lab):
    lab.tests("""
        @pytest.fixture
        def doomed(gpu_node):
            with gpu_node.expect_loss():
                yield gpu_node
            assert gpu_node.keeper()
        def test_block(gpu_node):
            with gpu_node.expect_loss():
                cut(gpu_node)
                assert False
            assert gpu_node.keeper()
        def test_fixture(doomed): cut(doomed)
        def test_other_error(gpu_node):
            with gpu_node.expect_loss(timeout=0.2):
                gpu_node.wrong()
        def test_not_lost(gpu_node):
            with gpu_node.expect_loss(timeout=0.2):
                pass
        """)

    result = lab.run("-v")

    assert words(result) == {
        "test_block": "PASSED",
        "test_fixture": "PASSED",
        "test_other_error": "FAILED",
        "test_not_lost": "FAILED",
    }
    result.stdout.fnmatch_lines(["*NotLost: gpu01 was expected to be lost, but still answers after 0.2 s"])


def test_what_a_loss_takes_along_is_told_once(lab):
    lab.tests("""
        @pytest.fixture
        def service(gpu_node):
            yield
            gpu_node.keeper()
        def test_loses(gpu_node, service): cut(gpu_node)
        def test_crashes(gpu_node, service): gpu_node.crash()
        """)

    result = lab.run("-v", "--junitxml=junit.xml")

    result.stdout.fnmatch_lines(["*= 1 failed, 1 lost in *"])
    assert len(cases(lab)) == 2


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n1")], ids=["alone", "xdist"])
def test_a_run_stops_once_too_many_hosts_are_lost(lab, workers):
    lab.tests("""
        def test_a(ec): cut(ec.hosts["gpu01"])
        def test_b(ec): ec.hosts["down"].keeper()
        @pytest.mark.parametrize("number", range(40))
        def test_c(number): time.sleep(0.1)
        """)

    result = lab.run("--ec-max-lost=2", *workers)

    assert result.ret == 16
    result.stdout.fnmatch_lines(["*2 hosts lost (--ec-max-lost=2): gpu01, down*"])
    assert "40 passed" not in result.stdout.str()


def test_a_host_that_somebody_else_has_is_busy(lab):
    lab.tests("""
        pytestmark = [pytest.mark.ec_hosts("gpu", where="name == 'gpu01'"), pytest.mark.ec_destructive]
        def test_waits(remote_hosts): pass
        @pytest.mark.xfail
        def test_waits_too(remote_hosts): pass
        """)
    with Lab.load(lab.pytester.path / "lab.yaml") as other, other.lease("gpu", count=2, destructive=True):
        result = lab.run("-v", "--junitxml=junit.xml", "--ec-wait=300ms")

    assert result.ret == 16
    assert words(result) == {"test_waits": "BUSY", "test_waits_too": "BUSY"}
    result.stdout.fnmatch_lines(["*= busy hosts =*", "gpu01 busy: 2 tests*", "  in use by *", "*= 2 busy in *"])
    assert cases(lab)["test_waits"][0] == [("error", "BUSY")]


def test_a_wrong_number_of_hosts_is_refused(lab):
    lab.tests("def test_a(): pass")

    result = lab.run("--ec-max-lost=none")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --ec-max-lost: 'none' is not a number of 1 or more"])


def test_other_plugins_show_verdicts_too(lab):
    pytest.importorskip("pytest_html")
    pytest.importorskip("pytest_timeout")
    lab.tests("""
        def test_loses(gpu_node): cut(gpu_node)
        def test_crashes(gpu_node): gpu_node.crash()
        @pytest.mark.timeout(1, func_only=True)
        def test_hangs(gpu_node): gpu_node.rebuild()
        """)

    result = lab.run(
        "-v", "-p", "pytest_timeout", "-p", "pytest_metadata.plugin", "-p", "pytest_html.plugin", "--html=r.html"
    )

    # What pytest-timeout writes of other threads may stand between the test and its word.
    assert {**words(result), "test_hangs": "?"} == {"test_loses": "LOST", "test_crashes": "CRASHED", "test_hangs": "?"}
    result.stdout.fnmatch_lines(["FAILED *::test_hangs*"])
    assert "killed by signal 9" in (lab.pytester.path / "r.html").read_text()


# ------------------------------------------------------------ time


def test_a_test_and_its_teardown_are_limited(lab):
    lab.tests("""
        def test_call(gpu_node): gpu_node.rebuild()
        def test_next(gpu_node): assert gpu_node.keeper()
        @pytest.mark.ec_timeout(test=0.3)
        def test_marked(): time.sleep(600)
        @pytest.fixture
        def slow():
            yield
            time.sleep(600)
        def test_teardown(slow): pass
        """)
    began = time.monotonic()

    result = lab.run("-v", "--ec-timeout=6s", "--ec-teardown-timeout=3s")

    assert time.monotonic() - began < 60
    result.assert_outcomes(passed=2, failed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "E       Failed: the teardown took longer than 3 s",
            ">*gpu_node.rebuild()",
            "E   Failed: the test took longer than 6 s: still in rebuild() on gpu01",
            "E   Failed: the test took longer than 0.3 s",
        ]
    )


def test_a_call_that_takes_long_is_named(lab):
    lab.tests("""
        def test_call(gpu_node): gpu_node.remote.time.sleep(1.0)
        def test_command(gpu_node): gpu_node.run("sleep 1")
        def test_busy_here(gpu_node): time.sleep(0.5)
        def test_talks(gpu_node): gpu_node.run("for i in 1 2 3 4 5; do echo $i; sleep 0.1; done")
        """)

    result = lab.run("--ec-silence=300ms")

    result.assert_outcomes(passed=4)
    named = re.findall(r"::(\w+): still in (.+) on gpu01 \(0\.[3-5]", result.stderr.str())
    assert named == [("test_call", "time.sleep()"), ("test_command", "run()")]


def test_a_wrong_span_is_refused(lab):
    lab.tests("def test_a(): pass")

    result = lab.run("--ec-timeout=soon")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --ec-timeout: 'soon' is no span of time; write 90, '10s', '5m' or '1h'"])


def test_who_uses_a_host_after_its_loss_reads_how_to_go_on(suite):
    suite.lab(LAB)
    suite.tests("""
        from easycluster.errors import WorkerDied
        def test_goes_on(gpu_node, ec):
            with pytest.raises(WorkerDied):
                gpu_node.crash()
            with pytest.raises(WorkerDied) as caught:
                gpu_node.remote.eval("1")
            print(caught.value)
            ec.only(gpu_node.name).connect()
            assert gpu_node.remote.eval("1 + 1") == 2
            with pytest.raises(WorkerDied):
                gpu_node.crash()
            gpu_node.remote.eval("1")
        """)

    result = suite.run("-rA")

    way = "the next test starts anew, and so does ec.only('gpu01').connect()"
    result.stdout.fnmatch_lines([f"gpu01: the worker was killed by SIGSEGV*; {way}"])
    result.stdout.fnmatch_lines(["E *gpu01: the worker was killed by SIGSEGV*", "CRASHED *::test_goes_on*"])
    assert "reconnect()" not in result.stdout.str()
    result.assert_outcomes(failed=1)
