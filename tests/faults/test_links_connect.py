"""Links that break while a session is opened: at the first packet, in the handshake, in the bootstrap."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from support.links import far_host, near_side

from easycluster import BootstrapError, ConnectError, ConnectTimeout
from easycluster.far import start
from faults.outcome import SLACK

__all__ = ["far_host"]

both = pytest.mark.parametrize("transport", ["tcp", "ssh"])

# Seconds that a connection may take here, 30 by default.
TIMEOUT = 2.0

# After how many bytes of what we send the link breaks: in the handshake of TCP or ssh, in the login, in the settings of
# the session or the bundle.
BYTES = {"tcp": (150, 400, 700), "ssh": (300, 2500, 9000, 60000)}


@pytest.mark.fault("connect-silent")
@both
@pytest.mark.parametrize("kind", ["cut", "silent"])
def test_a_host_that_cannot_be_reached_is_named_in_time(far_host, kind, transport, outcome):
    host = far_host.host
    with near_side():
        (host.cut if kind == "cut" else host.fall_silent)()
        try:
            begin = time.monotonic()
            # A cable without a carrier is "no route" for some kernels, after a while.
            with pytest.raises(ConnectError, match="^" + host.address.replace(".", r"\.")) as caught:
                far_host.connect(transport, connect_timeout=TIMEOUT)
            outcome.saw(type(caught.value).__name__, time.monotonic() - begin)
            assert caught.value.host == host.address
            outcome.cleaned("near side")
        finally:
            host.mend()


@pytest.mark.fault("connect-refused")
@both
def test_a_host_that_answers_with_resets_is_named_at_once(far_host, transport, outcome):
    host = far_host.host
    with near_side():
        host.reset()
        try:
            begin = time.monotonic()
            with pytest.raises(ConnectError, match=r"refused|reset|closed") as caught:
                far_host.connect(transport)
            outcome.saw(type(caught.value).__name__, time.monotonic() - begin)
            assert caught.value.host == host.address
            outcome.cleaned("near side")
        finally:
            host.heal()


@pytest.mark.fault("connect-silent")
@both
def test_a_link_that_falls_silent_while_a_session_opens_is_given_up(far_host, transport, outcome):
    host = far_host.host
    with near_side():
        for count in BYTES[transport]:
            host.break_after(count)
            try:
                begin = time.monotonic()
                with pytest.raises((ConnectTimeout, BootstrapError)) as caught:
                    far_host.connect(transport, connect_timeout=TIMEOUT, heartbeat=0.3)
                outcome.saw(type(caught.value).__name__, time.monotonic() - begin)
                assert host.address in str(caught.value)
            finally:
                host.heal()
    # Those without a session yet have limits of their own: 5 s for a handshake, 15 s for a keeper.
    far_host.cleared_after(time.monotonic(), 15 * SLACK)
    outcome.cleaned("both sides")


@pytest.mark.fault("connect-refused")
@both
def test_a_link_that_is_reset_while_a_session_opens_is_an_error_at_once(far_host, transport, outcome):
    host = far_host.host
    with near_side():
        for count in BYTES[transport]:
            host.break_after(count, "meta l4proto tcp tcp flags & rst == 0 reject with tcp reset")
            try:
                begin = time.monotonic()
                with pytest.raises(ConnectError) as caught:
                    far_host.connect(transport, heartbeat=0.3)
                outcome.saw(type(caught.value).__name__, time.monotonic() - begin)
                assert host.address in str(caught.value)
            finally:
                host.heal()
    far_host.cleared_after(time.monotonic(), 15 * SLACK)
    outcome.cleaned("both sides")


def test_a_far_side_whose_bundle_never_comes_ends_by_itself():
    """A link that fell silent in the bootstrap shows no end of file: the login would hang there for hours."""
    assert "alarm(12)" in start._SOURCE
    source = "import binascii\n" + start._SOURCE.replace("alarm(12)", "alarm(1)")
    process = subprocess.Popen([sys.executable, "-c", source, "mark"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        with process.stdout:
            process.stdout.readline()
            _marker, _version, pid, _path = process.stdout.readline().split(b" ")
            assert int(pid) == process.pid
            # To the end of file: its template, too, has gone.
            assert process.stdout.read() == b""
        assert process.wait(10) == -14
    finally:
        process.kill()
        process.stdin.close()
        process.wait()
