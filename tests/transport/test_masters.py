"""Shared ssh logins: who gets which, when another is made, and that none outlives its owner."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from easycluster import Client, ConnectionLost
from easycluster.errors import AuthenticationError
from easycluster.transport import masters
from easycluster.transport.masters import EACH


@pytest.fixture(autouse=True)
def no_masters_left(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="t-") as parent:
        monkeypatch.setenv("XDG_RUNTIME_DIR", parent)
        yield Path(parent)
        masters.close_all()
        assert os.listdir(parent) == []


@pytest.fixture
def connect(sshd):
    """Connects clients that share a login; closes them."""
    clients = []

    def connect(server=sshd, **options):
        options.setdefault("extra_args", server.extra_args)
        clients.append(Client(host=server.host, ssh=True, ssh_master=True, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def shelved():
    """The masters that there are."""
    return [master for shelf in masters._shelves.values() for master in shelf.masters]


def is_relayed(client):
    return client._endpoint._carrier._relay is not None


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_sessions_share_one_login(connect, sshd):
    others = sshd.sessions()
    assert [connect().eval(f"{n} + 1") for n in range(3)] == [1, 2, 3]
    (master,) = shelved()
    assert master.sessions == 3 * EACH
    assert len(set(sshd.sessions()) - set(others)) == 1


def test_without_being_asked_nobody_shares(connect, sshd):
    with Client(host=sshd.host, ssh=True, extra_args=sshd.extra_args) as client:
        assert client.eval("1") == 1
    assert shelved() == []


def test_socket_is_for_nobody_else(connect):
    connect()
    (master,) = shelved()
    assert stat.S_IMODE(os.stat(os.path.dirname(master.path)).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(master.path).st_mode) == 0o600


def test_other_user_arguments_get_another_login(connect, sshd):
    connect()
    connect(extra_args=(*sshd.extra_args, "-o", "ServerAliveInterval=7"))
    assert len(shelved()) == 2


def test_sixth_session_gets_another_login(connect):
    """sshd's MaxSessions is 10, and each far side takes two."""
    assert [connect().eval("1") for _ in range(6)] == [1] * 6
    assert [master.sessions for master in shelved()] == [5 * EACH, EACH]


def test_parallel_connects_share_one_login(connect):
    with ThreadPoolExecutor(5) as pool:
        clients = list(pool.map(lambda _: connect(), range(5)))
    assert [client.eval("1") for client in clients] == [1] * 5
    assert len(shelved()) == 1
    assert not any(map(is_relayed, clients))


@pytest.mark.parametrize("most", [1, 3, 4])
def test_fewer_sessions_than_usual_take_more_logins(most, connect, sshd_factory):
    server = sshd_factory(f"MaxSessions {most}")
    clients = [connect(server) for _ in range(3)]
    assert [client.eval("1") for client in clients] == [1] * 3
    assert not any(map(is_relayed, clients))
    assert len(shelved()) > 1


def test_sshd_s_limit_is_met_in_parallel_too(connect, sshd_factory):
    server = sshd_factory("MaxSessions 4")
    with ThreadPoolExecutor(4) as pool:
        clients = list(pool.map(lambda _: connect(server), range(4)))
    assert [client.eval("1") for client in clients] == [1] * 4


def test_dead_master_is_a_lost_link_that_says_so_and_the_next_login_is_new(connect, sshd_factory):
    server = sshd_factory()
    client = connect(server)
    (master,) = shelved()
    server.drop_connections()
    with pytest.raises(ConnectionLost, match="the shared ssh connection has ended"):
        client.eval("__import__('time').sleep(60)")
    assert connect(server).eval("1") == 1
    assert shelved()[-1] is not master
    client.close()
    connect(server)
    assert master not in shelved()


def test_killed_master_is_a_lost_link_too(connect):
    client = connect()
    (master,) = shelved()
    os.kill(ssh_of(master), signal.SIGKILL)
    with pytest.raises(ConnectionLost, match="the shared ssh connection has ended"):
        client.eval("__import__('time').sleep(60)")
    assert connect().eval("1") == 1


def ssh_of(master):
    """The process id of a master's ssh, which runs below a shell."""
    (pid,) = Path(f"/proc/{master._process.pid}/task/{master._process.pid}/children").read_text().split()
    return int(pid)


