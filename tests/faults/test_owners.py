"""Whoever dies first, nothing stays: owners of sessions are killed, again and again, and every process is counted.

Each try has a client process of its own, a ``TMPDIR`` of its own, and on the far side a plain child, a grandchild,
daemons in sessions of their own, children that ignore SIGTERM and SIGHUP, stopped ones, and one that holds a copy of
every descriptor of the worker.
"""

from __future__ import annotations

import contextlib
import os
import pty
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.owners import Owner, Process, family, left_after, processes
from support.sshd import Sshd, require_sshd

from easycluster import generate_key, write_key_file

from .outcome import LONG, SLACK
from .rows import ROWS

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc, to find every process"),
    pytest.mark.timeout(1800 if LONG else 120),
]

# How often each owner dies, over all transports together.
TRIES = 100 if LONG else 5
AT_ONCE = 3

# How the caller of a session learns that something else than its own process has died.
LOST = {
    "ssh-killed": r"ssh was killed by signal 9|ssh ended|the data link broke",
    "ssh-session-killed": r"ssh ended with exit code 255|the data link broke",
    "keeper-killed": r"the link was closed|the far-side process was killed by signal 9|ended with exit code",
    "template-killed": r"the far side ended the session",
    "server-killed": r"the far side ended the session",
    "server-stopped": r"the far side ended the session",
}


class Place:
    """Where the sessions of a test go, and what has to be there afterwards as before."""

    def __init__(self, folder):
        self.folder = folder
        self.where = {}
        self.server = None

    def start_server(self, *words):
        """Start a TCP server with a ``TMPDIR`` of its own, and these further words on its command line."""
        key_file = self.folder / "key"
        if not key_file.exists():
            write_key_file(key_file, generate_key())
        temporary = self.folder / "server"
        temporary.mkdir(exist_ok=True)
        self.server = subprocess.Popen(
            [sys.executable, "-m", "easycluster", "-S", "-k", str(key_file), "-p", "0", "-N", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(Path(__file__).parents[2])},
            cwd="/",
        )
        port = int(self.server.stdout.readline().rpartition(b":")[2])
        self.where = {"host": "127.0.0.1", "port": port, "key": key_file.read_text().strip()}
        # Once it has answered somebody it is complete: one process beside it forks the sessions.
        with socket.create_connection(("127.0.0.1", port), 20) as sock:
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
        assert len(self.server_family()) == 2
        self.descriptors = len(os.listdir(f"/proc/{self.server.pid}/fd"))

    def server_family(self):
        return family(self.server.pid, processes())

    def stop_server(self):
        self.server.kill()
        self.server.wait()
        self.server.stdout.close()

    def check(self):
        """Make sure that nothing of the tries is left in what they shared."""
        if self.server is None or self.server.poll() is not None:
            return
        # The three processes of one session are prepared for whoever comes next, once somebody came.
        idle = [(count, self.descriptors) for count in (2, 5)]
        end = time.monotonic() + 2 * SLACK
        while time.monotonic() < end:
            here = len(self.server_family()), len(os.listdir(f"/proc/{self.server.pid}/fd"))
            if here in idle:
                break
            time.sleep(0.02)
        assert here in idle, self.server_family()
        assert os.listdir(self.folder / "server") == []


@pytest.fixture
def place(transport, tmp_path):
    """A place for sessions over one transport."""
    place = Place(tmp_path)
    with contextlib.ExitStack() as stack:
        if transport == "tcp":
            place.start_server()
            stack.callback(place.stop_server)
        elif transport == "ssh":
            require_sshd()
            sshd = stack.enter_context(Sshd("AcceptEnv TMPDIR"))
            arguments = [*sshd.extra_args, "-o", "SendEnv=TMPDIR"]
            place.where = {"host": sshd.host, "extra_args": arguments}
        yield place


# The causes --------------------------------------------------------------------------------------


def kill_client(owner):
    owner.kill()


def terminate_client(owner):
    owner.kill(signal.SIGTERM)


def kill_ssh(owner):
    # The one that carries the session; another passes the data pipes.
    (ssh,) = [
        process
        for process in family(owner.pid, processes())
        if process.name == "ssh" and b"ControlMaster=yes" in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    ]
    os.kill(ssh.pid, signal.SIGKILL)


def kill_ssh_session(owner):
    sshd = Process(Process(owner.sessions[0]["keeper"]).parent)
    assert sshd.name.startswith("sshd")
    os.kill(sshd.pid, signal.SIGKILL)


def kill_keeper(owner):
    os.kill(owner.sessions[0]["keeper"], signal.SIGKILL)


def kill_template(owner):
    template = Process(Process(owner.sessions[0]["worker"]).parent)
    assert template.pid != owner.sessions[0]["keeper"]
    os.kill(template.pid, signal.SIGKILL)


@contextlib.contextmanager
def owner_at(place, transport, number, terminal=-1):
    """A try: an owner with a folder of its own, whose far side is as its cause needs it."""
    folder = place.folder / f"try{number}"
    folder.mkdir()
    owner = Owner(folder, transport, place.where, terminal=terminal)
    try:
        yield owner
    finally:
        owner.close()


