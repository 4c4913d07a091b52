"""Carriers: data links over ssh that come late, and links that break before there is a session."""

from __future__ import annotations

import contextlib

import pytest

from easycluster import Client
from easycluster.errors import ConnectError, ConnectTimeout
from easycluster.server import spawn_local
from easycluster.transport import carriers
from easycluster.transport.carriers import GatewayCarrier
from easycluster.transport.direct import DataPipes


@pytest.mark.parametrize("handed_over", [False, True])
def test_pipes_that_come_too_late_give_way_to_the_channel(handed_over, sshd, monkeypatch):
    """The worker may have taken them in the moment in which they were given up, and takes one link only."""
    skip = DataPipes.skip_noise

    def too_late(pipes, marker, timeout):
        if handed_over:
            skip(pipes, marker, timeout)
        raise ConnectTimeout("no answer", pipes.host)

    monkeypatch.setattr(DataPipes, "skip_noise", too_late)
    with Client(host=sshd.host, ssh=True, extra_args=sshd.extra_args, connect_timeout=30) as client:
        assert client._endpoint._carrier._relay is not None
        assert client.eval("'x' * 100000") == "x" * 100000
        client.execblock("import os; before = os.getpid()")
        assert client.eval("os.getpid() == before") is True


def test_a_link_that_breaks_before_there_is_a_session_is_an_error_of_the_connect(monkeypatch):
    """Not a loss of a connection, which nobody has had."""
    open_control = GatewayCarrier.open_control

    def open_and_break(carrier, control, timeout):
        open_control(carrier, control, timeout)
        carrier.kill()
        with contextlib.suppress(EOFError):
            carrier._gateway._channel.waitclose(20)

    monkeypatch.setattr(GatewayCarrier, "open_control", open_and_break)
    with pytest.raises(ConnectError, match=r"^local: the session did not come up: "):
        spawn_local(label="local")


def test_a_far_side_that_starts_slowly_is_waited_for_as_long_as_a_connect_may_take(monkeypatch):
    """A small board takes seconds; until it has said a word, nobody can tell whether it is silent."""
    slowly = "import time; time.sleep(1)\n" + carriers.LOAD
    monkeypatch.setattr(carriers, "LOAD", slowly)
    with spawn_local(heartbeat=0.1, lost_after=0.5) as client:
        assert client.eval("6 * 7", timeout=20) == 42


def test_a_far_side_that_starts_too_slowly_is_a_connect_timeout(monkeypatch):
    monkeypatch.setattr(carriers, "LOAD", "import time; time.sleep(60)\n" + carriers.LOAD)
    with pytest.raises(ConnectTimeout, match=r"no session within 0\.8 s"):
        spawn_local(heartbeat=0.1, lost_after=0.3, connect_timeout=0.8)
