"""Observers are told of every call of a client, may drop or answer it, and leave nothing behind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import threading
import time

import pytest

from easycluster import Client, ConnectionLost, RemoteException, ThreadedClient, callback, define_common
from easycluster.aio import AsyncClient
from easycluster.client.observing import Answer, observe, unobserved
from easycluster.server import spawn_local

DEFINITIONS = "client_observing"
SOON = 10.0

define_common(
    """
    import time

    def add(a, b=1):
        return a + b

    def fail(text):
        raise ValueError(text)

    def later(seconds, value):
        time.sleep(seconds)
        return value

    def count(most):
        for number in range(most):
            yield number

    def twice(function, value):
        return function(function(value))

    class Thing(ServerObject):
        export_methods = ("double",)
        export_attrs = ("size",)
        size = 4

        def double(self, value):
            return value * 2

    def make():
        return Thing()
    """,
    DEFINITIONS,
)


class Notes:
    """An observer that keeps what it was told; ``reply`` says what is done with a call."""

    def __init__(self, reply=lambda call: None):
        self.begun, self.ends = [], []
        self.reply = reply

    def begins(self, call):
        self.begun.append(call)
        return self.reply(call)

    def ended(self, call, outcome):
        self.ends.append((call, outcome))

    @property
    def names(self):
        return [call.name for call in self.begun]

    def last(self):
        assert [call for call, _ in self.ends] == self.begun
        return self.ends[-1]


@pytest.fixture(scope="module", params=[Client, ThreadedClient])
def shared(request):
    with contextlib.closing(spawn_local(request.param, definitions=DEFINITIONS)) as client:
        # What waits as for a future starts a thread, which stays.
        concurrent.futures.wait([client.add(1, nonblocking=True)])
        yield client


@pytest.fixture
def client(shared):
    return shared


@pytest.fixture
def notes(client):
    notes = Notes()
    with observe(client, notes):
        yield notes


WAYS = {
    "global": (lambda c: c.add(1, b=2), "add()", "call", "1, b=2", 3),
    "plain": (lambda c: c.add(1), "add()", "call", "1", 2),
    "by name": (lambda c: c.call("add", 1), "add()", "call", "1", 2),
    "raw": (lambda c: c.raw_call("add", [1], {"b": 5}, timeout=9), "add()", "call", "1, b=5", 6),
    "eval": (lambda c: c.eval("add(3)"), "eval('add(3)')", "eval", "", 4),
    "exec": (lambda c: c.execblock("exec_return(7)"), "execblock('exec_return(7)')", "exec", "", 7),
    "value": (lambda c: c.Thing.size.value, "global Thing.size", "get global", "", 4),
    "import": (lambda c: c.import_module("json"), "import of json", "import", "", None),
    "nonblocking": (lambda c: c.add(1, nonblocking=True).wait(), "add()", "call", "1", 2),
    "with keywords": (lambda c: c.call("add", 1, nonblocking=True, threadid=5).wait(), "add()", "call", "1", 2),
    "future": (lambda c: c.add(1, nonblocking=True).result(SOON), "add()", "call", "1", 2),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_make_a_call_is_told_of_once_with_its_answer(client, notes, way):
    make, name, kind, arguments, value = WAYS[way]
    before, wall = time.monotonic(), time.time()
    assert make(client) == value
    call, outcome = notes.last()
    assert notes.names == [name]
    assert (call.kind, call.arguments, call.host) == (kind, arguments, client.peername)
    assert (outcome.value, outcome.error, outcome.answered) == (value, None, False)
    assert before <= call.began <= call.began + outcome.elapsed <= time.monotonic()
    assert abs(call.began_at - wall) < SOON


def test_methods_and_attributes_are_told_of(client, notes):
    thing = client.make()
    assert (thing.double(4), thing.size) == (8, 4)
    assert [(call.kind, call.target) for call in notes.begun] == [
        ("call", "make"),
        ("method", "double"),
        ("get", "size"),
    ]


def test_what_a_call_raises_is_its_outcome_and_raised_all_the_same(client, notes, capsys):
    with pytest.raises(ValueError, match="no way"):
        client.fail("no way")
    with pytest.raises(ValueError, match="later"):
        client.fail("later", nonblocking=True).wait()
    with pytest.raises(RemoteException):
        client.call("fail", "wrapped", origexc=False)
    assert [type(outcome.error) for _, outcome in notes.ends] == [ValueError, ValueError, RemoteException]


def test_completion_functions_run_after_the_observer(client, notes):
    done, seen = threading.Event(), []

    def complete(*what):
        seen.append((*what, len(notes.ends)))
        done.set()

    client.call("add", 1, oncomplete=(complete, "more"))
    if not isinstance(client, ThreadedClient):
        assert client.read_response()
    assert done.wait(SOON)
    assert seen == [(2, "more", 1)]
    assert notes.last()[0].mode == "oncomplete"


def test_an_error_function_runs_after_the_observer(client, notes):
    done, seen = threading.Event(), []
    client.call("fail", "x", oncomplete=seen.append, onerror=lambda exc: (seen.append(exc), done.set()))
    if not isinstance(client, ThreadedClient):
        assert client.read_response()
    assert done.wait(SOON)
    assert isinstance(seen[0], RemoteException)
    assert notes.last()[1].error is seen[0]


def test_a_nonblocking_call_ends_when_its_answer_arrives_not_when_it_is_taken(notes, client):
    response = client.later(0.0, 1, nonblocking=True)
    client.add(1)  # whoever waits for this reads the other answer, too
    arrived = time.monotonic()
    while time.monotonic() < arrived + 0.05:
        time.sleep(0.01)
    assert response.wait() == 1
    call, outcome = next(end for end in notes.ends if end[0].mode == "nonblocking")
    assert call.began + outcome.elapsed <= arrived


def test_a_dropped_response_is_told_of_with_the_next_call(client, notes):
    client.add(1, nonblocking=True)
    gc.collect()
    client.add(2)
    (first, dropped), (_, kept) = notes.ends
    assert (first.mode, dropped.dropped, kept.dropped) == ("nonblocking", True, False)


def test_a_batch_is_one_call(client, notes):
    batch = client.batch()
    batch.add(1)
    batch.add(2, b=object)
    with contextlib.suppress(Exception):
        batch.run()
    assert [(call.kind, call.arguments) for call in notes.begun] == [("batch", "add, add")]


def test_a_loop_over_a_generator_is_one_call_with_its_items_counted(client, notes):
    assert list(client.count(5)) == [0, 1, 2, 3, 4]
    assert [call.kind for call in notes.begun][:2] == ["call", "items"]
    assert next(outcome.value for call, outcome in notes.ends if call.kind == "items") == 5


def test_a_loop_that_is_left_early_has_ended(client, notes):
    items = iter(client.count(500))
    assert next(items) == 0
    del items
    gc.collect()
    assert [outcome.value for call, outcome in notes.ends if call.kind == "items"] in ([1], [])
    client.add(1)


def test_calls_made_inside_a_call_are_told_of_too():
    notes = Notes()
    # Of its own: what the far side gives back later starts a thread.
    with contextlib.closing(spawn_local(definitions=DEFINITIONS)) as client, observe(client, notes):
        assert client.twice(callback(lambda value: client.add(value)), 1) == 3
    assert notes.names.count("add()") == 2
    assert notes.names.count("twice()") == 1
    assert len(notes.ends) == 3


def test_an_observer_can_drop_a_call(client, capsys):
    def drop(call):
        raise ConnectionLost("cut on purpose", call.host)

    seen, dropper = Notes(), Notes(drop)
    with observe(client, seen), observe(client, dropper):
        with pytest.raises(ConnectionLost, match="cut on purpose"):
            client.add(1)
        with pytest.raises(ConnectionLost, match="cut on purpose"):
            client.add(1, nonblocking=True)
    assert [type(outcome.error) for _, outcome in seen.ends] == [ConnectionLost] * 2
    assert dropper.ends == []
    assert client.add(1) == 2


ANSWERED = {
    "plain": lambda c: c.add(1),
    "keywords": lambda c: c.call("add", 1),
    "nonblocking": lambda c: c.add(1, nonblocking=True).wait(),
    "future": lambda c: concurrent.futures.wait([c.add(1, nonblocking=True)], SOON).done.pop().result(),
}


@pytest.mark.parametrize("way", ANSWERED)
def test_an_observer_can_answer_a_call(client, way):
    with observe(client, Notes(lambda call: Answer("replayed"))) as observation:
        assert ANSWERED[way](client) == "replayed"
        observation.remove()
        assert ANSWERED[way](client) == 2


@pytest.mark.parametrize("way", ANSWERED)
def test_an_observer_can_answer_with_an_error(client, way, capsys):
    error = RemoteException(ValueError("as recorded"), ["Traceback\n"])
    with observe(client, Notes(lambda call: Answer(error=error))), pytest.raises(ValueError, match="as recorded"):
        ANSWERED[way](client)


def test_an_answer_reaches_completion_functions(client):
    done, seen = threading.Event(), []
    with observe(client, Notes(lambda call: Answer(5))):
        client.call("add", 1, oncomplete=lambda value: (seen.append(value), done.set()))
        if not isinstance(client, ThreadedClient):
            assert client.read_response()
        assert done.wait(SOON)
    assert seen == [5]


def test_the_first_observer_hears_what_the_second_answered(client):
    first, third = Notes(), Notes()
    with observe(client, first), observe(client, Notes(lambda call: Answer(9))), observe(client, third):
        assert client.add(1) == 9
    assert [(outcome.value, outcome.answered) for _, outcome in first.ends] == [(9, True)]
    assert third.begun == []


def test_what_an_observer_raises_at_the_end_does_not_change_the_call(client, capsys):
    class Broken(Notes):
        def ended(self, call, outcome):
            raise RuntimeError("of the observer")

    with observe(client, Broken()):
        assert client.add(1) == 2
    assert "of the observer" in capsys.readouterr().err


def test_what_is_asked_unobserved_is_not_told_of(client, notes):
    with unobserved():
        assert client.add(1) == 2
        assert client.add(1, nonblocking=True).wait() == 2
    assert notes.begun == []


def test_without_observers_a_client_is_as_it_was(client):
    before = dict(client.__dict__)
    first, second = Notes(), Notes()
    with observe(client, first):
        with observe(client, second):
            client.add(1)
        client.add(1)
        assert observe(client, first).remove() is None
        assert client.__dict__.keys() == before.keys()
    assert (len(first.begun), len(second.begun)) == (2, 1)
    assert all(client.__dict__[name] is value for name, value in before.items())


def test_observation_goes_on_with_a_new_worker():
    notes = Notes()
    with contextlib.closing(spawn_local(definitions=DEFINITIONS)) as client:
        observe(client, notes)
        client.reconnect()
        assert client.add(1) == 2
        client.set_default_thread(3)
        assert client.add(1) == 2
        with pytest.raises(OSError, match="exit code"):
            client.os._exit(3)
        client.reconnect()
        assert client.add(1) == 2
    with pytest.raises(OSError, match="closed"):
        client.add(1)
    assert notes.names == ["add()", "add()", "os._exit()", "add()", "add()"]
    assert [outcome.error is None for _, outcome in notes.ends] == [True, True, False, True, False]


def test_arguments_are_short_and_never_an_error(client, notes):
    class Rude:
        def __repr__(self):
            raise RuntimeError("no")

        def __reduce__(self):
            return int, (1,)

    client.add("x" * 10_000, b="y")
    client.add(Rude())
    assert len(notes.begun[0].arguments) < 200
    assert "Rude" in notes.begun[1].arguments


def test_only_clients_can_be_observed():
    with pytest.raises(TypeError, match="not dict"):
        observe({}, Notes())


def test_calls_of_asyncio_are_told_of_once_with_their_answers():
    notes = Notes()

    async def calls(client):
        assert await client.add(1) == 2
        with pytest.raises(ValueError, match="no way"):
            await client.fail("no way")

    with contextlib.closing(spawn_local(definitions=DEFINITIONS)) as client, observe(client, notes):
        asyncio.run(calls(AsyncClient.over(client)))
    assert notes.names == ["add()", "fail()"]
    assert [(outcome.value, type(outcome.error)) for _, outcome in notes.ends] == [(2, type(None)), (None, ValueError)]
