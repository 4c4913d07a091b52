"""Runs: many small calls or answers in one frame."""

from __future__ import annotations

import os
import pickle

import pytest

from easycluster.errors import RemoteProtocolError
from easycluster.link.operations import Op
from easycluster.link.runs import MOST_ARGUMENTS, MOST_INT, MOST_TEXT, join, load_run, taken_apart
from easycluster.link.sending import GATHER
from easycluster.wire.frames import MAX_BODY, FrameDecoder, Kind, frame

CALLS = [(7, "add", (1, 2)), (8, "note", ())]


def frames_of(data):
    return FrameDecoder().receive_data(data)


def test_entries_behind_one_another_are_one_frame():
    ((kind, flags, request, thread, body, _),) = frames_of(join(CALLS, Kind.CALL))
    assert (kind, flags, request, thread) == (Kind.CALLS, 0, 0, 0)
    assert load_run(body) == CALLS
    ((kind, *_, body, _),) = frames_of(join([(7, 3), (8, None)], Kind.REPLY))
    assert (kind, load_run(body)) == (Kind.REPLIES, [(7, 3), (8, None)])


def test_an_entry_alone_is_an_ordinary_frame():
    ((kind, _, request, thread, body, _),) = frames_of(join(CALLS[:1], Kind.CALL))
    assert (kind, request, thread, pickle.loads(body)) == (Kind.CALL, 7, 0, (Op.CALL, "add", (1, 2), {}))
    ((kind, _, request, thread, body, _),) = frames_of(join([(7, "x")], Kind.REPLY))
    assert (kind, request, thread, pickle.loads(body)) == (Kind.REPLY, 7, 0, "x")


def test_frames_among_entries_keep_their_places():
    one, two = frame(Kind.CALL, 1, b"one"), frame(Kind.CALL, 2, b"two")
    found = frames_of(join([one, *CALLS, two, CALLS[0], one, two], Kind.CALL))
    kinds = [Kind.CALL, Kind.CALLS, Kind.CALL, Kind.CALL, Kind.CALL, Kind.CALL]
    assert [each[0] for each in found] == kinds
    assert [each[2] for each in found] == [1, 0, 2, 7, 1, 2]
    assert join([one, two], Kind.CALL) == one + two


def test_calls_are_taken_apart_into_what_they_would_be_alone():
    ((*_, body, _),) = frames_of(join(CALLS, Kind.CALL))
    assert taken_apart((Kind.CALLS, 0, 0, 0, body, ())) == [
        (Kind.OPERATION, 0, 7, 0, (Op.CALL, "add", (1, 2), {}), ()),
        (Kind.OPERATION, 0, 8, 0, (Op.CALL, "note", (), {}), ()),
    ]


def test_the_largest_run_is_not_larger_than_a_body_may_be():
    text = "\U0001f600" * (MOST_TEXT - 3)
    # Each text once: a second time it would be a reference to the first.
    most = [
        (2**32 - 1, f"{text}{n:03}", tuple(f"{text[1:]}{n:03}{at}" for at in range(MOST_ARGUMENTS)))
        for n in range(GATHER)
    ]
    assert len(most[0][1]) == len(most[0][2][0]) == MOST_TEXT
    assert len(join(most, Kind.CALL)) - 16 <= MAX_BODY
    assert len(join([(2**32 - 1, MOST_INT)] * GATHER, Kind.REPLY)) - 16 <= MAX_BODY


class _Called:
    def __reduce__(self):
        return os.getpid, ()


@pytest.mark.parametrize(
    ("run", "text"),
    [
        ([(1, os.getpid)], "a run has more than numbers and texts"),
        ([(1, _Called())], "a run has more than numbers and texts"),
        ({1: 2}, "a run of calls or answers is no list"),
        (3, "a run of calls or answers is no list"),
    ],
)
def test_a_run_with_more_than_it_may_have_is_refused(run, text):
    with pytest.raises(RemoteProtocolError, match=f"^{text}$"):
        load_run(pickle.dumps(run, 5))


@pytest.mark.parametrize("body", [b"", b"\x80\x05", b"\x80\x05]", pickle.dumps([1], 5)[:-1], b"\xff" * 64])
def test_a_run_that_is_none_is_refused(body):
    with pytest.raises(RemoteProtocolError):
        load_run(body)


@pytest.mark.parametrize("entry", [1, (1,), (1, "add"), ("one", "add", ()), (1, "add", (), {}), None])
def test_an_entry_that_is_no_call_is_refused(entry):
    with pytest.raises(RemoteProtocolError, match=r"^a run has entries that are no calls$"):
        taken_apart((Kind.CALLS, 0, 0, 0, pickle.dumps([entry], 5), ()))
