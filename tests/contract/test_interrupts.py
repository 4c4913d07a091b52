"""Signal handlers that raise in the middle of calls: Ctrl-C, a test's time limit.  No wrong answer ever, no hang."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from easycluster import CallCancelled, Client, RemoteError, ThreadedClient, WorkerDied, callback, define_common

DEFINITIONS = "contract_interrupts"

define_common(
    """
    import signal, threading, time

    class Holder(ServerObject):
        def __init__(self, number):
            self.number = number

        def get(self):
            return self.number

    running = threading.Event()
    ended = threading.Event()

    def same(value):
        return value

    def fail(text):
        raise ValueError(text)

    def sleep():
        running.set()
        try:
            time.sleep(30)
        finally:
            ended.set()

    def nap(seconds):
        time.sleep(seconds)
        return seconds

    def swallow_everything():
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                print("here I am")
                time.sleep(1)
            except BaseException:
                pass

    def say(text):
        print(text)
        return text

    def call_back(function, value):
        return function(value)
    """,
    DEFINITIONS,
)

# Python drops what a signal handler raises inside a __del__ or a weak reference's callback, and pytest reports it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ROUNDS = 300


class Interrupt(BaseException):
    """What our handler raises; not a KeyboardInterrupt, so that a stray one does not end the test run."""


class Alarm:
    """Raises in the main thread, once in each ``with`` block, at a random moment.

    It raises again if that has not ended the block: Python drops what is raised inside a ``__del__``.

    Args:
        longest: Seconds until then, about, at most.
    """

    def __init__(self, longest):
        self.longest = longest
        self.raised = 0
        self._armed = False
        self._again = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self):
        self._again = 0.0
        self._armed = True

    def __exit__(self, kind, _exc, _traceback):
        self._armed = False
        return kind is Interrupt

    def _handle(self, _number, _frame):
        if self._armed and time.monotonic() > self._again:
            self._again = time.monotonic() + 1
            self.raised += 1
            raise Interrupt

    def _send(self):
        main = threading.main_thread().ident
        while not self._stopped.wait(random.uniform(0, self.longest)):
            if self._armed and time.monotonic() > self._again:
                signal.pthread_kill(main, signal.SIGUSR1)

    @contextlib.contextmanager
    def ready(self):
        """Send signals while the block runs."""
        before = signal.signal(signal.SIGUSR1, self._handle)
        self._thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            self._thread.join()
            signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def alarm():
    with Alarm(0.002).ready() as ready:
        yield ready


def is_quick(call):
    begin = time.monotonic()
    call()
    return time.monotonic() - begin < 5


@pytest.mark.fault("ctrl-c")
def test_no_answer_is_wrong_after_calls_were_interrupted_at_random_moments(client, alarm, outcome):
    pid = client.os.getpid()
    for number in range(ROUNDS):
        with alarm:
            while True:
                for at in range(1000):
                    assert client.same((number, at)) == (number, at)
        assert client.same(number) == number
    assert alarm.raised == ROUNDS
    assert client.os.getpid() == pid
    outcome.cleaned(f"no answer wrong after {ROUNDS} interrupts")


def test_large_values_survive_interrupts(client, alarm):
    alarm.longest = 0.02
    pid = client.os.getpid()
    value = random.randbytes(700_000)
    for number in range(ROUNDS // 5):
        with alarm:
            while True:
                assert client.same(value) == value
        assert client.same(number) == number
    assert client.same(value) == value
    assert client.os.getpid() == pid


def test_objects_errors_and_output_survive_interrupts(client, alarm, capfd):
    pid = client.os.getpid()
    for number in range(ROUNDS // 3):
        with alarm:
            while True:
                assert client.Holder(number).get() == number
                assert client.say(str(number)) == str(number)
                with pytest.raises(ValueError, match=f"^{number}$"):
                    client.fail(str(number), origexc="quiet")
        assert client.Holder(number).get() == number
    assert client.os.getpid() == pid


def test_callbacks_survive_interrupts(connect, alarm):
    client = connect()
    pid = client.os.getpid()
    function = callback(lambda value: value + 1)
    for number in range(ROUNDS // 3):
        with alarm:
            while True:
                assert client.call_back(function, number) == number + 1
        assert client.call_back(function, number) == number + 1
    assert client.os.getpid() == pid


def test_responses_survive_interrupts(client, alarm):
    pid = client.os.getpid()
    for number in range(ROUNDS // 3):
        with alarm:
            while True:
                responses = [client.same((number, at), nonblocking=True) for at in range(5)]
                assert [response.wait() for response in responses] == [(number, at) for at in range(5)]
        assert client.same(number, nonblocking=True).wait() == number
    assert client.os.getpid() == pid


def test_a_threaded_client_survives_interrupts(threaded, alarm):
    pid = threaded.os.getpid()
    for number in range(ROUNDS // 3):
        with alarm:
            while True:
                assert threaded.same(number) == number
                assert threaded.same(number, nonblocking=True).wait() == number
        assert threaded.same(number) == number
    assert threaded.os.getpid() == pid


def test_calls_of_other_threads_go_on_while_the_main_thread_is_interrupted(client, alarm):
    wrong, stop, counts = [], threading.Event(), [0, 0]

    def call_on(at):
        while not stop.is_set():
            if client.same((at, counts[at]), threadid=at) != (at, counts[at]):
                wrong.append(at)
            counts[at] += 1

    threads = [threading.Thread(target=call_on, args=(at,)) for at in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(ROUNDS // 3):
            with alarm:
                while True:
                    assert client.same(number) == number
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    assert min(counts) > 0


def test_a_thread_whose_answer_was_read_by_an_interrupted_one_gets_it(client):
    """The signal comes when the answer is in the thread's hands, and before it is woken."""
    session = client._session
    answers, interrupted = [], []

    class Interrupting:
        """A lock whose release is interrupted once."""

        def __init__(self, lock):
            self.lock = lock

        def release(self):
            if not interrupted:
                interrupted.append(threading.current_thread())
                raise Interrupt
            self.lock.release()

    def somebody_reads():
        if session._watcher is not None and session._watcher.reading:
            return False
        if session._reading.acquire(blocking=False):
            session._reading.release()
            return False
        return True

    def until(condition):
        while not condition():
            time.sleep(0.001)

    def call():
        until(somebody_reads)
        answers.append(client.nap(0.5, threadid=2))

    def prepare():
        until(lambda: session._sleepers)
        for waiter in session._sleepers.values():
            waiter.lock = Interrupting(waiter.lock)

    threads = [threading.Thread(target=call), threading.Thread(target=prepare)]
    for thread in threads:
        thread.start()
    with pytest.raises(Interrupt):
        client.nap(10)
    for thread in threads:
        thread.join(10)
    assert interrupted == [threading.main_thread()]
    assert answers == [0.5]


