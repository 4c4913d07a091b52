"""The far side runs on every Python from 3.8 on, with nothing installed there."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
import time

import pytest
from support.interpreters import interpreters

import easycluster
from easycluster import RemoteError, RemoteException, SerializationError, WorkerDied, definitions_module, remote
from easycluster.server import spawn_local

DEFINITIONS = "every_python"

CODE = """
import os
import sys
import threading
import time

events = []

class Fault(Exception):
    def __init__(self, number, hint):
        super().__init__(number, hint)
        self.number, self.hint = number, hint

class Unpicklable(Exception):
    def __init__(self):
        super().__init__("holds a lock")
        self.lock = threading.Lock()

class Counter(ServerObject):
    def __init__(self, start):
        self.value = start
    def add(self, number):
        self.value += number
        return self.value
    def __len__(self):
        return self.value

class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y
    def __eq__(self, other):
        return (self.x, self.y) == (other.x, other.y)

def add(a, b=2):
    return a + b

def mirrored(point):
    return Point(point.y, point.x)

def same(a, b):
    return a is b

def fail(number):
    raise Fault(number, "check the cable")

def fail_because():
    try:
        {}["missing"]
    except KeyError as exc:
        raise RuntimeError("no such volume") from exc

def fail_unpicklable():
    raise Unpicklable

def leave():
    sys.exit("told to go")

def count(stop):
    try:
        for number in range(stop):
            yield number
    finally:
        events.append("closed")

def echo():
    got = None
    while True:
        got = yield got

def failing_items():
    yield 1
    raise Fault(7, "after one")

def sleep_long():
    try:
        time.sleep(60)
    finally:
        events.append("woken")

def spin():
    while True:
        pass

def call_back(function, *args):
    return function(*args)

def keep(function):
    events.append(function)

def call_kept(*args):
    return events[-1](*args)

def from_a_thread(function, number):
    result = []
    thread = threading.Thread(target=lambda: result.append(function(number)))
    thread.start()
    thread.join(10)
    return result

def die():
    os.kill(os.getpid(), 9)
