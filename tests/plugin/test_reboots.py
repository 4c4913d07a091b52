"""Fixtures over reboots and losses of power, asked for and not."""

from __future__ import annotations

import re
import sys

import pytest
from support.labboxes import CHECKOUT, require_labbox

from easycluster.labbox import LabBox

LAB = """
include: [{inventory}]
defaults:
  python: {python}
  keepalive: 500ms
roles:
  gpu:
    restore: tidy
    code: |
      state = "fresh"
      def tidy():
          open("/root/tidy", "a").write("x")
      def read(path):
          return open(path).read()
      def rebuild():
          import time
          time.sleep(600)
"""

TOOLS = """
import threading
from easycluster.labbox import RunningBox

box = RunningBox({folder!r})
"""


@pytest.fixture(scope="module")
def box():
    require_labbox()
    with LabBox(["gpu01"], share=[CHECKOUT]) as box:
        yield box


@pytest.fixture
def lab(suite, box, monkeypatch):
    """A suite for the hosts of a box, which it finds as ``box``."""
    monkeypatch.setenv("EC_LOCK_DIRECTORY", "")
    suite.lab(LAB.format(inventory=box.inventory, python=sys.executable))
    write = suite.tests
    suite.tests = lambda text: write(TOOLS.format(folder=str(box.folder)) + text)
    yield suite
    box["gpu01"].power_on()
    box["gpu01"].inside("sh", "-c", "rm -rf /var/tmp/easycluster-locks; rm -f /root/*")


def words(result):
    """The verdicts of ``-v``, by test."""
    return dict(re.findall(r"::(\w+) ([A-Z]+) ", result.stdout.str()))


def test_a_reboot_in_the_middle_of_a_test_keeps_its_fixtures_usable(lab, box):
    lab.tests("""
@pytest.mark.ec_destructive
class TestWider:
    @pytest.fixture(scope="class")
    def prepared(self, ec):
        with ec.lease("gpu", destructive=True) as hosts:
            hosts[0].undo("printf 'by the class' >/root/state")
            yield hosts[0]

    def test_reboot(self, prepared, gpu_node):
        gpu_node.undo("printf 'by the test' >/root/state")
        gpu_node.run("printf changed >/root/state", check=True)
        boot = gpu_node.reboot(timeout=60)
        assert boot.boot_id == box["gpu01"].boot_id
        assert (gpu_node.read("/root/state"), prepared.state.value) == ("changed", "fresh")
        assert gpu_node.power("cycle") == "on"
        assert gpu_node.read("/root/state") == "changed"

    def test_next(self, prepared, gpu_node):
        assert gpu_node.read("/root/state") == "by the test"

def test_not_marked(gpu_node):
    assert gpu_node.read("/root/state") == "by the class"
    gpu_node.reboot()

@pytest.mark.ec_destructive
def test_off(gpu_node):
    gpu_node.power("off")

def test_on_again(gpu_node):
    assert gpu_node.power("status") == "on"
""")

    result = lab.run("-v")

    passed = dict.fromkeys(("test_reboot", "test_next", "test_off", "test_on_again"), "PASSED")
    assert words(result) == {**passed, "test_not_marked": "FAILED"}
    result.stdout.fnmatch_lines(
        ["E*LeaseError: gpu01: reboot() needs the host exclusively, *; mark the test ec_destruc*"]
    )
    result.stdout.no_fnmatch_line("*boot id*")


def test_what_a_test_changed_before_it_lost_power_is_undone_before_the_next(lab, box):
    lab.tests("""
def test_crash(gpu_node):
    gpu_node.run("printf good >/root/state; rm -f /root/tidy", check=True)
    gpu_node.undo("cp /root/saved /root/state")
    gpu_node.run("cp /root/state /root/saved; printf bad >/root/state", check=True)
    threading.Timer(0.3, box["gpu01"].reset).start()
    gpu_node.rebuild()

def test_next(gpu_node):
    assert (gpu_node.read("/root/state"), gpu_node.read("/root/tidy")) == ("good", "x")

def test_dirty(gpu_node):
    gpu_node.undo("false")
    threading.Timer(0.3, box["gpu01"].reset).start()
    gpu_node.rebuild()

def test_refused(gpu_node): pass
""")

    result = lab.run("-v", "-rA")

    assert words(result) == {
        "test_crash": "CRASHED",
        "test_next": "PASSED",
        "test_dirty": "CRASHED",
        "test_refused": "BUSY",
    }
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stderr.fnmatch_lines(
        ["lab: gpu01: undid after a reboot or loss of power: cp /root/saved /root/state (of *::test_crash*"]
    )
    result.stdout.fnmatch_lines(["*needs restore since *: undo after a reboot or loss of power failed: false: *"])
