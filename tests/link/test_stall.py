"""Data that is sent and never acknowledged, and everything that only looks like it."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time

import pytest

from easycluster.link.stall import StallWatch

LIMIT, HEARTBEAT = 10.0, 2.0

TROUBLE = "data sent for 11 s is not acknowledged while heartbeats get through; is an MTU too large on the way?"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="TCP_INFO is Linux' own")


class Told:
    """A connection of which the system says what the test tells it."""

    def __init__(self):
        self.attempts = self.acknowledged = 0

    def getsockopt(self, _level, _option, size):
        return (bytes(2) + bytes([self.attempts]) + bytes(117) + struct.pack("=Q", self.acknowledged))[:size]


def verdict_of(*steps, heard=True):
    """Look once a second; a step says how often the oldest bytes were sent again, and how many have arrived."""
    told = Told()
    watch = StallWatch(told, LIMIT, HEARTBEAT)
    said, last_heard = [], 0
    for now, (told.attempts, told.acknowledged) in enumerate(steps):
        last_heard = now if heard is True or now in heard else last_heard
        said.append(watch.look(float(now), float(last_heard)))
    return said


WELL, STUCK = (0, 5), [(1, 5), (2, 5), (2, 5), (3, 5), (3, 5), (3, 5), (3, 5), (4, 5), (4, 5), (4, 5), (4, 5)]


def test_data_that_stays_unacknowledged_for_longer_than_the_limit_is_trouble():
    assert verdict_of(WELL, *STUCK) == [""] * 11 + [TROUBLE]


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([WELL] * 30, id="nothing is sent again"),
        pytest.param([(0, 5)] * 3 + [(0, 5)] * 30, id="a closed window"),
        pytest.param([(3, number // 9) for number in range(40)], id="some of it arrives now and then"),
        pytest.param([(1, 5)] * 11 + [WELL], id="it arrives in the end"),
        pytest.param([*[(6, 5)] * 12, (7, 5), WELL], id="the next attempt is far away"),
    ],
)
def test_a_link_that_is_only_slow_is_none(steps):
    assert set(verdict_of(*steps)) == {""}


def test_only_time_in_which_the_peer_is_heard_counts():
    """A link that was away as a whole starts anew: what was lost then is sent again later than heartbeats are."""
    silent = range(2, 9)
    heard = [now for now in range(40) if now not in silent]
    attempts = [(min(now // 2, 9), 5) for now in range(40)]
    said = verdict_of(*attempts, heard=heard)
    # The last moment that does not count is the eighth second; the session itself would have ended at the eleventh.
    assert next(now for now, text in enumerate(said) if text) == 8 + 11


def test_it_looks_ten_times_within_the_limit_however_often_it_is_asked():
    told = Told()
    watch = StallWatch(told, LIMIT, HEARTBEAT)
    assert watch.look(5.0, 5.0) == ""
    assert watch.next_look == 6.0
    told.attempts = 9
    watch.look(5.9, 5.9)
    assert watch.next_look == 6.0


def test_a_socket_that_is_no_connection_has_no_stalls():
    ends = socket.socketpair()
    watch = StallWatch(ends[0], 0.001, HEARTBEAT)
    for end in ends:
        assert watch.look(time.monotonic(), time.monotonic()) == ""
        time.sleep(0.002)
        end.close()
    assert watch.look(time.monotonic(), time.monotonic()) == ""


@pytest.mark.parametrize("piece", [1 << 20, 60], ids=["large", "small"])
def test_a_peer_that_does_not_read_is_not_lost(piece):
    """The kernel's own numbers: the window is closed, and nothing is acknowledged for longer than the limit."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        near = stack.enter_context(socket.create_connection(listener.getsockname()))
        far = stack.enter_context(listener.accept()[0])
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        near.setblocking(False)
        limit = 0.9
        watch = StallWatch(near, limit, 0.01)
        sent = 0
        full = 0.0
        while not full or time.monotonic() - full < 2 * limit:
            try:
                for _ in range(1000):
                    sent += near.send(bytes(piece))
            except BlockingIOError:
                full = full or time.monotonic()
            now = time.monotonic()
            assert watch.look(now, now) == ""
            time.sleep(0.005)
        with pytest.raises(BlockingIOError):
            near.send(bytes(1 << 24))
        # It is as well as before.
        far.settimeout(20)
        taken = len(far.recv(1 << 20))
        assert 0 < taken <= sent
