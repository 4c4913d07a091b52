"""A session: requests out, requests in, and exactly one thread that reads."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
import time

import pytest
from support.joined_sessions import KEYS, ask, ask_for, joined

from easycluster.errors import LocalProtocolError
from easycluster.link.items import load_entry
from easycluster.link.operations import Op
from easycluster.link.pending import Expired
from easycluster.link.streams import SocketStream
from easycluster.objects.exports import ServerObject
from easycluster.transport.memory import memory_pair
from easycluster.wire import failures
from easycluster.wire.frames import Kind

# How long anything that must happen may take, in seconds.
SOON = 10.0


class Thing(ServerObject):
    """Goes by reference."""

    def __init__(self, value):
        self.value = value


class Tools:
    """What the far end can do."""

    def __init__(self):
        self.gate = threading.Event()
        self.things = []
        self.far = None

    def echo(self, value):
        return value

    def add(self, a, b):
        return a + b

    def wait_at_gate(self):
        assert self.gate.wait(SOON)
        return "through"

    def fail(self):
        raise LookupError("not here")

    def thing(self, value):
        thing = Thing(value)
        self.things.append(thing)
        return thing

    def ask_back(self, name, *args):
        return ask(self.far, name, *args)

    def thread(self):
        return threading.current_thread().name

    def give_back(self, *things):
        left = list(things)

        def items():
            while left:
                yield left.pop()

        return items()

    def fail_with(self, thing):
        raise LookupError(thing)


@pytest.fixture(params=["trusted", "authenticated"])
def keys(request):
    """The keys of a link of each kind."""
    return (None, None) if request.param == "trusted" else KEYS


@pytest.fixture
def tools():
    """What the far end can do; whoever waits at its gate is let through at the end."""
    tools = Tools()
    yield tools
    tools.gate.set()


@pytest.fixture
def ends(tools, keys):
    """The near and the far end."""
    near_tools = Tools()
    with joined(tools, near_tools, keys) as (near, far):
        tools.far, near_tools.far = far, near
        yield near, far
        tools.gate.set()


@pytest.fixture
def near(ends):
    """The end that asks."""
    return ends[0]


def wait_until(condition):
    """Wait until something holds, not longer than anything may take."""
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


# Requests and answers --------------------------------------------------------------------------------


def test_a_request_is_answered(near):
    assert ask(near, "add", 2, 3) == 5


@pytest.mark.parametrize("size", [0, 1, 60_000, 64 << 10, (64 << 10) + 1, 300_000, 5 << 20])
def test_values_of_any_size_cross_both_ways(near, size):
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert ask(near, "echo", data) == data
    assert ask(near, "echo", [data, data.hex()[:100]]) == [data, data.hex()[:100]]


def test_an_exception_comes_back_and_the_session_goes_on(near):
    with pytest.raises(LookupError, match="not here"):
        ask(near, "fail")
    assert ask(near, "add", 1, 1) == 2


def test_what_this_end_cannot_do_is_said(near):
    with pytest.raises(Exception, match="cannot be asked of this end"):
        ask_for(near, (Op.EVAL, "1 + 1"))


def test_answers_may_be_taken_in_any_order(near):
    first, second = (near.request((Op.CALL, "echo", (number,))) for number in (1, 2))
    assert near.load(near.wait_item(second)) == 2
    assert near.load(near.wait_item(first)) == 1


def test_both_ends_may_send_much_at_once(near, tools):
    data = bytes(12 << 20)
    back = near.request((Op.CALL, "ask_back", ("echo", data)))  # the far end sends it back to us while we send more
    for _ in range(3):
        near.request((Op.CALL, "echo", (data,)))
    message = near.wait_item(back)
    while message[0] == Kind.CALL:
        near.answer(message)
        message = near.wait_item(back)
    assert near.load(message) == data


def test_a_request_of_the_other_end_runs_in_the_thread_that_waits(near):
    assert ask(near, "ask_back", "thread") == threading.current_thread().name
    assert ask(near, "thread") == "far end"


def test_requests_nest_deeply(near):
    names = ["ask_back"] * 40
    assert ask(near, *names, "echo", "bottom") == "bottom"


def test_an_answer_that_nobody_wants_any_more_is_dropped(near, tools):
    pending = near.request((Op.CALL, "wait_at_gate", ()))
    with pytest.raises(Expired):
        near.wait_item(pending, time.monotonic() + 0.05)
    near.pending.pop(pending.request)
    tools.gate.set()
    assert ask(near, "add", 1, 2) == 3
    assert near.pending == {}


def test_a_deadline_that_has_passed_raises_at_once(near):
    pending = near.request((Op.CALL, "wait_at_gate", ()))
    begin = time.monotonic()
    with pytest.raises(Expired):
        near.wait_item(pending, begin - 1)
    assert time.monotonic() - begin < 1


def test_an_answer_calls_on_done_through_the_completions(near):
    done, told = [], []
    near.completed = told.append
    pending = near.request((Op.CALL, "echo", ("x",)), 0, None, False, done.append)
    near.wait_item(near.request((Op.CALL, "echo", ("y",))))
    assert told == [True]
    assert list(near.completions) == [pending]
    assert done == []
    assert near.load(pending.items[0]) == "x"


def test_compressed_values_cross(tools, keys):
    with joined(tools, None, keys) as (near, far):
        near.compress = far.compress = True
        text = "the same again " * 2000
        assert ask(near, "echo", text) == text


# Threads ---------------------------------------------------------------------------------------------


def test_many_threads_share_a_session(near):
    wrong = []

    def call(number):
        values = [(number, round_) for round_ in range(150)]
        wrong.extend(value for value in values if ask(near, "echo", value) != value)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_a_thread_that_waits_takes_over_when_the_reader_leaves(near, tools):
    results = []
    slow = threading.Thread(target=lambda: results.append(ask(near, "wait_at_gate")))
    slow.start()
    wait_until(lambda: near.pending)
    # It reads; we wait beside it until our deadline, and leave.
    with pytest.raises(Expired):
        ask(near, "echo", 1, deadline=time.monotonic() + 0.05)
    tools.gate.set()
    slow.join(SOON)
    assert results == ["through"]


def test_a_watcher_reads_while_nobody_waits(near):
    near.start_watcher()
    pending = near.request((Op.CALL, "echo", ("seen",)))
    wait_until(lambda: pending.items)
    assert near.load(pending.items[0]) == "seen"


def test_a_caller_gets_its_answer_although_a_watcher_reads(near):
    near.start_watcher()
    wait_until(lambda: near._watcher.reading)
    for number in range(50):
        assert ask(near, "echo", number) == number


# References ------------------------------------------------------------------------------------------


def test_references_are_given_back_with_the_next_request(ends):
    near, far = ends
    things = [ask(near, "thing", number) for number in range(5)]
    assert len(far.values.exports) == 5
    del things
    gc.collect()
    ask(near, "echo", None)
    assert len(far.values.exports) == 0


def test_references_are_given_back_when_idle(ends):
    near, far = ends
    thing = ask(near, "thing", 1)
    del thing
    near.flush_releases()
    wait_until(lambda: len(far.values.exports) == 0)


def test_references_in_an_answer_that_nobody_wants_are_given_back(ends):
    near, far = ends
    pending = near.request((Op.CALL, "thing", (1,)))
    near.pending.pop(pending.request)
    ask(near, "echo", None)
    ask(near, "echo", None)
    assert len(far.values.exports) == 0


def take_all(near):
    """Take what came before an answer, as a thread of its own does on a near side."""
    while near.inbox.items:
        near.answer(near.inbox.items.popleft())


def test_an_item_that_holds_the_last_reference_arrives_before_it_is_given_back(ends):
    near, far = ends
    things = [Thing(number) for number in range(3)]
    generator = ask(near, "give_back", *things)
    for count in (2, 1):
        pending = near.request((Op.ITEMS, generator._oid, count))
        message = near.wait_item(pending)
        take_all(near)
        entries, _more, _seconds = near.load(message)
        for entry in entries:
            assert load_entry(near.values, entry) is things.pop()
    ask(near, "echo", None)
    ask(near, "echo", None)
    take_all(near)
    assert len(near.values.exports) == 0
    assert far.items.kept == {}


def test_an_exception_that_holds_the_last_reference_arrives_before_it_is_given_back(ends):
    near, _far = ends
    thing = Thing(1)
    message = near.wait_item(near.request((Op.CALL, "fail_with", (thing,))))
    take_all(near)
    assert failures.rebuild(near.load(message), near.values.loads).args == (thing,)
    ask(near, "echo", None)
    ask(near, "echo", None)
    take_all(near)
    assert len(near.values.exports) == 0


# The end ---------------------------------------------------------------------------------------------


def test_a_link_that_ends_wakes_everybody(ends):
    near, far = ends
    errors = []

    def call():
        try:
            ask(near, "wait_at_gate")
        except OSError as exc:
            errors.append(exc)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(near.pending) == 4)
    far.end(EOFError())
    for thread in threads:
        thread.join(SOON)
    assert len(errors) == 4
    assert near.ended in errors


def test_a_request_on_a_link_that_has_ended_says_why(near):
    near.end(ConnectionResetError("the far side is gone"))
    with pytest.raises(ConnectionResetError, match=r"^the far side is gone$"):
        ask(near, "echo", 1)


def test_the_first_reason_of_an_end_stays(near):
    near.end(ConnectionResetError("first"))
    near.end(ConnectionResetError("second"))
    assert str(near.ended) == "first"


@pytest.mark.parametrize("wire", [bytes(16), b"SSH-2.0-OpenSSH_9.2\r\n" * 3])
def test_bytes_that_make_no_sense_end_the_session(tools, wire):
    with joined(tools) as (near, far):
        far.stream.socket.sendall(wire)
        with pytest.raises(ConnectionAbortedError, match="the link was given up"):
            ask(near, "wait_at_gate")
        tools.gate.set()


def test_a_record_that_does_not_verify_ends_the_session(tools):
    with joined(tools, None, KEYS) as (near, far):
        far.stream.socket.sendall((16).to_bytes(4, "big") + bytes(48))
        with pytest.raises(ConnectionAbortedError, match="a record does not verify"):
            ask(near, "wait_at_gate")
        tools.gate.set()


# Interruptions ---------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """Raised by the signal handler of a test."""


def _raise(_number, _frame):
    raise Interrupted


# A signal may also come inside a weak reference's callback, which can only report it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("size", [10, 200_000])
def test_interrupted_calls_never_mix_up_the_answers_of_later_ones(near, size):
    payload = bytes(size)
    interrupted, number, end = 0, 0, time.monotonic() + SOON
    before = signal.signal(signal.SIGALRM, _raise)
    try:
        while interrupted < 60 and time.monotonic() < end:
            number += 1
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00002 + number % 40 * 0.00003)
                assert ask(near, "echo", (number, payload)) == (number, payload)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                interrupted += 1
                near.pending.clear()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted == 60
    assert ask(near, "add", 1, 2) == 3


class Fetching:
    """Asks the far end for what it is pickled as."""

    def __init__(self, near):
        self.near = near

    def __reduce__(self):
        return int, (ask(self.near, "add", 1, 2),)


def test_a_value_may_ask_the_far_end_how_it_is_pickled(near):
    assert ask(near, "echo", Fetching(near)) == 3


class Meddling(SocketStream):
    """A stream that does something in the middle of a write, as the garbage collector may."""

    def __init__(self, sock):
        super().__init__(sock)
        self.meddle = None
        _send, *rest = self.write_step
        self.write_step = (self.send, *rest)

    def send(self, data, flags):
        meddle, self.meddle = self.meddle, None
        if meddle is not None:
            meddle()
        return self.socket.send(data, flags)


def test_a_call_from_inside_the_session_is_refused_and_the_outer_one_goes_on(tools, keys):
    near_stream, far_stream = memory_pair()
    meddling = Meddling(near_stream.socket)
    errors = []

    def call_again():
        try:
            ask(near, "echo", "inner")
        except LocalProtocolError as exc:
            errors.append(str(exc))

    with joined(tools, None, keys, (meddling, far_stream)) as (near, _far):
        meddling.meddle = call_again
        assert ask(near, "echo", "outer") == "outer"
        assert ask(near, "echo", "next") == "next"
    assert len(errors) == 1
    assert "in the middle of another" in errors[0]


@pytest.mark.parametrize("body", [b"1", b"1 2 3", b"1 x ", b"1 -1 ", b"1_0 1 ", b"1 " + b"9" * 5000])
def test_references_given_back_by_nonsense_end_the_session(ends, body):
    near, far = ends
    near.send(Kind.RELEASE, 0, body)
    with pytest.raises(OSError):  # noqa: PT011 - a reset, a broken pipe or an end, as it falls
        ask(near, "echo", 1)
    assert "something that is no number" in str(far.ended)


def test_a_run_of_answers_gives_each_waiter_its_own(ends):
    near, far = ends
    first, second, third = (near.request((Op.CALL, "wait_at_gate", ())) for _ in range(3))
    done = []
    second.on_done = done.append
    unknown = third.request + 1000
    run = [(third.request, 3.0), (unknown, "nobody's"), (second.request, None), (first.request, "one")]
    far.send(Kind.REPLIES, 0, pickle.dumps(run, 5))
    found = [near.load(near.wait_item(pending, time.monotonic() + SOON)) for pending in (first, second, third)]
    assert found == ["one", None, 3.0]
    assert list(near.completions) == [second]
    assert not near.pending


@pytest.mark.parametrize("run", [[1], [(1,)], [([], 2)], [(1, os.getpid)], 3])
def test_a_run_of_nonsense_ends_the_session(ends, run):
    near, far = ends
    pending = near.request((Op.CALL, "wait_at_gate", ()))
    far.send(Kind.REPLIES, 0, pickle.dumps(run, 5))
    with pytest.raises(ConnectionAbortedError, match="the link was given up: a run "):
        near.wait_item(pending, time.monotonic() + SOON)
