"""The audit log: who came, with which key, what was called, how it ended; and no values."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import time

import pytest
from support.keepers import is_closed

import easycluster
from easycluster import keys
from easycluster.errors import AuthenticationError, WorkerDied
from easycluster.server import Server
from easycluster.transport import audit as audit_module
from easycluster.transport.audit import Audit, SessionCalls

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers run on POSIX systems")

# How long anything that must happen may take, in seconds.
SOON = 20.0


@pytest.fixture(autouse=True)
def no_wishes(monkeypatch):
    """The plugin tells far sides nothing, so that a log has what the test asks for and no more."""
    monkeypatch.setattr("easycluster.client.wishes._wishes", {})


def read(path):
    """Return the events of a log, each with its name and fields but the time."""
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in events:
        assert event.pop("time").endswith("+00:00")
    return events


def wait_for(path, event, **fields):
    """Return the first event that has these fields, once it is there."""
    end = time.monotonic() + SOON
    while True:
        for found in read(path):
            if found["event"] == event and fields.items() <= found.items():
                return found
        assert time.monotonic() < end, path.read_text()
        time.sleep(0.01)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "keys"
    path.mkdir(mode=0o700)
    keys.write_key_file(path / "alice.key", keys.generate_key())
    return path


class Telling(Server):
    """A server that remembers what it would print."""

    def __init__(self, *args, **kwargs):
        self.lines = queue.Queue()
        super().__init__(*args, **kwargs)

    def log(self, text):
        self.lines.put(text)


@pytest.fixture
def audited(folder, tmp_path):
    """A server with a log, clients of it, and the log's path."""
    path = tmp_path / "audit.log"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Telling(0, keyfile=folder, bind="127.0.0.1", audit=path))
        server.start()

        def connect(key=None):
            key = key or keys.read_key_file(folder / "alice.key")
            return stack.enter_context(
                contextlib.closing(easycluster.Client(key, "127.0.0.1", server.port, definitions=()))
            )

        yield server, connect, path


def calls_of(path):
    return [(event["function"], event["outcome"]) for event in read(path) if event["event"] == "call"]


def test_a_session_is_told_from_its_first_byte_to_its_last(audited):
    server, connect, path = audited
    client = connect()
    pid = client.os.getppid()
    client.eval("1 + 1")
    client.close()
    ended = wait_for(path, "ended")
    events = read(path)
    session = ended["session"]
    (keeper,) = [event["pid"] for event in events if event["event"] == "started"]
    assert keeper != pid  # of the worker, which the template is between
    peers = [event.get("peer") for event in events if event["event"] == "accepted"]
    assert events[0] == {
        "event": "server",
        "what": "started",
        "pid": os.getpid(),
        "where": server.where,
        "keys": ["alice"],
    }
    who = {"session": session, "key": "alice"}
    assert {"event": "authenticated", "peer": peers[0], **who} in events
    assert {"event": "joined", "peer": peers[1], "session": session} in events
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    assert {"event": "started", "pid": keeper, "user": user, **who} in events
    assert calls_of(path) == [("os.getppid", "ok"), ("eval", "ok")]
    calls = [event for event in events if event["event"] == "call"]
    assert all(call["session"] == session and call["reported_by"] == "session" for call in calls)
    assert (ended["why"], ended["calls"], ended["key"]) == ("the client has closed it", 2, "alice")
    assert 0 < ended["bytes_received"] < 10_000
    assert 0 < ended["bytes_sent"] < 10_000
    order = [event["event"] for event in events]
    assert order.index("authenticated") < order.index("started") < order.index("call") < order.index("ended")


def test_the_length_of_a_call_and_the_bytes_of_a_session_are_right(audited):
    _server, connect, path = audited
    client = connect()
    client.time.sleep(0.2)
    assert len(client.eval("bytes(5_000_000)")) == 5_000_000
    client.os.getpid()
    client.close()
    ended = wait_for(path, "ended")
    (slept,) = [event for event in read(path) if event.get("function") == "time.sleep"]
    assert 200 <= slept["ms"] < 1000 * SOON
    assert 5_000_000 < ended["bytes_sent"] < 5_100_000


