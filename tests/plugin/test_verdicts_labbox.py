"""Verdicts on hosts that freeze, lose their cable or reboot while a test uses them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest
from support.labboxes import fresh_labbox

__all__ = ["fresh_labbox"]

LAB = """
defaults:
  python: {python}
  keepalive: 500ms
  timeouts: {{connect: 4s}}
roles:
  gpu:
    code: |
      import time
      def rebuild():
          print("md0: resync 41%", flush=True)
          time.sleep(600)
      def answer():
          return 42
hosts:
"""

TOOLS = """
import threading, time
from easycluster.labbox import RunningBox

box = RunningBox({folder!r})

def soon(what):
    "Do something to a box's host in the middle of the call that comes next."
    threading.Timer(0.5, what).start()
"""


@pytest.fixture
def lab(suite, fresh_labbox):
    """A suite for the hosts of a box; what it may do with them is in its ``box``."""
    hosts = "".join(
        f"  {host.name}: {{role: gpu, connect: {{via: ssh, ssh_config: {fresh_labbox.ssh_config}}}}}\n"
        for host in fresh_labbox
        if host.name.startswith("gpu")
    )
    suite.lab(LAB.format(python=sys.executable) + hosts)
    write = suite.tests
    suite.tests = lambda text: write(TOOLS.format(folder=str(fresh_labbox.folder)) + text)
    return suite


def words(result):
    """The verdicts of ``-v``, by test."""
    return dict(re.findall(r"::(\w+) ([A-Z]+) ", result.stdout.str()))


def seconds(suite):
    """How long each test took."""
    cases = ElementTree.parse(suite.pytester.path / "junit.xml").iter("testcase")
    return {case.get("name"): float(case.get("time")) for case in cases}


def test_three_tests_on_a_host_without_a_cable_cost_one_connect_timeout(lab):
    lab.tests("""
def test_one(ec):
    host = ec.hosts["gpu01"]
    assert host.answer() == 42
    soon(box["gpu01"].link.down)
    host.rebuild()
def test_two(ec): ec.hosts["gpu01"].answer()
def test_three(ec): ec.hosts["gpu01"].answer()
def test_four(ec): ec.hosts["gpu01"].answer()
def test_other(ec): assert ec.hosts["gpu02"].answer() == 42
""")

    result = lab.run("-v", "--junitxml=junit.xml")

    assert result.ret == 16
    lost = dict.fromkeys(("test_one", "test_two", "test_three", "test_four"), "LOST")
    assert words(result) == {**lost, "test_other": "PASSED"}
    took = seconds(lab)
    # The loss of the first costs heartbeats and one try to connect; that is remembered.
    assert 4.0 < result.duration < 4 * 4.0
    assert max(took["test_two"], took["test_three"], took["test_four"]) < 2.0
    result.stdout.fnmatch_lines(
        [
            "gpu01 lost: 4 tests (ssh gpu01)",
            "  no heartbeat for 1.5 s*, [12] s into rebuild(); still gone: *",
            "    last output: md0: resync 41%",
            "*= 1 passed, 4 lost in *",
        ]
    )


def test_a_frozen_host_is_lost_and_one_that_comes_back_is_used_again(lab):
    lab.tests("""
def test_one(ec):
    host = ec.hosts["gpu01"]
    host.answer()
    soon(box["gpu01"].freeze)
    threading.Timer(3.0, box["gpu01"].thaw).start()
    host.rebuild()
def test_two(ec): assert ec.hosts["gpu01"].answer() == 42
""")

    result = lab.run("-v")

    assert result.ret == 16
    assert words(result) == {"test_one": "LOST", "test_two": "PASSED"}
    result.stdout.fnmatch_lines(["  *no heartbeat for 1.5 s*, * s into rebuild(); answers again"])


def test_a_reboot_that_nobody_asked_for_is_a_crash(lab):
    lab.tests("""
def test_during_a_call(ec):
    host = ec.hosts["gpu01"]
    host.answer()
    soon(box["gpu01"].reset)
    host.rebuild()
def test_after(ec): assert ec.hosts["gpu01"].answer() == 42
def test_asked_for(ec):
    host = ec.hosts["gpu01"]
    with host.expect_loss():
        box["gpu01"].reset()
        host.rebuild()
    assert host.answer() == 42
""")

    result = lab.run("-v")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert words(result) == {"test_during_a_call": "CRASHED", "test_after": "PASSED", "test_asked_for": "PASSED"}
    result.stdout.fnmatch_lines(["*- Kernel log of gpu01 before it rebooted -*"])


def test_a_reboot_between_tests_fails_the_run(lab):
    lab.tests("""
def test_one(ec): assert ec.hosts["gpu01"].answer() == 42
def test_two():
    box["gpu01"].reset()
    time.sleep(2)
def test_three(ec): assert ec.hosts["gpu01"].answer() == 42
""")

    result = lab.run("-v")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        ["*= reboots nobody had asked for =*", "gpu01 came back with another boot id, between tests"]
    )


def test_ctrl_c_does_not_wait_for_a_frozen_host(lab, fresh_labbox):
    lab.tests("""
def test_one(ec):
    host = ec.hosts["gpu01"]
    host.answer()
    box["gpu01"].freeze()
    open("frozen", "w").close()
    host.rebuild()
""")
    folder = lab.pytester.path
    plugins = ("-p", "pytest_easycluster.plugin", "-p", "no:cacheprovider")
    # Heartbeats would find the host lost; the signal comes first.
    text = (folder / "lab.yaml").read_text().replace("500ms", "60s")
    (folder / "lab.yaml").write_text(text)
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *plugins, "--ec-inventory=lab.yaml"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 30
        while not (folder / "frozen").exists() and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert process.wait(15) == pytest.ExitCode.INTERRUPTED
        assert time.monotonic() - began < 5.0
    finally:
        process.kill()
        process.wait()
        fresh_labbox["gpu01"].thaw()
