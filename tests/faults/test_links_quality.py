"""Links that lose, delay, reorder or swallow packets: calls are slower but right, nothing is lost or doubled."""

from __future__ import annotations

import contextlib
import hashlib
import time

import pytest
from support.links import FarHost, far_host
from support.netns import require_netns
from support.sshd import require_sshd

from easycluster import ConnectionLost, define_common
from faults.outcome import LONG

__all__ = ["far_host"]

DEFINITIONS = "faults_quality"

CODE = """
import hashlib

taken = []

def take(number):
    taken.append(number)
    return number

def swap(data):
    return data[::-1]

def count(number):
    yield from range(number)

def say(number):
    for line in range(number):
        print("line", line)
"""

define_common(CODE, DEFINITIONS)

both = pytest.mark.parametrize("transport", ["tcp", "ssh"])

# Round trips of 50 ms; 5 % of the packets are lost in either direction, and overtake each other.
POOR = ("--delay", "0.025", "--jitter", "0.01", "--loss", "0.05")
# 30 % of the round trips are lost, and they take 200 ms.
MISERABLE = ("--delay", "0.1", "--jitter", "0.03", "--loss", "0.16")


@pytest.fixture(scope="module", params=[POOR, MISERABLE] if LONG else [POOR], ids=["poor", "miserable"][: 1 + LONG])
def poor_host(request):
    require_netns()
    require_sshd()
    with contextlib.closing(FarHost(*request.param)) as far:
        yield far


@pytest.mark.fault("lossy")
@pytest.mark.timeout(180)
@both
def test_a_poor_link_is_slow_and_right(poor_host, transport, outcome):
    lines = []
    with outcome.works(), poor_host.connect(transport, definitions=DEFINITIONS) as client:
        client.on_output = lambda stream, text: lines.append(text)
        assert [client.take(number) for number in range(15)] == list(range(15))
        responses = [client.take(number, nonblocking=True) for number in range(15, 200)]
        assert [response.wait() for response in responses] == list(range(15, 200))
        assert client.taken.value == list(range(200))
        data = b"".join(hashlib.sha256(bytes([number % 256, number // 256])).digest() for number in range(4096))
        assert client.swap(data) == data[::-1]
        assert list(client.count(300)) == list(range(300))
        client.say(100)
    assert "".join(lines) == "".join(f"line {number}\n" for number in range(100))
    poor_host.cleared_after(time.monotonic(), 30)


@pytest.mark.fault("black-hole")
@both
def test_large_packets_that_vanish_delay_what_needs_them(far_host, transport, outcome):
    """A router drops what is too large for it and does not say so; small packets pass."""
    host = far_host.host
    data = bytes(range(256)) * 4096
    with far_host.connect(transport, definitions=DEFINITIONS, heartbeat=0.5, lost_after=3) as client:
        assert client.take(1) == 1
        host.drop_large(600)
        begin = time.monotonic()
        try:
            with pytest.raises((TimeoutError, ConnectionLost)) as caught:
                client.raw_call("swap", (data,), timeout=1.0)
            assert client.peername in str(caught.value)
            assert "swap()" in str(caught.value)
            outcome.saw(type(caught.value).__name__, time.monotonic() - begin)
        finally:
            host.heal()
        if not client.connected:
            client.reconnect()
        assert client.swap(data) == data[::-1]
        outcome.cleaned("nothing is lost once they pass")
    far_host.cleared_after(time.monotonic(), 20)
