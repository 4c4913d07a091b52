"""Leases of real far sides on this machine: two labs are two runs, each with sessions of its own."""

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
from easycluster.lab import Holder, HostBusy, LeaseError

ROOT = Path(easycluster.__file__).parents[1]

# How long anything that must happen may take, in seconds; what is promised is measured.
SOON = 20.0

LAB = """
roles:
  gpu:
    restore: reset
    code: |
      import os, socket, subprocess

      def note(path, text):
          with open(path, "a") as file:
              file.write(text + " ")

      def reset():
          if os.path.exists(os.environ.get("EC_TEST_RESTORE", "")):
              note(os.environ["EC_TEST_RESTORE"], "restored")

      def leave_things():
          global process, listening
          process = subprocess.Popen(["sleep", "87"])
          listening = socket.create_server(("127.0.0.1", 0))
          return process.pid

      def crash():
          os.kill(os.getpid(), 11)
  free: {lock: none}
hosts:
  gpu[01:02]: {role: gpu, connect: local, capabilities: {devices: {gpu: [GPU-1, GPU-2]}}}
  two: {role: gpu, connect: local, lock: {mode: shared, slots: 2}}
  free: {role: free, connect: local}
  alias: {role: free, connect: local, lock: {mode: exclusive, name: gpu01}}
"""


@pytest.fixture
def lab_file(tmp_path):
    file = tmp_path / "lab.yaml"
    file.write_text(LAB)
    return file


@pytest.fixture
def ann(run):
    return run()


@pytest.fixture
def bob(run):
    return run()


def take(lab, *names, **options):
    options.setdefault("wait", 0)
    return lab.leases.take(lab.only(*names).connect(), **options)


def eventually(condition):
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# -- locking -------------------------------------------------------------------


def test_a_host_that_somebody_has_is_busy_and_says_who_has_it(ann, bob):
    with take(ann, "gpu01"), pytest.raises(HostBusy) as caught:
        take(bob, "gpu01")

    busy = caught.value
    assert (busy.host, busy.holder.label, busy.holder.pid) == ("gpu01", "run 1", os.getpid())
    assert time.time() - SOON < busy.since <= time.time()
    assert str(busy).startswith("gpu01: in use by ")
    since = time.strftime("%H:%M", time.localtime(busy.since))
    assert re.search(rf' pid {os.getpid()} since {since} "run 1" \(waited [0-9.]+ s\)$', str(busy))
    take(bob, "gpu01").release()


def test_nobody_holds_a_host_while_waiting_for_another(ann, bob, run):
    lease = take(ann, "gpu02")
    told = threading.Event()
    bob.leases.tell = lambda _line: told.set()
    got = []
    waiting = threading.Thread(target=lambda: got.append(take(bob, "gpu01", "gpu02", wait=SOON)))
    waiting.start()
    assert told.wait(SOON)

    with take(run(), "gpu01", wait=SOON):
        assert not got
        lease.release()
    waiting.join(SOON)

    assert got[0].names == ["gpu01", "gpu02"]


def test_a_line_says_who_is_waited_for(ann, bob):
    lines = []
    bob.leases.tell = lines.append

    with take(ann, "gpu01"), pytest.raises(HostBusy):
        take(bob, "gpu01", wait=0.2)

    assert len(lines) == 1
    assert lines[0].startswith("waiting for gpu01: in use by ")
    assert lines[0].endswith(" more)")


def test_hosts_are_shared_by_as_many_as_the_lab_file_says(ann, bob, run):
    take(ann, "two")
    take(bob, "two")

    with pytest.raises(HostBusy):
        take(run(), "two")


def test_a_test_may_share_or_want_a_host_alone_whatever_is_usual(ann, bob, run):
    with take(ann, "gpu01", shared=True), take(bob, "gpu01", shared=True), pytest.raises(HostBusy):
        take(run(), "gpu01")
    with take(ann, "two", destructive=True), pytest.raises(HostBusy):
        take(bob, "two")


