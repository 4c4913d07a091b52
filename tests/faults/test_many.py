"""Many sessions, one after the other and at once; and one that nobody uses for long."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.processes import wait_until_gone

from easycluster import Client, ThreadedClient

from .outcome import LONG

# Over the relay these are the same as over ssh.
without_relay = pytest.mark.parametrize("transport", ["tcp", "spawned", "ssh"], indirect=True)

SOON = 10.0


@pytest.mark.fault("idle")
@without_relay
def test_a_threaded_client_may_be_idle_longer_than_its_timeout(connect, outcome):
    client = connect(ThreadedClient, keep_alive_interval=0.1, keep_alive_timeout=0.5)
    time.sleep(1.2)
    assert client.connected
    assert client.eval("1 + 1") == 2
    outcome.saw()


def in_use():
    """Return how many descriptors and threads this process has."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.mark.fault("churn")
@without_relay
def test_connections_that_come_and_go_leave_nothing(connect, outcome):
    connect().close()
    before = in_use()
    pids = []
    for _ in range(100 if LONG else 10):
        client = connect()
        pids += [client.os.getpid(), client.os.getppid()]
        client.close()
    end = time.monotonic() + SOON
    # The TCP server of these tests is in this process, and gives its own back a moment later.
    while in_use() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert in_use() <= before
    assert wait_until_gone(pids) == []
    outcome.saw()
    outcome.cleaned("descriptors, threads, processes")


@pytest.mark.fault("crowd")
@pytest.mark.parametrize("transport", ["tcp"], indirect=True)
def test_many_sessions_connect_at_once(transport, outcome):
    count = 64 if LONG else 16
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(count) as pool:
        with outcome.works():
            clients = list(pool.map(lambda _: stack.enter_context(transport.open(Client)), range(count)))
        pids = [client.os.getpid() for client in clients]
        assert len(set(pids)) == count
        stack.close()
    assert wait_until_gone(pids, SOON) == []
    outcome.cleaned("every far-side process")
