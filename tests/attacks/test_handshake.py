"""The handshake under attack: whatever is changed, cut, repeated or moved, there is no session."""

from __future__ import annotations

import contextlib
import hmac
import itertools
import os
import socket

import pytest
from attacks.middle import DOWN, FINISH, FINISH_C, FINISH_S, HELLO, HELLO_S, UP
from attacks.servers import KEY, address_number, hear_all

from easycluster.errors import AuthenticationError, ConnectError, ConnectTimeout
from easycluster.transport.tcp import TcpCarrier
from easycluster.wire.auth import CONTROL, DATA, TOKEN_SIZE, VERSION, ClientHandshake, Role

# Where the length of the key id lies, and its greatest value.
KEY_ID_LENGTH, MAX_KEY_ID = 6, 32


def dial(port, role=CONTROL, key=KEY, timeout=20.0):
    """Do what a real client does; return its connection, or raise what its user would see."""
    carrier = TcpCarrier("127.0.0.1", port, key, "lab1")
    sock, keys = carrier._dial(role, timeout)
    assert keys is not None
    return sock


def dial_in_vain(port, role=CONTROL, timeout=20.0):
    """Dial and return the error; a connection that comes about fails the test."""
    with pytest.raises(ConnectError) as caught:
        dial(port, role, timeout=timeout).close()
    return caught.value


def changed(data, bit):
    """Return the bytes with one bit changed."""
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


@pytest.fixture
def no_session(server):
    """See that no session begins."""
    with server.begins(0):
        yield


# ---- changed


FLIPPED = [
    (role, way, number)
    for role, way, number in itertools.product((CONTROL, DATA), (UP, DOWN), (HELLO, FINISH))
    # A DATA connection without its CONTROL is not answered with a finish.
    if (role, way, number) != (DATA, DOWN, FINISH)
]


