"""What runs out: processes, disk, file descriptors, the memory of a whole host."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from support.processes import wait_until_gone

from easycluster import CallTimeout, WorkerDied, define_common
from easycluster.remote import put

DEFINITIONS = "faults_exhausted"

CODE = """
import errno, os, resource, signal, subprocess, threading, time

def allow_no_process():
    '''Let this worker start nothing any more.  The limit does not bind root, so root becomes nobody.'''
    if os.getuid() == 0:
        os.setresuid(65534, 65534, 65534)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))

def start_a_process():
    return subprocess.run(["true"]).returncode

def start_a_thread():
    threading.Thread(target=int).start()

def go_off(most, name):
    '''Become a fork bomb: each process forks, each second one leaves its group, none ever ends.'''
    with open("/proc/self/comm", "w") as comm:
        comm.write(name)
    if os.getuid() == 0:
        # A user of its own: the limit counts what a user has on the whole machine.
        nobody = 1_000_000 + os.getpid()
        os.setresuid(nobody, nobody, nobody)
        resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
    else:
        mine = sum(1 for pid in os.listdir("/proc") if pid.isdigit() and os.stat("/proc/" + pid).st_uid == os.getuid())
        resource.setrlimit(resource.RLIMIT_NPROC, (mine + most, mine + most))
    number = 0
    while True:
        number += 1
        try:
            if os.fork() == 0:
                for blocked in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                    signal.signal(blocked, signal.SIG_IGN)
                if number % 2:
                    os.setsid()
                number = 0
        except OSError:
            time.sleep(0.02)

held = []

def use_up_files(limit):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as exc:
        return exc.errno

def free_files():
    while held:
        os.close(held.pop())

def nap(seconds):
    time.sleep(seconds)

def write(path, size):
    with open(path, "wb") as file:
        file.write(bytes(size))

def fill_memory():
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20)))
"""

define_common(CODE, DEFINITIONS)


# Over the relay these are the same as over ssh.
without_relay = pytest.mark.parametrize("transport", ["tcp", "spawned", "ssh"], indirect=True)

# Processes and threads ---------------------------------------------------------------------------


@pytest.fixture
def lonely(connect):
    """A session whose worker can start neither process nor thread."""
    client = connect()
    client.allow_no_process()
    return client


@pytest.mark.fault("processes")
@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda client: client.start_a_process(origexc="quiet"), BlockingIOError),
        (lambda client: client.start_a_thread(origexc="quiet"), RuntimeError),
        (lambda client: client.nap(0, threadid=5, origexc="quiet"), RuntimeError),
    ],
    ids=["process", "thread", "far-thread"],
)
def test_what_cannot_be_started_is_an_error_of_its_call(lonely, ask, error, outcome):
    pid = lonely.os.getpid()
    with outcome.raises(error):
        ask(lonely)
    assert lonely.os.getpid() == pid
    outcome.lives(lonely)


@pytest.mark.fault("processes")
def test_a_call_that_waits_is_cancelled_although_no_thread_can_be_started(lonely, outcome):
    pid = lonely.os.getpid()
    first = lonely.nap(0.3, nonblocking=True)
    second = lonely.nap(0, nonblocking=True)
    assert second.cancel()
    assert first.wait() is None
    assert lonely.os.getpid() == pid
    outcome.lives(lonely)


@pytest.mark.fault("fork-bomb")
def test_a_fork_bomb_ends_with_its_session(connect, outcome):
    client = connect()
    name = f"ecbomb-{uuid.uuid4().hex[:8]}"
    with outcome.raises(CallTimeout, since=time.monotonic() + 0.5):
        client.raw_call("go_off", (40, name), timeout=0.5)
    bomb = named(name)
    assert len(bomb) > 10
    outcome.lives(client)
    client.close()
    assert wait_until_gone(bomb) == []
    assert named(name) == []
    outcome.cleaned("every process of the bomb, when the session ends")


def named(name):
    """Return the processes of that name, which children inherit."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "comm").read_text().strip() == name:
                found.append(int(folder.name))
    return found


@pytest.mark.fault("far-fork")
@pytest.mark.parametrize("threadid", [0, 3])
def test_a_child_of_far_side_code_answers_no_call(connect, threadid, outcome):
    client = connect()
    pid = client.os.getpid()
    with outcome.works():
        child = client.os.fork(threadid=threadid)
    assert child != 0
    assert {client.os.getpid(threadid=threadid) for _ in range(200)} == {pid}
    assert wait_until_gone([child]) == []
    outcome.cleaned("the child ends where it would answer")


# File descriptors --------------------------------------------------------------------------------


