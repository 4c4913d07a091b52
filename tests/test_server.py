"""The server: safe unless told otherwise, told what happens, and gone when it is stopped."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.keepers import KEY, SOON, Keepers, drain, is_closed, shake_hands
from support.processes import wait_until_gone

from easycluster import Client
from easycluster import server as server_module
from easycluster.errors import KeyFileError
from easycluster.server import QuietServer, Server, run_server, stop_server
from easycluster.transport import listener as listener_module


class Reporting(Server):
    """A server that remembers its reports."""

    def __init__(self, *args, **kwargs):
        self.reports = queue.Queue()
        super().__init__(*args, **kwargs)

    def report_connection(self, session):
        self.reports.put(("connection", session.peer))

    def report_disconnection(self, session):
        self.reports.put(("disconnection", session.peer))

    def report_request(self, session, text):
        self.reports.put(("request", session.peer, text))


class Logging(Server):
    """A server that remembers what it would print."""

    def __init__(self, *args, **kwargs):
        self.lines = queue.Queue()
        super().__init__(*args, **kwargs)

    def log(self, text):
        self.lines.put(text)


@pytest.fixture(autouse=True)
def short_ending(monkeypatch):
    """Keepers that a test has in its hand do not end by themselves."""
    monkeypatch.setattr(listener_module, "_ENDING", 0.1)


@pytest.fixture
def keepers():
    with contextlib.closing(Keepers()) as keepers:
        yield keepers


@pytest.fixture
def connect():
    """Connect to servers; the connections end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda server: stack.enter_context(socket.create_connection(("127.0.0.1", server.port), SOON))


def test_a_server_without_a_key_does_not_start():
    with pytest.raises(KeyFileError) as caught:
        Server(0)
    assert str(caught.value) == (
        "a server needs a key: make a key file with: easycluster -g FILE, and give it with: -k FILE"
    )


def test_a_key_of_another_size_is_refused():
    with pytest.raises(KeyFileError, match=r"^a key is 32 bytes long, this one has 16; use generate_key\(\)$"):
        Server(0, bytes(16))


def test_only_this_machine_can_connect_unless_told_otherwise():
    with Server(0, KEY) as server:
        assert {host for host, _ in server.addresses} <= {"127.0.0.1", "::1"}
    with Server(0, KEY, "*", no_ipv6=True) as server:
        assert server.addresses == [("0.0.0.0", server.port)]


def test_a_server_says_where_it_is_and_never_its_key():
    with Server(0, KEY, "127.0.0.1") as server:
        assert server.where == f"127.0.0.1:{server.port}"
        assert repr(server) == f"<Server on 127.0.0.1:{server.port}>"
    with Server(0, KEY, "::1") as server:
        assert server.where == f"[::1]:{server.port}"


def test_what_is_no_network_is_refused_before_the_port_opens():
    with pytest.raises(ValueError, match="cannot allow 'gpu01'"):
        Server(0, KEY, allow=["gpu01"])


def test_overridden_reports_are_told_of_sessions_and_calls(keepers, connect):
    with Reporting(0, KEY, spawner=keepers) as server:
        server.start()
        shake_hands(connect(server))
        kind, peer = server.reports.get(timeout=SOON)
        assert kind == "connection"
        keeper = keepers.spawned.get(timeout=SOON)
        keeper.send({"kind": "request", "text": "os.getpid()"})
        assert server.reports.get(timeout=SOON) == ("request", peer, "os.getpid()")
        assert [session.peer for session in server.sessions] == [peer]
        keeper.close()
        assert server.reports.get(timeout=SOON) == ("disconnection", peer)
        assert server.sessions == []


VERBOSITY = [
    (Logging, 0, []),
    (Logging, 1, ["connected", "disconnected"]),
    (Logging, 2, ["connected", "os.getpid()", "disconnected"]),
    (type("QuietLogging", (QuietServer, Logging), {}), 2, []),
]


@pytest.mark.parametrize(("server_class", "verbosity", "lines"), VERBOSITY)
def test_what_is_printed_depends_on_the_verbosity(keepers, connect, server_class, verbosity, lines):
    with server_class(0, KEY, verbosity=verbosity, spawner=keepers) as server:
        server.start()
        client = connect(server)
        shake_hands(client)
        peer = f"127.0.0.1:{client.getsockname()[1]}"
        keeper = keepers.spawned.get(timeout=SOON)
        packet, connection = keeper.take()
        assert packet["limits"] == {"report": verbosity == 2}
        keeper.send({"kind": "request", "text": "os.getpid()"})
        keeper.close()
        connection.close()
        assert [server.lines.get(timeout=SOON) for _ in lines] == [f"{peer}: {line}" for line in lines]
        server.close()
        assert server.lines.empty()


def test_a_fault_in_a_report_does_not_end_the_server(keepers, connect, capsys):
    class Faulty(Server):
        def report_connection(self, session):
            raise RuntimeError("broken report")

    with Faulty(0, KEY, spawner=keepers) as server:
        server.start()
        shake_hands(connect(server))
        shake_hands(connect(server), token=b"2" * 16)
        assert "RuntimeError: broken report" in capsys.readouterr().err