def test_socket_that_is_gone_is_no_master_any_more(connect):
    client = connect()
    (master,) = shelved()
    os.unlink(master.path)
    assert connect().eval("1") == 1
    assert shelved()[-1] is not master
    assert client.eval("1") == 1


def test_login_that_fails_is_explained_and_tried_anew(connect, sshd):
    for _ in range(2):
        with pytest.raises(AuthenticationError, match="the login was refused"):
            connect(user="nobody-has-this-name")


def test_those_who_wait_for_a_login_share_its_failure(connect):
    def attempt(_):
        with pytest.raises(AuthenticationError):
            connect(user="nobody-has-this-name")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(attempt, range(4)))


def test_master_without_sessions_ends_in_time(connect, monkeypatch):
    monkeypatch.setattr(masters, "IDLE", 0.05)
    connect().close()
    wait_until(lambda: shelved() == [])


def test_master_stays_for_a_moment(connect):
    connect().close()
    (master,) = shelved()
    connect()
    assert shelved() == [master]


def test_control_path_of_the_user_s_own_is_used_and_left_alone(connect, sshd, tmp_path, no_masters_left):
    path = no_masters_left / "mine"
    config = tmp_path / "config"
    config.write_text(f"ControlPath {path}\nControlMaster auto\nControlPersist 60\n" + sshd.config_path.read_text())
    own = subprocess.Popen(["ssh", "-F", config, "-M", "-N", sshd.host], stdin=subprocess.DEVNULL)
    wait_until(path.exists)
    client = connect(extra_args=("-F", str(config)))
    assert client.eval("1") == 1
    assert [(master.path, master._process) for master in shelved()] == [(str(path), None)]
    client.close()
    masters.close_all()
    assert subprocess.run(["ssh", "-F", config, "-O", "check", sshd.host], capture_output=True).returncode == 0
    subprocess.run(["ssh", "-F", config, "-O", "exit", sshd.host], capture_output=True, check=True)
    own.wait(10)


def test_stale_socket_of_the_user_s_own_is_passed_over(connect, sshd, tmp_path, no_masters_left):
    path = no_masters_left / "mine"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.close()
    config = tmp_path / "config"
    config.write_text(f"ControlPath {path}\nControlMaster auto\n" + sshd.config_path.read_text())
    assert connect(extra_args=("-F", str(config))).eval("1") == 1
    (master,) = shelved()
    assert master.path != str(path)
    path.unlink()


PROGRAM = """
import os, sys
from easycluster import Client
from easycluster.transport import masters
clients = [Client(host={host!r}, ssh=True, ssh_master=True, extra_args={extra!r}) for _ in range(2)]
clients[1].close()
(master,) = [master for shelf in masters._shelves.values() for master in shelf.masters]
print(master._process.pid, os.path.dirname(master.path), flush=True)
{then}
"""


@pytest.mark.parametrize("then", ["", "os.kill(os.getpid(), 9)", "clients[0].close()", "os._exit(0)"])
def test_master_goes_with_the_process(then, sshd):
    source = PROGRAM.format(host=sshd.host, extra=sshd.extra_args, then=then)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", source], stdout=subprocess.PIPE, text=True, timeout=60)
    pid, folder = done.stdout.split()
    # The shell leads a process group in which ssh is, too.
    wait_until(lambda: not group_exists(int(pid)))
    assert not os.path.exists(folder)


def group_exists(pid):
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_forked_child_leaves_the_login_to_its_parent(sshd):
    then = """
child = os.fork()
if child == 0:
    masters.close_all()
    os._exit(len(masters._shelves))
assert os.waitpid(child, 0)[1] == 0
assert clients[0].eval("1") == 1
assert Client(host={host!r}, ssh=True, ssh_master=True, extra_args={extra!r}).eval("1") == 1
assert [master.path for shelf in masters._shelves.values() for master in shelf.masters] == [master.path]
"""
    source = PROGRAM.format(
        host=sshd.host, extra=sshd.extra_args, then=then.format(host=sshd.host, extra=sshd.extra_args)
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", source], stdout=subprocess.PIPE, check=True, timeout=60)