def test_a_host_without_a_lock_is_never_busy(ann, bob):
    with take(ann, "free"), take(bob, "free", destructive=True):
        pass


def test_two_names_of_one_machine_can_have_one_lock(ann, bob):
    # Both are this machine, so the lock file is the same.
    with take(ann, "gpu01"), pytest.raises(HostBusy):
        take(bob, "alias")


def test_devices_are_locked_beside_a_shared_host(ann, bob):
    with take(ann, "gpu01", shared=True, devices={"gpu": 1}):
        with pytest.raises(HostBusy, match="GPU-1 is in use"):
            take(bob, "gpu01", shared=True, devices={"gpu": 2})
        with take(bob, "gpu01", shared=True, devices={"gpu": 1}):
            assert bob.devices(bob["gpu01"]) == {"gpu": ["GPU-2"]}


def test_a_lock_of_the_whole_lab_needs_no_host_of_the_test(ann, bob):
    with take(ann, locks=["fabric-A"]):
        with pytest.raises(HostBusy, match="fabric-A is in use"):
            take(bob, "gpu02", locks=["fabric-A"])
        take(bob, "gpu02", locks=["fabric-B"])


def test_inner_leases_reuse_what_outer_ones_hold_and_leave_it_so(ann, bob):
    with take(ann, "gpu01", shared=True):
        with take(ann, "gpu01"), pytest.raises(HostBusy):
            take(bob, "gpu01", shared=True)
        take(bob, "gpu01", shared=True).release()
        with pytest.raises(HostBusy):
            take(bob, "gpu01")
    take(bob, "gpu01").release()


def test_without_locking_nothing_is_locked(ann, bob):
    bob.leases.enabled = False

    with take(ann, "gpu01"):
        take(bob, "gpu01").release()


def test_a_reboot_needs_the_host_alone(ann):
    with pytest.raises(LeaseError, match="not leased"):
        ann.leases.need_exclusive(ann["gpu01"], "reboot()")
    with take(ann, "gpu01", shared=True), pytest.raises(LeaseError, match="ec_destructive"):
        ann.leases.need_exclusive(ann["gpu01"], "reboot()")
    with take(ann, "gpu01", destructive=True):
        ann.leases.need_exclusive(ann["gpu01"], "reboot()")


def test_lab_lease_locks_until_the_end_of_its_block(ann, bob):
    with ann.lease("gpu", count=2) as hosts:
        assert hosts.names == ["gpu01", "gpu02"]
        with pytest.raises(HostBusy, match=r"^gpu01: .*; gpu02: "):
            bob.lease("gpu", where="name != 'two'", wait=0)
        with bob.lease("gpu", wait=0) as free:
            assert free.names == ["two"]
    bob.lease("gpu", count=3, wait=0).release()


# -- reservations, reboots, force ------------------------------------------------


def test_a_reservation_outlives_its_run(ann, bob):
    ann.leases.reserve(ann["gpu01"], 3600, "calibration")
    ann.close()
    bob.leases._info["owner"] = "bob@elsewhere"

    with pytest.raises(HostBusy, match=r'reserved for .* until .* "calibration"'):
        take(bob, "gpu01")
    with pytest.raises(HostBusy):
        bob.leases.reserve(bob["gpu01"], 0)
    bob.leases.reserve(bob["gpu01"], 0, force=True)
    take(bob, "gpu01")


def test_a_host_is_kept_while_it_reboots(ann, bob):
    with take(ann, "gpu01"):
        ann.leases.keep_over_reboot(ann["gpu01"], 60)
        ann["gpu01"].remote.close()
        ann["gpu01"]._connection.drop_lost()
        eventually(lambda: [one.mode for one in bob.leases.holders(bob["gpu01"])] == ["reserved"])
        with pytest.raises(HostBusy, match="reserved"):
            take(bob, "gpu01")

        ann.leases.take_again(ann["gpu01"])

        assert [one.mode for one in bob.leases.holders(bob["gpu01"])] == ["exclusive"]
        ann["gpu01"].undo("true")
    take(bob, "gpu01")


