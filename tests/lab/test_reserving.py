"""``easycluster reserve``, ``release`` and ``status``: several users on several machines share hosts of a lab."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import easycluster
from easycluster.cli import main
from easycluster.lab import HostBusy, Lab

ROOT = Path(easycluster.__file__).parents[1]
SOON = 30.0

LAB = """
hosts:
  gpu[01:02]: {connect: local, tags: [nightly]}
  gpu01: {capabilities: {devices: {gpu: [GPU-8a]}}}
  dead: {connect: {via: tcp, address: 127.0.0.1, port: PORT, key_file: lab.key}}
  old: {enabled: false, reason: "PSU burnt"}
"""


@pytest.fixture
def lab_file(tmp_path, monkeypatch):
    """The lab, with a lock directory of this test's."""
    monkeypatch.setenv("EC_LOCK_DIRECTORY", str(tmp_path / "locks"))
    monkeypatch.delenv("EC_INVENTORY", raising=False)
    monkeypatch.delenv("SUDO_USER", raising=False)
    easycluster.write_key_file(str(tmp_path / "lab.key"), easycluster.generate_key())
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    file = tmp_path / "lab.yaml"
    file.write_text(LAB.replace("PORT", str(port)))
    monkeypatch.chdir(tmp_path)
    return file


@pytest.fixture
def be(monkeypatch):
    """Be somebody on some machine."""

    def be(person, machine="desk"):
        monkeypatch.setenv("EC_USER", person)
        monkeypatch.setattr(socket, "gethostname", lambda: machine)

    return be


@pytest.fixture
def say(capsys):
    """Run the command; its exit code and what it says on both streams together."""

    def say(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as exc:
            code = exc.code
        said = capsys.readouterr()
        return code, said.out + said.err

    return say


@pytest.fixture
def run(lab_file):
    """Make labs, each of which is a run of its own."""
    labs = []

    def one(label="nightly"):
        labs.append(Lab.load(lab_file))
        labs[-1].leases.label = label
        return labs[-1]

    yield one
    for lab in labs:
        lab.close()


def take(lab, *names, wait=0.0):
    return lab.leases.take(lab.only(*names).connect(), wait=wait)


# -- reserving -------------------------------------------------------------------------------


def test_others_see_who_has_reserved_a_host_and_he_uses_it_from_every_machine(lab_file, be, say, run):
    be("ann", "desk")
    code, text = say("reserve", "gpu01", "--for", "4h", "--why", "bisecting", "lab.yaml")
    assert code == 0
    assert re.fullmatch(r'gpu01: reserved for ann until (\S+ )?\d\d:\d\d "bisecting"\n', text)

    be("bob", "desk")
    with pytest.raises(HostBusy) as caught:
        take(run(), "gpu01")
    be("ann", "ci")
    take(run(), "gpu01").release()

    pattern = r'gpu01: reserved for ann@desk since \d\d:\d\d until (\S+ )?\d\d:\d\d "bisecting" \(waited .*\)'
    assert re.fullmatch(pattern, str(caught.value))


def test_a_reservation_ends_by_itself_and_who_waits_gets_the_host(lab_file, be, say, run):
    be("ann")
    say("reserve", "gpu01", "--for", "1.5s", "lab.yaml")
    be("bob")
    waiting = run()
    with pytest.raises(HostBusy):
        take(waiting, "gpu01")

    take(waiting, "gpu01", wait=SOON).release()

    assert say("status", "gpu01", "lab.yaml")[1].splitlines()[1].split() == ["gpu01", "host", "free"]


def test_all_hosts_are_reserved_or_none_and_what_was_stays(lab_file, be, say):
    be("bob")
    say("reserve", "gpu02", "--for", "1h", "lab.yaml")
    be("ann")
    say("reserve", "gpu01", "--for", "5h", "--why", "at first", "lab.yaml")
    say("reserve", "gpu01", "--for", "10m", "--why", "before", "lab.yaml")

    code, text = say("reserve", "gpu[01:02]", "--for", "4h", "--why", "after", "lab.yaml")

    assert code == 1
    assert re.fullmatch(r"gpu02: reserved for bob@desk .*; --force takes its place\nnothing was reserved\n", text)
    (host,) = json.loads(say("status", "gpu01", "lab.yaml", "--json")[1])["hosts"]
    (holder,) = host["holders"]
    assert holder["label"] == "before"
    assert 500 < holder["until"] - time.time() <= 600


def test_a_host_in_use_can_be_reserved_and_its_run_goes_on(lab_file, be, say, run):
    be("bob")
    bob, late = run("nightly"), run()
    with take(bob, "gpu01"):
        be("ann")
        _code, text = say("reserve", "gpu01", "--for", "4h", "lab.yaml")
        assert re.search(r'\n  still in use by bob@desk pid \d+ since \d\d:\d\d "nightly"\n$', text)
        with take(bob, "gpu01"):
            pass
    with pytest.raises(HostBusy, match="reserved for ann"):
        take(late, "gpu01")


def test_roots_of_two_machines_are_two_people_unless_they_say_who_they_are(monkeypatch):
    from easycluster.lab import occupancy

    monkeypatch.delenv("EC_USER", raising=False)
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setenv("LOGNAME", "root")
    monkeypatch.setattr(socket, "gethostname", lambda: "ci")

    def owner(uid):
        monkeypatch.setattr(os, "getuid", lambda: uid)
        return occupancy.person()["owner"]

    assert owner(0) == "root@ci"
    monkeypatch.setenv("LOGNAME", "ann")
    assert owner(1000) == "ann"
    monkeypatch.setenv("SUDO_USER", "ann")
    assert owner(0) == "ann"
    monkeypatch.setenv("EC_USER", "cid")
    assert owner(0) == owner(1000) == "cid"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root, to be other machines")
def test_a_reservation_from_another_machine_is_seen_and_outlives_its_command(lab_file, be, run):
    script = f"hostname ci7 && exec {sys.executable} -m easycluster reserve gpu01 --for 1h --why release {lab_file}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LOGNAME": "root"}
    environment.pop("EC_USER", None)
    subprocess.run(["unshare", "--uts", "sh", "-c", script], env=environment, check=True, stdout=subprocess.DEVNULL)

    be("ann")
    with pytest.raises(HostBusy, match=r'reserved for root@ci7 since .* "release"'):
        take(run(), "gpu01")