def test_outcomes_are_names_of_exceptions(audited):
    _server, connect, path = audited
    client = connect()
    with pytest.raises(ZeroDivisionError):
        client.eval("1 / 0")
    with pytest.raises(subprocess.CalledProcessError):
        client.subprocess.run(["false"], check=True)
    with pytest.raises(easycluster.CallTimeout):
        client.raw_call("time.sleep", (60,), timeout=0.2)
    client.close()
    wait_for(path, "ended")
    assert calls_of(path) == [
        ("eval", "ZeroDivisionError"),
        ("subprocess.run", "subprocess.CalledProcessError"),
        ("time.sleep", "cancelled"),
    ]


def test_each_call_of_a_batch_has_a_line(audited):
    _server, connect, path = audited
    client = connect()
    batch = client.batch()
    batch.os.path.join("a", "b")
    batch.int("x")
    batch.os.getpid()
    assert len(batch.run(return_exceptions=True)) == 3
    batch.int("x")
    batch.os.getpid()
    with pytest.raises(ValueError, match="invalid literal"):
        batch.run(origexc="quiet")
    batch.os.getppid()
    batch.time.sleep(60)
    with pytest.raises(easycluster.CallTimeout):
        batch.run(timeout=0.2)
    client.os.getppid()
    client.close()
    ended = wait_for(path, "ended")
    assert calls_of(path) == [
        ("os.path.join", "ok"),
        ("int", "ValueError"),
        ("os.getpid", "ok"),
        ("int", "ValueError"),
        ("os.getppid", "ok"),
        ("time.sleep", "cancelled"),
        ("os.getppid", "ok"),
    ]
    assert ended["calls"] == 7


def test_each_of_many_nonblocking_calls_has_a_line(audited):
    """They travel in one frame with one pickle, if nothing is written down."""
    _server, connect, path = audited
    client = connect()
    responses = [client.abs(-number, nonblocking=True) for number in range(40)]
    failing = client.len(3, nonblocking=True)
    assert [response.wait() for response in responses] == list(range(40))
    with pytest.raises(TypeError):
        failing.result()
    client.close()
    wait_for(path, "ended")
    called = [each for each in calls_of(path) if each[0] in ("abs", "len")]
    assert called == [("abs", "ok")] * 40 + [("len", "TypeError")]


def test_a_server_that_reports_calls_names_those_of_a_batch(folder):
    told = queue.Queue()

    class Reporting(Server):
        def report_request(self, session, text):
            told.put(text)

    key = keys.read_key_file(folder / "alice.key")
    with Reporting(0, key, "127.0.0.1", verbosity=2) as server:
        server.start()
        with easycluster.Client(key, "127.0.0.1", server.port, definitions=()) as client:
            batch = client.batch()
            batch.os.path.join("a", "b")
            batch.os.getpid()
            batch.run()
            lines = [told.get(timeout=SOON) for _ in range(3)]
    assert lines == ["batch of 2 calls", "os.path.join()", "os.getpid()"]


def test_methods_and_attributes_of_objects_are_named(audited):
    _server, connect, path = audited
    client = connect()
    client.execblock("import io, easycluster\nshelf = easycluster.make_singleton(io.StringIO('x'), ['read'])")
    shelf = client.eval("shelf")
    assert shelf.read() == "x"
    client.close()
    wait_for(path, "ended")
    names = [name for name, _ in calls_of(path)]
    assert names[:2] == ["execblock", "eval"]
    assert any(name.startswith("<object ") and name.endswith(">.read") for name in names[2:])


def test_calls_of_a_worker_that_dies_are_unfinished(audited):
    _server, connect, path = audited
    client = connect()
    with pytest.raises(WorkerDied):
        client.os.kill(client.os.getpid(), signal.SIGKILL)
    died = wait_for(path, "died")
    assert (died["signal"], died["exit_code"], died["key"]) == (signal.SIGKILL, None, "alice")
    assert calls_of(path) == [("os.getpid", "ok"), ("os.kill", "unfinished")]
    client.reconnect()
    client.os.getpid()
    client.close()
    assert wait_for(path, "ended")["calls"] == 3