def test_closing_ends_port_sessions_and_thread_and_may_be_repeated(keepers, connect):
    before = set(threading.enumerate())
    server = Server(0, KEY, spawner=keepers)
    server.start()
    client = connect(server)
    shake_hands(client)
    keeper = keepers.spawned.get(timeout=SOON)
    packet, connection = keeper.take()
    server.close()
    server.close()
    assert packet["kind"] == "control"
    assert keeper.sock.recv(1) == b""
    keeper.close()
    connection.close()
    assert is_closed(client)
    with pytest.raises(ConnectionRefusedError):
        connect(server)
    assert set(threading.enumerate()) <= before


def test_a_server_runs_once():
    with Server(0, KEY, spawner=Keepers()) as server:
        server.start()
        with pytest.raises(RuntimeError, match="has already been started; make a new one"):
            server.start()
    with pytest.raises(RuntimeError, match="has already been started; make a new one"):
        server.serve_forever()


def test_a_stop_before_serving_is_not_lost():
    with Server(0, KEY, spawner=Keepers()) as server:
        server.stop()
        server.serve_forever()


def test_a_closed_server_that_never_ran_leaves_its_port():
    server = Server(0, KEY, "127.0.0.1")
    server.close()
    with Server(server.port, KEY, "127.0.0.1"):
        pass


def test_stop_server_without_a_server_does_nothing():
    stop_server()


def test_stop_server_stops_what_run_server_runs(capsys):
    serving = threading.Event()

    class Announcing(Server):
        def serve_forever(self):
            serving.set()
            super().serve_forever()

    thread = threading.Thread(
        target=run_server, args=(0, KEY), kwargs={"server_class": Announcing, "bindaddr": "127.0.0.1"}
    )
    thread.start()
    assert serving.wait(SOON)
    stop_server()
    thread.join(SOON)
    assert not thread.is_alive()
    assert capsys.readouterr().out.startswith("listening on 127.0.0.1:")


def test_the_classic_names_of_the_arguments_stay():
    """run_server(port, key, bindaddr, allow, verbosity, daemonize, pidfile, disable_ipv6, profile) of 0.22."""
    names = run_server.__code__.co_varnames[:9]
    assert names == (
        "port",
        "key",
        "bindaddr",
        "allow",
        "verbosity",
        "daemonize",
        "pidfile",
        "disable_ipv6",
        "profile",
    )
    assert set(server_module.__all__) >= {"run_server", "stop_server", "spawn_local", "server_main", "Server"}


# ---- as a process

posix = pytest.mark.skipif(os.name != "posix", reason="signals and daemons are POSIX")


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "lab.key"
    path.write_text(KEY.hex())
    path.chmod(0o600)
    return path


def command(key_file, *words):
    return [sys.executable, "-m", "easycluster", "-S", "-k", str(key_file), "-p", "0", "-b", "127.0.0.1", *words]


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_cleanly(key_file, tmp_path, number):
    pidfile = tmp_path / "server.pid"
    words = command(key_file, "-P", str(pidfile), "-v")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        address = process.stdout.readline().split()[-1]
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), SOON) as client:
            shake_hands(client)
            assert process.stdout.readline().endswith(": connected\n")
            assert pidfile.read_text() == f"{process.pid}\n"
            process.send_signal(number)
            drain(client)
        rest = process.stdout.read()
        assert process.wait(SOON) == 0
    assert rest.endswith(": disconnected\n")
    assert "Traceback" not in rest
    assert not pidfile.exists()


@posix
def test_a_daemon_serves_once_its_starter_has_ended(key_file, tmp_path):
    pidfile = tmp_path / "server.pid"
    started = subprocess.run(command(key_file, "-d", "-P", str(pidfile)), capture_output=True, text=True, timeout=SOON)
    assert (started.returncode, started.stderr) == (0, "")
    pid = int(pidfile.read_text())
    try:
        host, port = started.stdout.split()[-1].split(":")
        with socket.create_connection((host, int(port)), SOON) as client:
            shake_hands(client)
            os.kill(pid, signal.SIGTERM)
            drain(client)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


@posix
def test_a_daemon_that_cannot_start_says_why_on_the_terminal(key_file, tmp_path):
    pidfile = tmp_path / "no" / "server.pid"
    started = subprocess.run(command(key_file, "-d", "-P", str(pidfile)), capture_output=True, text=True, timeout=SOON)
    assert started.returncode == 1
    assert started.stderr == f"easycluster: cannot write pidfile {pidfile}: No such file or directory\n"


def test_a_taken_port_is_one_sentence_and_status_1(key_file):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = command(key_file, "-p", str(port))
        done = subprocess.run(words, capture_output=True, text=True, timeout=SOON)
    assert done.returncode == 1
    assert done.stderr == (
        f"easycluster: cannot listen on 127.0.0.1:{port}: Address already in use; "
        "another server has the port: stop it or give another with -p\n"
    )


def below(pid):
    """A process and all that come from it."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            found += below(int(child))
    return found


def test_nothing_of_a_session_is_left_when_close_returns(monkeypatch):
    monkeypatch.setattr(listener_module, "_ENDING", 30.0)
    key = bytes(range(32))
    with Server(0, key) as server:
        server.start()
        client = Client(key, "127.0.0.1", server.port)
        client.eval("__import__('subprocess').Popen(['sleep', '60'], start_new_session=True).pid")
        keeper = client._endpoint.control.hello["keeper"]
        pids = below(keeper)
        assert len(pids) >= 4
    # Not a moment later; a process that ends closes its sockets, by which the keeper's end is known, before it is gone.
    assert [pid for pid in pids if os.path.exists(f"/proc/{pid}") and pid != keeper] == []
    assert wait_until_gone([keeper]) == []
    client.close()