# -- releasing -------------------------------------------------------------------------------


def test_only_ones_own_reservation_is_released_and_force_is_written_down(lab_file, be, say, tmp_path):
    be("ann")
    say("reserve", "gpu01", "--for", "4h", "lab.yaml")
    be("bob")

    code, text = say("release", "gpu01", "lab.yaml")
    assert (code, bool(re.fullmatch(r"gpu01: reserved for ann@desk .*; --force ends it\n", text))) == (1, True)
    assert say("reserve", "gpu01", "--for", "1h", "--force", "lab.yaml")[0] == 0
    assert "gpu01: bob@desk" in (tmp_path / "locks/force.log").read_text()
    be("bob", "ci")
    code, text = say("release", "gpu01", "lab.yaml")
    assert (code, bool(re.fullmatch(r"gpu01: released; was reserved for bob@desk .*\n", text))) == (0, True)
    assert say("release", "gpu01", "lab.yaml") == (0, "gpu01: not reserved\n")


def test_force_ends_whatever_holds_a_host_after_undoing_and_it_is_written_down(lab_file, be, say, run, tmp_path):
    be("ann")
    ann = run("nightly")
    take(ann, "gpu01")
    ann["gpu01"].undo("touch", tmp_path / "undone")
    say("reserve", "gpu01", "--for", "4h", "--why", "mine", "lab.yaml")

    be("bob", "ws")
    code, text = say("release", "gpu01", "lab.yaml")
    assert (code, "; --force ends it" in text) == (1, True)
    code, text = say("release", "gpu01", "--force", "lab.yaml")

    assert code == 0
    assert sorted(line.split(" since ")[0] for line in text.splitlines()) == [
        f"gpu01: ended by force; was in use by ann@desk pid {os.getpid()}",
        "gpu01: ended by force; was reserved for ann@desk",
    ]
    assert (tmp_path / "undone").exists()
    log = (tmp_path / "locks/force.log").read_text()
    assert re.search(
        rf"gpu01: bob@ws \(account .*\) ended the session \(pid {os.getpid()}\) of ann@desk .*\"nightly\"", log
    )
    assert re.search(r'gpu01: bob@ws \(account .*\) ended the reservation of ann@desk .*"mine"', log)
    with take(run(), "gpu01"):
        pass


# -- status ----------------------------------------------------------------------------------


def test_status_says_who_has_what_and_who_waits(lab_file, be, say, run):
    be("bob")
    say("reserve", "gpu02", "--for", "4h", "--why", "calibration", "lab.yaml")
    be("ann", "ci")
    ann, cid = run("test_a.py::test_one"), run("test_b.py::test_two")
    cid.only("gpu01").connect()
    told, end = threading.Event(), threading.Event()
    cid.leases.tell = lambda _line: told.set()

    with ann.leases.take(ann.only("gpu01").connect(), shared=True, devices={"gpu": 1}):
        waiter = threading.Thread(target=lambda: (take(cid, "gpu01", wait=SOON), end.wait(SOON)))
        waiter.start()
        assert told.wait(SOON)
        code, text = say("status", "lab.yaml")
        machine = json.loads(say("status", "lab.yaml", "--json")[1])["hosts"]
    end.set()
    waiter.join(SOON)

    assert code == 1
    rows = [re.split(r"  +", line.rstrip()) for line in text.splitlines()]
    who = f"ann@ci pid {os.getpid()}"
    assert rows[0] == ["host", "what", "state", "who", "since", "until", "for"]
    assert [row[1:4] + row[-1:] for row in rows[1:4]] == [
        ["host", "shared", who, "test_a.py::test_one"],
        ["GPU-8a", "exclusive", who, "test_a.py::test_one"],
        ["host", "1st in line", who, "test_b.py::test_two"],
    ]
    assert rows[1][0] == "gpu01"
    assert rows[4][:4] + rows[4][-1:] == ["gpu02", "host", "reserved", "bob@desk", "calibration"]
    assert rows[5][:2] == ["dead", "unreachable"]
    assert "refused" in text.splitlines()[5]
    assert rows[6] == ["old", "disabled", "PSU burnt"]
    assert [host["state"] for host in machine] == ["taken", "taken", "unknown", "unknown"]
    assert [one["mode"] for one in machine[0]["holders"]] == ["shared", "exclusive", "waiting"]