def test_calls_of_several_threads_are_told_apart(audited):
    _server, connect, path = audited
    client = connect()
    long = client.time.sleep(1.0, threadid=1, nonblocking=True)
    client.os.getpid(threadid=2)
    long.wait()
    client.close()
    wait_for(path, "ended")
    assert calls_of(path) == [("os.getpid", "ok"), ("time.sleep", "ok")]


def test_who_gets_nothing_is_told_with_the_reason_that_he_is_not_told(audited, folder):
    server, connect, path = audited
    with pytest.raises(AuthenticationError) as caught:
        connect(keys.generate_key())
    refused = wait_for(path, "refused")
    assert refused["why"] == "no key with this id"
    assert "no key with this id" not in str(caught.value)
    with socket.create_connection(("127.0.0.1", server.port), SOON) as noise:
        noise.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert is_closed(noise)
        peer = f"127.0.0.1:{noise.getsockname()[1]}"
    assert wait_for(path, "refused", peer=peer)["why"] == "not a client"
    with socket.create_connection(("127.0.0.1", server.port), SOON) as silent:
        peer = f"127.0.0.1:{silent.getsockname()[1]}"
    assert wait_for(path, "refused", peer=peer)["why"] == "it left"
    connect().eval("1")
    (folder / "alice.key").unlink()
    assert wait_for(path, "keys")["withdrawn"] == ["alice"]
    assert wait_for(path, "ended")["why"] == "the server has withdrawn its key 'alice'"


def test_an_address_that_is_not_allowed_is_told(folder, tmp_path):
    path = tmp_path / "audit.log"
    with Telling(0, keyfile=folder, bind="127.0.0.1", audit=path, allow=["192.0.2.0/24"]) as server:
        server.start()
        with socket.create_connection(("127.0.0.1", server.port), SOON) as sock:
            assert is_closed(sock)
    assert [event["why"] for event in read(path) if event["event"] == "refused"] == ["its address is not allowed"]


def test_no_argument_value_or_code_gets_into_the_log(audited):
    canary = "canary" + os.urandom(8).hex()
    _server, connect, path = audited
    client = connect()
    client.eval(f"'{canary}'")
    client.execblock(f"variable = '{canary}'")
    client.os.path.join(canary, canary)
    client.variable.value = canary
    assert client.variable.value == canary
    with pytest.raises(ValueError, match=canary):
        client.int(canary)
    client.execblock(f"def fail(): raise RuntimeError('{canary}')")
    with pytest.raises(RuntimeError):
        client.fail()
    client.close()
    assert wait_for(path, "ended")["calls"] >= 8
    assert canary not in path.read_text()


def test_without_a_log_the_worker_has_another_session_and_nothing_is_asked(folder):
    """Off costs nothing: the class that counts is not even used."""
    key = keys.read_key_file(folder / "alice.key")
    with Telling(0, keyfile=folder, bind="127.0.0.1") as server:
        server.start()
        with easycluster.Client(key, "127.0.0.1", server.port, definitions=()) as client:
            code = "__import__('gc').get_objects()"
            names = client.eval(f"sorted({{type(o).__name__ for o in {code} if 'Session' in type(o).__name__}})")
    assert names == ["WorkerSession"]


def test_the_class_can_say_where_the_log_is(folder, tmp_path):
    class Audited(Telling):
        audit = tmp_path / "class.log"

    with Audited(0, keyfile=folder, bind="127.0.0.1") as server:
        server.start()
    assert [event.get("what") for event in read(tmp_path / "class.log")] == ["started", "stopped"]


# ---- a session that lies


