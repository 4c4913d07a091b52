"""Faults and consoles in tests, as a user writes them."""

from __future__ import annotations

import re
import subprocess
import sys

from support.labboxes import CHECKOUT, require_labbox

from easycluster.labbox import LabBox

SUITE = """
import pytest

@pytest.mark.ec_destructive
def test_the_first_use_of_a_host_may_be_to_break_it(remote_hosts, ec):
    with ec.link("san1").down(), remote_hosts["gpu01"].link.delay("5ms", jitter=2):
        pass
    assert remote_hosts["san1"].run(["hostname"]).stdout == "san1\\n"

@pytest.mark.ec_destructive
def test_what_cannot_be_done_is_skipped(gpu_node, ec):
    with ec.disk(gpu_node).fill("/tmp"):
        raise AssertionError

def test_a_host_of_others_is_not_broken(remote_hosts, ec):
    remote_hosts["gpu01"].run(["true"])
    with ec.link("gpu01").down():
        raise AssertionError

@pytest.mark.ec_destructive
def test_a_fault_may_be_left_open(gpu_node, ec):
    ec.kill(gpu_node)
    ec.link("gpu01").loss(1)

@pytest.mark.ec_destructive
def test_the_next_one_finds_a_whole_host(gpu_node, ec):
    assert gpu_node.run(["hostname"]).stdout == "gpu01\\n"
    gpu_node.console.sendline()
    gpu_node.console.expect("gpu01 login: ")
    assert 0
"""


def test_faults_of_a_suite_end_with_their_tests_and_consoles_are_in_reports(tmp_path):
    require_labbox()
    (tmp_path / "test_it.py").write_text(SUITE)
    with LabBox(["gpu01", "san1"], share=[CHECKOUT]) as box:
        lab = f"--ec-inventory={box.inventory}"
        words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", lab, str(tmp_path)]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=55)
        assert {host.describe() for host in box} == {"on"}
    said = done.stdout
    assert re.search(r"^=+ 2 failed, 2 passed, 1 skipped in ", said, re.MULTILINE), said
    assert "disk.fill('/tmp'): /tmp of gpu01 is in memory; its disk is what lies outside /tmp, /run, /dev" in said
    assert "LeaseError: gpu01: link.down() needs the host exclusively, and it is shared with others; mark" in said
    assert re.search(r"Captured remote console \[gpu01\].*?gpu01 login: ", said, re.DOTALL), said
