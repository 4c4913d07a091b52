"""A suite for many hosts, most of which is well; for the page of a large run.  See ``__main__.py``."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

EACH = int(os.environ.get("EC_PAGES_EACH", "3"))
PAIRS = int(os.environ.get("EC_PAGES_PAIRS", "8"))
SANS = int(os.environ.get("EC_PAGES_SANS", "1"))
# The folder of the box, and the host whose plug is pulled in the middle.
BOX = os.environ.get("EC_PAGES_BOX", "")
VICTIM = os.environ.get("EC_PAGES_VICTIM", "")


def kernel(number):
    """One test for all hosts; so one after the other is on another host, and workers do not wait for each other."""

    @pytest.mark.ec_each("gpu")
    def test_kernel(ec_host):
        if ec_host.name == VICTIM and number == EACH // 2:
            pull_the_plug()
        for step in range(4):
            ec_host.load(20_000 + 5_000 * step)
        chance = ec_host.chance(number)
        if chance < 0.012:
            ec_host.launch(number)
        if chance < 0.014:
            ec_host.crash()
        if chance < 0.022:
            pytest.skip("this driver has no such kernel")
        assert chance < 0.996, "the result differs from the reference"

    return test_kernel


for each in range(EACH):
    globals()[f"test_kernel_{each:02}"] = kernel(each)


def pair(number):
    """The marker of one transfer: each to another target."""
    where = f"name == 'san{number % SANS + 1:02}'"
    return pytest.param(
        number, marks=[pytest.mark.ec_hosts(sender="gpu"), pytest.mark.ec_hosts(receiver="san", where=where)]
    )


@pytest.mark.parametrize("number", map(pair, range(PAIRS)))
def test_transfer(remote_hosts, number):
    sender, receiver = remote_hosts["sender"], remote_hosts["receiver"]
    block = sender.block(number)
    assert receiver.checksum(block) == sender.checksum(block)
    if number == PAIRS // 2:
        receiver.refuse(number)


def pull_the_plug():
    command = [sys.executable, "-m", "easycluster", "labbox", "power", VICTIM, "off", "--dir", BOX]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
