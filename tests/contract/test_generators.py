"""Generators and other iterators of the far side."""

from __future__ import annotations

import itertools
import threading

import pytest

import easycluster
from easycluster import (
    CallTimeout,
    ConnectionClosed,
    GeneratorProxy,
    SelfIterProxy,
    SerializationError,
    define_common,
)

DEFINITIONS = "contract_generators"

define_common(
    """
    import threading
    import time

    produced = []
    ended = []

    def count(n):
        for i in range(n):
            produced.append(i)
            yield i

    def fails_after(n):
        for i in range(n):
            yield i
        raise LookupError("at", n)

    def echoing():
        received = []
        try:
            while True:
                try:
                    received.append((yield len(received)))
                except KeyError as exc:
                    received.append(exc.args[0])
        finally:
            ended.append(received)

    def pair():
        yield "first"
        return "returned"

    def objects(n):
        for i in range(n):
            yield Thing(i)

    class Thing(ServerObject):
        def __init__(self, number):
            self.number = number

    class Numbers(ServerObject):
        proxy_class = SelfIterProxy

        def __init__(self, n):
            self._items = iter(range(n))

        def __next__(self):
            return next(self._items)

    class Bag(ServerObject):
        def __init__(self, *items):
            self.items = list(items)

        def __iter__(self):
            yield from self.items

        def __len__(self):
            return len(self.items)

        def __contains__(self, item):
            return item in self.items

    gate = threading.Event()

    def gated(n):
        for i in range(n):
            yield i
        yield "opened" if gate.wait(10) else "still closed"

    answers = []

    def answer(x):
        answers.append(x)

    def dialogue(n):
        for i in range(n):
            while len(answers) < i:
                time.sleep(0.001)
            yield i

    def growing(n):
        row = []
        for i in range(n):
            row.append(i)
            yield row

    def unpicklable_after(n):
        for i in range(n):
            yield i
        yield threading.Lock()
        yield "more"

    class Unloadable:
        def __reduce__(self):
            return exec, ("raise OSError('not to be loaded')",)

    def unloadable_after(n):
        yield from range(n)
        yield Unloadable()
        yield "more"

    def large(n, size):
        for i in range(n):
            produced.append(i)
            yield bytes(size)

    def total(items):
        return sum(items)
    """,
    DEFINITIONS,
)


def test_a_generator_is_a_proxy_that_gives_the_items_in_order(client):
    generator = client.count(5)
    assert isinstance(generator, GeneratorProxy)
    assert list(generator) == [0, 1, 2, 3, 4]
    assert list(generator) == []


def test_many_items_arrive_in_order(client):
    assert list(client.count(20_000)) == list(range(20_000))


def test_next_is_one_step_of_the_far_side(client):
    client.produced.value = []
    generator = client.count(5)
    assert client.produced.value == []
    assert (next(generator), next(generator)) == (0, 1)
    assert client.produced.value == [0, 1]


def test_next_of_an_exhausted_generator_is_stop_iteration_and_prints_nothing(client, capsys):
    generator = client.count(1)
    next(generator)
    with pytest.raises(StopIteration):
        next(generator)
    assert next(generator, "default") == "default"
    assert capsys.readouterr().err == ""


def test_the_return_value_is_in_the_stop_iteration(client):
    generator = client.pair()
    next(generator)
    with pytest.raises(StopIteration) as caught:
        next(generator)
    assert caught.value.value == "returned"


def test_send_gives_a_value_to_the_generator(client):
    generator = client.echoing()
    assert next(generator) == 0
    assert generator.send("a") == 1
    assert generator.send(("b", 2)) == 2


def test_throw_raises_in_the_generator_which_may_go_on(client):
    generator = client.echoing()
    next(generator)
    assert generator.throw(KeyError("thrown")) == 1
    with pytest.raises(ValueError, match="not caught"):
        generator.throw(ValueError("not caught"), origexc="quiet")


def test_close_ends_the_generator(client):
    client.ended.value = []
    generator = client.echoing()
    next(generator)
    generator.send("a")
    generator.close()
    assert client.ended.value == [["a"]]
    with pytest.raises(StopIteration):
        next(generator)


def test_a_loop_may_stop_early_and_another_one_goes_on(client):
    generator = client.count(10_000)
    assert list(itertools.islice(generator, 3)) == [0, 1, 2]
    assert next(generator) == 3
    assert list(itertools.islice(generator, 100)) == list(range(4, 104))
    assert list(generator) == list(range(104, 10_000))


def test_calls_between_the_items_of_a_loop_are_answered(client):
    assert [client.total([item, 1]) for item in client.count(100)] == list(range(1, 101))


def test_two_loops_run_side_by_side(client):
    assert list(zip(client.count(500), client.count(500), strict=True)) == [(i, i) for i in range(500)]


def test_a_loop_reads_ahead(client):
    client.produced.value = []
    generator = iter(client.count(100))
    assert [next(generator) for _ in range(20)] == list(range(20))
    assert len(client.produced.value) > 20


def test_reading_ahead_is_bounded_by_bytes(client):
    client.produced.value = []
    items = iter(client.large(100, 1 << 20))
    assert [len(next(items)) for _ in range(20)] == [1 << 20] * 20
    assert len(client.produced.value) < 25
    assert sum(map(len, items)) == 80 << 20


