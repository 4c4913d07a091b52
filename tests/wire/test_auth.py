"""The handshake: only two ends with one key come through, and nothing changed on the way passes."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easycluster.errors import AuthenticationError, ConnectError, KeyFileError, RemoteProtocolError
from easycluster.wire.auth import (
    CONTROL,
    DATA,
    MAX_HANDSHAKE,
    VERSION,
    ClientHandshake,
    ServerHandshake,
    Status,
)

KEY = bytes(range(32))
TOKEN = bytes(range(100, 116))
NONCE_C = bytes([0xC0]) * 32
NONCE_S = bytes([0x50]) * 32


def client(key=KEY, role=CONTROL, key_id=b"", token=TOKEN, random=lambda n: NONCE_C):
    return ClientHandshake(key, role, token, key_id, host="lab1", random=random)


def server(key=KEY, random=lambda n: NONCE_S):
    return ServerHandshake({b"": key, b"ci": key}.get, random=random)


def transcript(near, far):
    """Run both ends against each other and return the four messages."""
    hello_c = near.start()
    hello_s = far.receive(hello_c)
    finish_c = near.receive(hello_s)
    assert far.receive(finish_c) == b""
    finish_s = far.finish()
    assert near.receive(finish_s) == b""
    return [hello_c, hello_s, finish_c, finish_s]


def second_implementation(key, hello_c, hello_s, status=0):
    """The protocol again, from its docstring and RFC 5869 alone."""

    def mac(k, message):
        return hmac.new(k, message, hashlib.sha256).digest()

    def u16(data):
        return len(data).to_bytes(2, "big") + data

    th = hashlib.sha256(u16(hello_c) + u16(hello_s)).digest()
    prk = mac(th, key)
    fin_c, fin_s, c2s, s2c = (
        mac(prk, b"ec2 " + label + b"\x01")
        for label in (b"client finish", b"server finish", b"client to server", b"server to client")
    )
    finish_c = mac(fin_c, th)
    return finish_c, bytes([status]) + mac(fin_s, th + finish_c + bytes([status])), c2s, s2c


VECTOR = [
    "45433243 01 01 00 6465666768696a6b6c6d6e6f70717273" + NONCE_C.hex(),
    "45433253 01" + NONCE_S.hex(),
    "83b09205c18eb454bafb9fdc404d80e8382f546fdb034b954bb87b0f501ba8cc",
    "00 d92b597788ca6a9cc8a12261d3b0db408075b8008c14aa17caa7886803f3a968",
]


def test_the_bytes_on_the_wire_do_not_change_unseen():
    assert transcript(client(), server()) == [bytes.fromhex(text) for text in VECTOR]


@pytest.mark.parametrize("role", [CONTROL, DATA])
@pytest.mark.parametrize("key_id", [b"", b"ci"])
def test_a_second_implementation_agrees(role, key_id):
    near, far = client(role=role, key_id=key_id), server()
    hello_c, hello_s, finish_c, finish_s = transcript(near, far)
    expected = second_implementation(KEY, hello_c, hello_s)
    assert (finish_c, finish_s, near.keys.send, near.keys.receive) == expected


def test_both_ends_end_with_matching_keys_and_the_client_known():
    near, far = client(role=DATA, key_id=b"ci"), server()
    transcript(near, far)
    assert near.done
    assert far.done
    assert near.keys.send == far.keys.receive
    assert near.keys.receive == far.keys.send
    assert near.keys.send != near.keys.receive
    assert (far.role, far.token, far.key_id) == (DATA, TOKEN, b"ci")


def test_no_two_connections_share_keys():
    seen = set()
    for _ in range(4):
        near = client(random=os.urandom)
        transcript(near, server(random=os.urandom))
        seen |= {near.keys.send, near.keys.receive}
    assert len(seen) == 8


def test_reading_what_is_needed_leaves_nothing_over():
    near, far = client(key_id=b"ci"), server()
    to_far, to_near = near.start(), b""
    reads = []
    while far.needed:
        piece, to_far = to_far[: far.needed], to_far[far.needed :]
        reads.append(len(piece))
        to_near += far.receive(piece)
        if not to_far:
            to_far += near.receive(to_near)
            to_near = b""
    assert reads == [7, 2 + 16 + 32, 32]
    assert near.needed == 33
    near.receive(far.finish())
    assert near.needed == 0
    assert near.leftover == far.leftover == b""


@given(st.lists(st.integers(0, 200)))
def test_any_cut_of_the_messages_gives_the_same(cuts):
    near, far = client(), server()
    messages = transcript(client(), server())

    def pieces(data):
        at = [0, *sorted(c for c in cuts if c < len(data)), len(data)]
        return [data[a:b] for a, b in itertools.pairwise(at)]

    assert b"".join(far.receive(p) for p in pieces(messages[0])) == messages[1]
    assert b"".join(near.receive(p) for p in pieces(messages[1])) == messages[2]
    assert b"".join(far.receive(p) for p in pieces(messages[2])) == b""
    assert b"".join(near.receive(p) for p in pieces(far.finish())) == b""
    assert near.done


def test_what_follows_the_handshake_is_left_over():
    near, far = client(), server()
    hello_s = far.receive(near.start())
    far.receive(near.receive(hello_s) + b"record")
    near.receive(far.finish() + b"answer")
    assert (near.leftover, far.leftover) == (b"answer", b"record")


# ---- nothing changed on the way passes


def survives(messages, index, changed):
    """Whether both ends accept when message ``index`` arrives as ``changed``; they start with the same nonces."""
    near, far = client(), server()
    near.start()
    try:
        hello_s = far.receive(changed if index == 0 else messages[0])
        finish_c = near.receive(changed if index == 1 else hello_s)
        far.receive(changed if index == 2 else finish_c)
        near.receive(changed if index == 3 else far.finish())
    except (RemoteProtocolError, ConnectError, ValueError):
        return False
    return near.done


@pytest.mark.parametrize("index", range(4))
def test_every_single_flipped_bit_is_refused(index):
    messages = transcript(client(), server())
    assert survives(messages, index, messages[index])
    for bit in range(8 * len(messages[index])):
        changed = bytearray(messages[index])
        changed[bit // 8] ^= 1 << bit % 8
        assert not survives(messages, index, bytes(changed)), f"bit {bit}"


@pytest.mark.parametrize("index", range(4))
def test_every_truncation_is_refused(index):
    messages = transcript(client(), server())
    for size in range(len(messages[index])):
        assert not survives(messages, index, messages[index][:size])


@pytest.mark.parametrize("index", range(4))
def test_a_message_of_another_handshake_is_refused(index):
    messages = transcript(client(), server())
    other = transcript(client(random=lambda n: b"c" * n), server(random=lambda n: b"s" * n))
    assert not survives(messages, index, other[index])


def test_a_proof_for_one_role_does_not_open_another():
    control, data = client(role=CONTROL), client(role=DATA)
    far = server()
    proof = control.receive(far.receive(data.start()))
    with pytest.raises(RemoteProtocolError, match=r"^wrong key$"):
        far.receive(proof)


def test_a_clients_own_words_sent_back_are_refused():
    near = client()
    with pytest.raises(ConnectError, match="no EasyCluster server"):
        near.receive(near.start())


@given(st.binary(max_size=600))
def test_any_noise_is_refused_by_the_server(noise):
    far = server()
    try:
        far.receive(noise)
    except RemoteProtocolError:
        pass
    else:
        assert not far.proven
        assert far.needed


@given(st.binary(max_size=600))
def test_any_noise_is_refused_by_the_client(noise):
    near = client()
    with contextlib.suppress(ConnectError):
        near.receive(noise)
    assert not near.done


def test_the_server_stops_collecting_at_its_limit():
    far = server()
    hello = client().start()
    with pytest.raises(RemoteProtocolError):
        far.receive(hello + bytes(MAX_HANDSHAKE))
    assert far.needed <= MAX_HANDSHAKE


# ---- who is refused, and in which words


def refused_client(near, data):
    with pytest.raises(ConnectError) as caught:
        near.receive(data)
    return caught.value


def test_the_server_says_nothing_to_a_client_with_another_key():
    near, far = client(key=bytes(32)), server()
    proof = near.receive(far.receive(near.start()))
    with pytest.raises(RemoteProtocolError, match=r"^wrong key$"):
        far.receive(proof)
    assert far.farewell == b""
    with pytest.raises(ValueError, match=r"^the client has proven nothing yet$"):
        far.finish()
    with pytest.raises(AuthenticationError) as caught:
        near.receive_eof()
    assert str(caught.value) == "lab1: the server refused our key; use the key file that it was started with"
    assert caught.value.host == "lab1"


def test_an_unknown_key_id_looks_like_a_wrong_key():
    near, far = client(key_id=b"nobody"), server()
    hello_s = far.receive(near.start())
    assert len(hello_s) == len(server().receive(client().start()))
    with pytest.raises(RemoteProtocolError, match=r"^wrong key$"):
        far.receive(near.receive(hello_s))


def test_a_server_that_does_not_hold_the_key_is_refused():
    near = client()
    near.receive(server().receive(near.start()))
    error = refused_client(near, bytes(33))
    assert isinstance(error, AuthenticationError)
    assert str(error) == "lab1: the server could not prove that it holds our key; nothing was sent to it"
    assert near.keys is None


REFUSALS = {
    Status.TOO_MANY_SESSIONS: "lab1: the server has as many sessions as it allows; close one or raise its limit",
    Status.CANNOT_START: "lab1: the server accepted the key but could not start a session; its log says why",
    Status.NO_SUCH_SESSION: "lab1: the server does not know the session that this connection belongs to; "
    "it may have ended",
}


@pytest.mark.parametrize("status", REFUSALS)
def test_a_client_that_gets_no_session_learns_why(status):
    near, far = client(), server()
    far.receive(near.receive(far.receive(near.start())))
    error = refused_client(near, far.finish(status))
    assert str(error) == REFUSALS[status]
    assert not isinstance(error, AuthenticationError)
    assert not near.done
    assert not far.done


def test_a_status_cannot_be_forged():
    near, far = client(), server()
    far.receive(near.receive(far.receive(near.start())))
    forged = bytes([Status.ACCEPTED]) + far.finish(Status.TOO_MANY_SESSIONS)[1:]
    assert "could not prove" in str(refused_client(near, forged))


def test_a_close_before_the_servers_hello_is_no_verdict_on_the_key():
    with pytest.raises(ConnectError) as caught:
        client().receive_eof()
    assert not isinstance(caught.value, AuthenticationError)
    assert str(caught.value) == (
        "lab1: the connection was closed without an answer; the server may not allow our address (-a), "
        "or is no EasyCluster server"
    )


@pytest.mark.parametrize("banner", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x01\x00\x00\x00\x10", b"H", bytes(100)])
def test_another_kind_of_server_is_named_as_such(banner):
    assert str(refused_client(client(), banner)) == (
        f"lab1: what answers is no EasyCluster server of protocol version {VERSION}; "
        "check the port, and that the server is not EasyCluster 0.22"
    )


def test_a_server_of_another_version_is_refused_with_both_versions():
    assert str(refused_client(client(), b"EC2S\x07")) == (
        f"lab1: the server speaks protocol version 7, we speak version {VERSION}; "
        "install the same release of pytest-easycluster on both machines"
    )


def test_a_client_of_another_version_is_told_ours_and_nothing_else():
    far = server()
    with pytest.raises(RemoteProtocolError, match=rf"^the client speaks protocol version 7, we speak {VERSION}$"):
        far.receive(b"EC2C\x07")
    assert far.farewell == b"EC2S" + bytes([VERSION]) + NONCE_S
    assert far.keys is None


def test_keys_of_another_size_are_refused_here():
    with pytest.raises(KeyFileError, match=r"^an HMAC key is 32 bytes long, this one has 0; .*generate_key\(\)$"):
        client(key=b"")
    with pytest.raises(KeyFileError, match=r"^an HMAC key is 32 bytes long, this one has 16;"):
        server(key=bytes(16)).receive(client().start())


@pytest.mark.parametrize("key_id", [b"x" * 33, b"two words", b"\xff", b"\n"])
def test_odd_key_ids_are_refused_here(key_id):
    with pytest.raises(KeyFileError, match="is no key id: at most 32 printable ASCII characters"):
        client(key_id=key_id)


def test_nothing_printed_shows_a_key():
    near, far = client(), server()
    transcript(near, far)
    assert repr(near) == "<ClientHandshake with lab1, done>"
    assert repr(far) == "<ServerHandshake, proven>"
    assert repr(near.keys) == "<SessionKeys, hidden>"
