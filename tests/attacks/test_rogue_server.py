"""A real client that dials the wrong one: it ends in time, says what happened, and unpickles nothing."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import threading
import time

import pytest
from attacks.middle import FINISH_C, FINISH_S, HELLO_S, ManInTheMiddle
from attacks.servers import KEY, SOON
from attacks.test_memory import Canary

from easycluster import Client, ThreadedClient
from easycluster.errors import AuthenticationError, ConnectError, ConnectTimeout
from easycluster.wire.auth import VERSION, ServerHandshake
from easycluster.wire.frames import HEADER, LARGE, Kind, frame
from easycluster.wire.records import Mac

# Seconds that the client gives the server, and what it may take besides on a busy machine.
TIMEOUT = 0.5
MORE = SOON

OURS = b"EC2S" + bytes([VERSION])


class RogueServer:
    """Answers each connection in a thread of its own.

    Args:
        behave: Gets a connected socket; the connection ends when it returns.
    """

    def __init__(self, behave):
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._socks = []
        self.over = threading.Event()
        self._threads[0].start()

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.over.set()
        for sock in (self._listener, *self._socks):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(SOON)
        for sock in (self._listener, *self._socks):
            sock.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._socks.append(sock)
                thread = threading.Thread(target=self._serve, args=(sock,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, sock):
        sock.settimeout(SOON)
        with contextlib.suppress(OSError):
            self._behave(self, sock)
            sock.shutdown(socket.SHUT_RDWR)


def silence(rogue, _sock):
    rogue.over.wait(SOON)


def silence_behind_part_of_the_hello(rogue, sock):
    sock.sendall(OURS + bytes(10))
    silence(rogue, sock)


def silence_behind_the_hello(rogue, sock):
    sock.sendall(OURS + bytes(32))
    silence(rogue, sock)


def silence_behind_part_of_the_proof(rogue, sock):
    sock.sendall(OURS + bytes(32) + bytes(FINISH_S - 1))
    silence(rogue, sock)


def drip_a_hello(rogue, sock):
    for byte in OURS + bytes(HELLO_S):
        sock.sendall(bytes([byte]))
        if rogue.over.wait(0.05):
            return


def drip_for_ever(_rogue, sock):
    sock.sendall(OURS + bytes(32))
    while True:
        sock.sendall(b"\0")
        time.sleep(0.1)


@pytest.mark.parametrize(
    "behave",
    [
        silence,
        silence_behind_part_of_the_hello,
        silence_behind_the_hello,
        silence_behind_part_of_the_proof,
        drip_a_hello,
        drip_for_ever,
    ],
)
def test_a_server_that_does_not_go_on_is_left_in_time(behave):
    with RogueServer(behave) as rogue:
        began = time.monotonic()
        with pytest.raises(ConnectTimeout) as caught:
            Client(KEY, "127.0.0.1", rogue.port, connect_timeout=TIMEOUT)
        took = time.monotonic() - began
    assert str(caught.value) == (
        f"127.0.0.1:{rogue.port}: connected, but no EasyCluster server answered within {TIMEOUT:g} s"
    )
    assert TIMEOUT - 0.1 < took < TIMEOUT + MORE


def endless(first):
    def behave(rogue, sock):
        sock.sendall(first)
        while not rogue.over.is_set():
            sock.sendall(bytes(1 << 16))

    return behave


def says(what):
    def behave(_rogue, sock):
        sock.sendall(what)
        with contextlib.suppress(ConnectionResetError):
            sock.recv(1 << 16)

    return behave


NO_SERVER = "is no EasyCluster server of protocol version"
NO_PROOF = "the server could not prove that it holds our key; nothing was sent to it"
CLOSED = "the server closed the connection during the handshake"

ROGUES = {
    "noise": (says(os.urandom(4000)), ConnectError, NO_SERVER),
    "zeros without an end": (endless(b""), ConnectError, NO_SERVER),
    "a web server": (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), ConnectError, NO_SERVER),
    "sshd": (says(b"SSH-2.0-OpenSSH_9.2p1\r\n"), ConnectError, NO_SERVER),
    "EasyCluster 0.22": (says(b"\x01\0\0\0\x10" + bytes(32)), ConnectError, NO_SERVER),
    "a pickle": (says(pickle.dumps({"a": 1}) * 10), ConnectError, NO_SERVER),
    "another version": (says(b"EC2S\x09" + bytes(32)), ConnectError, "the server speaks protocol version 9"),
    "a hello without an end": (endless(OURS), AuthenticationError, NO_PROOF),
    "a proof of zeros": (says(OURS + bytes(32 + FINISH_S)), AuthenticationError, NO_PROOF),
    "a refusal without a proof": (says(OURS + bytes(32) + b"\1" + bytes(32)), AuthenticationError, NO_PROOF),
    "nothing": (lambda *_: None, AuthenticationError, CLOSED),
    "half a hello": (lambda _, sock: sock.sendall(OURS), AuthenticationError, CLOSED),
    "a hello": (lambda _, sock: sock.sendall(OURS + bytes(32)), AuthenticationError, CLOSED),
}


@pytest.mark.parametrize("who", ROGUES)
@pytest.mark.parametrize("kind", [Client, ThreadedClient])
def test_what_is_no_server_of_ours_is_named(who, kind):
    behave, error, words = ROGUES[who]
    with RogueServer(behave) as rogue:
        with pytest.raises(ConnectError) as caught:
            kind(KEY, "127.0.0.1", rogue.port, connect_timeout=SOON)
        assert type(caught.value) is error
        assert str(caught.value).startswith(f"127.0.0.1:{rogue.port}: ")
        assert words in str(caught.value)


def test_a_rogue_server_learns_no_more_than_a_proof():
    heard = []

    def listen(_rogue, sock):
        hello = sock.recv(1 << 16)
        sock.sendall(OURS + bytes(32))
        proof = sock.recv(1 << 16)
        sock.sendall(bytes(FINISH_S))
        heard.extend([hello, proof, sock.recv(1 << 16)])

    with RogueServer(listen) as rogue, pytest.raises(AuthenticationError):
        Client(KEY, "127.0.0.1", rogue.port, connect_timeout=SOON)
    hello, proof, rest = heard
    assert len(hello) == 7 + hello[6] + 16 + 32
    assert len(proof) == FINISH_C
    assert rest == b""
    assert KEY not in hello + proof


def rogue_pickles(path):
    evil = pickle.dumps(Canary(path), 4)
    yield evil
    yield OURS + bytes(32) + b"\0" + bytes(32) + evil
    for kind in (Kind.HELLO, Kind.DIED, Kind.REPLY, Kind.RAISE):
        yield OURS + bytes(32) + b"\0" + bytes(32) + Mac(bytes(32)).seal(0, frame(kind, 0, evil))


def test_nothing_of_a_stranger_is_unpickled(tmp_path):
    path = str(tmp_path / "canary")
    for words in rogue_pickles(path):
        with RogueServer(says(words)) as rogue, pytest.raises(ConnectError):
            Client(KEY, "127.0.0.1", rogue.port, connect_timeout=SOON)
    assert not os.path.exists(path)


# ---- a server that has the key, or a far side that went bad before it has run any code


class BadHost(RogueServer):
    """Proves the key, then says what it likes on its control or data connection.

    Args:
        control: Frames that its keeper says; None leaves it silent.
        data: Frames that its worker says.
    """

    def __init__(self, control=None, data=None):
        self._says = {1: control, 2: data}
        super().__init__(BadHost._behave_badly)

    def _behave_badly(self, sock):
        shake = ServerHandshake(lambda _id: KEY)
        while not shake.proven:
            sock.sendall(shake.receive(sock.recv(shake.needed)))
        sock.sendall(shake.finish())
        words = self._says[shake.role]
        if words is not None:
            sock.sendall(Mac(shake.keys.send).seal(0, words))
        with contextlib.suppress(OSError):
            while sock.recv(1 << 16):
                pass


HUGE = HEADER.pack(10, Kind.HELLO, LARGE, 0, 0, 0) + b"\0\1" + (1 << 40).to_bytes(8, "big")

BAD_CONTROL = {
    "a huge buffer": HUGE,
    "an unknown kind": HEADER.pack(0, 99, 0, 0, 0, 0),
    "no pickle": frame(Kind.HELLO, 0, b"\xff\xff"),
    "a pickle of a number": frame(Kind.HELLO, 0, pickle.dumps(7)),
    "half a pickle": frame(Kind.DIED, 0, pickle.dumps({"signal": 9})[:-3]),
    "a death without details": frame(Kind.DIED, 0, pickle.dumps({})),
    "a mark that does not exist": frame(Kind.SYNCED, 1, thread=9),
}


@pytest.mark.parametrize("what", BAD_CONTROL)
def test_a_control_link_that_makes_no_sense_ends_its_session_only(server, connect, what):
    good = connect(server.port)
    with (
        BadHost(control=BAD_CONTROL[what]) as bad,
        pytest.raises(ConnectError, match=r"the control link was given up: "),
    ):
        Client(KEY, "127.0.0.1", bad.port, connect_timeout=SOON)
    # Both have the same thread for their control links.
    assert good.eval("6 * 7") == 42
    assert good.flush_output(SOON)
    good.close()
    server.wait_until_idle()


@pytest.mark.parametrize("kind", [Kind.HELLO, Kind.DIED])
def test_a_control_link_runs_no_code_of_its_far_side(tmp_path, kind):
    path = str(tmp_path / "canary")
    with (
        BadHost(control=frame(kind, 0, pickle.dumps(Canary(path), 4))) as bad,
        pytest.raises(ConnectError, match="more than plain data"),
    ):
        Client(KEY, "127.0.0.1", bad.port, connect_timeout=SOON)
    assert not os.path.exists(path)


BAD_DATA = {
    "a huge buffer": (HUGE, "is above the limit of"),
    "an unknown kind": (HEADER.pack(0, 99, 0, 0, 0, 0), "is not allowed"),
    "no pickle": (frame(Kind.HELLO, 0, b"\xff\xff"), "the worker does not say what it is"),
    "a pickle of a number": (frame(Kind.HELLO, 0, pickle.dumps(7)), "the worker does not say what it is"),
    "a hello without a Python": (frame(Kind.HELLO, 0, pickle.dumps({})), "the worker does not say what it is"),
}


@pytest.mark.parametrize("what", BAD_DATA)
def test_a_worker_that_makes_no_sense_is_refused(what):
    words, message = BAD_DATA[what]
    with BadHost(data=words) as bad, pytest.raises(ConnectError, match=message):
        Client(KEY, "127.0.0.1", bad.port, connect_timeout=SOON)


def test_a_workers_hello_runs_no_code(tmp_path):
    path = str(tmp_path / "canary")
    with (
        BadHost(data=frame(Kind.HELLO, 0, pickle.dumps(Canary(path), 4))) as bad,
        pytest.raises(ConnectError, match="more than plain data"),
    ):
        Client(KEY, "127.0.0.1", bad.port, connect_timeout=SOON)
    assert not os.path.exists(path)


def test_a_host_that_proves_its_key_and_says_nothing_is_left_in_time():
    with BadHost() as bad, pytest.raises(ConnectTimeout) as caught:
        Client(KEY, "127.0.0.1", bad.port, connect_timeout=TIMEOUT)
    assert str(caught.value) == f"127.0.0.1:{bad.port}: no session within {TIMEOUT:g} s"


def test_a_client_dials_nobody_twice_in_secret(server):
    """A refused client does not try again in some other way."""
    with ManInTheMiddle(server.port) as middle:
        with pytest.raises(ConnectError):
            Client(bytes(32), "127.0.0.1", middle.port, connect_timeout=SOON)
        assert len(middle.wires) == 1