@pytest.mark.fault("far-files")
def test_a_worker_without_descriptors_goes_on(connect, outcome):
    client = connect()
    pid = client.os.getpid()
    assert client.use_up_files(64) == errno.EMFILE
    with outcome.raises(OSError, match="Too many open files"):
        client.open("/dev/null", origexc="quiet")
    with outcome.raises(OSError, match="Too many open files"):
        client.subprocess.run(["true"], origexc="quiet")
    assert client.nap(0, threadid=4) is None
    with pytest.raises(CallTimeout):
        client.raw_call("nap", (30,), timeout=0.1)
    client.free_files()
    assert client.subprocess.run(["true"]).returncode == 0
    assert client.os.getpid() == pid
    outcome.lives(client)


@pytest.mark.fault("near-files")
@without_relay
def test_a_near_side_without_descriptors_keeps_its_sessions(run_client, outcome):
    process = run_client(NEAR_FILES)
    out, err = process.communicate(timeout=40)
    assert (err, process.returncode) == ("", 0)
    told = json.loads(out)
    outcome.saw(told["error"], told["seconds"])
    assert "Too many open files" in told["text"], told
    assert told["during"] == [2, 5, "bytes"]
    assert told["descriptors"] == [told["before"]] * 2
    outcome.cleaned("what the failed connect had opened; other sessions live")


NEAR_FILES = """
import gc, json, resource

def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))

# What is imported and opened once.
another().close()
told = {"before": descriptors()}
held = []
resource.setrlimit(resource.RLIMIT_NOFILE, (128, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
told["during"] = [
    client.eval("1 + 1"),
    client.len("x" * 5, nonblocking=True).wait(),
    type(client.eval("bytes(5_000_000)")).__name__,
]
begin = time.monotonic()
try:
    another()
except OSError as exc:
    told |= {"error": type(exc).__name__, "text": str(exc).splitlines()[0]}
told["seconds"] = time.monotonic() - begin
while held:
    os.close(held.pop())
told["descriptors"] = [descriptors()]
with another() as more:
    assert more.eval("1 + 1") == 2
assert client.eval("1 + 1") == 2
del more
told["descriptors"].append(descriptors())
print(json.dumps(told))
"""


# Disk --------------------------------------------------------------------------------------------


@pytest.fixture
def full(tmp_path, outcome):
    """A file system with room for 64 KiB, and a file of 1 MiB to put there."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        outcome.does_not_apply("only root can mount a small disk")
    yield folder
    if subprocess.run(["umount", str(folder)], check=False).returncode:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        pytest.fail("a file in it was still open")


@pytest.mark.fault("disk")
def test_a_full_disk_is_the_error_of_the_call_that_writes(client, full, outcome):
    with outcome.raises(OSError, match="No space left on device"):
        client.write(str(full / "file"), 1 << 20, origexc="quiet")
    outcome.lives(client)


@pytest.mark.fault("disk")
def test_a_file_that_does_not_fit_is_not_left_half_written(client, full, tmp_path, outcome):
    source = tmp_path / "source"
    source.write_bytes(bytes(1 << 20))
    (full / "kept").write_bytes(b"old")
    with outcome.raises(OSError, match="No space left on device"):
        put(client, source, str(full / "kept"))
    # A call later, the far side has closed what it had begun.
    outcome.lives(client)
    assert [path.name for path in full.iterdir()] == ["kept"]
    assert (full / "kept").read_bytes() == b"old"
    outcome.cleaned("half-written files; the old file stays")


# The memory of the host --------------------------------------------------------------------------


@pytest.fixture
def memory_group(outcome):
    """A control group whose processes may have 96 MiB together; give it a process id."""
    name = f"easycluster-{uuid.uuid4().hex[:8]}"
    with contextlib.ExitStack() as stack:
        for base, limit, swap in (
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.swappiness"),
            ("/sys/fs/cgroup", "memory.max", "memory.swap.max"),
        ):
            group = Path(base) / name
            try:
                group.mkdir()
                stack.callback(group.rmdir)
                (group / limit).write_text(str(96 << 20))
            except OSError:
                stack.close()
                continue
            with contextlib.suppress(OSError):
                (group / swap).write_text("0")
            yield lambda pid, group=group: (group / "cgroup.procs").write_text(str(pid))
            return
        outcome.does_not_apply("this machine gives us no control group for memory")


@pytest.mark.fault("oom-kill")
@pytest.mark.parametrize("transport", ["tcp", "spawned", "ssh"], indirect=True)
def test_a_worker_that_the_kernel_kills_for_its_memory_is_a_dead_worker(connect, memory_group, outcome):
    client = connect()
    pid = client.os.getpid()
    memory_group(pid)
    with outcome.raises(WorkerDied, match="was killed by SIGKILL"):
        client.fill_memory()
    assert wait_until_gone([pid]) == []
    client.reconnect()
    outcome.lives(client)
    outcome.cleaned("worker; reconnect() starts anew")
