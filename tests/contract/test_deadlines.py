"""Deadlines and cancelling: the far side really stops, says where it was, and goes on with the next call."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

import easycluster
from easycluster import CallCancelled, CallTimeout, define_common

DEFINITIONS = "contract_deadlines"

define_common(
    """
    import ctypes, os, re, subprocess, threading, time

    started = threading.Event()
    finished = []

    class Sleeper(ServerObject):
        def sleep(self, seconds):
            time.sleep(seconds)

    def sleep():
        time.sleep(30)

    def run_a_command():
        subprocess.run(["sleep", "30"])

    def busy_loop():
        while True:
            pass

    def wait_for_an_event():
        threading.Event().wait(30)

    def take_a_lock():
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()

    def join_a_thread():
        thread = threading.Thread(target=time.sleep, args=(3,), daemon=True)
        thread.start()
        thread.join()

    def swallow_once():
        try:
            time.sleep(30)
        except BaseException:
            time.sleep(30)

    def clean_up():
        try:
            time.sleep(30)
        finally:
            finished.append("cleaned up")

    def swallow_everything():
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                time.sleep(1)
            except BaseException:
                pass

    def hold_the_interpreter():
        # Keeps the GIL for years: no byte code of any thread runs meanwhile.
        re.match("(a+)+b", "a" * 40)

    def hold_it_in_a_system_call():
        ctypes.PyDLL(None).sleep(30)

    def nap(seconds):
        time.sleep(seconds)
        return "slept"

    def begin_and_sleep():
        started.set()
        time.sleep(30)

    def answer_late():
        try:
            time.sleep(30)
        except BaseException:
            return "late answer"
    """,
    DEFINITIONS,
)

# Seconds that any call has which is to be stopped: long enough to begin, and short enough.
SPAN = 0.1
# What a call gets to obey, instead of 2 s.
GRACE = 0.4

STOPPABLE = [
    "sleep",
    "run_a_command",
    "busy_loop",
    "wait_for_an_event",
    "take_a_lock",
    "join_a_thread",
    "swallow_once",
    "clean_up",
    "answer_late",
]

UNSTOPPABLE = [
    ("swallow_everything", 0),
    ("hold_the_interpreter", 0),
    ("hold_it_in_a_system_call", 7),
    ("take_a_lock", 7),
]


@pytest.fixture
def client(client):
    client._endpoint.cancel_grace = GRACE
    return client


def timed_out(client, function, **keywords):
    """Return the CallTimeout of a call, and how many seconds it took."""
    begin = time.monotonic()
    with pytest.raises(CallTimeout) as caught:
        client.raw_call(function, timeout=SPAN, **keywords)
    return caught.value, time.monotonic() - begin


@pytest.mark.parametrize("function", STOPPABLE)
def test_a_call_in_the_main_thread_is_stopped_at_its_deadline(client, function):
    pid = client.os.getpid()
    _, took = timed_out(client, function)
    assert took < SPAN + 1
    assert client.os.getpid() == pid


@pytest.mark.parametrize("function", ["sleep", "run_a_command", "busy_loop", "wait_for_an_event"])
def test_the_error_shows_where_the_far_side_was(client, function):
    error, _ = timed_out(client, function)
    assert isinstance(error, TimeoutError)
    assert (error.host, error.call, error.timeout) == (client.peername, f"{function}()", SPAN)
    assert f"in {function}\n" in error.stack
    assert "Interrupted" not in error.stack
    assert str(error).startswith(
        f"{client.peername}: {function}() did not finish within {SPAN:g} s\nit was stuck here on {client.peername}:\n"
    )


def test_a_call_without_code_of_its_own_shows_no_stack(client):
    error, _ = timed_out(client, "time.sleep", args=(30,))
    assert str(error) == f"{client.peername}: time.sleep() did not finish within {SPAN:g} s"


def test_the_next_call_works_at_once(client):
    timed_out(client, "sleep")
    begin = time.monotonic()
    assert client.nap(0) == "slept"
    assert time.monotonic() - begin < 0.5


def test_code_that_cleans_up_has_done_so(client):
    client.execblock("finished.clear()")
    timed_out(client, "clean_up")
    assert client.eval("finished") == ["cleaned up"]


def test_a_busy_loop_in_another_thread_is_stopped(client):
    pid = client.os.getpid()
    error, took = timed_out(client, "busy_loop", threadid=7)
    assert took < SPAN + 1
    assert "in busy_loop\n" in error.stack
    assert client.raw_call("nap", (0,), threadid=7) == "slept"
    assert client.os.getpid() == pid


@pytest.mark.parametrize(
    ("transport", "cases"),
    [("tcp", UNSTOPPABLE), ("spawned", UNSTOPPABLE), ("ssh", UNSTOPPABLE[1:2]), ("relay", UNSTOPPABLE[:2])],
    indirect=["transport"],
)
@pytest.mark.fault("gil-deadline")
def test_what_cannot_be_interrupted_is_killed_and_the_next_call_has_a_new_worker(connect, cases, outcome):
    client = connect()
    client._endpoint.cancel_grace = GRACE
    for function, threadid in cases:
        pid = client.os.getpid()
        error, took = timed_out(client, function, threadid=threadid)
        assert error.worker_replaced
        assert took > GRACE
        outcome.saw(type(error).__name__, took - SPAN)
        assert f"in {function}\n" in error.stack
        assert "easycluster" not in error.stack.replace(DEFINITIONS, "")
        assert client.os.getpid() != pid
        assert client.nap(0) == "slept"
    outcome.cleaned("worker killed and replaced")


def test_a_worker_that_obeys_at_the_last_moment_lives(client):
    pid = client.os.getpid()
    # The signal that asks for its stacks is what ends this system call.
    error, took = timed_out(client, "hold_it_in_a_system_call")
    assert took > GRACE
    assert not error.worker_replaced
    assert client.nap(GRACE + 0.2) == "slept"
    assert client.os.getpid() == pid


def test_a_call_that_waits_for_its_turn_times_out_alone(client):
    pid = client.os.getpid()
    first = client.nap(0.6, nonblocking=True)
    error, took = timed_out(client, "nap", args=(0,))
    assert took < 0.5
    assert error.stack == ""
    assert first.wait() == "slept"
    assert client.os.getpid() == pid


def test_a_late_answer_is_dropped(client):
    for number in range(20):
        with contextlib.suppress(CallTimeout):
            # Sometimes the answer wins, mostly the deadline, sometimes both are under way.
            assert client.raw_call("nap", (0.01,), timeout=0.01) == "slept"
        assert client.eval(str(number)) == number


def test_a_response_is_waited_for_until_its_deadline(client):
    response = client.sleep(nonblocking=True)
    with pytest.raises(CallTimeout, match=r"sleep\(\) did not finish within 0\.1 s"):
        response.wait(timeout=SPAN)
    with pytest.raises(CallTimeout):
        response.wait()
    assert client.nap(0) == "slept"


def test_eval_and_execblock_have_deadlines(client):
    with pytest.raises(CallTimeout, match=r"eval\('sleep\(\)'\) did not finish"):
        client.eval("sleep()", timeout=SPAN)
    with pytest.raises(CallTimeout, match=r"execblock\('while True: pass'\) did not finish"):
        client.execblock("while True: pass", timeout=SPAN)


def test_a_method_of_an_object_has_a_deadline(client):
    sleeper = client.Sleeper()
    with pytest.raises(CallTimeout, match=r"method sleep\(\) of object \d+ did not finish within 0\.1 s"):
        sleeper.raw_call_method("sleep", (30,), timeout=SPAN)


def test_a_function_of_the_far_side_keeps_its_own_timeout_argument(client):
    done = client.subprocess.run(["true"], timeout=5)
    assert done.returncode == 0


def test_a_deadline_holds_for_all_calls_of_its_block_together(client):
    begin = time.monotonic()
    with pytest.raises(CallTimeout), easycluster.deadline(0.4):
        all(client.nap(0.05) for _ in range(1000))
    assert 0.3 < time.monotonic() - begin < 1.4


def test_the_shorter_of_two_deadlines_holds(client):
    begin = time.monotonic()
    with pytest.raises(CallTimeout), easycluster.deadline(30), easycluster.deadline(SPAN), easycluster.deadline(20):
        client.sleep()
    with pytest.raises(CallTimeout), easycluster.deadline(30):
        client.raw_call("sleep", timeout=SPAN)
    assert time.monotonic() - begin < 2 * SPAN + 1


def test_a_deadline_that_has_passed_keeps_a_call_from_beginning(client):
    client.execblock("begun = []")
    with easycluster.deadline(0), pytest.raises(CallTimeout):
        client.eval("begun.append(1)")
    assert client.eval("begun") == []


def test_a_deadline_ends_with_its_block(client):
    with easycluster.deadline(SPAN):
        pass
    assert client.nap(SPAN + 0.05) == "slept"


def test_a_deadline_holds_for_a_threaded_client(threaded):
    begin = time.monotonic()
    with pytest.raises(CallTimeout), easycluster.deadline(SPAN):
        threaded.sleep()
    assert time.monotonic() - begin < SPAN + 1
    assert threaded.nap(0) == "slept"


def test_a_cancelled_call_stops(client):
    client.started.clear()
    response = client.begin_and_sleep(nonblocking=True)
    assert client.raw_call("started.wait", (5,), threadid=1)
    assert response.cancel()
    assert response.cancelled()
    with pytest.raises(CallCancelled):
        response.wait()
    begin = time.monotonic()
    assert client.nap(0) == "slept"
    assert time.monotonic() - begin < 0.5


def test_a_call_that_is_cancelled_while_another_thread_waits_for_it_ends_there(client):
    client.started.clear()
    response = client.begin_and_sleep(nonblocking=True)
    caught = []

    def wait():
        try:
            response.wait()
        except CallCancelled as exc:
            caught.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    assert client.raw_call("started.wait", (5,), threadid=1)
    assert response.cancel()
    thread.join(5)
    assert not thread.is_alive()
    assert [str(exc) for exc in caught] == ["the call was cancelled"]


def test_a_call_that_waits_for_its_turn_is_cancelled_alone(client):
    first = client.nap(0.3, nonblocking=True)
    second = client.eval("finished.append('second')", nonblocking=True)
    client.execblock("finished.clear()", threadid=1)
    assert second.cancel()
    assert first.wait() == "slept"
    assert client.eval("finished") == []


def test_a_call_that_has_finished_is_not_cancelled(client):
    response = client.nap(0, nonblocking=True)
    while not response.have_response:
        client.read_response()
    assert not response.cancel()
    assert not response.cancelled()
    assert response.wait() == "slept"


def test_cancelling_a_call_that_has_just_ended_harms_nobody(client):
    pid = client.os.getpid()
    for number in range(30):
        response = client.eval(str(number), nonblocking=True)
        response.cancel()
    begin = time.monotonic()
    while time.monotonic() < begin + GRACE + 0.3:
        assert client.nap(0.1) == "slept"
    assert client.os.getpid() == pid
