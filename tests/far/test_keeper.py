"""What a keeper makes of nonsense on its control link."""

from __future__ import annotations

import os
import pickle
import socket

import pytest

from easycluster.errors import RemoteProtocolError
from easycluster.far.keeper import Keeper
from easycluster.wire.frames import Kind, frame


@pytest.fixture
def keeper():
    """A keeper without a worker, whose words nobody hears."""
    ours, template = socket.socketpair()
    with ours, template:
        yield Keeper(lambda _data: None, ours, 0)


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
