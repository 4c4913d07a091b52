"""Batches: many calls in one message do what the same calls do one by one."""

from __future__ import annotations

import contextlib
import gc
import threading
import time

import pytest
from support.transports import SOON

from easycluster import (
    CallCancelled,
    CallTimeout,
    RemoteError,
    RemoteException,
    SerializationError,
    callback,
    deadline,
    define_common,
)

DEFINITIONS = "contract_batch"

define_common(
    """
    import sys, threading, time
    import easycluster

    seen = []

    def add(a, b):
        return a + b

    def note(item, seconds=0.0):
        time.sleep(seconds)
        seen.append(item)
        return item

    def history():
        return seen

    def fail(item):
        seen.append(item)
        raise ValueError(item)

    def leave(how):
        raise {"exit": SystemExit, "interrupt": KeyboardInterrupt}[how]("gone")

    def say(item):
        print("said", item)

    def lock():
        return threading.Lock()

    def thread():
        return threading.get_ident()

    def run(item):
        return "ran", item

    def same(*items):
        return [items[0] is item for item in items]

    def extend(items, item):
        items.append(item)
        return items

    def apply(function, *args):
        return function(*args)

    def get_buffer():
        return buffer

    def change_buffer():
        buffer[0] = 1

    def kinds(*items):
        return [(type(item).__name__, len(item)) for item in items]

    def stranger():
        here = sys.modules.setdefault("only_there", type(sys)("only_there"))
        exec("class Stranger: pass", vars(here))
        return here.Stranger()

    class Counter(ServerObject):
        alive = 0

        def __init__(self):
            self.count = 0
            Counter.alive += 1

        def __del__(self):
            Counter.alive -= 1

        def step(self):
            self.count += 1
            return self.count

    def counters():
        return Counter.alive

    def step(counter):
        return counter.step()

    class Unpicklable(Exception):
        def __init__(self, message):
            super().__init__(message)
            self.lock = threading.Lock()

    def fail_with_lock():
        raise Unpicklable("locked")
    """,
    DEFINITIONS,
)

LARGE = 300_000


@pytest.fixture(autouse=True)
def nothing_seen(client):
    """Begin each test with an empty list on the far side."""
    client.execblock("del seen[:]")


def eventually(client, expression, wanted):
    """Wait until an expression has a value on the far side; return the last one."""
    end = time.monotonic() + SOON
    while (found := client.eval(expression)) != wanted and time.monotonic() < end:
        time.sleep(0.01)
    return found


def test_calls_run_in_order_in_one_thread_and_give_their_results(client):
    batch = client.batch()
    batch.add(1, 2)
    batch.add("a", b="b")
    batch.os.path.join("a", "b")
    batch.call("run", 7)
    for number in range(3000):
        batch.note(number)
    batch.thread()
    batch.thread()
    assert len(batch) == 3006
    *results, one, other = batch.run()
    assert results == [3, "ab", "a/b", ("ran", 7), *range(3000)]
    assert one == other
    assert client.eval("seen") == list(range(3000))


def test_nothing_is_sent_before_run_and_a_batch_is_empty_after_it(client):
    batch = client.batch()
    assert batch.run() == []
    batch.note("once")
    assert client.eval("seen") == []
    assert batch.run() == ["once"]
    assert (len(batch), batch.run()) == (0, [])
    assert client.eval("seen") == ["once"]
    assert batch.run(nonblocking=True).wait() == []


def test_an_empty_batch_does_not_ask(client):
    before = next(client._session._ids)
    assert client.batch().run() == []
    assert next(client._session._ids) == before + 1


def test_results_are_what_they_were_when_their_call_returned(client):
    batch = client.batch()
    batch.note(1)
    batch.history()
    batch.note(2)
    batch.history()
    first, then, second, last = batch.run()
    assert (first, then, second, last) == (1, [1], 2, [1, 2])
    assert then is not last


def test_each_call_has_arguments_of_its_own(client):
    items = [0]
    batch = client.batch()
    batch.extend(items, 1)
    batch.extend(items, item=2)
    batch.same(items, items)
    assert batch.run() == [[0, 1], [0, 2], [True, True]]
    assert items == [0]


def test_the_first_exception_ends_the_batch(client, capsys):
    batch = client.batch()
    batch.note(1)
    batch.fail(2)
    batch.note(3)
    with pytest.raises(ValueError, match=r"^2\b") as caught:
        batch.run()
    assert caught.value.__notes__ == ["call 2 of 3 of a batch: fail()"]
    assert caught.traceback[-1].name == "fail"
    assert "call 2 of 3 of a batch: fail()" in capsys.readouterr().err
    assert client.eval("seen") == [1, 2]
    assert len(batch) == 0