def test_a_session_cannot_write_lines_of_its_own(audited):
    """Its worker holds the pipe; what it writes there becomes claims about calls at most."""
    _server, connect, path = audited
    client = connect()
    client.execblock(
        "import os, stat\n"
        "pipes = []\n"
        "for fd in range(3, 64):\n"
        "    try:\n"
        "        if stat.S_ISFIFO(os.fstat(fd).st_mode): pipes.append(fd)\n"
        "    except OSError: pass\n"
        'lie = b\'{"event": "server", "what": "stopped"}\\n\' + b\'e\\t1\\tok\\n\' + b\'e\\tx\\tok\\tNaN\\t\\t\\n\'\n'
        "lie += b'b\\t9\\tharmless\\\"}\\n' + b'e\\t9\\tok\\t1\\t\\t\\n' + b'\\xff\\x00' * 40 + b'\\n'\n"
        "written = [os.write(fd, lie) for fd in pipes]\n"
    )
    assert client.eval("len(written)") >= 1
    client.close()
    wait_for(path, "ended")
    assert {event["event"] for event in read(path)} <= {
        *("server", "accepted", "authenticated", "joined", "started", "call", "ended")
    }
    assert [event["what"] for event in read(path) if event["event"] == "server"] == ["started"]
    assert ('harmless"}', "ok") in calls_of(path)


LIES = [
    b"\n" * 1000,
    b"b\t1\n" + b"e\t1\n" + b"b\n",
    b"e\t1\tok\tmany\t1\t2\n",
    b"e\t1\tok\t1\tmany\t2\n",
    b"b\t1\t" + b"x" * 100_000,
]


@pytest.mark.parametrize("lie", LIES, ids=range(len(LIES)))
def test_what_is_no_line_is_left_out(lie):
    calls = SessionCalls()
    assert calls.take(lie) == []
    assert len(calls._rest) <= audit_module._MOST_LINE


def test_what_a_session_claims_is_limited():
    calls = SessionCalls()
    for number in range(10_000):
        calls.take(b"b\t%d\tcall\n" % number)
    assert len(calls.unfinished()) == audit_module._MOST_OPEN
    (call,) = calls.take(b"b\t1\t" + b"n" * 3000 + b"\ne\t1\t" + b"o" * 3000 + b"\t5\t" + b"9" * 3000 + b"\t1\n")
    assert (len(call["function"]), len(call["outcome"])) == (audit_module._MOST_TEXT, audit_module._MOST_TEXT)
    assert calls.bytes_received < 10**20


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_lines_may_come_in_any_pieces(step):
    said = b"b\t1\tos.getpid\nb\t2\tf\ne\t2\tOSError\t1500\t10\t20\ne\t1\tok\t2000\t30\t40\n"
    calls = SessionCalls()
    ended = [call for at in range(0, len(said), step) for call in calls.take(said[at : at + step])]
    assert [(call["function"], call["outcome"], call["ms"]) for call in ended] == [
        ("f", "OSError", 1.5),
        ("os.getpid", "ok", 2.0),
    ]
    assert (calls.count, calls.bytes_received, calls.bytes_sent) == (2, 30, 40)


# ---- the file


def test_the_file_is_private_and_appended_to(tmp_path):
    path = tmp_path / "audit.log"
    before = os.umask(0)
    try:
        for number in (1, 2):
            log = Audit(path, pytest.fail)
            log.write("server", what=number)
            log.close()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [event["what"] for event in read(path)] == [1, 2]


def trouble(path):
    with pytest.raises(OSError) as caught:  # noqa: PT011  # the text is compared by the caller
        Audit(path, pytest.fail)
    return caught.value.strerror


def test_a_file_that_others_can_write_is_refused(tmp_path):
    path = tmp_path / "audit.log"
    path.touch()
    path.chmod(0o662)
    assert trouble(path) == f"cannot use the audit log {path}: others may write to it; close it with: chmod go-w {path}"


def test_what_is_no_file_of_ours_is_refused(tmp_path):
    path = tmp_path / "audit.log"
    path.symlink_to(tmp_path / "elsewhere")
    assert trouble(path).startswith(f"cannot open the audit log {path}: ")
    assert not (tmp_path / "elsewhere").exists()
    os.mkfifo(tmp_path / "pipe")
    assert "pipe: " in trouble(tmp_path / "pipe")
    assert trouble(tmp_path / "no" / "log") == f"cannot open the audit log {tmp_path}/no/log: No such file or directory"


