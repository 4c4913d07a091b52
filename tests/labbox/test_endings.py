"""Nothing is left of a box, whoever of it is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.boxtraces import Traces
from support.labboxes import require_labbox

from easycluster.labbox import LabBox, LabBoxError, RunningBox

OWNER = """
import sys
from easycluster.labbox import LabBox

with LabBox(["gpu01", "gpu02"]) as box:
    box["gpu01"].link.shape(delay=0.001)
    print(box.folder, box._process.pid, flush=True)
    sys.stdin.read()
"""


class Owner:
    """A process with a box, hosts of which run something."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        folder, supervisor = self.process.stdout.readline().split()
        self.supervisor = int(supervisor)
        box = RunningBox(folder)
        for host in box:
            host.run("mount -t tmpfs none /mnt; setsid sleep 1000 >/dev/null 2>&1 </dev/null &")
        self.traces = Traces(Path(folder), self.supervisor)

    @property
    def inner(self) -> int:
        return int(Path(f"/proc/{self.supervisor}/task/{self.supervisor}/children").read_text().split()[0])

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            stream.close()
        self.process.wait()


@pytest.fixture
def owner():
    require_labbox()
    owner = Owner()
    yield owner
    owner.close()
    assert owner.traces.wait_for_end(ignore="folder") == []


def test_a_running_box_leaves_the_traces_that_these_tests_look_for(owner):
    kinds = {what.split()[0].partition(":")[0] for what in owner.traces.left()}
    # Its mounts are in its own namespaces only.
    assert kinds >= {"process", "net", "mnt", "pid", "device", "folder"}
    assert "mount" not in kinds
    # Outer and inner one, the relay; for each host keeper, first process, sshd, and the test's sleep.
    assert len(owner.traces.processes) >= 3 + 2 * 4


def test_nothing_is_left_when_the_owner_is_killed(owner):
    owner.process.kill()
    assert owner.traces.wait_for_end() == []


def test_nothing_is_left_when_the_owner_leaves(owner):
    owner.process.stdin.close()
    assert owner.process.wait(30) == 0
    assert owner.traces.left() == []


def test_nothing_is_left_when_the_inner_supervisor_is_killed(owner):
    os.kill(owner.inner, signal.SIGKILL)
    assert owner.traces.wait_for_end() == []


def test_only_files_are_left_when_the_outer_supervisor_is_killed_and_the_next_box_removes_them(owner):
    os.kill(owner.supervisor, signal.SIGKILL)
    folder = owner.traces.folder
    assert owner.traces.wait_for_end(ignore="folder") == []
    with LabBox(["gpu01"]):
        assert not folder.exists()


def test_a_polite_end_of_the_supervisor_ends_the_box(owner):
    os.kill(owner.supervisor, signal.SIGTERM)
    assert owner.traces.wait_for_end() == []


def test_a_box_that_does_not_start_leaves_nothing(tmp_path):
    require_labbox()
    with pytest.raises(LabBoxError, match=r"network 127\.0\.0\.0/24 is not free: this machine has a route to 127"):
        LabBox(["gpu01"], folder=tmp_path / "box", network="127.0.0.0/24").start()
    assert list(tmp_path.iterdir()) == []


def test_a_box_refuses_a_folder_with_files_of_others(tmp_path):
    require_labbox()
    (tmp_path / "precious").write_text("x")
    with pytest.raises(LabBoxError, match="has 'precious', which is not a box's"):
        LabBox(["gpu01"], folder=tmp_path).start()
    assert (tmp_path / "precious").exists()


def test_two_boxes_at_once_have_addresses_of_their_own(fresh_labbox):
    with LabBox(["gpu01"]) as other:
        addresses = {host.address.rpartition(".")[0] for host in (fresh_labbox["gpu01"], other["gpu01"])}
        assert len(addresses) == 2
        other["gpu01"].kill()
        assert fresh_labbox["gpu01"].run("hostname") == "gpu01\n"


def test_a_folder_in_use_is_refused_with_the_command_that_frees_it(fresh_labbox):
    with pytest.raises(LabBoxError, match=r"a box is running in .*; end it with: easycluster labbox down --dir"):
        LabBox(["gpu01"], folder=fresh_labbox.folder).start()
    assert fresh_labbox["gpu01"].power == "on"
