"""Records of a live session under attack: the session ends, says why, and has done nothing it was not told to.

Every attack is done on one message of one connection of a real session, control or data, in one of
its directions; the client is a real one and the server is ``easycluster -S``.
"""

from __future__ import annotations

import os
import threading
import time

import pytest
from attacks.middle import DOWN, UP, ManInTheMiddle
from attacks.servers import KEY, SOON, hear_all, until

from easycluster.errors import SessionError
from easycluster.wire.auth import CONTROL, DATA
from easycluster.wire.frames import Kind, frame
from easycluster.wire.records import Mac

LINKS = [(role, way) for role in (CONTROL, DATA) for way in (UP, DOWN)]

# Where a record's length, tag and frames lie, and one bit in each.
LENGTH, TAG, BODY = 0, 4, 36


def other_way(way):
    return DOWN if way == UP else UP


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def resized(data, by):
    """Return a record that says another length."""
    return (int.from_bytes(data[:4], "big") + by).to_bytes(4, "big") + data[4:]


def sealed(number, key, frames):
    return Mac(key).seal(number, frames)


# Each takes a record, the records before it on the same way, and those of the other way; returns what goes on.
CHANGES = {
    "a bit of the length": lambda record, *_: flipped(record, LENGTH),
    "a bit of the tag": lambda record, *_: flipped(record, TAG),
    "the last bit of the tag": lambda record, *_: flipped(record, BODY - 1),
    "a bit of the header": lambda record, *_: flipped(record, BODY + 4),
    "the last bit": lambda record, *_: flipped(record, len(record) - 1),
    "a shorter length": lambda record, *_: resized(record, -1),
    "a huge length": lambda record, *_: b"\xff\xff\xff\xff" + record[4:],
    "a tag of zeros": lambda record, *_: record[:TAG] + bytes(32) + record[BODY:],
    "a record twice": lambda record, *_: record + record,
    "an old record": lambda record, before, _: before[0] + record,
    "the first record in its place": lambda record, before, _: before[0],
    "a record of the other way": lambda record, _, back: back[-1] + record,
    "a record with no key": lambda record, *_: sealed(0, bytes(32), frame(Kind.GOODBYE)) + record,
    "a record with the key of the server": lambda record, *_: sealed(0, KEY, frame(Kind.GOODBYE)) + record,
    "noise": lambda record, *_: os.urandom(100) + record,
    "an error of EasyCluster 0.22": lambda record, *_: b"\x05\0\0\0\x08FORGED!!" + record,
}


class Once:
    """Attacks one record: the next of a role and a way.

    Args:
        role: CONTROL or DATA.
        way: UP or DOWN.
        change: Gets the record, earlier ones, and those of the other way; returns what to pass on.
    """

    def __init__(self, role, way, change):
        self.role, self.way, self.change = role, way, change
        self.done = threading.Event()

    def __call__(self, message):
        wire = message.wire
        if self.done.is_set() or not message.is_record or (wire.role, message.way) != (self.role, self.way):
            return message.data
        before, back = wire.seen[self.way][2:-1], wire.seen[other_way(self.way)][2:]
        if not before or not back:
            return message.data
        self.done.set()
        return self.change(message.data, before, back)


@pytest.fixture
def client(server, middle, connect, capsys):
    """A client with a quick heartbeat, so that there is traffic to attack on its control link, too."""
    client = connect(middle.port, heartbeat=0.04, lost_after=SOON)
    # Records of both ways, on both links.
    assert client.eval("6 * 7") == 42
    control = until(lambda: next(wire for wire in middle.wires if wire.role == CONTROL))
    until(lambda: all(len(control.seen[way]) > 3 for way in (UP, DOWN)))
    yield client
    client.close()
    server.wait_until_idle()


def ending(client, call):
    """Attack done, the session must end; return what the caller sees."""

    def call_until_it_has_ended():
        call()
        until(lambda: not client.connected)
        call()

    with pytest.raises(SessionError) as caught:
        call_until_it_has_ended()
    return caught.value


@pytest.mark.parametrize(("role", "way"), LINKS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_session_with_one_wrong_record_ends(client, middle, tmp_path, role, way, change):
    attack = middle.attack = Once(role, way, CHANGES[change])
    if role == CONTROL:
        # The heartbeat brings the record to attack.
        assert attack.done.wait(SOON)
    mark = str(tmp_path / "mark")
    began = time.monotonic()
    error = ending(client, lambda: client.os.mkdir(mark))
    assert attack.done.is_set()
    assert time.monotonic() - began < SOON
    # What was attacked on its way up has not been done; "twice" comes behind the right one.
    doubled = change == "a record twice"
    assert not os.path.exists(mark) or doubled or (role, way) != (DATA, UP)
    assert any(words in str(error) for words in ("does not verify", "is longer than allowed")), error
    assert "FORGED" not in str(error)


@pytest.mark.parametrize("way", [UP, DOWN])
def test_a_record_that_is_left_out_ends_the_session_at_the_next(client, middle, tmp_path, way):
    middle.attack = Once(DATA, way, lambda *_: b"")
    first = client.os.mkdir(str(tmp_path / "first"), nonblocking=True)
    second = client.os.mkdir(str(tmp_path / "second"), nonblocking=True)
    for response in (first, second):
        with pytest.raises(SessionError):
            response.wait(timeout=SOON)
    if way == UP:
        assert not list(tmp_path.iterdir())


def test_records_in_another_order_end_the_session_and_neither_is_obeyed(client, middle, tmp_path):
    held = []

    def swap(message):
        if not message.is_record or (message.wire.role, message.way) != (DATA, UP):
            return message.data
        held.append(message.data)
        return b"" if len(held) == 1 else held[1] + held[0]

    middle.attack = swap
    first = client.os.mkdir(str(tmp_path / "first"), nonblocking=True)
    until(lambda: held)
    second = client.os.mkdir(str(tmp_path / "second"), nonblocking=True)
    for response in (first, second):
        with pytest.raises(SessionError):
            response.wait(timeout=SOON)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("role", "way"), LINKS)
