"""What is collected from hosts after a failure: all of them at once, each item in its time, and what could not be."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest
from support.interpreters import interpreters

from easycluster.errors import SessionError
from easycluster.lab import Lab
from easycluster.lab import evidence as module
from easycluster.lab.artifacts import Folder, NoRoom, safe_name
from easycluster.lab.evidence import Collector
from easycluster.lab.recorder import start_recorder

SOON = 30.0

CODE = """
import ctypes

def report():
    return 'all is lost'

def hold():
    ctypes.PyDLL(None).sleep(20)  # with Python's lock
"""


@pytest.fixture
def make_lab(tmp_path):
    """Make a lab of local hosts with these settings; they are connected."""
    with contextlib.ExitStack() as stack:

        def make(artifacts, count=1, **more):
            hosts = {f"gpu{number:02}": {"connect": "local", "role": "gpu", **more} for number in range(1, count + 1)}
            text = {"roles": {"gpu": {"code": CODE, "artifacts": artifacts}}, "hosts": hosts}
            file = tmp_path / "lab.yaml"
            file.write_text(json.dumps(text))
            lab = stack.enter_context(Lab.load(file))
            lab.hosts.connect()
            return lab

        yield make


@pytest.fixture
def collect(tmp_path):
    """Collect from hosts, all that has happened since the test began."""
    since = time.time()
    root = tmp_path / "kept"

    def run(lab, **options):
        collector = Collector(Folder(root, "test"), {}, since, lab.inventory.mask)
        return collector.collect(list(lab.hosts), **options)

    run.root = root
    return run


def is_there(pid):
    """Whether a process is alive; killed, it has a number until its new parent has seen it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def by_name(found, host="gpu01"):
    return {one.name: one for one in found[host].artifacts}


def text_of(collect, one):
    return (collect.root / one.path).read_bytes()


def test_files_by_pattern_and_whole_directories_are_kept(make_lab, collect, tmp_path):
    logs = tmp_path / "logs" / "deep"
    logs.mkdir(parents=True)
    (logs / "a.log").write_bytes(b"one\n")
    (logs / "b b.log").write_bytes(b"\x00\xff\xfe binary \x00")
    (logs / "c.txt").write_bytes(b"no\n")
    found = by_name(collect(make_lab({"paths": [f"{logs}/*.log", str(logs.parent)]})))
    kept = {Path(name).name: text_of(collect, one) for name, one in found.items() if one.path and name[0] == "/"}
    assert kept == {"a.log": b"one\n", "b b.log": b"\x00\xff\xfe binary \x00", "c.txt": b"no\n"}
    assert all(
        safe_name(one.path.rpartition("/")[2]) == one.path.rpartition("/")[2] for one in found.values() if one.path
    )


def test_of_a_large_file_the_end_is_kept_and_that_is_said(make_lab, collect, tmp_path):
    data = os.urandom(700_000)
    (tmp_path / "big").write_bytes(data)
    one = by_name(collect(make_lab({"paths": [f"{tmp_path}/big"], "limit": "300K"})))[f"{tmp_path}/big"]
    assert text_of(collect, one) == data[-300 * 1024 :]
    assert (one.size, one.why) == (300 * 1024, "the last 300 KiB of 684 KiB")


def test_a_file_without_a_size_is_read(make_lab, collect):
    one = by_name(collect(make_lab({"paths": ["/proc/self/status"]})))["/proc/self/status"]
    assert b"Name:" in text_of(collect, one)


