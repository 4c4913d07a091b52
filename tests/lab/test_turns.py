"""Runs that wait for the same host: each has a session of its own on this machine."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import easycluster
from easycluster.lab import HostBusy

ROOT = Path(easycluster.__file__).parents[1]
SOON = 30.0


@pytest.fixture
def lab_file(tmp_path):
    file = tmp_path / "lab.yaml"
    file.write_text("hosts: {gpu01: {connect: local, capabilities: {devices: {gpu: [GPU-1, GPU-2]}}}}")
    return file


class Waiter(threading.Thread):
    """A run that waits for hosts, keeps them until it is told, and notes when it got them."""

    def __init__(self, lab, *names, wait=SOON, **options):
        super().__init__()
        self.options = options
        self.lab = lab
        self.names = names
        self.wait = wait
        self.told = threading.Event()
        self.lines = []
        self.got = threading.Event()
        self.got_at = 0.0
        self.go = threading.Event()
        self.busy = None
        lab.leases.tell = self._tell
        lab.only(*names).connect()
        self.start()

    def _tell(self, line):
        self.lines.append(line)
        self.told.set()

    def run(self):
        try:
            with self.lab.leases.take(self.lab.only(*self.names), wait=self.wait, **self.options):
                self.got_at = time.monotonic()
                self.got.set()
                assert self.go.wait(SOON)
        except HostBusy as exc:
            self.busy = exc

    def in_line(self):
        """Return once it waits."""
        assert self.told.wait(SOON)
        return self

    def end(self):
        """Let it end."""
        self.go.set()
        self.join(SOON)


def waiting(lab, host="gpu01"):
    return [one.label for one in lab.leases.holders(lab[host]) if one.mode == "waiting"]


def test_runs_get_a_host_in_the_order_in_which_they_came_and_soon(run):
    first, *others = [run() for _ in range(3)]
    lease = first.leases.take(first.only("gpu01").connect())
    waiters = [Waiter(lab, "gpu01").in_line() for lab in others]

    assert waiting(first) == ["run 2", "run 3"]
    places = [re.search(r'"run 1" \((.*), at most .* more\)$', one.lines[0])[1] for one in waiters]
    assert places == ["1st in line", "2nd in line"]

    delays = []
    for waiter in waiters:
        released = time.monotonic()
        lease.release() if waiter is waiters[0] else waiters[waiters.index(waiter) - 1].go.set()
        assert waiter.got.wait(SOON)
        assert not any(one.got.is_set() for one in waiters[waiters.index(waiter) + 1 :])
        delays.append(waiter.got_at - released)
    waiters[-1].end()
    for waiter in waiters:
        waiter.join(SOON)

    # A machine that is busy with other things may be late for one of them, but not for all.
    assert min(delays) < 0.5
    assert waiting(first) == []


def test_who_gives_up_says_which_place_he_had_and_leaves_the_line(run):
    ann, bob, cid = run(), run(), run()
    with ann.leases.take(ann.only("gpu01").connect()):
        patient = Waiter(bob, "gpu01").in_line()
        hasty = Waiter(cid, "gpu01", wait=0.2)
        hasty.join(SOON)

        assert re.search(r'"run 1" \(waited 0\.\d+ s, 2nd in line\)$', str(hasty.busy))
        assert waiting(ann) == ["run 2"]
    patient.end()


WAITER = """
import sys
from easycluster.lab import Lab
lab = Lab.load(sys.argv[1])
lab.leases.tell = lambda line: print("waiting", flush=True)
lab.leases.take(lab.only("gpu01").connect(), wait=120)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_ends_while_it_waits_leaves_the_line(run, lab_file, number):
    ann, bob = run(), run()
    bob.only("gpu01").connect()
    with ann.leases.take(ann.only("gpu01").connect()):
        command = [sys.executable, "-c", WAITER, lab_file]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True
        ) as process:
            assert process.stdout.readline() == "waiting\n"
            assert len(waiting(ann)) == 1
            process.send_signal(number)
            process.wait(SOON)
        end = time.monotonic() + SOON
        while waiting(ann):
            assert time.monotonic() < end
            time.sleep(0.02)

    bob.leases.take(bob.only("gpu01"), wait=0).release()


def test_runs_that_wait_for_any_device_get_the_first_that_is_free_in_the_order_in_which_they_came(run):
    ann, bob, cid, dan = (run() for _ in range(4))
    one = {"shared": True, "devices": {"gpu": 1}}
    first = ann.leases.take(ann.only("gpu01").connect(), **one)
    second = bob.leases.take(bob.only("gpu01").connect(), **one)
    waiters = [Waiter(lab, "gpu01", **one).in_line() for lab in (cid, dan)]
    assert re.search(r"GPU-1 is in use by .*\(2nd in line", waiters[1].lines[0])
    assert waiting(ann) == ["run 3", "run 4"]

    released = time.monotonic()
    second.release()

    assert waiters[0].got.wait(SOON)
    assert waiters[0].got_at - released < SOON / 2
    assert cid.leases.devices(cid["gpu01"]) == {"gpu": ["GPU-2"]}
    assert not waiters[1].got.is_set()
    first.release()
    assert waiters[1].got.wait(SOON)
    assert dan.leases.devices(dan["gpu01"]) == {"gpu": ["GPU-1"]}
    for waiter in waiters:
        waiter.end()
    assert waiting(ann) == []
