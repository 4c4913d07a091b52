"""ThreadedClient: a far-side thread for each near-side thread, completion functions at once, far sides watched."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import pytest

from easycluster import (
    SINGLE,
    AutoThreadingClient,
    ConnectionClosed,
    ConnectionLost,
    ThreadedClient,
    define_common,
)
from easycluster.server import spawn_local

DEFINITIONS = "contract_threaded"

define_common(
    """
    import threading, time

    def add(a, b):
        return a + b

    def fail(text):
        raise ValueError(text)

    def nap(seconds):
        time.sleep(seconds)

    def thread():
        return threading.get_ident()

    def in_main_thread():
        return threading.current_thread() is threading.main_thread()

    def count_threads():
        return threading.active_count()

    barrier = threading.Barrier(3)

    def meet():
        return barrier.wait(5)
    """,
    DEFINITIONS,
)

SOON = 5.0


@pytest.fixture(scope="module")
def shared_threaded(transport):
    with transport.open(ThreadedClient, definitions=DEFINITIONS) as client:
        yield client


@pytest.fixture
def threaded(shared_threaded):
    """One session for all tests of this module."""
    yield shared_threaded
    shared_threaded._default_thread_set = False


def until(condition):
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


def in_threads(count, function):
    """Run a function in so many threads at once; return what it returned."""
    results = []
    threads = [threading.Thread(target=lambda: results.append(function())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    return results


def test_auto_threading_client_is_its_old_name():
    assert AutoThreadingClient is ThreadedClient


def test_the_main_thread_has_the_far_sides_main_thread(threaded):
    assert threaded.in_main_thread()


def test_every_thread_has_a_far_side_thread_of_its_own(threaded):
    # All of them live until the last has called: idents are used again.
    together = threading.Barrier(4)

    def two_calls():
        result = threaded.thread(), threaded.thread(), threaded.in_main_thread()
        together.wait(SOON)
        return result

    results = in_threads(4, two_calls)
    assert all(first == second and not in_main for first, second, in_main in results)
    assert len({first for first, _, _ in results}) == 4


def test_threads_do_not_wait_for_each_other(threaded):
    threaded.barrier.reset()
    # A barrier of three passes only if all three calls run at the same time.
    assert sorted(in_threads(3, threaded.meet)) == [0, 1, 2]


def test_a_thread_number_wins_over_the_mapping(threaded):
    numbered = threaded.thread(threadid=5)
    assert in_threads(2, lambda: threaded.thread(threadid=5)) == [numbered] * 2
    assert threaded.thread(threadid=SINGLE) not in (numbered, threaded.thread())


def test_the_default_thread_wins_over_the_mapping(threaded):
    threaded.set_default_thread(9)
    assert {*in_threads(3, threaded.thread), threaded.thread()} == {threaded.thread(threadid=9)}


def test_the_far_side_thread_of_a_thread_that_ended_ends_too(threaded):
    before = threaded.count_threads()
    in_threads(5, lambda: threaded.add(1, 2))
    until(lambda: threaded.count_threads() <= before)


def test_check_threads_ends_them_now(threaded):
    before = threaded.count_threads()
    in_threads(5, lambda: threaded.add(1, 2))
    threaded.check_threads()
    until(lambda: threaded.count_threads() <= before)


def test_a_thread_that_lives_keeps_its_far_side_thread(threaded):
    idents, step = [], threading.Semaphore(0)

    def twice():
        idents.append(threaded.thread())
        step.acquire()
        idents.append(threaded.thread())

    thread = threading.Thread(target=twice)
    thread.start()
    until(lambda: idents)
    in_threads(3, lambda: threaded.add(1, 2))
    threaded.check_threads()
    step.release()
    thread.join(SOON)
    assert len(idents) == 2
    assert idents[0] == idents[1]


def test_many_short_threads_leave_nothing(threaded):
    for _ in range(10):
        assert in_threads(8, lambda: threaded.add(20, 22)) == [42] * 8
    until(lambda: threaded.count_threads() < 20)
    assert len(threaded._thread_numbers) < 20


def test_the_next_thread_finds_a_new_connection_too(connect):
    threaded = connect(ThreadedClient)
    assert in_threads(2, lambda: threaded.add(1, 2)) == [3, 3]
    threaded.reconnect()
    assert in_threads(2, lambda: threaded.add(1, 2)) == [3, 3]
    assert threaded.in_main_thread()


def test_a_completion_function_is_called_although_nobody_waits(threaded):
    done = threading.Event()
    results = []
    threaded.add(1, 2, oncomplete=lambda result: (results.append((result, threading.current_thread())), done.set()))
    assert done.wait(SOON)
    ((result, thread),) = results
    assert result == 3
    assert thread is not threading.main_thread()


def test_completion_functions_run_in_one_thread_in_the_order_of_the_answers(threaded):
    results, done = [], threading.Event()

    def note(result, number):
        results.append((result, number, threading.get_ident()))
        if len(results) == 100:
            done.set()

    for number in range(100):
        threaded.add(number, 0, oncomplete=(note, number))
    assert done.wait(SOON)
    assert [result for result, _, _ in results] == [number for _, number, _ in results] == list(range(100))
    assert len({ident for _, _, ident in results}) == 1


def test_completion_functions_run_while_other_threads_wait_for_long_calls(threaded):
    done = threading.Event()
    waiting = threading.Thread(target=threaded.nap, args=(1,))
    waiting.start()
    begin = time.monotonic()
    threaded.add(1, 2, oncomplete=lambda _result: done.set(), threadid=4)
    assert done.wait(SOON)
    assert time.monotonic() - begin < 0.8
    waiting.join(SOON)


def test_onerror_is_called_too(threaded):
    errors, done = [], threading.Event()
    threaded.fail("broken", oncomplete=print, onerror=lambda error: (errors.append(error), done.set()))
    assert done.wait(SOON)
    assert str(errors[0].orig) == "broken"


def test_a_completion_function_that_fails_does_not_stop_the_others(threaded, capsys):
    def fail(_result):
        raise LookupError("in a completion function")

    done = threading.Event()
    threaded.add(1, 2, oncomplete=fail)
    threaded.add(1, 2, oncomplete=lambda _result: done.set())
    assert done.wait(SOON)
    assert "LookupError: in a completion function" in capsys.readouterr().err


def test_a_completion_function_may_make_calls(threaded):
    results, done = [], threading.Event()
    threaded.add(1, 2, oncomplete=lambda result: (results.append(threaded.add(result, 10)), done.set()))
    assert done.wait(SOON)
    assert results == [13]


def test_read_response_is_refused_with_the_reason(threaded):
    with pytest.raises(TypeError, match="it reads its answers by itself"):
        threaded.read_response()


def test_responses_work_as_with_a_plain_client(threaded):
    responses = [threaded.add(number, 1, nonblocking=True) for number in range(200)]
    assert [response.wait() for response in responses] == list(range(1, 201))


def test_threads_share_it_without_swapping_answers(threaded):
    wrong = []

    def call_often():
        mine = threading.get_ident()
        wrong.extend(at for at in range(500) if threaded.add(mine, at) != mine + at)

    in_threads(8, call_often)
    assert wrong == []


# Watching the far side -----------------------------------------------------------------------------


def test_a_far_side_that_does_not_answer_is_noticed_although_nothing_is_called(connect):
    client = connect(ThreadedClient, keep_alive_interval=0.2, keep_alive_timeout=1)
    heard, told = [], threading.Event()
    client.nap(30, oncomplete=print, onerror=lambda error: (heard.append(error.orig), told.set()))
    control = client._endpoint.control
    assert control.wait_for(lambda: control.hello is not None, SOON)
    os.kill(control.hello["keeper"], signal.SIGSTOP)
    try:
        assert told.wait(SOON)
    finally:
        with contextlib.suppress(ProcessLookupError):  # who gives it up kills what is on this machine
            os.kill(control.hello["keeper"], signal.SIGCONT)
    assert isinstance(heard[0], ConnectionLost)
    assert heard[0].reason.startswith("no heartbeat for 1 s")
    assert not client.connected


def test_an_idle_client_stays_connected_for_longer_than_its_timeout(connect):
    client = connect(ThreadedClient, keep_alive_interval=0.1, keep_alive_timeout=0.4)
    time.sleep(0.8)
    assert client.connected
    assert client.add(1, 2) == 3


def test_a_long_call_is_no_silence(connect):
    client = connect(ThreadedClient, keep_alive_interval=0.1, keep_alive_timeout=0.4)
    client.nap(0.8)
    assert client.add(1, 2) == 3


def test_a_clock_that_jumps_means_nothing(connect, monkeypatch):
    client = connect(ThreadedClient, keep_alive_interval=0.1, keep_alive_timeout=0.4)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    time.sleep(0.3)
    assert client.connected
    assert client.add(1, 2) == 3


def test_close_tells_completion_functions(connect):
    client = connect(ThreadedClient)
    heard = []
    client.nap(30, oncomplete=print, onerror=lambda error: heard.append(error.orig))
    client.close()
    until(lambda: heard)
    assert isinstance(heard[0], ConnectionClosed)


def test_spawn_local_makes_one():
    with spawn_local(ThreadedClient, definitions=DEFINITIONS) as client:
        assert isinstance(client, ThreadedClient)
        assert in_threads(2, lambda: client.add(1, 2)) == [3, 3]