def test_exceptions_are_chosen_by_origexc(client, capsys):
    batch = client.batch()
    batch.fail(1)
    with pytest.raises(ValueError, match="1"):
        batch.run(origexc="quiet")
    batch.fail(2)
    with pytest.raises(RemoteException) as caught:
        batch.run(origexc=False)
    assert isinstance(caught.value.orig, ValueError)
    assert "call 1 of 1 of a batch: fail()" in "".join(caught.value.text)
    batch.fail(3)
    (kept,) = batch.run(return_exceptions=True, origexc=False)
    assert isinstance(kept, RemoteException)
    assert repr(kept.orig) == "ValueError(3)"
    assert capsys.readouterr().err == ""


def test_exceptions_stand_in_the_list(client):
    batch = client.batch()
    for number in range(20):
        batch.fail(number) if number % 5 == 0 else batch.note(number)
    batch.fail_with_lock()
    batch.no_such_name()
    *results, locked, unknown = batch.run(return_exceptions=True)
    for number, result in enumerate(results):
        assert repr(result) == (f"ValueError({number})" if number % 5 == 0 else str(number))
    assert client.eval("seen") == list(range(20))
    assert (type(locked).__name__, locked.args) == ("Unpicklable", ("locked",))
    assert isinstance(unknown, (NameError, AttributeError))


@pytest.mark.parametrize("how", ["exit", "interrupt"])
def test_what_ends_a_program_ends_the_batch(client, how):
    batch = client.batch()
    batch.note(1)
    batch.leave(how)
    batch.note(2)
    with pytest.raises(RemoteError, match="gone") as caught:
        batch.run(return_exceptions=True, origexc="quiet")
    assert "call 2 of 3 of a batch: leave()" in caught.value.__notes__
    assert client.eval("seen") == [1]


@pytest.mark.parametrize("how", ["timeout", "deadline"])
def test_a_deadline_stops_the_batch_in_a_call(client, how):
    batch = client.batch()
    batch.note(1)
    batch.note(2, 60.0)
    batch.note(3)
    begun = time.monotonic()
    limit = deadline(0.3) if how == "deadline" else contextlib.nullcontext()
    with limit, pytest.raises(CallTimeout, match="batch of 3 calls") as caught:
        batch.run(return_exceptions=True, timeout=0.3 if how == "timeout" else None)
    assert time.monotonic() - begun < SOON
    assert "in note" in str(caught.value)
    assert client.eval("seen") == [1]


def test_a_deadline_stops_the_batch_between_calls(client):
    batch = client.batch()
    for number in range(300_000):
        batch.add(number, 1)
    batch.note("last")
    with pytest.raises(CallTimeout):
        batch.run(timeout=0.001)
    assert client.eval("seen") == []


def test_a_batch_is_cancelled(client):
    batch = client.batch()
    batch.note(1)
    batch.note(2, 60.0)
    response = batch.run(nonblocking=True)
    assert len(batch) == 0
    end = time.monotonic() + SOON
    while client.eval("list(seen)", threadid=1) != [1] and time.monotonic() < end:
        time.sleep(0.01)
    assert response.cancel()
    with pytest.raises(CallCancelled):
        response.wait()
    assert client.eval("seen") == [1]


def test_a_response_gives_what_run_gives(client):
    batch = client.batch()
    batch.add(1, 2)
    batch.history()
    response = batch.run(nonblocking=True)
    batch.fail(1)
    failing = batch.run(nonblocking=True, origexc="quiet")
    batch.fail(2)
    keeping = batch.run(return_exceptions=True, nonblocking=True)
    assert response.result(SOON) == [3, []]
    with pytest.raises(ValueError, match="1"):
        failing.wait()
    assert [repr(each) for each in keeping.wait()] == ["ValueError(2)"]


def test_a_batch_runs_in_the_thread_that_was_named(client):
    batch = client.batch()
    batch.thread()
    (elsewhere,) = batch.run(threadid=5)
    batch.thread()
    assert batch.run() == [client.thread()]
    assert elsewhere == client.thread(threadid=5) != client.thread()


def test_keywords_of_a_remote_call_belong_to_run(client):
    batch = client.batch()
    with pytest.raises(TypeError, match=r"add\(\) is one call of a batch: give threadid= to run\(\)"):
        batch.add(1, 2, threadid=5)
    assert len(batch) == 0


def test_an_argument_that_cannot_cross_is_named_and_nothing_runs(client):
    batch = client.batch()
    batch.note(1)
    batch.note([0, threading.Lock()])
    with pytest.raises(SerializationError, match=r"^call 2 of 2, note\(\): args\[0\]\[1\]: cannot pickle"):
        batch.run()
    batch.note(item=threading.Lock())
    with pytest.raises(SerializationError, match=r"^call 1 of 1, note\(\): kwargs\['item'\]: cannot pickle"):
        batch.run()
    assert client.eval("seen") == []


