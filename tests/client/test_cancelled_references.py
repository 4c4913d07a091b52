"""What a call refers to is let go although the call is cancelled before it runs."""

from __future__ import annotations

import time

import pytest

from easycluster import CallCancelled, callback
from easycluster.server import spawn_local


def note():
    """Be something that only a reference can stand for."""


@pytest.mark.parametrize("extra", [(), ({"x": [callback(note)]},)], ids=["one", "several"])
def test_callback_of_a_call_that_never_ran_is_let_go(extra):
    with spawn_local() as client:
        exports = client._session.values.exports
        running = client.raw_call("time.sleep", (30,), nonblocking=True)
        waiting = [client.raw_call("repr", ([callback(note), *extra],), nonblocking=True) for _ in range(5)]
        assert len(exports) > 0
        for response in [*waiting, running]:
            response.cancel()
        for response in [*waiting, running]:
            with pytest.raises(CallCancelled):
                response.wait()
        end = time.monotonic() + 20
        while len(exports) and time.monotonic() < end:
            client.eval("0")
        assert len(exports) == 0
