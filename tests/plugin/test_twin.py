"""--ec-twin: a failure is repeated on another host, and the report says whether it is the machine or the product."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

LAB = """
roles:
  gpu:
    code: |
      import os, time
      from easycluster import *
      def work(name, broken):
          if name in broken:
              raise ValueError("broken")
          return name
      def crash(name, broken):
          if name in broken:
              os.kill(os.getpid(), 9)
      def hang(): time.sleep(600)
  san: {}
hosts:
  gpu[01:03]: {role: gpu, connect: local, capabilities: {gpus: 2, devices: {gpu: ["${host}-0"]}}}
  gpu04: {role: gpu, connect: local, capabilities: {gpus: 2, model: old}}
  gpu09: {role: gpu, connect: local, capabilities: {gpus: 9}}
  san1: {role: san, connect: local}
fixtures:
  wide: {role: gpu, scope: module}
"""


@pytest.fixture
def lab(suite):
    suite.lab(LAB)
    return suite


def said(result):
    """The summary's sentence on each test."""
    lines = result.stdout.str().partition("= machine or product =")[2].splitlines()[1:]
    pairs = zip(lines[::2], lines[1::2], strict=False)
    return {test.partition("::")[2]: text.strip() for test, text in pairs if text.startswith("  ")}


TESTS = """
    def test_machine(gpu_node): gpu_node.work(gpu_node.name, ["gpu01"])
    def test_product(gpu_node): gpu_node.work(gpu_node.name, ["gpu01", "gpu02"])
    def test_crash(gpu_node): gpu_node.crash(gpu_node.name, ["gpu01"])
    def test_passes(gpu_node): gpu_node.work(gpu_node.name, [])
    def test_other_way(gpu_node):
        assert gpu_node.name != "gpu01"
        raise KeyError(gpu_node.name)
    @pytest.mark.ec_hosts("gpu", where="gpus > 8")
    def test_alone(remote_hosts): assert 0
    @pytest.mark.ec_hosts(sender="gpu", receiver="gpu")
    def test_two(remote_hosts):
        assert remote_hosts["receiver"].name != remote_hosts["sender"].name
        remote_hosts["sender"].work("x", [])
        for host in remote_hosts:
            host.work(host.name, ["gpu02"])
    @pytest.mark.ec_each("gpu", where="name in ['gpu01', 'gpu04']")
    def test_each(ec_host): ec_host.work(ec_host.name, ["gpu01"])
    def test_wide(wide): assert 0
    def test_no_host(): assert 0
    @pytest.mark.xfail
    def test_expected(gpu_node): assert 0
"""


@pytest.mark.timeout(180)  # twenty setups
def test_the_report_says_whose_fault_it_was_and_no_outcome_changes(lab):
    lab.tests(TESTS)

    result = lab.run("--ec-twin", "--junitxml=junit.xml", "-v")

    result.assert_outcomes(passed=2, failed=9, xfailed=1)
    assert said(result) == {
        "test_machine": "fails on gpu01 only, and passes on gpu02: the machine",
        "test_product": "fails on gpu01 and on gpu02: the product",
        "test_crash": "fails on gpu01 only, and passes on gpu02: the machine",
        "test_other_way": "fails on gpu01, and on gpu02 in another way (KeyError: 'gpu02'): not clear",
        "test_alone": "no twin of gpu09: no other host of the lab fits this test",
        "test_two": "fails on gpu02 only, and passes on gpu03: the machine",
        "test_each[gpu01]": "fails on gpu01 only, and passes on gpu04 (model old): the machine",
        "test_wide": "not repeated: it has its hosts from a fixture for several tests, which keeps them",
    }
    result.stdout.fnmatch_lines(
        ["*- Machine or product -*", "fails on gpu01 only, and passes on gpu02: the machine", "*= 9 failed, *"]
    )
    cases = {one.get("name"): one for one in ElementTree.parse(lab.pytester.path / "junit.xml").iter("testcase")}
    found = {one.get("name"): one.get("value") for one in cases["test_machine"].iter("property")}
    assert found["ec_twin"] == "machine"
    assert found["ec_hosts[gpu_node]"] == "gpu01"
    assert len(cases) == 12


def test_a_twin_that_somebody_has_is_not_waited_for(lab):
    from easycluster import Lab

    lab.tests("""
        @pytest.mark.ec_hosts("gpu", where="gpus == 2 and name < 'gpu03'")
        def test_fails(remote_hosts): remote_hosts[0].work(remote_hosts[0].name, ["gpu01"])
        """)
    with Lab.load(lab.pytester.path / "lab.yaml") as other, other.lease("gpu", where="name == 'gpu02'"):
        result = lab.run("--ec-twin")

    assert said(result) == {"test_fails": "no twin of gpu01 was free: gpu02"}


def test_a_repetition_that_hangs_is_cut_off(lab):
    lab.tests("""
        from pytest_easycluster import twin
        twin.MARGIN = 1.0
        def test_fails(gpu_node):
            if gpu_node.name != "gpu01":
                gpu_node.hang()
            raise ValueError
        """)

    result = lab.run("--ec-twin")

    (text,) = said(result).values()
    assert text.startswith("fails on gpu01, and on gpu02 in another way (Failed: the test took longer than ")
    result.assert_outcomes(failed=1)


def test_a_lost_host_is_no_question(lab):
    lab.tests("def test_lost(gpu_node): gpu_node.work('x', [])")

    result = lab.run("--ec-twin", "--ec-chaos=gpu01:drop")

    result.stdout.fnmatch_lines(["*= 1 lost in *"])
    result.stdout.no_fnmatch_line("*machine or product*")


def test_workers_of_xdist_say_it_too(lab):
    pytest.importorskip("xdist")
    lab.tests("def test_machine(gpu_node): gpu_node.work(gpu_node.name, ['gpu01'])")

    result = lab.run("--ec-twin", "-p", "xdist", "-n1")

    assert said(result) == {"test_machine": "fails on gpu01 only, and passes on gpu02: the machine"}
