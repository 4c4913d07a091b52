"""What a keeper makes of nonsense on its control link."""

from __future__ import annotations

import os
import pickle
import socket

import pytest

from easycluster.errors import RemoteProtocolError
from easycluster.far.fdpass import recv_packet, send_packet
from easycluster.far.keeper import Keeper
from easycluster.wire.frames import FrameDecoder, Kind, frame


@pytest.fixture
def keeper():
    """A keeper without a worker, whose words nobody hears."""
    ours, template = socket.socketpair()
    with ours, template:
        yield Keeper(lambda _data: None, ours, 0)


@pytest.fixture
def dead_worker():
    """Have a keeper learn at once of its worker's end and of what this has said before; return what it passes on."""
    sent = []
    ours, template = socket.socketpair()

    def die(last_words):
        keeper = Keeper(sent.append, ours, 0)
        keeper.worker_ended = lambda _died: keeper.stop("enough")
        keeper.hear(frame(Kind.HELLO, 0, pickle.dumps({})))
        _packet, fds = recv_packet(template)
        worker = socket.socket(fileno=fds[0])
        send_packet(template, {"kind": "forked", "pid": 4711})
        send_packet(template, {"kind": "exited", "pid": 4711, "status": 3 << 8})
        worker.sendall(last_words)
        worker.close()
        for fd in fds[1:]:
            os.close(fd)
        keeper.run()
        decoder = FrameDecoder(None, 0)
        return [(each[0], bytes(each[4])) for each in decoder.receive_data(b"".join(sent))]

    with ours, template:
        yield die


def packet(value):
    """A packet as send_packet writes it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_packet(ours, value)
        return theirs.recv(65536)


def test_the_last_record_of_a_worker_is_passed_on_before_its_end(dead_worker):
    heard = dead_worker(packet({"kind": "log", "record": b"first"}) + packet({"kind": "log", "record": b"last"}))
    assert heard[-3:-1] == [(Kind.LOG, b"first"), (Kind.LOG, b"last")]
    assert heard[-1][0] == Kind.DIED


@pytest.mark.parametrize("words", [b"\0\0\0\4junk", b"\xff\xff\xff\xff", b"\0\0", b""])
def test_a_worker_that_talks_nonsense_costs_its_keeper_nothing(dead_worker, words):
    assert dead_worker(words)[-1][0] == Kind.DIED


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Kind.HELLO, b"no pickle"),
        (Kind.HELLO, pickle.dumps([])),
        (Kind.HELLO, pickle.dumps({"lease": "long"})),
        (Kind.HELLO, pickle.dumps({"lease": float("nan")})),
        (Kind.CANCEL, b""),
        (Kind.CANCEL, pickle.dumps("now")),
        (23, b""),
    ],
)
def test_a_message_that_makes_no_sense_is_refused(keeper, kind, body):
    with pytest.raises(RemoteProtocolError):
        keeper.hear(frame(kind, 1, body))


def test_what_was_known_of_a_number_is_not_believed_of_its_next_owner(keeper):
    """Both pipes have news; who hears first takes the other one's and gives its number to somebody silent."""
    pipes = [os.pipe(), os.pipe()]
    heard = []

    def first(mine, other):
        def hear():
            heard.append("somebody")
            for fd in (mine, other):
                os.read(fd, 100)
            keeper.unwatch(other)
            keeper.watch(other, lambda: heard.append("nobody spoke to him"))
            keeper._ending = True

        return hear

    (one, _), (two, _) = pipes
    keeper.watch(one, first(one, two))
    keeper.watch(two, first(two, one))
    try:
        for _, end in pipes:
            os.write(end, b"news")
        keeper.run()
        assert heard == ["somebody"]
    finally:
        for fd in (*pipes[0], *pipes[1]):
            os.close(fd)
