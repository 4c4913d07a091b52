"""Named keys: a file is a client, a new file works at once, and what goes with a file that goes."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import queue
import signal
import socket
import subprocess
import sys
import time

import pytest
from support.keepers import Keepers, shake_hands

import easycluster
from easycluster import cli, keys
from easycluster.errors import AuthenticationError, ConnectionLost, KeyFileError
from easycluster.far import fdpass
from easycluster.server import Server
from easycluster.transport import keyring as keyring_module
from easycluster.transport.keyring import KeyRing
from easycluster.wire.auth import key_id

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers run on POSIX systems")

# How long anything that must happen may take, in seconds; what is promised is measured.
SOON = 20.0
PROMISED = 5.0


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "keys"
    path.mkdir(mode=0o700)
    return path


def make(folder, *names):
    """Make key files by the command that users have for it, and return their keys."""
    for name in names:
        assert cli.main(["-O", "-g", str(folder / f"{name}.key")]) == 0
    found = [keys.read_key_file(folder / f"{name}.key") for name in names]
    return found[0] if len(found) == 1 else found


def wait_until(condition):
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---- the files


def test_a_folder_is_one_key_for_each_file_named_so(folder):
    alice, bob = make(folder, "alice", "bob")
    (folder / "notes.txt").write_text("no key")
    (folder / ".hidden.key").write_text("no key")
    ring = KeyRing(folder)
    assert ring.names == ["alice", "bob"]
    assert (ring.find(key_id(alice)), ring.name(key_id(alice))) == (alice, "alice")
    assert (ring.find(key_id(bob)), ring.name(key_id(bob))) == (bob, "bob")
    assert ring.find(key_id(keys.generate_key())) is None
    # Who names no key means the only one, and there is none such.
    assert ring.find(b"") is None
    assert repr(ring) == f"<KeyRing {folder}: alice, bob>"


def test_a_key_file_is_a_key_also_for_clients_that_name_none(folder):
    alice = make(folder, "alice")
    ring = KeyRing(folder / "alice.key")
    assert ring.find(b"") == ring.find(key_id(alice)) == alice
    assert ring.names == ["alice"]


def test_a_server_does_not_begin_with_less_keys_than_it_was_told(folder):
    with pytest.raises(KeyFileError) as caught:
        KeyRing(folder)
    assert str(caught.value) == f"there is no key in {folder}; make one with: easycluster -g {folder}/NAME.key"
    make(folder, "alice", "bob", "carol")
    (folder / "bob.key").chmod(0o640)
    (folder / "carol.key").write_text("")
    with pytest.raises(KeyFileError) as caught:
        KeyRing(folder)
    bob, carol = str(caught.value).splitlines()
    assert bob.startswith(f"key file {folder}/bob.key is open to other users (mode 0640); close it with: chmod 600 ")
    assert carol.startswith(f"key file {folder}/carol.key is empty; make a new one with: easycluster -O -g ")


def test_a_missing_path_is_refused_with_the_command_that_makes_a_key(tmp_path):
    with pytest.raises(KeyFileError, match=r"No such file or directory; make one with: easycluster -g "):
        KeyRing(tmp_path / "lab.key")


def test_one_key_has_one_name(folder):
    alice = make(folder, "alice")
    keys.write_key_file(folder / "bob.key", alice)
    with pytest.raises(KeyFileError) as caught:
        KeyRing(folder)
    assert str(caught.value) == (
        f"key files alice.key and bob.key in {folder} hold the same key; "
        f"make a new one with: easycluster -O -g {folder}/bob.key"
    )


@pytest.mark.parametrize("name", ["-rf", "a b", "a\nb", "é", "x" * 65])
def test_a_name_that_would_confuse_a_log_is_refused(folder, name):
    keys.write_key_file(folder / f"{name}.key", keys.generate_key())
    with pytest.raises(KeyFileError, match="is no name for a key; use letters, digits"):
        KeyRing(folder)


def test_nothing_is_read_while_nothing_changes(folder, monkeypatch):
    make(folder, "alice", "bob")
    for path in [folder, *folder.iterdir()]:
        os.utime(path, (1, 1))
    monkeypatch.setattr(keyring_module, "_SETTLED_NS", -1)
    ring = KeyRing(folder)
    monkeypatch.setattr(keyring_module, "read_key_file", None)
    assert ring.look() == keyring_module.Changes()


def test_two_changes_within_one_tick_of_the_clock_are_both_seen(folder):
    """A file that was changed just now is read again, although its times may be the same."""
    path = folder / "alice.key"
    old = make(folder, "alice")
    ring = KeyRing(folder)
    new = keys.generate_key()
    status = path.stat()
    with path.open("r+") as file:
        file.write(new.hex())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    changes = ring.look()
    assert (changes.added, changes.withdrawn) == (("alice",), {key_id(old): "alice"})


WITHDRAWING = {
    "deleted": lambda path: path.unlink(),
    "moved": lambda path: path.rename(path.with_suffix(".old")),
    "replaced": lambda path: keys.write_key_file(path, keys.generate_key(), overwrite=True),
    "opened to others": lambda path: path.chmod(0o644),
    "emptied": lambda path: path.write_text(""),
}


@pytest.mark.parametrize("how", WITHDRAWING)
def test_a_key_is_withdrawn_when_its_file_is(folder, how):
    alice, bob = make(folder, "alice", "bob")
    ring = KeyRing(folder)
    WITHDRAWING[how](folder / "alice.key")
    changes = ring.look()
    assert changes.withdrawn == {key_id(alice): "alice"}
    assert ring.find(key_id(alice)) is None
    assert ring.find(key_id(bob)) == bob
    # And nothing of it again.
    assert ring.look() == keyring_module.Changes()


def test_a_folder_that_is_gone_has_no_keys(folder):
    alice = make(folder, "alice")
    ring = KeyRing(folder)
    folder.rename(folder.with_name("elsewhere"))
    assert ring.look().withdrawn == {key_id(alice): "alice"}
    folder.with_name("elsewhere").rename(folder)
    assert ring.look().added == ("alice",)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE])
def test_a_system_in_trouble_withdraws_no_key(folder, monkeypatch, number):
    alice = make(folder, "alice")
    ring = KeyRing(folder)

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        changes = ring.look(anew=True)
    assert changes.withdrawn == {}
    assert changes.troubles == (
        f"cannot look at the keys in {folder}: {os.strerror(number)}; the keys stay as they are",
    )
    assert ring.find(key_id(alice)) == alice
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", fail)
        assert ring.look(anew=True).withdrawn == {}


# ---- a server


class Telling(Server):
    """A server that remembers what it would print."""

    def __init__(self, *args, **kwargs):
        self.lines = queue.Queue()
        super().__init__(*args, **kwargs)

    def log(self, text):
        self.lines.put(text)


@pytest.fixture
def serve():
    """Start servers, and clients of them; all end with the test."""
    with contextlib.ExitStack() as stack:

        def start(path, **options):
            server = stack.enter_context(Telling(0, keyfile=path, bind="127.0.0.1", **options))
            server.start()

            def connect(key):
                return stack.enter_context(
                    contextlib.closing(easycluster.Client(key, "127.0.0.1", server.port, label="lab1"))
                )

            return server, connect

        yield start


def test_each_client_has_its_own_key_and_the_server_its_name(folder, serve):
    alice, bob = make(folder, "alice", "bob")
    server, connect = serve(folder)
    assert connect(alice).eval("1 + 1") == connect(bob).eval("2") == 2
    assert sorted(session.key_name for session in server.sessions) == ["alice", "bob"]
    with pytest.raises(AuthenticationError):
        connect(keys.generate_key())


def test_a_new_key_works_without_a_restart(folder, serve):
    make(folder, "alice")
    _server, connect = serve(folder)
    bob = make(folder, "bob")
    began = time.monotonic()
    while True:
        try:
            assert connect(bob).eval("2") == 2
            break
        except AuthenticationError:
            assert time.monotonic() - began < PROMISED


@pytest.mark.parametrize("how", WITHDRAWING)
def test_a_withdrawn_key_ends_its_sessions_and_says_so_and_no_others(folder, serve, how):
    alice, bob = make(folder, "alice", "bob")
    server, connect = serve(folder)
    hers, his = connect(alice), connect(bob)
    pid, before = his.os.getpid(), hers.os.getpid()
    call = hers.time.sleep(600, nonblocking=True)
    began = time.monotonic()
    WITHDRAWING[how](folder / "alice.key")
    with pytest.raises(ConnectionLost) as caught:
        call.wait(timeout=SOON)
    assert time.monotonic() - began < PROMISED
    assert caught.value.reason == "the far side ended the session: the server has withdrawn its key 'alice'"
    with pytest.raises(ConnectionLost, match=r"withdrawn its key 'alice'; reconnect\(\) starts anew$"):
        hers.eval("1")
    with pytest.raises(AuthenticationError):
        hers.reconnect()
    wait_until(lambda: not os.path.exists(f"/proc/{before}"))
    assert his.os.getpid() == pid
    wait_until(lambda: [session.key_name for session in server.sessions] == ["bob"])


def test_a_worker_that_cannot_be_interrupted_ends_with_its_key_too(folder, serve):
    alice = make(folder, "alice")
    server, connect = serve(folder)
    client = connect(alice)
    pid = client.os.getpid()
    # One long operation of the interpreter, which no signal handler gets into.
    call = client.eval("(3 ** 10 ** 9).bit_length()", nonblocking=True)
    began = time.monotonic()
    make(folder, "alice")
    with pytest.raises(ConnectionLost, match="withdrawn its key 'alice'"):
        call.wait(timeout=SOON)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert time.monotonic() - began < PROMISED
    wait_until(lambda: server.sessions == [])


def test_a_keeper_that_does_not_end_is_let_go(folder):
    alice = make(folder, "alice")
    with Telling(0, keyfile=folder, bind="127.0.0.1", spawner=(keepers := Keepers())) as server:
        server.start()
        with socket.create_connection(("127.0.0.1", server.port), SOON) as client:
            shake_hands(client, key=alice, key_id=key_id(alice))
            with contextlib.closing(keepers.spawned.get(timeout=SOON)) as keeper:
                keeper.take()[1].close()
                began = time.monotonic()
                (folder / "alice.key").unlink()
                packet, _ = fdpass.recv_packet(keeper.sock)
                assert packet == {"kind": "end", "reason": "the server has withdrawn its key 'alice'"}
                assert keeper.sock.recv(1) == b""
                assert time.monotonic() - began < PROMISED
                assert server.sessions == []


def test_a_single_key_file_can_be_replaced_too(folder, serve):
    old = make(folder, "lab")
    _server, connect = serve(folder / "lab.key")
    client = connect(old)
    client.eval("1")
    new = make(folder, "lab")
    with pytest.raises(ConnectionLost, match="withdrawn its key 'lab'"):
        client.time.sleep(SOON)
    assert connect(new).eval("1") == 1


def test_reload_looks_at_once_and_troubles_are_said_once(folder, serve, monkeypatch):
    monkeypatch.setattr("easycluster.transport.listener._LOOK_AT_KEYS", 3600.0)
    make(folder, "alice")
    server, connect = serve(folder)
    bob = make(folder, "bob")
    (folder / "carol.key").write_text("")
    (folder / "carol.key").chmod(0o600)
    server.reload()
    server.reload()
    assert server.lines.get(timeout=SOON).startswith(f"key file {folder}/carol.key is empty; ")
    assert connect(bob).eval("1") == 1
    assert server.lines.empty()


def test_a_server_takes_its_keys_from_one_place(folder):
    key = make(folder, "alice")
    with pytest.raises(ValueError, match="a server takes its keys from one place: give key or keyfile, not both"):
        Server(0, key, keyfile=folder)


# ---- as a process


def start(folder, *words, **options):
    command = [sys.executable, "-m", "easycluster", "-S", "-k", str(folder), "-p", "0", "-b", "127.0.0.1", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def test_sighup_has_the_keys_looked_at_and_ends_nothing(folder):
    make(folder, "alice")
    with start(folder) as process:
        port = int(process.stdout.readline().rpartition(":")[2])
        bob = make(folder, "bob")
        process.send_signal(signal.SIGHUP)
        end = time.monotonic() + SOON
        client = None
        while client is None:
            try:
                client = easycluster.Client(bob, "127.0.0.1", port)
            except AuthenticationError:
                assert time.monotonic() < end
        assert client.eval("1") == 1
        process.send_signal(signal.SIGHUP)
        assert client.eval("2") == 2
        client.close()
        process.terminate()
        assert process.wait(SOON) == 0
        assert process.stdout.read() == ""


def test_a_terminal_that_hangs_up_ends_its_server(folder):
    make(folder, "alice")
    near, far = pty.openpty()
    # The terminal becomes the server's own: setsid, then the first one opened.
    program = (
        "import os, runpy, sys; os.setsid(); os.close(os.open(os.ttyname(0), os.O_RDWR)); "
        "runpy.run_module('easycluster', run_name='__main__')"
    )
    command = [sys.executable, "-c", program, "-S", "-k", str(folder), "-p", "0", "-b", "127.0.0.1"]
    with subprocess.Popen(command, stdin=far, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        os.close(far)
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        os.close(near)
        assert process.wait(SOON) == 0
