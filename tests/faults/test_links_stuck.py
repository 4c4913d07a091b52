"""Large values that never get through while heartbeats do, without a deadline; and those who only do not read."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest
from support.links import Busy, far_host, near_side

from easycluster import ConnectionLost, define_common
from faults.outcome import SLACK

__all__ = ["far_host"]

DEFINITIONS = "faults_stuck"

CODE = """
def size_of(data):
    return len(data)

def much(size):
    return bytes(size)

def echo(value):
    return value
"""

define_common(CODE, DEFINITIONS)

LOST_AFTER = 1.5
QUICK = {"definitions": DEFINITIONS, "heartbeat": 0.3, "lost_after": LOST_AFTER}
MUCH = 8 << 20

# Over ssh heartbeats share the one connection with the data that is stuck.
STUCK = r"data sent for [12345](\.\d+)? s is not acknowledged while heartbeats get through; is an MTU too large"
SILENT = rf"no heartbeat for {LOST_AFTER:g} s"

# Whether a row's data goes there, and what it calls.
WAYS = {
    "stuck-argument": (True, "size_of", lambda: bytes(MUCH)),
    "stuck-result": (False, "much", lambda: MUCH),
}


@pytest.mark.parametrize(
    ("row", "transport"),
    [
        pytest.param(row, transport, marks=pytest.mark.fault(row), id=f"{row}-{transport}")
        for row in WAYS
        for transport in ("tcp", "ssh")
    ],
)
def test_what_never_gets_through_ends_the_session(far_host, row, transport, outcome):
    """Somewhere on the way packets are too large and nobody says so: TCP alone would try for 15 minutes and more."""
    there, name, make = WAYS[row]
    with near_side(), far_host.connect(transport, **QUICK) as client:
        assert client.size_of(b"small") == 5
        far_host.host.lose_large(600, there=there)
        begin = time.monotonic()
        try:
            call = Busy(getattr(client, name), make())
            error = call.join()
            assert type(error) is ConnectionLost
            assert (error.host, error.call) == (client.peername, f"{name}()")
            outcome.saw("ConnectionLost", call.at - begin)
            assert re.search(STUCK if transport == "tcp" else SILENT, error.reason), error
            # The far side knows by itself, or sees the end of its link.
            far_host.cleared_after(begin, (2 * LOST_AFTER + 1.0) * SLACK)
        finally:
            far_host.host.heal()
        outcome.cleaned("both sides, though large packets still vanish")
        client.reconnect()
        assert client.size_of(bytes(MUCH)) == MUCH


@pytest.mark.fault("not-reading", transport="tcp")
def test_a_worker_that_does_not_read_is_waited_for(far_host, outcome):
    """Stopped by a debugger, or its interpreter is held: nothing of what is sent is taken, and the host is well."""
    with (
        far_host.connect("tcp", **QUICK) as one_large,
        far_host.connect("tcp", **QUICK) as many_small,
    ):
        workers = [client.os.getpid() for client in (one_large, many_small)]
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        try:
            large = Busy(one_large.size_of, bytes(8 * MUCH))
            small = Busy(lambda: [many_small.echo(number, nonblocking=True) for number in range(5_000)])
            time.sleep(2 * LOST_AFTER)  # what is tested is a time without reading of this length
            assert one_large.connected
            assert many_small.connected
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
        begin = time.monotonic()
        assert large.join(60) is None
        assert large.result == 8 * MUCH
        assert small.join(60) is None
        assert [response.wait() for response in small.result[-100:]] == list(range(4_900, 5_000))
        outcome.saw(seconds=time.monotonic() - begin)
        outcome.lives(one_large)
        assert many_small.echo(1) == 1
    far_host.cleared_after(time.monotonic(), 5 * SLACK)
