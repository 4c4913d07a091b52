"""Threads that share one client: their calls travel together, and each has an end of its own."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from support.plain_values import plain_values

from easycluster import (
    CallTimeout,
    ConnectionClosed,
    SessionError,
    ThreadedClient,
    WorkerDied,
    deadline,
    define_common,
)
from easycluster.link.pending import Waiter

__all__ = ["plain_values"]

DEFINITIONS = "contract_crowd"

define_common(
    """
    import os, threading, time

    gates = {}

    def gate(name):
        return gates.setdefault(name, threading.Event())

    def wait_at(name):
        return gate(name).wait(60)

    def let_through(name):
        gate(name).set()

    def sleep_on():
        while True:
            time.sleep(0.01)

    def add(a, b):
        return a + b

    def fail(number):
        raise ValueError(number)

    def thread():
        return threading.get_ident()

    def leave(code):
        os._exit(code)
    """,
    DEFINITIONS,
)

THREADS = 8
# Seconds that something may take which is sure to come.
SOON = 30.0


def at_once(*functions):
    """Run functions in threads of their own, all at once; return what each returned or raised."""
    results = [None] * len(functions)
    together = threading.Barrier(len(functions))

    def run(at):
        together.wait(SOON)
        try:
            results[at] = functions[at]()
        except Exception as exc:  # noqa: BLE001 - the test looks at it
            results[at] = exc

    threads = [threading.Thread(target=run, args=(at,)) for at in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON * 2)
    assert not any(thread.is_alive() for thread in threads), "a call has no end"
    return results


def sums(client, number, calls=200):
    """Return a function that makes calls and returns how many of their answers were wrong."""
    return lambda: sum(client.add(number, at) != number + at for at in range(calls))


def kinds(results):
    return [type(result) for result in results]


def test_calls_of_many_threads_travel_together(client):
    """What eight threads ask, again and again, needs far fewer writes than calls."""
    session = client._session
    queue_gathered, sizes = session._queue_gathered, []

    def count_and_queue():
        if session.gathered:
            sizes.append(len(session.gathered))
        queue_gathered()

    session._queue_gathered = count_and_queue
    try:
        assert at_once(*(sums(client, number) for number in range(THREADS))) == [0] * THREADS
    finally:
        del session._queue_gathered
    # Those that found the link to themselves were never gathered.
    assert sizes
    assert sum(sizes) / len(sizes) > 1.5


def test_errors_and_answers_of_many_threads_are_not_mixed_up(client):
    def fail(number):
        for at in range(50):
            with pytest.raises(ValueError, match=rf"^{number}{at:03}$"):
                client.fail(f"{number}{at:03}", origexc="quiet")
        return 0

    functions = [sums(client, number) for number in range(THREADS - 2)]
    assert at_once(*functions, lambda: fail(1), lambda: fail(2)) == [0] * THREADS


def test_a_deadline_of_one_thread_is_its_own(client):
    def stuck():
        with deadline(0.2):
            client.sleep_on(threadid=1, origexc="quiet")

    results = at_once(stuck, *(sums(client, number) for number in range(THREADS - 1)))
    assert kinds(results) == [CallTimeout] + [int] * (THREADS - 1)
    assert results[1:] == [0] * (THREADS - 1)
    assert client.add(1, 1) == 2


def test_a_thread_that_waits_long_holds_up_nobody(client):
    gone = []

    def wait():
        client.wait_at("held", threadid=1)
        gone.append("waiter")
        return 0

    def open_gate():
        wrong = sums(client, 1)()
        gone.append("gate")
        client.let_through("held", threadid=2)
        return wrong

    assert at_once(wait, open_gate, *(sums(client, number) for number in range(4))) == [0] * 6
    assert gone == ["gate", "waiter"]


def test_a_worker_that_dies_ends_the_calls_of_all_threads(connect):
    client = connect()
    calls = [lambda number=number: client.wait_at("end", threadid=number) for number in range(1, THREADS)]

    def leave():
        end = time.monotonic() + SOON
        while len(client._session.pending) < THREADS - 1 and time.monotonic() < end:
            time.sleep(0.005)
        client.leave(3)

    results = at_once(leave, *calls)
    assert kinds(results) == [WorkerDied] * THREADS
    # Each names the call it was made for, none has another's.
    assert sorted(result.call for result in results) == ["leave()"] + ["wait_at()"] * (THREADS - 1)


def test_a_client_that_is_closed_ends_the_calls_of_all_threads(connect):
    client = connect()

    def call_on():
        while True:
            client.add(1, 1)

    def close():
        sums(client, 1)()
        client.close()

    results = at_once(close, *[call_on] * (THREADS - 1))
    assert kinds(results[1:]) == [ConnectionClosed] * (THREADS - 1)


# A pipe cannot be cut from one of its ends.
@pytest.mark.parametrize("transport", ["tcp"], indirect=True)
def test_a_link_that_is_cut_ends_the_calls_of_all_threads(connect):
    client = connect()

    def call_on():
        while True:
            client.add(1, 1)

    def cut():
        sums(client, 1)()
        client._session.stream.socket.shutdown(socket.SHUT_RDWR)

    results = at_once(cut, *[call_on] * (THREADS - 1))
    assert all(isinstance(result, SessionError) for result in results[1:]), results
    client.reconnect()
    assert client.add(1, 2) == 3


def test_nobody_waits_long_for_a_thread_that_has_gone_away(client):
    client._session.awake = 5
    assert client.add(1, 2) == 3
    assert client._session.awake == 0


def test_nobody_waits_for_ever_for_a_thread_that_was_to_send_and_was_interrupted(client):
    client._session.awake = 3
    client._session._collector = Waiter()
    assert at_once(*(sums(client, number) for number in range(2))) == [0, 0]
    client._session._collector = None


def test_a_call_in_a_crowd_is_seen_to_be_in_progress(client):
    from easycluster.client.inprogress import calls_in_progress

    seen = []

    def look():
        end = time.monotonic() + SOON
        while len(seen) < 2 and time.monotonic() < end:
            seen[:] = [call.call for call in calls_in_progress() if call.call == "wait_at()"]
        client.let_through("seen", threadid=3)

    def wait():
        return client._call((0, "wait_at", ("seen",), {}))

    held, far = client._default_thread, client._one_thread
    try:
        client.set_default_thread(1)
        assert at_once(look, wait, wait) == [None, True, True]
    finally:
        client.set_default_thread(held)
        client._one_thread = far
        client._make_quick(client._session)
    assert seen == ["wait_at()"] * 2


def test_each_thread_of_a_threaded_client_keeps_its_far_side_thread(connect):
    client = connect(ThreadedClient)

    def where():
        first = client.thread()
        return first, all(client.thread() == first for _ in range(100))

    results = at_once(*[where] * THREADS)
    assert all(same for _, same in results)
    assert len({ident for ident, _ in results}) == THREADS