@pytest.mark.parametrize("foreign", ["the other link", "the other session"])
def test_a_record_of_another_connection_ends_the_session(server, middle, connect, client, role, way, foreign):
    """What fits in every other respect: the same number, the same way, the right length."""
    other = connect(middle.port, heartbeat=0.01, lost_after=SOON)
    own_wires, other_wires = middle.wires[:2], middle.wires[2:]
    assert other.eval("6 * 7") == 42
    if foreign == "the other link":
        source = next(wire for wire in own_wires if wire.role != role)
    else:
        source = next(wire for wire in other_wires if wire.role == role)
    target = next(wire for wire in own_wires if wire.role == role)
    done = threading.Event()

    def splice(message):
        fits = message.wire is target and message.way == way
        if done.is_set() or not fits or len(source.seen[way]) <= message.number:
            return message.data
        done.set()
        return source.seen[way][message.number]

    def is_ahead():
        # A control link fills by itself, by its heartbeat.
        if source.role != CONTROL:
            (other if foreign == "the other session" else client).eval("1")
        return len(source.seen[way]) > len(target.seen[way]) + 1

    def talk():
        while client.connected:
            client.eval("1")
        client.eval("1")

    until(is_ahead)
    middle.attack = splice
    error = ending(client, talk)
    assert done.is_set()
    assert "does not verify" in str(error)
    # The session that was only listened to goes on.
    assert other.eval("6 * 7") == 42
    other.close()


def test_every_record_that_is_cut_short_is_no_record(server):
    """At every byte: the first words of a session, which would start a worker."""
    import pickle

    words = frame(Kind.HELLO, 0, pickle.dumps({"lease": 30.0}, 4)) + frame(Kind.PING, 7)
    for end in range(36 + len(words)):
        server.wait_for_room()
        sock, keys = server.log_in()
        with sock:
            sock.sendall(Mac(keys.send).seal(0, words)[:end])
            sock.shutdown(1)
            heard = hear_all(sock)
        # A session that hears nothing more says goodbye, and no answer to anything.
        body = Mac(keys.receive).open(0, heard) if heard else b""
        assert body in (b"", frame(Kind.GOODBYE)), (end, heard)
    server.wait_until_idle()


def test_a_whole_record_is_obeyed(server):
    """Else the cut ones above would prove nothing."""
    sock, keys = server.log_in()
    with sock:
        sock.sendall(Mac(keys.send).seal(0, frame(Kind.PING, 7)))
        heard = sock.recv(36 + 16)
        assert Mac(keys.receive).open(0, heard) == frame(Kind.PONG, 7)
    server.wait_until_idle()


@pytest.mark.parametrize("end", [1, 3, 4, 35, 36, 37, 51, 52])
@pytest.mark.parametrize("way", [UP, DOWN])
def test_a_call_or_answer_that_is_cut_short_is_none(client, middle, tmp_path, way, end):
    attack = middle.attack = Once(DATA, way, lambda record, *_: record[:end])

    def cut(message):
        out = attack(message)
        if attack.done.is_set():
            message.wire.send(message.way, out)
            message.wire.cut()
            return b""
        return out

    middle.attack = cut
    with pytest.raises(SessionError):
        client.os.mkdir(str(tmp_path / "mark"))
    if way == UP:
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("at", [0, 100, 1 << 18, (1 << 18) + 31, (1 << 18) + 32, 1 << 20])
@pytest.mark.parametrize("way", [UP, DOWN])
def test_one_wrong_bit_in_bulk_ends_the_session(server, connect, way, at):
    """In the bytes of a chunk, in the tag behind it, in a later chunk."""
    with ManInTheMiddle(server.port, whole=False) as middle:
        client = connect(middle.port)
        client.execblock("def size(data): return len(data)")
        data, passed = middle.wires[1], 0

        def flip(message):
            nonlocal passed
            if message.wire is not data or message.way != way:
                return message.data
            # The record in front of the bulk has less than 400 bytes.
            position = at + 400 - passed
            passed += len(message.data)
            return flipped(message.data, position) if 0 <= position < len(message.data) else message.data

        middle.attack = flip
        with pytest.raises(SessionError, match="does not verify"):
            client.size(bytes(2 << 20)) if way == UP else client.bytes(2 << 20)
        client.close()
        server.wait_until_idle()


def test_delay_is_only_delay(client, middle):
    middle.attack = lambda message: (time.sleep(0.05 if message.wire.role == DATA else 0), message.data)[1]
    assert [client.eval(f"{n} * 7") for n in range(5)] == [0, 7, 14, 21, 28]


def test_a_middle_that_passes_nothing_any_more_is_noticed(server, middle, connect):
    client = connect(middle.port, heartbeat=0.1, lost_after=0.5)
    middle.attack = lambda _message: b""
    # The far side hears nothing either, and its end passes through the middle.
    with pytest.raises(SessionError, match=r"no heartbeat for 0\.5 s|closed by the far side"):
        client.eval("1")
    client.close()
    server.wait_until_idle()