def gone(owner, members, since, limit):
    """Return after how many seconds everything was gone; files, too."""
    took, left = left_after(members, owner.folder, since, limit)
    assert not left, f"left after {took:.1f} s: {left}"
    assert os.listdir(owner.folder) == []
    return took


def put_to(place, transport, row, outcome, attempt):
    """Make the tries of a row over one transport and note what came of them."""
    transports = ROWS[row].transports
    # The dearest is the last.
    tries, more = divmod(TRIES, len(transports))
    tries += transports.index(transport) < more
    with ThreadPoolExecutor(AT_ONCE) as pool:
        times = list(pool.map(attempt, range(tries)))
    place.check()
    outcome.saw(ROWS[row].exceptions[0], max(times))
    outcome.cleaned(f"{transport}: {tries} of {tries} tries, median {statistics.median(times):.2f} s")


def rows(*names):
    """Parametrize a test with rows and each one's transports."""
    return pytest.mark.parametrize(
        ("row", "transport"),
        [
            pytest.param(name, transport, marks=pytest.mark.fault(name), id=f"{name}-{transport}")
            for name in names
            for transport in ROWS[name].transports
        ],
    )


LIMIT = 2.0 * SLACK

ENDS_OF_CLIENTS = {"client-killed": kill_client, "client-terminated": terminate_client}


@rows(*ENDS_OF_CLIENTS)
def test_nothing_outlives_its_client(row, transport, place, outcome):
    def attempt(number):
        with owner_at(place, transport, number) as owner:
            owner.wait_ready()
            members = owner.members()
            begin = time.monotonic()
            ENDS_OF_CLIENTS[row](owner)
            owner.process.wait(LIMIT)
            return gone(owner, members, begin, LIMIT)

    put_to(place, transport, row, outcome, attempt)


@rows("terminal-closed")
def test_nothing_outlives_its_terminal(row, transport, place, outcome):
    def attempt(number):
        ours, theirs = pty.openpty()
        try:
            with owner_at(place, transport, number, terminal=theirs) as owner:
                os.close(theirs)
                theirs = -1
                owner.wait_ready()
                members = owner.members()
                begin = time.monotonic()
                os.close(ours)
                ours = -1
                assert owner.process.wait(LIMIT) == -signal.SIGHUP
                return gone(owner, members, begin, LIMIT)
        finally:
            for fd in (ours, theirs):
                if fd >= 0:
                    os.close(fd)

    put_to(place, transport, row, outcome, attempt)


@rows("client-killed-connecting")
def test_nothing_outlives_a_client_that_dies_while_it_connects(row, transport, place, outcome):
    with owner_at(place, transport, "0") as owner:
        owner.wait_started()
        begin = time.monotonic()
        owner.wait_ready()
        span = time.monotonic() - begin
    chance = random.Random(transport)

    def attempt(number):
        with owner_at(place, transport, f"-{number}") as owner:
            owner.wait_started()
            # At any time from the first step to a session that is up.
            time.sleep(chance.random() * span)
            members = family(owner.pid, processes())
            begin = time.monotonic()
            owner.kill()
            owner.process.wait(LIMIT)
            return gone(owner, members, begin, LIMIT)

    put_to(place, transport, row, outcome, attempt)


PARTS = {
    "ssh-killed": kill_ssh,
    "ssh-session-killed": kill_ssh_session,
    "keeper-killed": kill_keeper,
    "template-killed": kill_template,
}


@rows(*PARTS)
def test_nothing_outlives_a_part_of_the_session(row, transport, place, outcome):
    def attempt(number):
        with owner_at(place, transport, number) as owner:
            owner.wait_ready()
            members = owner.members()
            client = Process(owner.pid)
            begin = time.monotonic()
            PARTS[row](owner)
            return loss_of(owner, members - {client}, begin, row)

    put_to(place, transport, row, outcome, attempt)


@rows("server-killed", "server-stopped")
def test_nothing_outlives_its_server(row, transport, place, outcome):
    def attempt(number):
        folder = place.folder / f"place{number}"
        folder.mkdir()
        own = Place(folder)
        own.start_server()
        try:
            with owner_at(own, transport, number) as owner:
                owner.wait_ready()
                server = own.server_family()
                assert len(server) > 2
                members = owner.members() | server
                begin = time.monotonic()
                own.server.send_signal(signal.SIGKILL if row == "server-killed" else signal.SIGTERM)
                own.server.wait(LIMIT)
                took = loss_of(owner, members - {Process(owner.pid)}, begin, row)
                assert os.listdir(folder / "server") == []
                return took
        finally:
            own.stop_server()

    put_to(place, transport, row, outcome, attempt)


def loss_of(owner, members, begin, row):
    """The client lives: it is told what happened, closes, and has nothing left either."""
    told = owner.hear(LIMIT)
    assert (told["error"], told["call"]) == ("ConnectionLost", "sleep()"), told
    assert told["host"] == owner.sessions[0]["host"]
    assert re.search(LOST[row], told["reason"]), told
    took, left = left_after(members, owner.folder, begin, LIMIT, allowed={owner.pid})
    assert not left, f"left after {took:.1f} s: {left}"
    assert owner.hear(LIMIT) == {"closed": True}
    assert owner.process.wait(LIMIT) == 0
    assert os.listdir(owner.folder) == []
    return took