"""

definitions_module(DEFINITIONS)
easycluster.define_common(CODE, DEFINITIONS)

OUR_VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
OTHER_VERSIONS = [version for version in interpreters() if version != OUR_VERSION]


@pytest.fixture(scope="module", params=list(interpreters()))
def session(request):
    """A session with each Python in turn."""
    with spawn_local(python=interpreters()[request.param], definitions=DEFINITIONS, label=request.param) as client:
        yield client


@pytest.fixture
def far(session):
    """A worker of each Python in turn that nobody has used yet."""
    output = session.on_output
    yield session
    session.on_output = output
    session.reconnect()


def test_the_far_side_is_the_python_that_was_asked_for(far):
    assert ".".join(map(str, far.server_python[:2])) == far.peername
    assert far.eval("sys.version_info[:3]") == far.server_python


def test_no_module_of_the_near_side_can_be_seen_there(far):
    assert far.eval("[p for p in sys.path if 'site-packages' in p and 'easycluster' in p]") == []
    assert far.eval("sys.modules['easycluster'].__file__").startswith("<easycluster>")


def test_functions_are_called_with_positions_and_keywords(far):
    assert far.add(3, b=4) == 7
    assert far.os.path.join("a", "b") == "a/b"


def test_statements_are_run_and_globals_are_set(far):
    assert far.execblock("total = 0\nfor n in range(5):\n    total += n\nexec_return(total)") == 10
    far.limit.value = 5
    assert far.eval("limit + 1") == 6


@pytest.mark.parametrize(
    "value",
    [
        None,
        (1, -(2**70), 1.5, 1j, True),
        "text with ümlauts \U0001f600",
        b"bytes",
        bytearray(b"more"),
        {"a": [1, {2, 3}], (1,): frozenset("x")},
        range(3),
        ...,
    ],
    ids=repr,
)
def test_plain_values_cross_and_come_back(far, value):
    far.x.value = value
    assert far.x.value == value


def test_large_values_cross_and_come_back(far):
    data = os.urandom(1 << 20) * 5
    far.data.value = data
    assert far.eval("len(data), hash(data[:64]) == hash(bytes(data[:64]))") == (len(data), True)
    assert far.data.value == data


def test_a_class_of_the_definitions_is_the_same_on_both_sides(far):
    point_class = far_class("Point")
    assert far.mirrored(point_class(1, 2)) == point_class(2, 1)


def test_an_exception_keeps_its_type_arguments_and_attributes(far):
    fault_class = far_class("Fault")
    with pytest.raises(fault_class) as caught:
        far.fail(42, origexc="quiet")
    assert (caught.value.args, caught.value.number, caught.value.hint) == (
        (42, "check the cable"),
        42,
        "check the cable",
    )


def test_a_traceback_shows_the_source_of_the_far_side(far):
    with pytest.raises(RemoteException) as caught:
        far.fail(1, origexc=False)
    text = "".join(caught.value.text)
    assert '<every_python block 1>", line 44, in fail\n    raise Fault(number, "check the cable")' in text


def test_causes_cross_too(far):
    with pytest.raises(RuntimeError, match="no such volume") as caught:
        far.fail_because(origexc="quiet")
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_exception_that_cannot_be_pickled_is_named_and_the_session_lives(far):
    with pytest.raises((RemoteError, far_class("Unpicklable")), match="holds a lock"):
        far.fail_unpicklable(origexc="quiet")
    assert far.add(1) == 3


def test_an_exit_of_the_far_side_is_an_error_here_and_the_session_lives(far):
    with pytest.raises(RemoteError, match="SystemExit: told to go"):
        far.leave(origexc="quiet")
    assert far.add(1) == 3


def test_an_object_stays_there_and_is_itself_again_when_sent_back(far):
    counter = far.Counter(5)
    assert counter.add(3) == 8
    assert counter.value == 8
    assert len(counter) == 8
    assert far.same(counter, counter)
    assert far.eval("Counter(1)") is not counter


def test_an_object_is_let_go_with_its_last_proxy(far):
    far.execblock("import weakref\ncounter = Counter(1)\nref = weakref.ref(counter)")
    proxy = far.counter.value
    far.execblock("del counter")
    assert far.eval("ref() is not None")
    del proxy
    assert far.eval("ref() is None")


def test_a_generator_is_iterated_and_closed(far):
    assert list(far.count(5000)) == list(range(5000))
    generator = far.count(10)
    assert next(generator) == 0
    generator.close()
    assert far.eval("events") == ["closed", "closed"]


def test_a_generator_takes_values_and_exceptions(far):
    generator = far.echo()
    assert next(generator) is None
    assert generator.send("value") == "value"
    with pytest.raises(ZeroDivisionError, match="thrown"):
        generator.throw(ZeroDivisionError("thrown"))


def test_a_generator_that_fails_gives_what_came_before(far):
    items = iter(far.failing_items())
    assert next(items) == 1
    with pytest.raises(far_class("Fault"), match="after one"):
        next(items)


def test_a_sleeping_call_ends_at_its_deadline(far):
    start = time.monotonic()
    with pytest.raises(easycluster.CallTimeout) as caught:
        far.raw_call("sleep_long", timeout=0.2)
    assert time.monotonic() - start < 2
    assert "in sleep_long\n    time.sleep(60)" in caught.value.stack
    assert far.eval("events") == ["woken"]


def test_a_busy_call_ends_at_its_deadline(far):
    with pytest.raises(easycluster.CallTimeout, match="in spin") as caught:
        far.raw_call("spin", timeout=0.2)
    assert not caught.value.worker_replaced
    assert far.add(1) == 3


def test_a_call_in_another_thread_can_be_cancelled(far):
    response = far.spin(nonblocking=True, threadid=7)
    assert far.eval("threading.active_count()", timeout=10) >= 2
    assert response.cancel()
    with pytest.raises(easycluster.CallCancelled):
        response.wait()
    assert far.add(1, threadid=7) == 3


def test_calls_run_in_parallel_in_threads_of_their_own(far):
    far.execblock("gate = threading.Barrier(3)")
    responses = [far.call("gate.wait", 10, nonblocking=True, threadid=number) for number in (1, 2, easycluster.SINGLE)]
    assert sorted(response.wait(timeout=10) for response in responses) == [0, 1, 2]


def test_the_far_side_calls_back(far):
    calls = []

    def note(number):
        calls.append((number, threading.current_thread()))
        return number * 2

    assert far.call_back(easycluster.callback(note), 21) == 42
    assert calls == [(21, threading.current_thread())]


def test_a_callback_raises_on_the_far_side(far):
    def refuse():
        raise LookupError("not here")

    with pytest.raises(LookupError, match="not here"):
        far.call_back(easycluster.callback(refuse), origexc="quiet")


def test_a_callback_may_call_the_far_side_again(far):
    def deeper(depth):
        return [depth, *far.call_back(back, depth - 1)] if depth else [0]

    back = easycluster.callback(deeper)
    assert far.call_back(back, 5) == [5, 4, 3, 2, 1, 0]


def test_a_callback_is_kept_and_called_later(far):
    far.keep(easycluster.callback(lambda number: -number))
    assert far.call_kept(3) == -3


def test_a_callback_is_called_from_another_far_side_thread(far):
    assert far.from_a_thread(easycluster.callback(lambda number: number + 1), 1) == [2]


@pytest.mark.parametrize("session", [OUR_VERSION], indirect=True)
def test_a_function_defined_here_runs_there_on_the_same_python(far):
    offset = 10
    assert far.call_back(lambda number: number + offset, 5) == 15


@pytest.mark.parametrize("session", OTHER_VERSIONS, indirect=True)
def test_a_function_defined_here_is_refused_by_another_python(far):
    with pytest.raises(SerializationError) as caught:
        far.call_back(lambda number: number, 5)
    assert f"from cpython {OUR_VERSION} to cpython {far.peername}" in str(caught.value)
    assert "put it into define_common" in str(caught.value)
    assert far.add(1) == 3


@pytest.mark.parametrize("session", OTHER_VERSIONS, indirect=True)
def test_a_function_inside_a_container_is_refused_by_another_python(far):
    with pytest.raises(SerializationError, match="put it into define_common"):
        far.add({"deep": [lambda: 1]})
    assert far.add(1) == 3


def test_the_death_of_the_worker_is_named_and_another_one_is_at_hand(far):
    start = time.monotonic()
    with pytest.raises(WorkerDied, match=r"the worker was killed by SIGKILL \(during die\(\)"):
        far.die()
    assert time.monotonic() - start < 2
    far.reconnect()
    assert far.add(1) == 3


def test_what_is_printed_arrives_before_the_answer(far):
    lines = []
    far.on_output = lambda stream, text: lines.append((stream, text))
    far.print("hello")
    assert lines == [("stdout", "hello\n")]


def test_a_command_runs_there(far):
    done = remote.run(far, ["sh", "-c", "cat; echo bad >&2; exit 3"], input="in", live=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "in", "bad\n")


def far_class(name):
    """Return a class of the definitions, as this side has it."""
    return getattr(importlib.import_module(DEFINITIONS), name)


@pytest.mark.parametrize("version", list(interpreters()))
def test_nothing_of_a_session_is_left_there(version):
    with spawn_local(python=interpreters()[version]) as far:
        pid = far.os.getpid()
    deadline = time.monotonic() + 5
    while subprocess.run(["kill", "-0", str(pid)], stderr=subprocess.DEVNULL, check=False).returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
