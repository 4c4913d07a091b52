"""A key is where it is needed and nowhere else: canaries are looked for in everything that leaves a process."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import json
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

import easycluster
from easycluster import keys
from easycluster.errors import EasyClusterError
from easycluster.server import Server
from easycluster.transport.keyring import KeyRing
from easycluster.wire.auth import CONTROL, ClientHandshake, ServerHandshake, SessionKeys

pytest_plugins = ["pytester"]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")

SOON = 30.0


class Canary:
    """A key, in every form in which it could turn up."""

    def __init__(self, key=None):
        self.key = key or keys.generate_key()
        plain = bytes(self.key)
        self.forms = [plain, plain.hex().encode(), plain.hex().upper().encode(), repr(plain)[2:-1].encode()]
        # What json, xml and repr make of bytes differs in places: any twelve digits or bytes in a row are enough.
        self.pieces = [*(form[:12] for form in self.forms[:3]), *(form[-12:] for form in self.forms[:3]), plain[10:22]]

    def found_in(self, data):
        """Return whether any form of the key is in some bytes or text."""
        data = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        return any(form in data for form in [*self.forms, *self.pieces])


@pytest.fixture
def canary():
    return Canary()


@pytest.fixture
def key_file(canary, tmp_path):
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    keys.write_key_file(folder / "alice.key", canary.key)
    return folder / "alice.key"


def test_the_canary_is_found_in_every_form(canary):
    """Or the other tests would prove nothing."""
    plain = bytes(canary.key)
    for shown in (plain, plain.hex(), repr(plain), str([plain]), json.dumps(plain.hex()), pickle.dumps(plain)):
        assert canary.found_in(shown)
    assert not canary.found_in(os.urandom(10_000))


# ---- processes


def tree(pid):
    """Return a process and everything below it."""
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        for task in Path(f"/proc/{one}/task").iterdir():
            todo += [int(child) for child in (task / "children").read_text().split()]
    return found


def memory(pid):
    """Return everything that a process has in memory and may write to."""
    parts = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in maps:
            span, mode = line.split()[:2]
            if mode.startswith("rw"):
                start, end = (int(word, 16) for word in span.split("-"))
                mem.seek(start)
                with contextlib.suppress(OSError):
                    parts.append(mem.read(end - start))
    return b"".join(parts)


@pytest.fixture
def served(key_file, tmp_path):
    """A verbose, audited server as a process, a client of it, and what the server has printed when it is over."""
    log, printed = tmp_path / "audit.log", tmp_path / "printed"
    command = [sys.executable, "-m", "easycluster", "-S", "-k", str(key_file.parent), "-p", "0", "-b", "127.0.0.1"]
    with (
        printed.open("wb") as out,
        subprocess.Popen([*command, "-vv", "--audit", str(log)], stdout=out, stderr=subprocess.STDOUT) as process,
    ):
        try:
            while b"\n" not in printed.read_bytes():
                assert process.poll() is None
            port = int(printed.read_text().split("\n")[0].rpartition(":")[2])
            with easycluster.Client(keys.read_key_file(key_file), "127.0.0.1", port, label="lab1") as client:
                client.execblock("import subprocess\nchild = subprocess.Popen(['sleep', '60'])")
                yield process, client, printed, log
        finally:
            process.terminate()
            assert process.wait(SOON) == 0


@linux
def test_no_process_of_server_and_session_shows_the_key(served, canary):
    process, client, _, _ = served
    # The server, what starts keepers, a keeper, a template, a worker and what user code has started; and
    # the three of the next session, which are soon there.
    end = time.monotonic() + 20
    while len(pids := tree(process.pid)) != 9 and time.monotonic() < end:
        time.sleep(0.01)
    names = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ") for pid in pids]
    assert client.os.getpid() in pids
    assert len(pids) == 9
    assert any(b"sleep 60" in name for name in names)
    for pid in [*pids, os.getpid()]:
        for place in ("cmdline", "environ", "stat", "status"):
            assert not canary.found_in(Path(f"/proc/{pid}/{place}").read_bytes())


@linux
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="reads the memory of other processes")
def test_only_the_server_has_the_key_in_its_memory(served, canary):
    """What runs the key holder's code, and what that can reach by inheritance, has no key to take."""
    process, client, _, _ = served
    client.eval("1 + 1")
    listener, *others = tree(process.pid)
    with_key = [pid for pid in others if canary.found_in(memory(pid))]
    assert canary.found_in(memory(listener))
    assert with_key == []