def test_what_cannot_be_read_is_named_with_the_reason(make_lab, collect, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    paths = [f"{tmp_path}/{name}" for name in ("fifo", "empty", "loop", "missing", "*.none")]
    found = by_name(collect(make_lab({"paths": paths})))
    assert [(found[path].path, found[path].why) for path in paths] == [
        ("", "not a regular file"),
        ("", "an empty directory"),
        ("", "Too many levels of symbolic links"),
        ("", "No such file or directory"),
        ("", "no file by this pattern"),
    ]


def test_commands_are_run_with_what_they_say_on_both_streams(make_lab, collect):
    commands = ["echo out; echo err >&2", "echo partly; exit 3", "printf '\\377\\000'", "not-a-command-here"]
    found = by_name(collect(make_lab({"commands": commands})))
    assert [text_of(collect, found[one]) for one in commands[:3]] == [b"out\nerr\n", b"partly\n", b"\xff\x00"]
    assert found[commands[1]].why == "ended with exit code 3"
    assert found[commands[3]].why == "ended with exit code 127"


def test_a_command_that_hangs_costs_its_time_and_leaves_nothing(make_lab, collect, tmp_path):
    command = f"echo begun; sh -c 'echo $$ > {tmp_path}/pid; exec sleep 600' & sleep 600"
    lab = make_lab({"commands": [command.replace("$", "$$"), "echo next"], "timeout": "1s"})
    found = by_name(collect(lab))
    assert found[command].why == "did not end within 1 s"
    assert text_of(collect, found[command]) == b"begun\n"
    assert text_of(collect, found["echo next"]) == b"next\n"
    pid = (tmp_path / "pid").read_text().strip()
    end = time.monotonic() + SOON
    while is_there(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_of_endless_output_the_end_is_kept(make_lab, collect):
    command = "yes 0123456 | head -c 20000000; echo end"
    one = by_name(collect(make_lab({"commands": [command], "limit": "64K"})))[command]
    assert text_of(collect, one).endswith(b"0123456\nend\n")
    assert (one.size, one.why) == (65536, "the last 64 KiB of 19.1 MiB")


def test_a_function_of_the_role_says_what_it_wants(make_lab, collect):
    one = by_name(collect(make_lab({"call": "report"})))["report()"]
    assert text_of(collect, one) == b"all is lost"


def test_core_files_made_since_are_kept(make_lab, collect, tmp_path, monkeypatch):
    lab = make_lab({})
    client = lab.hosts["gpu01"].remote
    cores = tmp_path / "cores"
    cores.mkdir()
    (cores / "core.old").write_bytes(b"old")
    os.utime(cores / "core.old", (1, 1))
    # Where this system puts them is root's to say: the host's own answer is taken, of another folder.
    collect(lab)
    client.execblock(f"import sys; sys.modules['_easycluster_gathering'].CORE_FOLDERS = ({str(cores)!r},)")
    (cores / "core.77").write_bytes(b"\x7fELF core")
    (cores / "core.88").touch()
    os.truncate(cores / "core.88", 65 << 20)
    monkeypatch.setattr(module, "_source", lambda: module.zlib.compress(b""))
    found = by_name(collect(lab))
    assert text_of(collect, found[f"{cores}/core.77"]) == b"\x7fELF core"
    assert found[f"{cores}/core.88"].why == "65 MiB, left on the host: a part of it is of no use"
    assert f"{cores}/core.old" not in found


def test_the_recorder_and_the_clock_are_read(make_lab, collect):
    lab = make_lab({})
    start_recorder(lab.hosts["gpu01"].remote, period=0.02)
    end = time.monotonic() + SOON
    while "cpu busy" not in (found := collect(lab))["gpu01"].series:
        assert time.monotonic() < end
    one = by_name(found)["flight recorder"]
    assert json.loads(text_of(collect, one)) == found["gpu01"].series
    assert abs(found["gpu01"].series["cpu busy"]["points"][-1][0] - time.time()) < SOON


def test_a_worker_that_holds_its_interpreter_is_left_alone_and_another_one_asked(make_lab, collect):
    lab = make_lab({"commands": ["echo here"]})
    client = lab.hosts["gpu01"].remote
    pid = client.os.getpid()
    busy = client.hold(nonblocking=True)
    found = by_name(collect(lab))
    assert text_of(collect, found["echo here"]) == b"here\n"
    busy.cancel()
    assert client._endpoint.control.worker_pid == pid


def test_a_worker_that_has_died_does_not_matter(make_lab, collect):
    lab = make_lab({"commands": ["echo here"], "call": "report"})
    with pytest.raises(SessionError):
        lab.hosts["gpu01"].remote.os.abort()
    found = by_name(collect(lab))
    assert text_of(collect, found["echo here"]) == b"here\n"
    assert text_of(collect, found["report()"]) == b"all is lost"


def test_a_host_that_is_silent_costs_little_beside_the_others(make_lab, collect):
    lab = make_lab({"commands": ["echo here"]}, count=2)
    client = lab.hosts["gpu01"].remote
    keeper = client.execblock(
        "import os\nwith open(f'/proc/{os.getppid()}/status') as file:\n"
        "    exec_return(next(int(line.split()[1]) for line in file if line.startswith('PPid')))"
    )
    os.kill(keeper, signal.SIGSTOP)
    try:
        began = time.monotonic()
        found = collect(lab)
        assert time.monotonic() - began < SOON
    finally:
        os.kill(keeper, signal.SIGCONT)
    assert "did not answer 'clock'" in by_name(found)["flight recorder"].why
    assert by_name(found, "gpu02")["echo here"].path


def test_the_oldest_python_can_be_asked(make_lab, collect):
    lab = make_lab({"commands": ["echo here"], "paths": ["/etc/passwd"]}, python=next(iter(interpreters().values())))
    start_recorder(lab.hosts["gpu01"].remote, period=0.02)
    end = time.monotonic() + SOON
    while "cpu busy" not in (found := collect(lab))["gpu01"].series:
        assert time.monotonic() < end
    assert by_name(found)["echo here"].path
    assert by_name(found)["/etc/passwd"].path


def test_a_test_sees_nothing_of_it(make_lab, collect):
    lab = make_lab({"commands": ["echo here"], "call": "report"})
    client = lab.hosts["gpu01"].remote
    told = []
    lab.observe(type("Notes", (), {"begins": lambda _, call: told.append(call), "ended": lambda *_: None})())
    names = client.eval("sorted(globals())")
    told.clear()
    collect(lab)
    assert told == []
    assert client.eval("sorted(globals())") == names
    assert lab.take_output().get("gpu01", {}) == {}


def test_hosts_that_were_never_connected_or_are_lost_say_so(make_lab, collect, tmp_path):
    lab = make_lab({}, count=2)
    lab.hosts["gpu01"].remote._endpoint._carrier.kill()
    (tmp_path / "other.yaml").write_text("hosts: {san1: {connect: local}}\n")
    with Lab.load(tmp_path / "other.yaml") as other:
        assert collect(other)["san1"].trouble == "was not connected"
    found = collect(lab)
    assert (found["gpu01"].trouble, found["gpu02"].trouble) == ("", "")  # the first one answers another session


def test_what_takes_too_long_in_all_has_what_it_had_by_then(make_lab, collect):
    lab = make_lab({"commands": ["echo quick", "sleep 600"], "timeout": "60s"}, count=2)
    began = time.monotonic()
    found = collect(lab, timeout=3.0)
    assert time.monotonic() - began < SOON
    for host in ("gpu01", "gpu02"):
        assert found[host].trouble == "did not end within 3 s"
        assert text_of(collect, by_name(found, host)["echo quick"]) == b"quick\n"


def test_hosts_are_asked_at_once(make_lab, collect):
    lab = make_lab({"commands": ["sleep 1"]}, count=6)
    began = time.monotonic()
    found = collect(lab)
    assert time.monotonic() - began < 5.0
    assert all("sleep 1" in by_name(found, host.name) for host in lab.hosts)


def test_a_full_disk_here_is_named_and_the_rest_is_quick(make_lab, collect, tmp_path):
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("needs root, to make a small disk")
    collect.root.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", collect.root], check=False)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        (tmp_path / "big").write_bytes(os.urandom(1 << 20))
        found = by_name(collect(make_lab({"commands": ["echo first"], "paths": [f"{tmp_path}/big", "/etc/passwd"]})))
        assert found["echo first"].path
        assert found[f"{tmp_path}/big"].path == ""
        assert "No space left on device" in found[f"{tmp_path}/big"].why
        assert "No space left on device" in found["/etc/passwd"].why
        assert not list(collect.root.rglob("*big*"))
    finally:
        subprocess.run(["umount", collect.root], check=True)


# Folders ------------------------------------------------------------------------------------------


def test_two_tests_of_one_name_have_two_folders(tmp_path):
    folders = [Folder(tmp_path, "test_x[a/b]") for _ in range(8)]
    threads = [threading.Thread(target=lambda one=one: one.path) for one in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.path for one in folders}) == 8


def test_a_folder_is_made_when_something_is_put_there(tmp_path):
    folder = Folder(tmp_path / "new", "test")
    assert not folder.exists
    assert not (tmp_path / "new").exists()
    assert folder.write("", "a", b"x") == ("test/a", 1)


def test_files_of_one_name_do_not_overwrite_each_other(tmp_path):
    folder = Folder(tmp_path, "test")
    assert [folder.write("gpu01", name, b"")[0] for name in ("a b.txt", "a/b.txt")] == [
        "test/gpu01/a_b.txt",
        "test/gpu01/a_b-2.txt",
    ]


@pytest.mark.parametrize("name", ["..", "/", "../../etc/passwd", "é" * 300, "a\0b", "x" * 400 + ".log", ".ssh", "\n"])
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    path, _size = Folder(tmp_path, name).write(name, name, b"x")
    real = (tmp_path / path).resolve()
    assert real.is_relative_to(tmp_path)
    assert len(real.relative_to(tmp_path).parts) == 3
    assert all(len(part.encode()) <= 120 for part in real.relative_to(tmp_path).parts)
    assert stat.S_ISREG(real.stat().st_mode)


def test_a_file_that_ends_early_is_kept_as_far_as_it_came(tmp_path):
    def pieces():
        yield b"some"
        raise OSError("the link broke")

    path, size, why = Folder(tmp_path, "test").stream("", "a", pieces())
    assert ((tmp_path / path).read_bytes(), size, why) == (b"some", 4, "ended after 4 bytes: the link broke")


def test_a_place_that_cannot_be_written_is_said_once(tmp_path):
    (tmp_path / "file").write_text("")
    folder = Folder(tmp_path / "file" / "below", "test")
    for _ in range(2):
        with pytest.raises(NoRoom, match="Not a directory"):
            folder.write("", "a", b"")
