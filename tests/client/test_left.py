"""Calls that a signal handler interrupts before anybody waits for them, and threads that come late."""

from __future__ import annotations

import pytest

from easycluster import ConnectionLost, callback
from easycluster.client.requests import Requests
from easycluster.server import spawn_local

CODE = """
import time
ended = []
def ask(function):
    try:
        return function()
    finally:
        ended.append("ask")
def rest(seconds):
    try:
        time.sleep(seconds)
    finally:
        ended.append("rest")
"""


class Interrupt(BaseException):
    """What a signal handler raises."""


@pytest.fixture(scope="module")
def client():
    with spawn_local() as client:
        client.execblock(CODE)
        # Starts the thread for callbacks, which stays.
        assert client.ask(callback(lambda: 1), nonblocking=True).wait() == 1
        yield client


def interrupt(*_args, **_options):
    raise Interrupt


# In which functions of the client a signal may come between: on the quick way, which itself reads what comes first, and
# on the careful one.
WINDOWS = [("ask", window, {}) for window in ("_finished", "_await_until")]
WINDOWS += [(name, window, {"origexc": True}) for name in ("ask", "rest") for window in ("_finished", "_await_until")]


@pytest.mark.parametrize(("name", "window", "options"), WINDOWS)
def test_a_call_that_nobody_has_begun_to_wait_for_is_stopped(client, name, window, options, monkeypatch):
    """What it asks of this side would never be answered."""
    client.execblock("ended.clear()")
    argument = callback(lambda: 1) if name == "ask" else 60
    monkeypatch.setattr(Requests, window, interrupt)
    with pytest.raises(Interrupt):
        getattr(client, name)(argument, **options)
    monkeypatch.undo()
    # It may have been stopped before it began.
    assert client.eval("ended", timeout=20) in ([name], [])
    assert client._session.pending == {}


def test_why_a_session_has_ended_is_forgotten_if_another_thread_reconnects_meanwhile():
    with spawn_local() as client:
        endpoint = client._endpoint
        endpoint._carrier.kill()
        assert endpoint.control.wait_for(lambda: not client.connected, 20)
        why_ended = endpoint.why_ended

        def reconnect_meanwhile():
            error = why_ended()
            client.reconnect()
            return error

        endpoint.why_ended = reconnect_meanwhile
        assert isinstance(client._why_unusable(), ConnectionLost)
        assert client.eval("6 * 7") == 42
        assert client._ended_error is None