def test_a_log_that_cannot_be_had_leaves_no_port_open(folder, tmp_path):
    with Server(0, keyfile=folder, bind="127.0.0.1") as probe:
        port = probe.port
    with pytest.raises(OSError, match="cannot open the audit log"):
        Server(port, keyfile=folder, bind="127.0.0.1", audit=tmp_path / "no" / "log")
    with Server(port, keyfile=folder, bind="127.0.0.1"):
        pass


def test_a_log_that_was_moved_away_is_opened_again(audited):
    server, connect, path = audited
    client = connect()
    client.os.getpid()
    wait_for(path, "call")
    moved = path.rename(path.with_suffix(".1"))
    client.os.getppid()
    wait_for(moved, "call", function="os.getppid")
    server.reload()
    end = time.monotonic() + SOON
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    client.os.getcwd()
    assert wait_for(path, "call")["function"] == "os.getcwd"
    assert calls_of(moved) == [("os.getpid", "ok"), ("os.getppid", "ok")]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
def test_lines_that_are_lost_are_counted_and_said_once(tmp_path):
    said = []
    path = tmp_path / "audit.log"
    log = Audit(path, said.append)
    full = os.open("/dev/full", os.O_WRONLY)
    kept, log._file = log._file, full
    for _ in range(3):
        log.write("accepted")
    log._file = kept
    os.close(full)
    log.write("accepted")
    log.close()
    assert [(event["event"], event.get("count")) for event in read(path)] == [("lost", 3), ("accepted", None)]
    assert said == [
        f"cannot write the audit log {path}: No space left on device; its lines are lost",
        f"the audit log {path} is written again; 3 lines are lost",
    ]


def test_strangers_cannot_fill_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_module, "_STRANGERS_PER_SECOND", 0.0)
    path = tmp_path / "audit.log"
    log = Audit(path, pytest.fail)
    for _ in range(100_000):
        log.write_of_stranger("accepted", peer="192.0.2.1:1")
    log.write("authenticated")
    log.close()
    events = read(path)
    assert len(events) == audit_module._STRANGERS + 2
    assert events[-2:] == [
        {"event": "authenticated"},
        {"event": "suppressed", "count": 100_000 - audit_module._STRANGERS},
    ]


def test_the_command_writes_a_log_and_opens_it_again_on_sighup(folder, tmp_path):
    path = tmp_path / "audit.log"
    words = ["-S", "-k", str(folder), "-p", "0", "-b", "127.0.0.1", "--audit", str(path)]
    command = [sys.executable, "-m", "easycluster", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        wait_for(path, "server", what="started")
        path.rename(path.with_suffix(".1"))
        process.send_signal(signal.SIGHUP)
        end = time.monotonic() + SOON
        while not path.exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        process.terminate()
        assert process.wait(SOON) == 0
    assert [event["what"] for event in read(path)] == ["stopped"]


def test_a_dash_prints_the_log(folder):
    words = ["-S", "-k", str(folder), "-p", "0", "-b", "127.0.0.1", "--audit", "-"]
    command = [sys.executable, "-m", "easycluster", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        began = process.stdout.readline(), process.stdout.readline()
        process.terminate()
        assert process.wait(SOON) == 0
        ended = process.stdout.read().splitlines()
    assert json.loads(began[0])["what"] == "started"
    assert began[1].startswith("listening on 127.0.0.1:")
    assert [json.loads(line)["what"] for line in ended] == ["stopped"]


def test_a_cancel_that_comes_after_the_end_of_a_call_is_no_call(audited):
    _server, connect, path = audited
    client = connect()
    client.os.getpid()
    # As a client sends it that gives a call up in the moment in which it ends.
    client._endpoint.cancel(next(client._session._ids) - 1)
    client.time.sleep(0.3)
    client.close()
    assert wait_for(path, "ended")["calls"] == 2
    assert calls_of(path) == [("os.getpid", "ok"), ("time.sleep", "ok")]
