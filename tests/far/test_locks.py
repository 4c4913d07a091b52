"""Locks between sessions, runs and accounts of one host."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import easycluster
from easycluster.far.locks import LockDirectory, LockFault

ROOT = Path(easycluster.__file__).parents[1]
ANN = {"user": "ann", "host": "ci", "owner": "ann@ci", "pid": 812, "token": "a", "label": "nightly"}
BOB = {"user": "bob", "host": "ws", "owner": "bob@ws", "pid": 9, "token": "b", "label": ""}


def wish(name, mode="exclusive", slots=None):
    return {"name": name, "mode": mode, "slots": slots}


@pytest.fixture
def make(tmp_path):
    made = []

    def one(path=tmp_path / "locks"):
        made.append(LockDirectory(str(path)))
        return made[-1]

    yield one
    for locks in made:
        locks.close()


@pytest.fixture
def ann(make):
    return make()


@pytest.fixture
def bob(make):
    return make()


def test_who_is_in_the_way_says_who_and_since_when(ann, bob):
    assert ann.take([wish("gpu01")], ANN) == []

    (holder,) = bob.take([wish("gpu01", "shared")], BOB)

    assert {key: holder[key] for key in (*ANN, "name", "mode")} == {**ANN, "name": "gpu01", "mode": "exclusive"}
    assert time.time() - 10 < holder["since"] <= time.time()


def test_all_or_nothing_is_taken(ann, bob):
    ann.take([wish("b")], ANN)

    assert bob.take([wish("a"), wish("b")], BOB)
    assert bob.held == []
    assert ann.take([wish("a")], ANN) == []


def test_sharers_are_counted_and_keep_out_who_wants_it_alone(ann, bob, make):
    for locks, info in ((ann, ANN), (bob, BOB)):
        assert locks.take([wish("gpu01", "shared", 2)], info) == []

    assert len(make().take([wish("gpu01", "shared", 2)], BOB)) == 2
    assert ann.take([wish("gpu01")], ANN)
    bob.release()
    assert ann.take([wish("gpu01")], ANN) == []
    assert bob.take([wish("gpu01", "shared", 2)], BOB)
    assert ann.take([wish("gpu01", "shared")], ANN) == []
    assert bob.take([wish("gpu01", "shared", 2)], BOB) == []


def test_a_lock_goes_with_its_process(bob, tmp_path):
    code = (
        "import sys, time\nfrom easycluster.far.locks import LockDirectory\n"
        "LockDirectory(sys.argv[1]).take([{'name': 'gpu01', 'mode': 'exclusive'}], {'user': 'ann'})\n"
        "print('taken', flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, bob.path], stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as process:
        assert process.stdout.readline() == "taken\n"
        assert bob.take([wish("gpu01")], BOB)
        process.kill()

    assert bob.take([wish("gpu01")], BOB) == []


def test_a_child_that_forgets_does_not_hold_on(ann, bob):
    ann.take([wish("gpu01")], ANN)
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        ann.forget()
        os.write(send, b"x")
        time.sleep(60)
        os._exit(0)
    try:
        os.read(receive, 1)
        ann.release()
        assert bob.take([wish("gpu01")], BOB) == []
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(receive)
        os.close(send)


def test_what_is_reserved_is_for_its_owner_until_it_expires(ann, bob):
    assert ann.reserve(["gpu01"], 0.3, {"owner": "ann@ci", "user": "ann"}) == []

    (kept,) = bob.take([wish("gpu01", "shared")], BOB)
    assert (kept["mode"], kept["user"]) == ("reserved", "ann")
    assert bob.reserve(["gpu01"], 60, BOB)
    assert ann.take([wish("gpu01")], ANN) == []
    ann.release()
    end = time.monotonic() + 10
    while bob.take([wish("gpu01")], BOB):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_reservation_of_one_run_is_not_for_another_of_the_same_user(ann, bob):
    ann.reserve(["gpu01"], 60, {"owner": "ann@ci", "token": "a", "once": True})

    assert bob.take([wish("gpu01")], {**ANN, "token": "another"})
    assert ann.take([wish("gpu01")], ANN) == []
    ann.release()
    assert bob.take([wish("gpu01")], BOB) == []


def test_what_a_run_keeps_over_a_boot_is_free_soon_after_it_if_the_run_does_not_come(ann, bob, monkeypatch):
    def boots(name):
        monkeypatch.setattr("easycluster.far.reservations.boot_id", lambda: name)

    monkeypatch.setattr("easycluster.far.reservations.CLAIM_TIME", 0.3)
    boots("before")
    ann.reserve(["gpu01", "gpu02"], 600, {"owner": "ann@ci", "token": "a", "once": True})
    (kept,) = bob.take([wish("gpu01")], BOB)
    assert kept["until"] > time.time() + 500

    boots("after")
    (kept,) = bob.take([wish("gpu01")], BOB)
    assert kept["until"] < time.time() + 0.3
    boots("yet another")
    end = time.monotonic() + 10
    while bob.take([wish("gpu01")], BOB):
        assert time.monotonic() < end
        time.sleep(0.02)

    # Nobody else has asked for this one; the run is not hurried by itself.
    assert ann.take([wish("gpu02")], ANN) == []
    ann.release()
    assert bob.take([wish("gpu02")], BOB) == []


def test_a_reservation_of_a_person_is_the_same_after_a_boot(ann, bob, monkeypatch):
    ann.reserve(["gpu01"], 600, {"owner": "ann@ci", "user": "ann"})
    ann.reserve(["gpu01"], 60, {**ANN, "once": True})
    monkeypatch.setattr("easycluster.far.reservations.boot_id", lambda: "another")
    monkeypatch.setattr("easycluster.far.reservations.CLAIM_TIME", 0.0)

    assert bob.take([wish("gpu01")], BOB)
    (kept,) = bob.take([wish("gpu01")], BOB)
    assert (kept["user"], kept["until"] > time.time() + 500) == ("ann", True)


def test_a_reservation_is_taken_by_force_only(ann, bob):
    ann.reserve(["gpu01"], 60, ANN)

    assert bob.reserve(["gpu01"], 0, BOB)
    assert bob.reserve(["gpu01"], 0, {**BOB, "force": True}) == []
    assert bob.take([wish("gpu01")], BOB) == []


def test_holders_are_listed_with_what_they_hold(ann, bob):
    ann.take([wish("GPU-8a/1.2 x"), wish("gpu01", "shared")], ANN)
    bob.take([wish("gpu01", "shared")], BOB)
    bob.reserve(["san1"], 60, BOB)

    assert sorted((one["name"], one["mode"], one["user"]) for one in bob.holders()) == [
        ("GPU-8a/1.2 x", "exclusive", "ann"),
        ("gpu01", "shared", "ann"),
        ("gpu01", "shared", "bob"),
        ("san1", "reserved", "bob"),
    ]
    ann.release()
    assert [one["user"] for one in bob.holders(["gpu01"])] == ["bob"]


def test_every_account_may_use_the_directory_whatever_the_umask(make, tmp_path):
    before = os.umask(0o077)
    try:
        locks = make(tmp_path / "other")
        locks.take([wish("gpu01")], ANN)
    finally:
        os.umask(before)

    assert stat.S_IMODE(os.stat(locks.path).st_mode) == 0o1777
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o666 for path in Path(locks.path).iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another account")
def test_accounts_lock_each_other_out_both_ways():
    path = f"/tmp/ec-locks-accounts-{os.getpid()}"  # where nobody may look; pytest's own is private
    code = (
        "import json, sys\nfrom easycluster.far.locks import LockDirectory\nlocks = LockDirectory(sys.argv[1])\n"
        "wish = lambda name: [{'name': name, 'mode': 'exclusive'}]\n"
        "print(json.dumps([locks.take(wish('a'), {'user': 'n'}), locks.take(wish('b'), {'user': 'n'})]), flush=True)\n"
        "sys.stdin.read()"
    )
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", code, path]
    if (
        shutil.which("setpriv") is None
        or subprocess.run([*nobody[:4], sys.executable, "-c", ""], check=False).returncode
    ):
        pytest.skip("another account cannot run this Python")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    try:
        first = LockDirectory(path)
        first.take([wish("a")], ANN)
        with subprocess.Popen(nobody, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes) as process:
            (holder,), got = json.loads(process.stdout.readline())
            assert (holder["user"], got) == ("ann", [])
            # Root opens the other account's file, which fs.protected_regular forbids with O_CREAT.
            assert [one["user"] for one in first.take([wish("b")], ANN)] == ["n"]
            process.communicate("")
        assert first.take([wish("b")], ANN) == []
        first.close()
    finally:
        shutil.rmtree(path, ignore_errors=True)


def test_a_link_is_never_written_to(ann, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    os.symlink(victim, Path(ann.path, "a.0"))
    os.link(victim, Path(ann.path, "b.0"))

    for name in ("a", "b"):
        with pytest.raises(LockFault, match="lock file"):
            ann.take([wish(name)], ANN)
    assert victim.read_text() == "precious"


def test_a_directory_that_cannot_be_shared_says_what_to_do(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)

    with pytest.raises(LockFault, match="cannot be used"):
        LockDirectory(str(tmp_path / "link"))
    with pytest.raises(LockFault, match="cannot be made"):
        LockDirectory(str(tmp_path / "no" / "where"))


def test_who_hangs_with_the_gate_in_hand_does_not_hang_others(ann, bob, monkeypatch):
    monkeypatch.setattr("easycluster.far.locks.GATE_TIME", 0.05)
    import fcntl

    fcntl.flock(ann._gate, fcntl.LOCK_EX)

    with pytest.raises(LockFault, match="somebody hangs"):
        bob.take([wish("gpu01")], BOB)


def test_a_broken_file_counts_as_a_holder_without_a_name(ann, bob):
    ann.take([wish("gpu01")], ANN)
    Path(ann.path, "gpu01.0").write_bytes(b"\xff{]")

    assert bob.take([wish("gpu01")], BOB) == [{"name": "gpu01"}]