@pytest.mark.parametrize("threads", ["main thread", "threads of their own"])
def test_a_crowd_goes_on_while_one_of_it_is_interrupted(connect, alarm, threads):
    """Calls that travel together: one that ends takes no other with it, and holds none up."""
    client = connect(ThreadedClient if threads == "threads of their own" else Client)
    pid = client.os.getpid()
    wrong, stop, counts, longest = [], threading.Event(), [0] * 5, [0.0] * 5

    def call_on(at):
        while not stop.is_set():
            begin = time.monotonic()
            if client.same((at, counts[at])) != (at, counts[at]):
                wrong.append(at)
            longest[at] = max(longest[at], time.monotonic() - begin)
            counts[at] += 1

    crowd = [threading.Thread(target=call_on, args=(at,)) for at in range(len(counts))]
    for thread in crowd:
        thread.start()
    try:
        for number in range(ROUNDS // 3):
            with alarm:
                while True:
                    assert client.same(number) == number
            assert is_quick(lambda number=number: client.same(number))
    finally:
        stop.set()
        for thread in crowd:
            thread.join(20)
    assert not any(thread.is_alive() for thread in crowd)
    assert wrong == []
    assert min(counts) > 0
    assert max(longest) < 5
    assert client.os.getpid() == pid


def test_an_interrupted_call_is_stopped_on_the_far_side(client, alarm):
    client.running.clear()
    client.ended.clear()
    alarm.longest = 0.1
    with alarm:
        client.sleep()
    assert is_quick(lambda: client.same(1))
    assert client.eval("ended.is_set() == running.is_set()")


@pytest.mark.fault("ctrl-c")
def test_ctrl_c_in_a_call_is_a_keyboard_interrupt(client, outcome):
    client.running.clear()
    client.ended.clear()
    timer = threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    try:
        # The time until the next call is through: it waits for the end of the one before.
        begin = time.monotonic() + 0.2
        with pytest.raises(KeyboardInterrupt):
            client.sleep()
        assert client.same(1) == 1
        outcome.saw("KeyboardInterrupt", time.monotonic() - begin)
    finally:
        timer.join()
    assert client.ended.is_set()
    outcome.cleaned("the call is cancelled over there")


def test_a_response_whose_wait_was_interrupted_is_cancelled(client, alarm):
    alarm.longest = 0.05
    response = client.sleep(nonblocking=True)
    with alarm:
        response.wait()
    with pytest.raises(CallCancelled, match="its wait was interrupted"):
        response.wait()
    assert is_quick(lambda: client.same(1))


def test_a_far_side_that_was_interrupted_itself_answers_with_an_error(client):
    with pytest.raises(RemoteError, match="KeyboardInterrupt"):
        client.eval("signal.raise_signal(signal.SIGINT)", origexc="quiet")
    assert client.same(1) == 1


@pytest.mark.parametrize("how", ["ctrl-c", "cancel"])
def test_a_call_that_could_not_be_stopped_costs_the_worker_and_no_later_call(connect, alarm, how):
    alarm.longest = 1000.0
    client = connect()
    client._endpoint.cancel_grace = 0.2
    pid = client.os.getpid()
    holding, main = threading.Event(), threading.main_thread().ident
    if how == "cancel":
        client.on_output = lambda _stream, _text: holding.set()
        response = client.swallow_everything(nonblocking=True)
        assert holding.wait(10)
        assert response.cancel()
    else:
        client.on_output = lambda _stream, _text: signal.pthread_kill(main, signal.SIGUSR1)
        with alarm:
            client.swallow_everything()
    # A call that is made meanwhile waits behind it and dies with it, those after that find a fresh worker.
    assert client._endpoint.control.wait_for(lambda: client._endpoint.control.died is not None, 20)
    end = time.monotonic() + 5
    while client.connected and time.monotonic() < end:
        with contextlib.suppress(WorkerDied):
            client.same(0)
    assert client.same(1) == 1
    assert client.os.getpid() != pid


# Seconds that opening, replacing and closing a session take, about, and how many of them are interrupted.
OPENINGS = {"tcp": (0.1, 20), "spawned": (0.4, 6), "ssh": (0.8, 3), "relay": (0.8, 2)}


def held():
    """Return what this process holds: descriptors, children and threads."""
    children = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):
            children += Path(f"/proc/self/task/{task}/children").read_text().split()
    return len(os.listdir("/proc/self/fd")), len(children), threading.active_count()