def test_a_result_that_cannot_cross_is_an_exception_of_its_call(client):
    batch = client.batch()
    batch.note(1)
    batch.lock()
    batch.note(2)
    with pytest.raises(SerializationError, match=r"^result: cannot pickle") as caught:
        batch.run(origexc="quiet")
    assert caught.value.__notes__[0] == "call 2 of 3 of a batch: lock()"
    batch.lock()
    batch.note(3)
    error, three = batch.run(return_exceptions=True)
    assert (type(error), three) == (SerializationError, 3)


def test_objects_go_by_reference_and_nothing_keeps_them(client):
    batch = client.batch()
    batch.Counter()
    batch.Counter()
    one, other = batch.run()
    batch.step(one)
    batch.step(other)
    batch.step(one)
    assert batch.run() == [1, 1, 2]
    assert one.step() == 3
    del one, other
    gc.collect()
    assert eventually(client, "counters()", 0) == 0


def test_objects_of_a_batch_that_ends_early_are_let_go(client):
    counter = client.Counter()
    batch = client.batch()
    batch.Counter()
    batch.fail(1)
    batch.step(counter)
    with pytest.raises(ValueError, match="1"):
        batch.run(origexc="quiet")
    assert client.counters() == 1
    # Its number is not given back too often: it is still there.
    assert counter.step() == 1


def test_a_result_that_cannot_be_rebuilt_here_is_named_and_the_others_are_let_go(client):
    def record():
        batch = client.batch()
        batch.Counter()
        batch.stranger()
        batch.Counter()
        return batch

    with pytest.raises(SerializationError, match=r"^result 2 of 3: a value from .* cannot be rebuilt here"):
        record().run()
    assert eventually(client, "counters()", 0) == 0
    one, error, other = record().run(return_exceptions=True)
    assert isinstance(error, SerializationError)
    assert (one.step(), other.step()) == (1, 1)
    del one, other
    gc.collect()
    assert eventually(client, "counters()", 0) == 0


def test_objects_that_nobody_takes_are_let_go(client):
    batch = client.batch()
    batch.Counter()
    batch.Counter()
    response = batch.run(nonblocking=True)
    assert client.counters() == 2
    del response
    assert eventually(client, "counters()", 0) == 0


def test_callbacks_run_here_and_are_given_back(connect):
    # A session of its own: what is given back starts a thread in it.
    client = connect()
    heard = []
    listen = callback(heard.append)
    batch = client.batch()
    batch.apply(listen, 1)
    batch.fail(0)
    batch.apply(listen, 2)
    with pytest.raises(ValueError, match="0"):
        batch.run(origexc="quiet")
    batch.apply(listen, 3)
    assert batch.run() == [None]
    assert heard == [1, 3]
    exports = client._session.values.exports
    end = time.monotonic() + SOON
    while exports._by_oid and time.monotonic() < end:
        # What was given back comes with the next answer.
        client.execblock("import gc; gc.collect()")
    assert not exports._by_oid


def test_large_values_cross_whole(client):
    large = bytearray(LARGE)
    batch = client.batch()
    batch.kinds(b"x" * LARGE, large)
    batch.extend(large, 1)
    batch.note(b"z" * LARGE)
    batch.note("s" * LARGE)
    kinds, extended, data, text = batch.run()
    assert kinds == [("bytes", LARGE), ("bytearray", LARGE)]
    assert (type(extended), len(extended), extended[-1], len(large)) == (bytearray, LARGE + 1, 1, LARGE)
    assert (data, text) == (b"z" * LARGE, "s" * LARGE)


def test_a_large_result_is_what_it_was_although_the_next_call_changes_it(client):
    client.buffer.value = bytearray(LARGE)
    batch = client.batch()
    batch.get_buffer()
    batch.change_buffer()
    batch.get_buffer()
    before, _nothing, after = batch.run()
    assert (len(before), before[0], after[0]) == (LARGE, 0, 1)


def test_output_is_there_before_the_answer(client, monkeypatch):
    printed = []
    monkeypatch.setattr(client, "on_output", lambda stream, text: printed.append(text))
    batch = client.batch()
    for number in range(30):
        batch.say(number)
    assert batch.run() == [None] * 30
    assert "".join(printed) == "".join(f"said {number}\n" for number in range(30))


def test_nonblocking_calls_before_it_run_before_it(client):
    for number in range(10):
        client.note(number, nonblocking=True)
    batch = client.batch()
    batch.note("last")
    assert batch.run() == ["last"]
    assert client.eval("seen") == [*range(10), "last"]


def test_threads_run_batches_of_one_client(client):
    failures = []

    def work(base):
        for _ in range(20):
            batch = client.batch()
            for number in range(50):
                batch.add(base, number)
            if batch.run() != [base + number for number in range(50)]:
                failures.append(base)

    threads = [threading.Thread(target=work, args=(base,)) for base in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert not failures