def test_what_the_server_prints_and_logs_does_not_have_the_key(served, canary):
    process, client, printed, log = served
    client.os.getpid()
    stranger = Canary()
    with pytest.raises(EasyClusterError):
        easycluster.Client(stranger.key, "127.0.0.1", client.remote_port)
    client.close()
    process.send_signal(signal.SIGTERM)
    process.wait(SOON)
    said = printed.read_bytes() + log.read_bytes()
    assert said.count(b"os.getpid") == 2
    assert b"refused" in said
    assert not canary.found_in(said)
    assert not stranger.found_in(said)


@linux
def test_a_key_on_the_command_line_is_gone_when_the_server_serves(canary):
    words = ["-S", "-K", bytes(canary.key).hex(), "-p", "0", "-b", "127.0.0.1"]
    command = [sys.executable, "-m", "easycluster", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        port = int(process.stdout.readline().rpartition(":")[2])
        with easycluster.Client(canary.key, "127.0.0.1", port) as client:
            assert client.eval("1") == 1
            for pid in tree(process.pid):
                assert not canary.found_in(Path(f"/proc/{pid}/cmdline").read_bytes())
                assert not canary.found_in(Path(f"/proc/{pid}/environ").read_bytes())
        process.terminate()
        out, err = process.communicate(timeout=SOON)
    assert err == "SECURITY WARNING: using key from command line.\n"
    assert not canary.found_in(out + err)


# ---- objects


@pytest.fixture
def holders(canary, key_file):
    """Every object of ours that has the key inside, and whoever holds those."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(0, keyfile=key_file.parent, bind="127.0.0.1"))
        server.start()
        plain = stack.enter_context(Server(0, bytes(canary.key), bind="127.0.0.1"))
        client = stack.enter_context(easycluster.Client(bytes(canary.key), "127.0.0.1", server.port))
        threaded = stack.enter_context(easycluster.ThreadedClient(canary.key, "127.0.0.1", server.port))
        hexadecimal = bytes(canary.key).hex()
        yield {
            "key": canary.key,
            "keyring": KeyRing(key_file.parent),
            "server": server,
            "server with a plain key": plain,
            "listener": server._listener,
            "sessions": server.sessions,
            "client": client,
            "threaded": threaded,
            "group": easycluster.ClientGroup([client]),
            "carrier": client._endpoint._carrier,
            "endpoint": client._endpoint,
            "session": client._session,
            "control": client._endpoint.control,
            "response": client.os.getpid(nonblocking=True),
            "global": client.os.path,
            "client handshake": ClientHandshake(canary.key, CONTROL, b"t" * 16),
            "server handshake": ServerHandshake({b"": canary.key}.get),
            "session keys": SessionKeys(bytes(canary.key), bytes(canary.key)),
            "spec": easycluster.ConnectionSpec.parse(f"lab1:key={hexadecimal}"),
        }


def test_no_object_shows_the_key(holders, canary):
    for name, value in holders.items():
        assert not canary.found_in(f"{value!r} {value} {[value]!r}"), name
        # What a debugger or a report shows of the object's own variables.
        shown = repr(dict(getattr(value, "__dict__", {})))
        if name not in ("session keys", "client handshake", "spec"):
            assert not canary.found_in(shown), name


def test_nothing_that_holds_the_key_can_be_pickled(holders, canary):
    for name, value in holders.items():
        for protocol in (2, pickle.HIGHEST_PROTOCOL):
            try:
                data = pickle.dumps(value, protocol)
            except (TypeError, AttributeError, pickle.PicklingError, OSError, EasyClusterError):
                continue
            assert not canary.found_in(data), name


def test_a_key_does_not_cross_to_the_far_side_by_accident(holders):
    client = holders["client"]
    with pytest.raises(easycluster.SerializationError, match=r"is not pickled, so that it ends up nowhere by accident"):
        client.len(holders["key"])
    assert client.len(bytes(holders["key"])) == 32


def test_the_spec_prints_without_its_key(canary):
    spec = easycluster.ConnectionSpec.parse(f"lab1:key={bytes(canary.key).hex()}:compress=yes")
    assert not canary.found_in(f"{spec} {spec!r}")
    assert not canary.found_in(repr(dataclasses.replace(spec, port=1)))
    assert not canary.found_in(repr(copy.copy(spec)))


# ---- messages


BAD = {
    "one digit short": lambda text: text[:-1],
    "twice": lambda text: text + "\n" + text,
    "with a word": lambda text: text + " alice",
    "as python": lambda text: f"KEY = '{text}'",
    "of 0.22": lambda text: text[:32],
}


@pytest.mark.parametrize("how", BAD)
def test_a_bad_key_file_is_refused_without_showing_it(canary, tmp_path, how):
    """Also in a report that shows the variables of every frame."""
    path = tmp_path / "lab.key"
    path.write_text(BAD[how](bytes(canary.key).hex()))
    path.chmod(0o600)
    for read in (keys.read_key_file, KeyRing):
        with pytest.raises(EasyClusterError) as caught:
            read(path)
        shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        assert not canary.found_in("".join(shown.format()))


@pytest.mark.parametrize(
    "spec", ["lab1:key={}:nonsense=1", "lab1:nonsense=1:key={}", "lab1:key={}:key={}", "a b:key={}"]
)
def test_a_bad_spec_is_refused_without_showing_its_key(canary, spec):
    text = spec.replace("{}", bytes(canary.key).hex())
    with pytest.raises(EasyClusterError) as caught:
        easycluster.ConnectionSpec.parse(text)
    assert not canary.found_in(str(caught.value))


def test_a_refused_client_shows_no_key_in_its_traceback(canary):
    with Server(0, keys.generate_key(), bind="127.0.0.1") as server:
        server.start()
        for give in (canary.key, bytes(canary.key)):
            with pytest.raises(EasyClusterError) as caught:
                easycluster.Client(give, "127.0.0.1", server.port)
            exc = caught.value
            ours = [f for f, _ in traceback.walk_tb(exc.__traceback__) if "easycluster" in f.f_code.co_filename]
            assert len(ours) >= 4
            assert not canary.found_in(repr([f.f_locals for f in ours]))
            assert not canary.found_in("".join(traceback.format_exception(exc)))


def test_the_command_line_shows_no_key_in_its_errors(canary, capsys, tmp_path):
    from easycluster import cli

    text = bytes(canary.key).hex()
    assert cli.main(["-S", "-K", text, "-p", "0", "-a", "nowhere"]) == 1
    with pytest.raises(SystemExit):
        cli.main(["-S", "-K", text, "-p", "nothing"])
    assert not canary.found_in("".join(capsys.readouterr()))


def test_near_side_logging_at_debug_does_not_have_the_key(canary, key_file):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with Server(0, keyfile=key_file, bind="127.0.0.1", verbosity=2) as server:
            server.start()
            with easycluster.ThreadedClient(keys.read_key_file(key_file), "127.0.0.1", server.port) as client:
                client.os.getpid()
                logging.getLogger("test").debug("connected %s as %r with %s", client, vars(client), canary.key)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert "connected <ThreadedClient" in stream.getvalue()
    assert not canary.found_in(stream.getvalue())


# ---- reports


SUITE = """
import easycluster, pytest
from easycluster.server import Server

KEYS = {folder!r}

@pytest.fixture
def key():
    return easycluster.read_key_file(KEYS + "/alice.key")

@pytest.fixture
def server(key):
    with Server(0, keyfile=KEYS, bind="127.0.0.1") as server:
        server.start()
        yield server

@pytest.fixture
def client(key, server):
    with easycluster.Client(key, "127.0.0.1", server.port) as client:
        yield client

def test_local(key, client, server):
    options = dict(key=key, host="x")
    parameters = [key, (key,)]
    assert client.eval("1") == 2

def test_equal(key):
    assert [key] == [easycluster.generate_key()]

def test_remote(key, client):
    client.eval("1 / 0")

def test_refused(key, server):
    easycluster.Client(easycluster.generate_key(), "127.0.0.1", server.port)

def test_withdrawn(key, client):
    client.os._exit(1)

def test_spec(key, server):
    easycluster.Client.from_spec("127.0.0.1:%d:kf=%s/alice.key:bad=1" % (server.port, KEYS))

def test_log(key, client, caplog):
    import logging
    logging.getLogger().warning("using %s", key)
    print(key, client, vars(client))
    assert not key

@pytest.mark.parametrize("given", [easycluster.read_key_file(KEYS + "/alice.key")])
def test_parameter(given):
    assert given is None
"""


def test_no_pytest_report_has_the_key(pytester, canary, key_file):
    """Local variables, captured output, logs, test ids and JUnit XML of failures of all kinds."""
    pytester.makepyfile(SUITE.format(folder=str(key_file.parent)))
    words = [
        "-vv",
        "--showlocals",
        "--full-trace",
        "--log-level=DEBUG",
        "--junitxml=junit.xml",
        "-o",
        "junit_logging=all",
    ]
    result = pytester.runpytest_subprocess(*words, "-p", "no:randomly", "-p", "no:xdist")
    outcomes = result.parseoutcomes()
    assert outcomes["failed"] == 8
    said = result.stdout.str() + result.stderr.str() + (pytester.path / "junit.xml").read_text()
    assert re.search(r"key += <Key [0-9a-f]{8}>", said)
    assert [line for line in said.splitlines() if canary.found_in(line)] == []