def test_a_host_can_be_taken_away_by_force_and_is_set_back_first(ann, bob, tmp_path):
    take(ann, "gpu01")
    ann["gpu01"].undo("sleep 0.2; touch", tmp_path / "undone")

    (holder,) = bob.leases.force_release(bob["gpu01"])

    assert isinstance(holder, Holder)
    assert holder.label == "run 1"
    assert (tmp_path / "undone").exists()
    take(bob, "gpu01")


# -- the end of a lease ----------------------------------------------------------


def test_each_lease_has_a_fresh_worker_of_the_same_session(ann):
    pids = []
    for _ in range(2):
        with ann.lease("gpu") as (host,):
            pids.append((host.os.getppid(), host.os.getpid()))
            assert host.remote.eval("'mark' in globals()") is False
            host.remote.mark.value = 1

    assert pids[0][0] == pids[1][0]
    assert pids[0][1] != pids[1][1]


def test_an_outer_lease_keeps_its_worker(ann):
    with take(ann, "gpu01"):
        ann["gpu01"].remote.mark.value = 7
        take(ann, "gpu01").release()

        assert ann["gpu01"].remote.mark.value == 7


def test_processes_and_ports_that_are_left_are_named_and_gone(ann):
    lease = take(ann, "gpu01")
    ann["gpu01"].remote.execblock("import builtins; builtins.kept = 1")
    pid = ann["gpu01"].leave_things()

    left = lease.release().leftovers

    assert [str(one) for one in left if one.kind == "process"] == [f"gpu01: process {pid} sleep 87"]
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert take(ann, "gpu01").release().leftovers == []


def test_a_worker_that_crashed_does_not_keep_its_host(ann, bob):
    with take(ann, "gpu01"), pytest.raises(easycluster.errors.WorkerDied):
        ann["gpu01"].crash()

    take(bob, "gpu01")
    assert ann["gpu01"].os.getpid()


def test_the_restore_of_the_lab_file_runs_after_everything_else(run, tmp_path, monkeypatch):
    path = tmp_path / "notes"
    path.write_text("")
    monkeypatch.setenv("EC_TEST_RESTORE", str(path))
    lab = run()

    with take(lab, "gpu01"):
        lab["gpu01"].undo(lab["gpu01"].note, str(path), "undone")

    assert path.read_text() == "undone restored "


# -- whoever dies ------------------------------------------------------------------

OWNER = """
import sys, time
from easycluster.lab import Lab
lab = Lab.load(sys.argv[1])
lab.leases.take(lab.only("gpu01").connect())
lab["gpu01"].undo("touch", sys.argv[2])
print("ready", flush=True)
time.sleep(120)
"""


@pytest.fixture
def owner(lab_file, tmp_path):
    """A process that has gpu01 and something to undo on it."""
    command = [sys.executable, "-c", OWNER, lab_file, tmp_path / "undone"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_killed_run_lets_go_within_two_seconds_and_after_undoing(owner, bob, tmp_path):
    bob.only("gpu01").connect()
    with pytest.raises(HostBusy):
        take(bob, "gpu01")

    owner.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    with take(bob, "gpu01", wait=SOON):
        assert (tmp_path / "undone").exists()
        assert time.monotonic() - killed < 2.0


def test_a_run_that_falls_silent_loses_its_hosts_when_its_lease_ends(lab_file, bob, tmp_path):
    lab_file.write_text(LAB.replace("connect: local}", "connect: local, keepalive: 300ms}", 1))
    command = [sys.executable, "-c", OWNER, lab_file, tmp_path / "undone"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGSTOP)
            with take(bob, "gpu01", wait=SOON):
                assert (tmp_path / "undone").exists()
        finally:
            process.kill()
