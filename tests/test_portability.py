"""The near side of TCP needs nothing that only POSIX has.  Windows itself is not tested here."""

from __future__ import annotations

import subprocess
import sys

import pytest

import easycluster
from easycluster.server import Server

# What CPython on Windows lacks, as far as we could come to use it.
WITHOUT_POSIX = """
import os, select, signal, socket, sys
for name in ("fcntl", "termios", "pwd", "grp", "resource", "pty", "tty", "syslog"):
    sys.modules[name] = None
for module, names in {
    os: ("fork", "forkpty", "register_at_fork", "readv", "writev", "pread", "mkfifo", "setsid", "killpg", "getpgid",
         "wait", "WIFSIGNALED", "geteuid", "getuid", "fchmod"),
    select: ("poll", "epoll"),
    signal: ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGRTMIN", "pthread_kill", "set_wakeup_fd"),
    socket: ("AF_UNIX", "MSG_DONTWAIT", "SCM_RIGHTS", "CMSG_SPACE"),
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
def socketpair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        return one, listener.accept()[0]
socket.socketpair = socketpair
"""

CLIENT = """
import easycluster
easycluster.define_common("def add(a, b): return a + b")
for kind in (easycluster.Client, easycluster.ThreadedClient):
    with kind(bytes.fromhex(sys.argv[1]), "127.0.0.1", int(sys.argv[2])) as client:
        assert client.add(2, 3) == 5
        assert client.len(bytes(3 << 20)) == 3 << 20
        assert client.eval("bytes(3 << 20)") == bytes(3 << 20)
        assert [r.wait() for r in [client.add(n, 1, nonblocking=True) for n in range(50)]] == list(range(1, 51))
        try:
            client.raw_call("time.sleep", (60,), timeout=0.2)
        except easycluster.CallTimeout:
            pass
        else:
            raise AssertionError("no timeout")
        assert client.add(1, 1) == 2
print("ok")
"""


@pytest.fixture
def server_and_key():
    key = easycluster.generate_key()
    server = Server(0, key)
    server.start()
    yield server, key.hex()
    server.close()


def test_a_client_works_without_what_only_posix_has(server_and_key):
    server, key = server_and_key
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX + CLIENT, key, str(server.port)],
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert (done.stderr, done.stdout) == ("", "ok\n")