@pytest.mark.parametrize("n", [3, 100])
def test_items_arrive_although_the_generator_is_busy_with_the_next_one(client, n):
    client.gate.clear()
    items = iter(client.gated(n))
    assert [next(items) for _ in range(n)] == list(range(n))
    client.gate.set(threadid=1)
    assert list(items) == ["opened"]


def test_a_generator_may_wait_for_what_its_consumer_does_next(client):
    client.answers.value = []
    seen = []
    for item in client.dialogue(40):
        seen.append(item)
        client.answer(item)
    assert seen == list(range(40))


def test_each_item_is_as_it_was_when_it_was_yielded(client):
    assert [len(row) for row in client.growing(50)] == list(range(1, 51))


@pytest.mark.fault("item")
def test_an_item_that_cannot_cross_is_an_error_behind_the_items_before_it(client, outcome):
    items = iter(client.unpicklable_after(20))
    assert [next(items) for _ in range(20)] == list(range(20))
    with outcome.raises(SerializationError, match=r"item: cannot pickle '_thread.lock' object"):
        next(items)
    outcome.lives(client)


@pytest.mark.fault("item")
def test_an_item_that_cannot_be_loaded_is_an_error_behind_the_items_before_it(client, outcome):
    items = iter(client.unloadable_after(20))
    assert [next(items) for _ in range(20)] == list(range(20))
    with outcome.raises(SerializationError, match="not to be loaded"):
        next(items)
    outcome.lives(client)


def test_an_exception_of_a_generator_is_reported_like_any_other(client, capsys):
    with pytest.raises(LookupError):
        list(client.fails_after(0))
    assert "LookupError: ('at', 0)" in capsys.readouterr().err


def test_an_exception_in_the_middle_comes_after_the_items_before_it(client):
    generator = client.fails_after(20)
    assert [next(items) for items in [iter(generator)] * 20] == list(range(20))
    with pytest.raises(LookupError) as caught:
        next(generator)
    assert caught.value.args == ("at", 20)


def test_a_generator_ends_with_its_exception(client):
    generator = client.fails_after(0)
    with pytest.raises(LookupError):
        list(generator)
    assert list(generator) == []


def test_send_after_a_loop_that_read_ahead_is_refused(client):
    generator = client.count(100)
    for _ in generator:
        break
    with pytest.raises(RuntimeError, match=r"send\(\) would reach .* behind items that a loop has read ahead"):
        generator.send(1)


def test_close_after_a_loop_drops_what_was_read_ahead(client):
    generator = client.count(100)
    for _ in generator:
        break
    generator.close()
    assert list(generator) == []


def test_a_generator_may_yield_server_objects(client):
    assert [thing.number for thing in client.objects(30)] == list(range(30))


def test_a_generator_sent_back_is_the_generator(client):
    assert client.total(client.count(5)) == 10


def test_a_generator_of_this_side_can_be_consumed_over_there(connect):
    client = connect()
    assert client.total(i * i for i in range(200)) == sum(i * i for i in range(200))


def test_an_iterator_with_the_self_iter_proxy_is_iterated_by_calls(client):
    numbers = client.Numbers(3)
    assert isinstance(numbers, SelfIterProxy)
    assert iter(numbers) is numbers
    assert list(numbers) == [0, 1, 2]


def test_an_object_with_iter_len_and_contains_is_a_container_here(client):
    bag = client.Bag("a", "b")
    assert list(bag) == ["a", "b"]
    assert list(bag) == ["a", "b"]
    assert len(bag) == 2
    assert "a" in bag
    assert "c" not in bag


def test_a_generator_in_another_thread_is_served_while_the_main_thread_works(client):
    client.gate.clear()
    waiting = client.gate.wait(10, nonblocking=True)
    generator = client.count(3, threadid=2)
    assert [generator.__next__(threadid=2) for _ in range(3)] == [0, 1, 2]
    client.gate.set(threadid=2)
    assert waiting.wait() is True


def test_a_generator_is_closed_over_there_when_its_proxy_goes(client):
    client.ended.value = []
    next(client.echoing())
    client.eval("None")
    assert client.ended.value == [[]]


def test_a_deadline_ends_a_loop_that_waits_and_the_session_lives(client):
    client.gate.clear()
    with pytest.raises(CallTimeout, match="items of generator"), easycluster.deadline(0.5):
        list(client.gated(20))
    assert client.total([1, 2]) == 3


def test_a_loop_ends_with_its_session(connect):
    client = connect()
    items = iter(client.count(10**9))
    assert [next(items) for _ in range(30)] == list(range(30))
    client.reconnect()
    with pytest.raises(ConnectionClosed, match="its worker was replaced"):
        list(items)
    items = iter(client.count(10**9))
    next(items)
    client.close()
    with pytest.raises(ConnectionClosed, match="the connection was closed"):
        list(items)


def test_threads_with_loops_of_their_own_get_their_own_items(threaded):
    results = {}

    def run(n):
        results[n] = list(threaded.count(n))

    threads = [threading.Thread(target=run, args=(n,)) for n in (500, 1000, 1500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: list(range(n)) for n in (500, 1000, 1500)}
