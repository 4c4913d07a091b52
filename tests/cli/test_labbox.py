"""``easycluster labbox``."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.labboxes import require_labbox

from easycluster.lab import Lab
from easycluster.labbox import LabBox, LabBoxError, RunningBox, missing


def labbox(*words, check=True, **options):
    done = subprocess.run(
        [sys.executable, "-m", "easycluster", "labbox", *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
        **options,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a box that was started by the command."""
    require_labbox()
    folder = tmp_path_factory.mktemp("labbox") / "box"
    said = labbox("up", "--hosts", "gpu[01:02],san1", "--dir", folder).stdout
    try:
        # What it says can be typed in.
        assert f"labbox ssh gpu01 --dir {folder}" in said
        assert f"pytest --ec-inventory {folder}/lab.yaml" in said
        yield folder
    finally:
        labbox("down", "--dir", folder)
    assert not folder.exists()


def test_a_box_outlives_the_command_that_made_it(folder):
    said = labbox("status", "--dir", folder).stdout.split("\n")
    assert [line.split()[0] for line in said if line] == ["gpu01", "gpu02", "san1"]
    assert all(line.endswith("  on") for line in said if line)


@pytest.mark.parametrize(
    "words", [["gpu02", "--dir", "DIR", "uname", "-n"], ["--dir", "DIR", "gpu02", "--", "uname", "-n"]]
)
def test_commands_run_on_a_host_wherever_the_folder_is_named(folder, words):
    filled = [str(folder) if word == "DIR" else word for word in words]
    assert labbox("ssh", *filled).stdout == "gpu02\n"
    assert labbox("enter", *filled).stdout == "gpu02\n"


def test_a_command_passes_its_exit_status_on(folder):
    assert labbox("ssh", "gpu01", "--dir", folder, "exit 7", check=False).returncode == 7


def test_the_inventory_switches_power(folder):
    with Lab.load(folder / "lab.yaml") as lab:
        commands = lab.inventory.hosts["san1"].settings["power"]
    words = {key: getattr(text, "reveal", lambda text=text: text)() for key, text in commands.items()}
    host = RunningBox(folder)["san1"]

    def switch(key):
        return subprocess.run(words[key], shell=True, check=True, capture_output=True, text=True, timeout=50).stdout

    before = host.boot_id
    switch("off")
    assert switch("status") == "off\n"
    switch("start")
    host.wait_for_boot(before)
    before = host.boot_id
    switch("cycle")
    host.wait_for_boot(before)
    host.wait_for_ssh()


def test_a_link_is_changed_and_shown(folder):
    labbox("link", "gpu02", "down", "delay=20ms", "loss=5%", "rate=10mbit", "--dir", folder)
    line = next(line for line in labbox("status", "--dir", folder).stdout.splitlines() if "gpu02" in line)
    assert line.endswith("  on, link down, delay 0.02, loss 0.05, rate 1e+07")
    labbox("link", "gpu02", "clear", "up", "--dir", folder)
    RunningBox(folder)["gpu02"].wait_for_ssh()
    assert RunningBox(folder)["gpu02"].describe() == "on"


def test_a_wrong_word_for_a_link_is_answered_with_the_right_ones(folder):
    done = labbox("link", "gpu02", "dwn", "--dir", folder, check=False)
    assert done.returncode == 2
    assert "'dwn' is none of up, down, clear, delay=20ms, loss=5%, rate=10mbit" in done.stderr


def test_a_second_box_in_the_same_folder_is_refused(folder):
    done = labbox("up", "--dir", folder, check=False)
    assert done.returncode == 1
    assert f"a box is running in {folder}; end it with: easycluster labbox down --dir {folder}" in done.stderr


def test_run_gives_a_command_a_box_and_ends_with_its_status():
    require_labbox()
    done = labbox(
        "run", "--hosts", "a,b", "--", "sh", "-c", "cat {inventory}; dirname {inventory}; exit 3", check=False
    )
    assert done.returncode == 3
    assert "  b: {role: b, address: 1" in done.stdout
    folder = done.stdout.splitlines()[-1]
    with pytest.raises(LabBoxError, match="has no box; make one with: easycluster labbox up --dir"):
        RunningBox(folder)


def test_what_is_missing_is_said_with_the_package_that_has_it(monkeypatch):
    require_labbox()
    assert missing() == ""
    monkeypatch.setattr("shutil.which", lambda tool, path=None: None if tool in ("ip", "sshd") else tool)
    assert missing() == "a box needs ip and sshd: apt-get install iproute2 openssh-server"


def test_somebody_else_than_root_is_told_so():
    require_labbox()
    # A real other user cannot read the Python of these tests on every machine.
    code = (
        "import os; os.geteuid = lambda: 1000; from easycluster.cli import main; main(['labbox', 'up', '--dir', 'x'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)
    assert done.stderr == "easycluster: a box needs root, for namespaces and mounts; run it with sudo\n"


@pytest.mark.parametrize(
    ("hosts", "complaint"),
    [
        (["gpu[04:01]"], "counts down"),
        (["a", "a"], "'a' is named twice"),
        ([], "a box has from 1 to 244 hosts, not 0"),
        (["n[1:300]"], "a box has from 1 to 244 hosts, not 300"),
    ],
)
def test_names_that_cannot_be_are_refused(hosts, complaint):
    with pytest.raises(LabBoxError, match=complaint):
        LabBox(hosts)