def test_sessions_leave_nothing_when_their_opening_replacing_or_closing_is_interrupted(transport, connect, alarm):
    alarm.longest, count = OPENINGS[transport.name]
    client = connect()
    # What the first connection of a process brings stays: the monitor, and the server's helper, which is here too.
    client.close()
    before = held()
    for number in range(count):
        with alarm:
            while True:
                client.reconnect()
                assert client.same((number, 1)) == (number, 1)
                client.reconnect()
                assert client.same((number, 2)) == (number, 2)
                client.close()
        if number % 2:
            client.reconnect()
            assert client.same(number) == number
    client.close()
    end = time.monotonic() + 20
    while time.monotonic() < end and any(now > then for now, then in zip(held(), before, strict=True)):
        time.sleep(0.01)
    assert all(now <= then for now, then in zip(held(), before, strict=True)), (held(), before)


def test_an_interrupted_connect_returns_at_once(alarm):
    """Nobody answers at this address: connecting goes on, but nobody waits for it."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client = Client(b"k" * 32, connect_timeout=3)
        alarm.longest = 0.1
        begin = time.monotonic()
        with alarm:
            client.connect("127.0.0.1", server.getsockname()[1])
        assert time.monotonic() - begin < 2
        assert not client.connected
    # Its thread ends as the server does.
    threads = [thread for thread in threading.enumerate() if "shielded" in thread.name]
    # Not alive is also one that was interrupted in its start, and has ended all the same.
    assert is_quick(lambda: [thread.join() for thread in threads if thread.is_alive()])


def test_a_link_that_ends_is_cleared_away_though_whoever_noticed_was_interrupted(connect, monkeypatch):
    client = connect()
    session = client._session
    client.same(1, nonblocking=True).wait()
    session.start_watcher()
    on_ended, interrupted = session.on_ended, []

    def interrupt():
        if not interrupted:
            interrupted.append(True)
            raise Interrupt
        on_ended()

    monkeypatch.setattr(session, "on_ended", interrupt)
    heard = []
    client.sleep(threadid=3, oncomplete=print, onerror=heard.append)
    response = client.sleep(threadid=4, nonblocking=True)
    os.kill(client._endpoint.control.worker_pid, signal.SIGKILL)
    with pytest.raises(Interrupt):
        client.nap(10)
    session.join_watcher(10)
    assert not session._watcher.is_alive()
    with pytest.raises(WorkerDied):
        response.wait()
    assert [type(error.orig) for error in heard] == [WorkerDied]


def test_what_was_interrupted_at_an_earlier_worker_stops_no_call_of_its_successor(connect):
    client = connect()
    assert client.same(1) == 1
    earlier = client._session
    client.reconnect()
    late = Interrupt()
    late.easycluster_request = next(client._session._ids) + 5
    client._interrupted(earlier, late)
    assert [client.same(number) for number in range(20)] == list(range(20))
    # Should a cancel overtake the news of the replacement: it means nobody's number there.
    assert abs(next(earlier._ids) - next(client._session._ids)) > 1000


def test_a_reader_that_is_interrupted_as_it_leaves_keeps_nobody_from_reading(client, monkeypatch):
    session = client._session
    leave_role, interrupted, answers = session._leave_role, [], []

    def interrupt():
        if threading.current_thread() is threading.main_thread() and not interrupted:
            interrupted.append(True)
            raise Interrupt
        leave_role()

    monkeypatch.setattr(session, "_leave_role", interrupt)
    with pytest.raises(Interrupt):
        client.nap(0.1, threadid=2)
    # Not this thread: it would find out by itself.
    thread = threading.Thread(target=lambda: answers.append(client.same(1, threadid=3)))
    thread.start()
    thread.join(10)
    assert answers == [1]
