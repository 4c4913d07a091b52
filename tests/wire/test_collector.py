"""The garbage collector rests while a large value is rebuilt, and works on whatever happens then."""

from __future__ import annotations

import gc
import pickle
import threading

import pytest
from support.joined_values import joined

from easycluster.errors import SerializationError
from easycluster.wire import collector
from easycluster.wire.values import BULK

SOON = 20.0
# Its pickle has more than BULK bytes.
LARGE = list(range(BULK))


@pytest.fixture
def ends():
    yield joined()
    assert gc.isenabled()
    assert not collector._rebuilding


@pytest.fixture
def seen():
    """What a value saw of the collector while it was rebuilt."""
    Looks.seen = []
    return Looks.seen


class Looks:
    """Looks at the collector when it is rebuilt."""

    seen: list[bool]

    def __init__(self, then=None):
        self.then = then

    def __reduce__(self):
        return look, (self.then,)


def look(then):
    Looks.seen.append(gc.isenabled())
    if then is not None:
        then()
    return len(Looks.seen)


def fail():
    raise ValueError("cannot be rebuilt")


def interrupt():
    raise KeyboardInterrupt


def test_it_rests_for_a_large_value_only(ends, seen):
    assert ends[0].give([Looks(), LARGE]) == [1, LARGE]
    assert ends[0].give([Looks(), 1]) == [2, 1]
    assert seen == [False, True]


def test_it_rests_for_no_value_that_takes_long(ends, seen, monkeypatch):
    monkeypatch.setattr(collector, "MOST", BULK)
    ends[0].give([Looks(), LARGE])
    assert seen == [True]


def test_it_works_on_after_a_value_that_cannot_be_rebuilt(ends, seen):
    with pytest.raises(SerializationError, match="cannot be rebuilt"):
        ends[0].give([Looks(fail), LARGE])
    assert seen == [False]


def test_it_works_on_after_an_interruption(ends, seen):
    with pytest.raises(KeyboardInterrupt):
        ends[0].give([Looks(interrupt), LARGE])
    assert seen == [False]


def test_whoever_has_turned_it_off_finds_it_so(ends, seen):
    gc.disable()
    try:
        ends[0].give([Looks(), LARGE])
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert seen == [False]


def nested():
    value = [LARGE]
    assert pickle.loads(pickle.dumps(value)) == value
    ENDS[0].give(value)


ENDS: list = []


def test_a_large_value_inside_another_does_no_harm(ends, seen):
    ENDS[:] = ends
    ends[0].give([Looks(nested), LARGE])
    assert seen == [False]


def test_it_rests_until_the_last_thread_is_done(ends):
    collector.pause()
    thread = threading.Thread(target=lambda: ends[0].give([LARGE]))
    thread.start()
    thread.join(SOON)
    assert not gc.isenabled()
    collector.resume()
    assert gc.isenabled()


def test_a_thread_that_was_kept_from_resuming_does_not_stop_it_for_good(ends):
    thread = threading.Thread(target=collector.pause)
    thread.start()
    thread.join(SOON)
    assert not gc.isenabled()
    ends[0].give([LARGE])
