"""What a keeper makes of nonsense on its control link."""

from __future__ import annotations

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
