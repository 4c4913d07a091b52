"""A TCP server that hangs, stopped by SIGSTOP: nobody waits longer than he said, and sessions do not need it."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import time
from pathlib import Path

import pytest
from support.links import Busy, near_side
from support.owners import Process, left_after

from easycluster import Client, ConnectTimeout, WorkerDied, define_common

from .outcome import LONG, SLACK
from .test_owners import Place

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc, to find every process"),
    pytest.mark.timeout(120),
]

DEFINITIONS = "faults_server_frozen"

CODE = """
import os, time

def echo(value):
    return value

def note(number):
    time.sleep(0.02)
    return number
"""

define_common(CODE, DEFINITIONS)

TIMEOUT = 2.0
LOST_AFTER = 1.0
QUICK = {"definitions": DEFINITIONS, "heartbeat": 0.2, "lost_after": LOST_AFTER}

MOMENTS = 30 if LONG else 4


@pytest.fixture(params=[()], ids=["plain"])
def place(request, tmp_path):
    place = Place(tmp_path)
    place.start_server(*request.param)
    # What the first session of a process makes stays: the monitor's descriptors.
    connect(place).close()
    place.check()
    try:
        yield place
        place.check()
    finally:
        place.stop_server()


def connect(place, **options):
    where = place.where
    return Client(bytes.fromhex(where["key"]), where["host"], where["port"], **{**QUICK, **options})


@contextlib.contextmanager
def frozen(place):
    """Stop the process that listens; what it has started goes on."""
    place.server.send_signal(signal.SIGSTOP)
    try:
        end = time.monotonic() + 20
        while Process(place.server.pid).state != "T":
            assert time.monotonic() < end
        yield
    finally:
        place.server.send_signal(signal.SIGCONT)


@pytest.mark.fault("server-frozen-connecting", transport="tcp")
def test_who_connects_to_a_server_that_hangs_is_told_in_time(place, outcome):
    with near_side():
        with frozen(place):
            patient = Busy(connect, place)
            begin = time.monotonic()
            calls = [Busy(connect, place, connect_timeout=TIMEOUT) for _ in range(3)]
            for call in calls:
                error = call.join()
                assert type(error) is ConnectTimeout
                assert str(error) == (
                    f"127.0.0.1:{place.where['port']}: connected, but no EasyCluster server answered within 2 s"
                )
                outcome.saw("ConnectTimeout", call.at - begin)
        assert patient.join(60) is None
        assert patient.result.echo(1) == 1
        patient.result.close()
    place.check()
    outcome.cleaned("both sides; who has time left gets in when it goes on")


@pytest.mark.fault("server-frozen-connecting", transport="tcp")
def test_a_server_that_hangs_at_any_moment_of_a_connection_leaves_nothing(place, outcome):
    begin = time.monotonic()
    connect(place).close()
    span = time.monotonic() - begin
    chance = random.Random(1)
    with near_side():
        for _ in range(MOMENTS):
            begin = time.monotonic()
            call = Busy(connect, place, connect_timeout=TIMEOUT)
            time.sleep(chance.random() * span)
            with frozen(place):
                error = call.join()
            if error is None:
                outcome.saw()
                call.result.close()
            else:
                outcome.saw(type(error).__name__, call.at - begin)
    place.check()


@pytest.mark.fault("server-frozen", transport="tcp")
@pytest.mark.parametrize("place", [(), ("-vv",)], indirect=True, ids=["plain", "reports calls"])
def test_a_session_does_not_need_its_server(place, outcome):
    """Not even one that is to report every call: what it cannot say is left out."""
    # Its output is read by nobody: it hangs in earnest once that is full, and the test goes on.
    big = bytes(4 << 20)
    with (
        near_side(),
        connect(place) as client,
        connect(place) as leaving,
        connect(place, connect_timeout=TIMEOUT) as dying,
    ):
        pid = leaving.os.getpid()
        with frozen(place), outcome.works():
            begin = time.monotonic()
            calls = 0
            while calls < 1000 or time.monotonic() - begin < 2 * LOST_AFTER:
                assert client.echo(calls) == calls
                calls += 1
            assert client.echo(big) == big
            assert [response.wait() for response in [client.note(n, nonblocking=True) for n in range(9)]] == [*range(9)]
            with pytest.raises(WorkerDied):
                dying.os._exit(3)
            with pytest.raises(ConnectTimeout):
                dying.reconnect()
            members = {Process(pid)}
            begin = time.monotonic()
            leaving.close()
            took, left = left_after(members, Path("/nowhere"), begin, 2 * SLACK)
            assert not left, f"left after {took:.1f} s: {left}"
        outcome.lives(client)
        dying.reconnect()
        assert dying.echo(1) == 1


@pytest.mark.fault("server-frozen", transport="tcp")
def test_an_audited_session_waits_for_its_server_rather_than_do_what_is_not_written_down(tmp_path, outcome):
    log = tmp_path / "log"
    place = Place(tmp_path)
    place.start_server("--audit", str(log))
    try:
        with connect(place) as client:
            with frozen(place):
                # A pipe of 64 KiB lies between the two.
                calls = Busy(lambda: [client.echo(number) for number in range(2000)])
                time.sleep(2 * LOST_AFTER)  # what is tested is a time of this length
                assert client.connected
                assert calls.at == 0.0
            assert calls.join(60) is None
            assert calls.result == list(range(2000))
            outcome.lives(client)
            outcome.saw()
        place.check()
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert sum(line["event"] == "call" and line["function"] == "echo" for line in lines) >= 2000
    finally:
        place.stop_server()
