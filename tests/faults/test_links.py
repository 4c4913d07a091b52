"""Cables that are pulled, fall silent or answer with resets, in real network namespaces: who is told what, and when."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from support.links import Busy, far_host, near_side
from support.owners import Owner, left_after

from easycluster import ConnectionLost, StaleProxy, define_common
from faults.outcome import LONG, SLACK

__all__ = ["far_host"]

DEFINITIONS = "faults_links"

CODE = """
import os, subprocess, threading, time

running = threading.Event()

class Thing(ServerObject):
    def get(self):
        return 1

def sleep(seconds=60):
    running.set()
    time.sleep(seconds)

def much(size):
    return bytes(size)

def size_of(data):
    return len(data)

def note(path, seconds):
    '''Leave a mark that shows how often this ran.'''
    with open(path, "a") as marks:
        marks.write("x")
    running.set()
    time.sleep(seconds)
    return "done"

def start_children():
    return [
        subprocess.Popen(["sleep", "600"]).pid,
        subprocess.Popen(["sleep", "600"], start_new_session=True).pid,
    ]
"""

define_common(CODE, DEFINITIONS)

# Seconds of silence after which either side gives up; 15 by default.
LOST_AFTER = 1.5
QUICK = {"definitions": DEFINITIONS, "heartbeat": 0.3, "lost_after": LOST_AFTER}
# Takes a second or two at the rate of a slow cable, which breaks long before.
MUCH = 64 << 20
BEGUN = 2 << 20

# How a cable breaks, and what the caller may be told.
SILENT = rf"no heartbeat for {LOST_AFTER:g} s"
BREAKS = {
    "cut": ("cut", "mend", SILENT),
    "partition": ("fall_silent", "heal", SILENT),
    "half-open": ("fall_half_silent", "heal", SILENT),
    "reset": ("reset", "heal", "(?i)reset by peer|broken pipe|ssh (was killed|ended)|the data link broke|closed by"),
}

both = pytest.mark.parametrize("transport", ["tcp", "ssh"])


def carried(host, what):
    """Bytes that have crossed the cable in one direction."""
    return int(Path(f"/sys/class/net/{host.device}/statistics/{what}_bytes").read_text())


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("kind", "transport"),
    [
        pytest.param(kind, transport, marks=pytest.mark.fault(f"link-{kind}" if kind != "partition" else kind))
        for kind in BREAKS
        for transport in ("tcp", "ssh")
    ],
)
def test_a_broken_link_ends_what_every_session_does(far_host, kind, transport, outcome):
    """An idle session, one in a call, one that sends much and one that receives much, all at once."""
    break_, mend, reason = BREAKS[kind]
    host = far_host.host
    with near_side():
        clients = [far_host.connect(transport, **QUICK) for _ in range(4)]
        idle, calling, sending, receiving = clients
        thing = idle.Thing()
        for client in clients:
            client.start_children()
        calls = {"sleep()": Busy(calling.sleep)}
        assert calling.running.wait(5, threadid=9)
        host.slow_down()
        before = carried(host, "tx"), carried(host, "rx")
        calls["size_of()"] = Busy(sending.size_of, bytes(MUCH))
        calls["much()"] = Busy(receiving.much, MUCH)
        wait_for(lambda: carried(host, "tx") - before[0] > BEGUN and carried(host, "rx") - before[1] > BEGUN)

        getattr(host, break_)()
        begin = time.monotonic()
        try:
            for name, call in calls.items():
                error = call.join()
                assert type(error) is ConnectionLost
                assert (error.host, error.call) == (calling.peername, name)
                assert re.search(reason, error.reason), error
                outcome.saw("ConnectionLost", call.at - begin)
            wait_for(lambda: not idle.connected)
            with pytest.raises(ConnectionLost, match=reason):
                thing.get()
            # The far side knows by itself: the cable is still broken.
            cleared = far_host.cleared_after(begin, (LOST_AFTER + 1.0) * SLACK)
        finally:
            getattr(host, mend)()
        outcome.cleaned("both sides, though the cable stays broken" if cleared else "")
        idle.reconnect()
        with pytest.raises(StaleProxy):
            thing.get()
        assert idle.Thing().get() == 1
        for client in clients:
            client.close()
    far_host.cleared_after(time.monotonic(), 2 * SLACK)


@pytest.mark.fault("link-returns")
@both
@pytest.mark.parametrize("kind", ["cut", "partition"])
def test_a_link_that_returns_in_time_has_lost_nothing(far_host, kind, transport, outcome, tmp_path):
    break_, mend, _ = BREAKS[kind]
    host = far_host.host
    marks = tmp_path / "marks"
    with (
        far_host.connect(transport, definitions=DEFINITIONS, heartbeat=1, lost_after=6) as calling,
        far_host.connect(transport, definitions=DEFINITIONS, heartbeat=1, lost_after=6) as busy,
    ):
        call = Busy(calling.note, str(marks), 0.3)
        assert calling.running.wait(5, threadid=9)
        data = bytes(range(256)) * (1 << 18)
        host.slow_down()
        before = carried(host, "tx")
        sent = Busy(busy.bytes, data)
        wait_for(lambda: carried(host, "tx") - before > BEGUN)
        getattr(host, break_)()
        time.sleep(1)  # what is tested is a silence of this length
        getattr(host, mend)()
        assert call.join() is None
        assert sent.join() is None
        assert call.result == "done"
        assert sent.result == data
        assert marks.read_text() == "x"
        with outcome.works():
            assert calling.Thing().get() == busy.Thing().get() == 1


@pytest.mark.fault("link-returns-late")
@both
def test_a_link_that_returns_too_late_brings_no_call_back(far_host, transport, outcome, tmp_path):
    host = far_host.host
    marks = tmp_path / "marks"
    with far_host.connect(transport, **QUICK) as client:
        call = Busy(client.note, str(marks), 60)
        assert client.running.wait(5, threadid=9)
        pid = client.os.getpid(threadid=9)
        host.fall_silent()
        begin = time.monotonic()
        try:
            error = call.join()
            assert type(error) is ConnectionLost
            outcome.saw("ConnectionLost", call.at - begin)
            far_host.cleared_after(begin, (LOST_AFTER + 1.0) * SLACK)
        finally:
            host.heal()
        client.reconnect()
        assert client.os.getpid() != pid
        assert client.Thing().get() == 1
        assert marks.read_text() == "x"
        outcome.cleaned("far side; the call is not repeated")


@pytest.mark.fault("host-gone")
@both
def test_a_host_that_forgot_the_session_says_so_at_the_next_word(far_host, transport, outcome):
    """Half-open: the far side died without a word, and its system answers again."""
    host = far_host.host
    with far_host.connect(transport, definitions=DEFINITIONS, heartbeat=0.3, lost_after=30) as client:
        call = Busy(client.sleep)
        assert client.running.wait(5, threadid=9)
        host.fall_silent()
        host.forget_connections()
        begin = time.monotonic()
        host.heal()
        error = call.join()
        assert type(error) is ConnectionLost
        assert (error.host, error.call) == (client.peername, "sleep()")
        outcome.saw("ConnectionLost", call.at - begin)
    far_host.cleared_after(begin, 4 * SLACK)
    outcome.cleaned("both sides")


@pytest.mark.fault("vanished")
@both
def test_a_client_that_vanishes_without_a_word_leaves_nothing(far_host, transport, outcome, tmp_path):
    folder = tmp_path / "try"
    folder.mkdir()
    options = {} if LONG else {"heartbeat": 0.5, "lost_after": 2.0}
    owner = Owner(folder, transport, far_host.where(transport), options, count=2)
    try:
        owner.wait_ready()
        far_host.host.fall_silent()
        begin = time.monotonic()
        owner.kill()
        outcome.saw(seconds=far_host.cleared_after(begin, 15 * SLACK))
        outcome.cleaned("every far-side process and what it started")
    finally:
        far_host.host.heal()
        owner.close()


# How many sessions meet the same silence.
SESSIONS = 50 if LONG else 3


@pytest.mark.fault("silent-owner")
@both
def test_nothing_outlives_a_link_that_falls_silent(far_host, transport, outcome, tmp_path):
    """With the default of 15 s in the long form; the client lives, and is told in each session."""
    folder = tmp_path / "try"
    folder.mkdir()
    options = {} if LONG else {"heartbeat": 0.5, "lost_after": 2.0}
    owner = Owner(folder, transport, far_host.where(transport), options, count=SESSIONS)
    try:
        owner.wait_ready()
        assert len(far_host.strangers()) > 9 * SESSIONS
        far_host.host.fall_silent()
        begin = time.monotonic()
        waiting = Busy(far_host.cleared_after, begin, 15 * SLACK)
        told = [owner.hear(15 * SLACK) for _ in range(SESSIONS)]
        assert {(one["error"], one["call"], one["host"]) for one in told} == {
            ("ConnectionLost", "sleep()", owner.sessions[0]["host"])
        }
        assert all(one["reason"].startswith("no heartbeat for ") for one in told)
        near = time.monotonic() - begin
        assert waiting.join(60) is None
        outcome.saw("ConnectionLost", max(near, waiting.result))
        outcome.cleaned(f"{SESSIONS} of {SESSIONS} sessions: near {near:.1f} s, far {waiting.result:.1f} s")
        assert owner.hear(30) == {"closed": True}
        assert owner.process.wait(30) == 0
        _, left = left_after(set(), folder, begin, 60)
        assert not left
    finally:
        far_host.host.heal()
        owner.close()