@pytest.mark.parametrize(("role", "way", "number"), FLIPPED)
def test_every_single_bit_of_the_handshake_counts(server, middle, role, way, number):
    """Each bit of each message, one after the other, between a real client and a real server."""
    with server.begins(1):
        dial(middle.port).close()
    size = len(middle.wires[0].seen[way][number])
    key_id_length = middle.wires[0].seen[UP][HELLO][KEY_ID_LENGTH]
    # To a server whose last word was changed on its way, all is well; its session ends with the connection.
    with server.begins(8 * size if (way, number) == (DOWN, FINISH) else 0):
        for bit in range(8 * size):
            server.wait_for_room()
            middle.attack = lambda message, bit=bit: (
                changed(message.data, bit) if (message.way, message.number) == (way, number) else message.data
            )
            # A longer key id makes both ends wait, for bytes that never come.
            longer = key_id_length ^ 1 << bit % 8
            stalls = (way, number, bit // 8) == (UP, HELLO, KEY_ID_LENGTH) and key_id_length < longer <= MAX_KEY_ID
            error = dial_in_vain(middle.port, role, 0.2 if stalls else 20.0)
            assert isinstance(error, ConnectTimeout) == stalls, (bit, error)
    assert len(middle.wires) == 1 + 8 * size
    if (way, number) != (DOWN, FINISH):
        # What a stranger hears is a hello, which no key went into, and in no case more.
        assert {len(b"".join(wire.seen[DOWN])) for wire in middle.wires[1:]} <= {0, HELLO_S}


def test_a_server_whose_last_word_was_changed_is_refused_by_its_client(server, middle):
    middle.attack = lambda message: (
        changed(message.data, 9) if (message.way, message.number) == (DOWN, FINISH) else message.data
    )
    with server.begins(1):
        error = dial_in_vain(middle.port)
    assert str(error) == "lab1: the server could not prove that it holds our key; nothing was sent to it"


# ---- cut


@pytest.mark.usefixtures("no_session")
def test_a_handshake_cut_at_any_byte_by_the_client_gives_nothing(server):
    size = len(ClientHandshake(KEY, CONTROL, bytes(TOKEN_SIZE)).start())
    for end in range(size + FINISH_C):
        handshake = ClientHandshake(KEY, CONTROL, os.urandom(TOKEN_SIZE))
        with server.connect() as sock:
            sock.sendall(handshake.start()[:end])
            if end >= size:
                hello = sock.recv(HELLO_S, socket.MSG_WAITALL)
                sock.sendall(handshake.receive(hello)[: end - size])
            sock.shutdown(socket.SHUT_WR)
            assert hear_all(sock) == b""


@pytest.mark.parametrize("number", [HELLO, FINISH])
def test_a_handshake_cut_at_any_byte_on_its_way_to_the_client_gives_nothing(server, middle, number):
    ends = itertools.count()

    def cut(message):
        if (message.way, message.number) != (DOWN, number):
            return message.data
        message.wire.send(DOWN, message.data[: next(ends)])
        message.wire.cut()
        return b""

    middle.attack = cut
    count = HELLO_S if number == HELLO else FINISH_S
    with server.begins(0 if number == HELLO else count):
        for _ in range(count):
            server.wait_for_room()
            assert isinstance(dial_in_vain(middle.port), AuthenticationError)


# ---- repeated


@pytest.fixture
def recorded(server, middle, connect):
    """A whole session that a stranger has written down, and that is over."""
    with server.begins(1):
        client = connect(middle.port)
        client.eval("6 * 7")
        client.close()
    return middle.wires


@pytest.mark.parametrize("role", [CONTROL, DATA])
def test_a_recorded_session_sent_again_opens_none(server, recorded, role):
    wire = next(wire for wire in recorded if wire.role == role)
    with server.begins(0), server.connect() as sock:
        sock.sendall(bytes(wire.passed[UP]))
        heard = hear_all(sock)
    assert len(heard) in (0, HELLO_S)
    assert heard != wire.seen[DOWN][HELLO]


def test_a_recorded_data_connection_does_not_join_the_session_that_lives(server, middle, connect):
    client = connect(middle.port)
    data = next(wire for wire in middle.wires if wire.role == DATA)
    for words in (data.seen[UP], data.seen[UP][:2]):
        with server.connect() as sock:
            for word in words:
                with contextlib.suppress(OSError):
                    sock.sendall(word)
            assert len(hear_all(sock)) in (0, HELLO_S)
    assert client.eval("6 * 7") == 42


def test_a_ticket_without_the_key_joins_nothing(server, middle, connect):
    """The token of a session crosses in the clear: it names, it does not open."""
    client = connect(middle.port)
    hello = next(wire for wire in middle.wires if wire.role == DATA).seen[UP][HELLO]
    at = 7 + hello[KEY_ID_LENGTH]
    token = hello[at : at + TOKEN_SIZE]
    for role in Role:
        with pytest.raises(AuthenticationError):
            server.log_in(token, role=role, key=os.urandom(32))
    assert client.eval("6 * 7") == 42


def test_a_server_that_repeats_what_another_said_is_refused(recorded, middle):
    wire = recorded[0]
    middle.attack = lambda message: wire.seen[DOWN][message.number] if message.way == DOWN else message.data
    assert isinstance(dial_in_vain(middle.port), AuthenticationError)


# ---- sent back


@pytest.mark.usefixtures("no_session")
def test_a_server_that_hears_itself_closes(server):
    with server.connect() as sock, server.connect() as other:
        handshake = ClientHandshake(KEY, CONTROL, os.urandom(TOKEN_SIZE))
        sock.sendall(handshake.start())
        hello = sock.recv(HELLO_S, socket.MSG_WAITALL)
        other.sendall(hello)
        assert hear_all(other) == b""
        sock.sendall(hello[:FINISH_C])
        assert hear_all(sock) == b""


@pytest.mark.parametrize("number", [HELLO, FINISH])
def test_a_client_that_hears_itself_goes(middle, number):
    def reflect(message):
        if message.way == UP and message.number == number:
            message.wire.send(DOWN, (b"\0" if number == FINISH else b"") + message.data)
            return b""
        return message.data if message.way == UP or number == FINISH else b""

    middle.attack = reflect
    error = dial_in_vain(middle.port)
    assert isinstance(error, AuthenticationError) == (number == FINISH)


# ---- moved


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize("roles", [(CONTROL, CONTROL), (CONTROL, DATA), (DATA, CONTROL)])
@pytest.mark.parametrize("number", [HELLO, FINISH])
def test_a_message_of_another_handshake_is_refused(server, roles, number):
    """Two handshakes at once; each server hears the other client's message."""
    with server.connect() as one, server.connect() as two:
        socks, token = (one, two), os.urandom(TOKEN_SIZE)
        shakes = [ClientHandshake(KEY, role, token) for role in roles]
        for sock, shake in zip(socks, shakes if number != HELLO else shakes[::-1], strict=True):
            sock.sendall(shake.start())
        proofs = [
            shake.receive(sock.recv(HELLO_S, socket.MSG_WAITALL)) for sock, shake in zip(socks, shakes, strict=True)
        ]
        for sock, proof in zip(socks, proofs if number != FINISH else proofs[::-1], strict=True):
            sock.sendall(proof)
        assert hear_all(one) == b""
        assert hear_all(two) == b""


# ---- talked down


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize("version", [0, VERSION + 1, 255])
def test_another_version_in_the_clients_hello_ends_the_attempt(server, middle, version):
    middle.attack = lambda message: (
        message.data[:4] + bytes([version]) + message.data[5:]
        if (message.way, message.number) == (UP, HELLO)
        else message.data
    )
    assert isinstance(dial_in_vain(middle.port), AuthenticationError)
    # No second attempt, in whatever older way.
    assert len(middle.wires) == 1


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize("version", [0, VERSION + 1, 255])
def test_another_version_in_the_servers_hello_ends_the_attempt(middle, version):
    middle.attack = lambda message: (
        message.data[:4] + bytes([version]) + message.data[5:]
        if (message.way, message.number) == (DOWN, HELLO)
        else message.data
    )
    assert str(dial_in_vain(middle.port)) == (
        f"lab1: the server speaks protocol version {version}, we speak version {VERSION}; "
        "install the same release of pytest-easycluster on both machines"
    )
    assert len(middle.wires) == 1


def rewritten(role=None, key_id=None, token=None):
    """Return how to say something else in a hello, as well-formed as the client's own."""

    def rewrite(hello):
        at = 7 + hello[6]
        new_id = hello[7:at] if key_id is None else key_id
        head = hello[:5] + bytes([hello[5] if role is None else role, len(new_id)])
        return head + new_id + (token or hello[at : at + TOKEN_SIZE]) + hello[at + TOKEN_SIZE :]

    return rewrite


REWRITTEN = {
    "another role": rewritten(role=DATA),
    "another key id": rewritten(key_id=b"other"),
    "another session": rewritten(token=b"x" * TOKEN_SIZE),
    "another nonce": lambda hello: hello[:-32] + bytes(32),
}


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize("what", REWRITTEN)
def test_a_hello_that_says_something_else_well_is_refused(server, middle, what):
    middle.attack = lambda message: (
        REWRITTEN[what](message.data) if (message.way, message.number) == (UP, HELLO) else message.data
    )
    assert isinstance(dial_in_vain(middle.port), AuthenticationError)


# ---- without the key


def stranger(server, key, key_id=b"", proof=None):
    """Do a handshake with whatever key; return how much was heard and how it ended."""
    with server.connect() as sock:
        hello = b"EC2C" + bytes([VERSION, CONTROL, len(key_id)]) + key_id + os.urandom(TOKEN_SIZE + 32)
        sock.sendall(hello)
        answer = sock.recv(HELLO_S, socket.MSG_WAITALL)
        sock.sendall(proof or prove(key, hello, answer))
        rest = sock.recv(1)
        return answer[:5], len(answer), rest


def prove(key, hello, answer):
    """Compute a client's proof, with keys that our own client would refuse as well."""

    def mac(secret, message):
        return hmac.digest(secret, message, "sha256")

    import hashlib

    said = b"".join(len(part).to_bytes(2, "big") + part for part in (hello, answer))
    transcript = hashlib.sha256(said).digest()
    finish = mac(mac(transcript, key), b"ec2 client finish\x01")
    return mac(finish, transcript)


STRANGERS = {
    "the wrong key": (os.urandom(32), b"", None),
    "an empty key": (b"", b"", None),
    "a key of zeros": (bytes(32), b"", None),
    "the key of EasyCluster 0.22": (bytes.fromhex("d41d8cd98f00b204e9800998ecf8427e"), b"", None),
    "half of the key": (KEY[:16], b"", None),
    "an unknown key id": (KEY, b"nobody", None),
    "a key id that is no text": (KEY, b"\xff\0\n", None),
    "the longest key id": (KEY, b"k" * MAX_KEY_ID, None),
    "no proof but zeros": (KEY, b"", bytes(32)),
    "no proof but noise": (KEY, b"", os.urandom(32)),
}


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize("who", STRANGERS)
def test_every_stranger_gets_the_same_silence(server, who):
    assert stranger(server, *STRANGERS[who]) == (b"EC2S" + bytes([VERSION]), HELLO_S, b"")


def test_the_proof_of_this_test_opens_a_session_with_the_right_key(server):
    """Else the strangers above would prove nothing."""
    with server.begins(1):
        assert stranger(server, KEY)[2] == b"\0"


def test_failures_lock_nobody_out_not_even_their_own_address(server):
    """A limit on failures by address would let a stranger behind the same address shut clients out."""
    source = address_number(77)
    with server.begins(0):
        for _ in range(200):
            with pytest.raises(AuthenticationError):
                server.log_in(key=bytes(32), source=source)
    with server.begins(1):
        server.log_in(source=source)[0].close()


# ---- guessing


@pytest.mark.parametrize(
    "text", ["correct horse battery staple", "", "# only a comment\n", "d41d8cd98f00b204e9800998ecf8427e"]
)
def test_a_server_starts_with_no_key_that_can_be_guessed(start_server, tmp_path, text):
    import subprocess
    import sys

    path = tmp_path / "bad.key"
    path.write_text(text)
    path.chmod(0o600)
    done = subprocess.run(
        [sys.executable, "-m", "easycluster", "-S", "-k", str(path), "-p", "0"],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"easycluster: key file {path} ")


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize("key", [b"", b"secret", bytes(16), bytes(31), bytes(33)])
def test_a_client_uses_no_key_that_can_be_guessed(server, key):
    """The proof that a client gives to whoever it dials lets that one try keys: 2**256 of them."""
    with pytest.raises(ValueError, match="key"):
        dial(server.port, key=key)


def test_what_a_client_says_to_a_stranger_is_random_but_for_its_proof(server, middle):
    """Two attempts share nothing but what they say in the clear; no part of either has the key in it."""
    middle.attack = lambda message: b"" if (message.way, message.number) == (DOWN, FINISH) else message.data
    for _ in range(2):
        assert isinstance(dial_in_vain(middle.port, timeout=0.3), ConnectTimeout)
    first, second = (b"".join(wire.seen[UP]) for wire in middle.wires)
    at = 7 + first[KEY_ID_LENGTH]
    assert len(first) == at + TOKEN_SIZE + 32 + FINISH_C
    assert first[:at] == second[:at]
    # Of 80 random bytes 8 are the same once in 20 million times.
    assert sum(a == b for a, b in zip(first[at:], second[at:], strict=True)) < 8
    assert KEY not in first
    assert KEY.hex().encode() not in first