def test_status_changes_nothing(lab_file, say, tmp_path):
    assert say("status", "nightly", "lab.yaml")[0] == 0
    assert not (tmp_path / "locks").exists()


# -- words -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["status", "no.yaml"], 4, "no.yaml:1:1: cannot be read: .*"),
        (["status", "gpo01", "lab.yaml"], 4, "'gpo01' is no host, .*; did you mean 'gpu01'\\?\n"),
        (
            ["status", "--limit", "gpu01:!nihgtly", "lab.yaml"],
            4,
            ".*did you mean 'nightly'\\?\n  gpu01:!nihgtly\n        \\^\n",
        ),
        (["doctor", "old", "--limit", "nightly", "lab.yaml"], 4, "old and --limit nightly leaves no host of lab .*"),
        (["release", "lab.yaml"], 2, "easycluster release: which hosts\\? .*"),
        (["status", "gpu01"], 2, "easycluster status: which lab\\? .*"),
        (["reserve", "gpu01", "--for", "4", "weeks", "lab.yaml"], 4, "'weeks' is no host.*"),
        (["reserve", "gpu01", "--for", "ever", "lab.yaml"], 2, ".*'ever' is no span; write 90s, 20m, 4h or 2d\n"),
        (["status", "lab.yaml", "--jsn"], 2, ".*unrecognized arguments: --jsn\n"),
        (["check", "lab.yaml", "--overlay", "lab.yaml"], 2, ".*unrecognized arguments: lab.yaml\n"),
        (["status", "--set", "gpu01.rol=x", "lab.yaml"], 4, ".*rol.*"),
    ],
)
def test_a_wrong_word_is_explained(lab_file, say, words, code, text):
    got, said = say(*words)

    assert got == code
    assert re.fullmatch(text, said, re.DOTALL), said


@pytest.mark.parametrize(
    "words",
    [
        ["old", "lab.yaml", "--for", "4h"],
        ["--for", "4h", "old", "lab.yaml"],
        ["old", "--for", "4h", "lab.yaml"],
        ["lab.yaml", "--for", "4h", "old"],
    ],
)
def test_words_stand_in_any_order(lab_file, say, words):
    assert say("reserve", *words) == (1, "old: disabled in the lab file; nothing was done\n")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pytest.ini", "[pytest]\nec_inventory =\n    lab.yaml\n"),
        ("pyproject.toml", '[tool.pytest.ini_options]\nec_inventory = ["lab.yaml"]\n'),
        ("pyproject.toml", '[tool.pytest]\nec_inventory = ["lab.yaml"]\n'),
        ("tox.ini", "[pytest]\nec_inventory = lab.yaml\n"),
        ("setup.cfg", "[tool:pytest]\nec_inventory = lab.yaml\n"),
    ],
)
def test_without_a_file_it_is_the_lab_of_pytest_here(lab_file, say, tmp_path, monkeypatch, name, text):
    (tmp_path / name).write_text(text)
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")

    assert say("show", "gpu01")[1].startswith("gpu01\n")


def test_the_environment_names_the_lab_of_commands_and_of_pytest(lab_file, say, tmp_path, monkeypatch):
    monkeypatch.setenv("EC_INVENTORY", str(lab_file))
    (tmp_path / "pytest.ini").write_text("[pytest]\nec_inventory = other.yaml\n")
    (tmp_path / "test_it.py").write_text("def test_it(ec): assert 'gpu01' in ec.hosts\n")

    assert say("show", "gpu01")[1].startswith("gpu01\n")
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path,
        check=True,
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("command", ["doctor", "status", "reserve", "release", "show", "check"])
def test_help_says_what_it_is_for_and_how_it_ends(say, command):
    code, text = say(command, "--help")

    assert code == 0
    assert re.search(r"usage: easycluster " + command, text)
    if command not in ("show", "check"):
        assert "example:" in text
        assert re.search(r"ends\s+with 0", text)
