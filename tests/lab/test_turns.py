"""Runs that wait for the same host: each has a session of its own on this machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import easycluster
from easycluster.errors import SessionError
from easycluster.lab import HostBusy

ROOT = Path(easycluster.__file__).parents[1]
SOON = 30.0


@pytest.fixture
def lab_file(tmp_path):
    file = tmp_path / "lab.yaml"
    file.write_text("""
roles: {node: {}}
hosts:
  gpu01: {connect: local, capabilities: {devices: {gpu: [GPU-1, GPU-2]}}}
  node[1:3]: {role: node, connect: local}
""")
    return file


class Waiter(threading.Thread):
    """A run that waits for hosts, or any of a role, keeps them until it is told, and notes when it got them."""

    def __init__(self, lab, *names, role="", wait=SOON, **options):
        super().__init__()
        self.options = options
        self.role = role
        self.has = []
        self.lab = lab
        self.names = names
        self.wait = wait
        self.told = threading.Event()
        self.lines = []
        self.got = threading.Event()
        self.got_at = 0.0
        self.go = threading.Event()
        self.busy = None
        self.error = None
        lab.leases.tell = self._tell
        lab.only(*names).connect()
        self.start()

    def _tell(self, line):
        self.lines.append(line)
        self.told.set()

    def run(self):
        try:
            with self._take() as lease:
                self.has = lease.names
                self.got_at = time.monotonic()
                self.got.set()
                assert self.go.wait(SOON)
        except HostBusy as exc:
            self.busy = exc
        except SessionError as exc:
            self.error = exc

    def _take(self):
        if self.role:
            return self.lab.lease(self.role, wait=self.wait, **self.options)
        return self.lab.leases.take(self.lab.only(*self.names), wait=self.wait, **self.options)

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
lab.lease("node", wait=120)
"""

NODES = ("node1", "node2", "node3")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_ends_while_it_waits_leaves_its_lines(run, lab_file, number):
    ann, bob = run(), run()
    bob.only(*NODES).connect()
    with ann.leases.take(ann.only(*NODES).connect()):
        command = [sys.executable, "-c", WAITER, lab_file]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True
        ) as process:
            assert process.stdout.readline() == "waiting\n"
            # Of one machine: it is one line, with a place for each host.
            assert len(waiting(ann, "node1")) == len(NODES)
            process.send_signal(number)
            process.wait(SOON)
        end = time.monotonic() + SOON
        while waiting(ann, "node1"):
            assert time.monotonic() < end
            time.sleep(0.02)

    bob.leases.take(bob.only(*NODES), wait=0).release()


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


def lease(lab, *names):
    return lab.leases.take(lab.only(*names).connect())


def test_runs_that_wait_for_any_host_get_the_first_that_is_free_in_the_order_in_which_they_came(run):
    ann, bob, cid, dan = (run() for _ in range(4))
    first, second = lease(ann, "node1", "node3"), lease(bob, "node2")
    waiters = [Waiter(lab, role="node").in_line() for lab in (cid, dan)]
    assert re.match(
        r"waiting for the first of node\[1:3\]: node1 is in use by .* \"run 1\" \(1st in line\); "
        r"node2 is in use by .* \"run 2\" \(1st in line\); node3 is .* \(1st in line\) \(at most [\d.]+ s more\)$",
        waiters[0].lines[0],
    )

    released = time.monotonic()
    second.release()

    assert waiters[0].got.wait(SOON)
    assert waiters[0].got_at - released < SOON / 2
    assert waiters[0].has == ["node2"]
    assert not waiters[1].got.is_set()
    assert waiting(ann, "node1") == ["run 4"] * 3
    first.release()
    assert waiters[1].got.wait(SOON)
    assert waiters[1].has in (["node1"], ["node3"])
    for waiter in waiters:
        waiter.end()
    assert waiting(ann, "node1") == []


def test_who_wants_one_host_and_came_first_gets_it_before_those_who_want_any(run):
    ann, bob, cid, dan = (run() for _ in range(4))
    first, second = lease(ann, "node1", "node3"), lease(bob, "node2")
    certain = Waiter(cid, "node2").in_line()
    any_of_them = Waiter(dan, role="node").in_line()

    second.release()
    assert certain.got.wait(SOON)
    assert not any_of_them.got.is_set()
    certain.end()

    assert any_of_them.got.wait(SOON)
    assert any_of_them.has == ["node2"]
    any_of_them.end()
    first.release()


def test_who_needs_several_of_many_gets_them_when_so_many_are_free(run):
    ann, bob, cid = (run() for _ in range(3))
    first, second = lease(ann, "node1", "node3"), lease(bob, "node2")
    waiter = Waiter(cid, role="node", count=2).in_line()

    second.release()
    # One does not do, and is kept from nobody.
    lease(bob, "node2").release()
    assert not waiter.got.is_set()

    first.release()
    assert waiter.got.wait(SOON)
    assert len(waiter.has) == 2
    waiter.end()


def test_who_waited_for_any_of_several_in_vain_is_told_of_all(run):
    ann, cid = run(), run()
    with lease(ann, *NODES):
        waiter = Waiter(cid, role="node", wait=0.2)
        waiter.join(SOON)

        assert re.match(
            r"node1: in use by .*; node2: in use by .*; node3: in use by .* \(waited [\d.]+ s, 1st in line\)$",
            str(waiter.busy),
        )
        assert waiting(ann, "node1") == []


def test_a_host_that_is_lost_is_no_reason_to_stop_waiting_for_the_others(run):
    ann, cid = run(), run()
    with lease(ann, "node1", "node3"):
        second = lease(ann, "node2")
        waiter = Waiter(cid, role="node").in_line()
        for name in ("node1", "node3"):
            os.kill(keeper_of(cid[name]), signal.SIGKILL)

        second.release()
        assert waiter.got.wait(SOON)
        assert waiter.has == ["node2"]
        waiter.end()


def test_when_all_that_would_do_are_lost_there_is_nothing_to_wait_for(run):
    ann, cid = run(), run()
    with lease(ann, *NODES):
        waiter = Waiter(cid, role="node").in_line()
        for name in NODES:
            os.kill(keeper_of(cid[name]), signal.SIGKILL)
        waiter.join(SOON)

    assert waiter.busy is None
    assert waiter.error.host in NODES


def keeper_of(host):
    return host._connection.client()._endpoint.control.hello["keeper"]


def test_a_crowd_that_wants_any_of_two_hosts_never_shares_one_and_all_of_it_is_served(run):
    """Some want both, some a certain one: nobody waits for each other."""
    inside, clashes, errors, labs = set(), [], [], [run() for _ in range(4)]
    for lab in labs:
        lab.leases.tell = lambda line: None
        lab.only("node1", "node2").connect()

    def use(lab, number):
        try:
            for turn in range(4):
                kind = (number + turn) % 4
                options = {"wait": SOON, "where": "name != 'node3'"}
                if kind == 0:
                    taken = lab.lease("node", count=2, **options)
                elif kind == 1:
                    taken = lab.leases.take(lab.only("node1"), wait=SOON)
                else:
                    taken = lab.lease("node", **options)
                with taken as got:
                    names = set(got.names)
                    if names & inside:
                        clashes.append((names, set(inside)))
                    inside.update(names)
                    time.sleep(0.005)
                    inside.difference_update(names)
        except BaseException as exc:
            errors.append(exc)
            raise

    threads = [threading.Thread(target=use, args=(lab, number)) for number, lab in enumerate(labs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * SOON)
    assert not errors
    assert not any(thread.is_alive() for thread in threads)
    assert clashes == []
    assert waiting(labs[0], "node1") == []
