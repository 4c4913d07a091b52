"""Calls of coroutines over every transport: the same session, read by an event loop."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time

import pytest

from easycluster import AsyncClient, ConnectionClosed, WorkerDied, callback, define_common
from easycluster.aio import AsyncProxy, LoopError

DEFINITIONS = "contract_asyncio"

define_common(
    """
    import os, threading, time

    class Counter(ServerObject):
        def __init__(self, start=0):
            self.count = start

        def up(self, by=1):
            self.count += by
            return self.count

        def __enter__(self):
            self.count += 100
            return self

        def __exit__(self, *error):
            self.count += 1000

    def count_of(counter):
        return counter.count

    def counters(number):
        return [Counter(each) for each in range(number)]

    def add(a, b):
        return a + b

    def nap(seconds, result=None):
        time.sleep(seconds)
        return result

    def fail(text):
        raise ValueError(text)

    ended = []

    def note_the_end(name):
        try:
            time.sleep(60)
        finally:
            ended.append(name)

    def numbers(count):
        for number in range(count):
            yield number

    closed = []

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.append(1)

    def call(function, *args):
        return function(*args)

    def say(text):
        print(text)
        return text

    def die():
        os._exit(3)
    """,
    DEFINITIONS,
)

SOON = 20.0


@pytest.fixture(scope="module", autouse=True)
def callbacks_thread(shared_client):
    """Starts the thread for callbacks, which stays as long as the session."""
    shared_client.call("call", callback(int), nonblocking=True).wait()


@pytest.fixture
def aio(client):
    """A client for coroutines that shares the session of the module's client."""
    return AsyncClient.over(client)


async def until(condition):
    end = time.monotonic() + SOON
    while not await condition():
        assert time.monotonic() < end, "it did not come"
        await asyncio.sleep(0.005)


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, SOON * 2))


# ------------------------------------------------------------ calls


def test_calls_are_awaited(aio):
    async def main():
        await aio.set_global("limit", 7)
        return [
            await aio.add(1, b=2),
            await aio.call("add", 3, 4),
            await aio.call(lambda x: x * 2, 5),
            await aio.os.path.join("a", "b"),
            await aio.limit.value,
            await aio.eval("limit + 1"),
            await aio.execblock("exec_return(limit + 2)"),
        ]

    assert run(main()) == [3, 7, 10, "a/b", 7, 8, 9]


def test_an_error_is_raised_where_the_call_is_awaited(aio):
    async def main():
        with pytest.raises(ValueError, match=r"^broken$"):
            await aio.fail("broken")
        with pytest.raises(TypeError, match="cannot pickle"):
            await aio.add(threading.Lock(), 1)
        return await aio.add(1, 1)

    assert run(main()) == 2


def test_many_calls_are_under_way_at_once_without_a_thread_for_each(aio):
    async def main():
        await aio.add(0, 0)
        before = threading.active_count()
        async with asyncio.timeout(SOON) if hasattr(asyncio, "timeout") else _no_limit():
            results = await asyncio.gather(*(aio.add(number, 1) for number in range(500)))
        return results, threading.active_count() - before

    assert run(main()) == (list(range(1, 501)), 0)


class _no_limit:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *_exc):
        return None


def test_the_loop_goes_on_while_calls_wait(aio):
    async def main():
        waiting = aio.nap(0.3, "done", nonblocking=True)
        turns = 0
        while not waiting.done():
            turns += 1
            await asyncio.sleep(0.01)
        return turns > 5, await waiting

    assert run(main()) == (True, "done")


def test_nonblocking_is_a_task_that_has_begun(aio):
    async def main():
        tasks = [aio.nap(0.2, number, threadid=number, nonblocking=True) for number in range(1, 4)]
        assert all(isinstance(task, asyncio.Task) for task in tasks)
        begin = time.monotonic()
        return await asyncio.gather(*tasks), time.monotonic() - begin < 0.55

    assert run(main()) == ([1, 2, 3], True)


def test_large_values_cross_both_ways(aio):
    async def main():
        data = os.urandom(3_000_000)
        back, small = await asyncio.gather(aio.add(data, data), aio.add(1, 2))
        return back == data + data, small

    assert run(main()) == (True, 3)


def test_what_a_call_printed_is_there_before_its_answer(connect):
    async def main(client):
        lines = []
        client.on_output = lambda stream, text: lines.append(text)
        result = await AsyncClient.over(client).say("hello")
        return result, "".join(lines)

    assert run(main(connect())) == ("hello", "hello\n")


# ------------------------------------------------------------ cancelled


def test_a_cancelled_task_is_stopped_on_the_far_side(aio):
    async def main():
        task = aio.note_the_end("cancelled", nonblocking=True)
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        async def has_ended():
            return "cancelled" in await aio.eval("ended")

        await until(has_ended)
        return await aio.add(1, 1)

    assert run(main()) == 2


def test_a_timeout_stops_the_call_on_the_far_side(aio):
    async def main():
        with pytest.raises((TimeoutError, asyncio.TimeoutError)):
            await asyncio.wait_for(aio.note_the_end("late"), 0.1)

        async def has_ended():
            return "late" in await aio.eval("ended")

        await until(has_ended)

    run(main())


# ------------------------------------------------------------ objects


def test_methods_and_attributes_of_proxies_are_awaited(aio):
    async def main():
        counter = await aio.Counter(5)
        assert isinstance(counter, AsyncProxy)
        assert [await counter.up(), await counter.up(by=2)] == [6, 8]
        await counter.count.assign(20)
        assert await counter.count == 20
        assert await aio.count_of(counter) == 20
        async with counter as entered:
            assert entered == counter
            assert await counter.count == 120
        assert await counter.count == 1120
        assert [await one.count for one in await aio.counters(3)] == [0, 1, 2]
        with pytest.raises(AttributeError, match="an assignment cannot be awaited"):
            counter.count = 3
        with pytest.raises(AttributeError):
            await counter.missing

    run(main())


def test_a_generator_is_gone_over_asynchronously(aio):
    async def main():
        assert [number async for number in await aio.numbers(3000)] == list(range(3000))
        generator = await aio.numbers(3)
        assert [await generator.__anext__() for _ in range(3)] == [0, 1, 2]
        with pytest.raises(StopAsyncIteration):
            await generator.__anext__()

    run(main())


def test_a_generator_that_is_left_is_closed(aio):
    async def main():
        async for number in await aio.endless():
            assert number == 1
            break
        gc.collect()

        async def is_closed():
            gc.collect()
            return await aio.eval("closed") == [1]

        await until(is_closed)

    run(main())


# ------------------------------------------------------------ callbacks


def test_the_far_side_calls_functions_and_coroutines_of_the_loop(aio):
    async def main():
        threads = []

        def here(x):
            threads.append(threading.current_thread())
            return x + 1

        async def later(x):
            await asyncio.sleep(0)
            threads.append(threading.current_thread())
            return await aio.add(x, 10)

        async def broken():
            raise LookupError("in the callback")

        assert await aio.call(callback(here), 1) == 2
        assert await aio.call(callback(later), 1) == 11
        with pytest.raises(LookupError, match="in the callback"):
            await aio.call(callback(broken))
        assert threads == [threading.current_thread()] * 2

    run(main())


def test_callbacks_call_back_as_deep_as_one_likes(aio):
    async def main():
        async def deeper(depth):
            return 0 if depth == 0 else 1 + await aio.call(callback(deeper), depth - 1)

        return await aio.call(callback(deeper), 6)

    assert run(main()) == 6


# ------------------------------------------------------------ ends


def test_calls_of_a_worker_that_dies_say_so(connect):
    async def main(aio):
        waiting = [aio.nap(30, threadid=number, nonblocking=True) for number in range(1, 4)]
        await aio.add(1, 1)
        with pytest.raises(WorkerDied):
            await aio.die()
        for task in waiting:
            with pytest.raises(WorkerDied):
                await task
        await aio.reconnect()
        return await aio.add(1, 2)

    assert run(main(AsyncClient.over(connect()))) == 3


def test_closing_ends_calls_that_wait(connect):
    async def main(aio):
        waiting = aio.nap(30, nonblocking=True)
        await aio.add(1, 1, threadid=2)
        await aio.close()
        with pytest.raises(ConnectionClosed):
            await waiting
        with pytest.raises(ConnectionClosed):
            await aio.add(1, 1)

    run(main(AsyncClient.over(connect())))


def test_the_usual_calls_go_on_beside_those_of_a_loop(aio, client):
    async def main():
        stop = threading.Event()
        done = []

        def call_often():
            while not stop.is_set():
                done.append(client.add(len(done), 0))

        thread = threading.Thread(target=call_often)
        thread.start()
        results = await asyncio.gather(*(aio.add(number, 0) for number in range(200)))
        results += [await aio.add(number, 0) for number in range(50)]
        stop.set()
        await asyncio.get_running_loop().run_in_executor(None, thread.join)
        return results == [*range(200), *range(50)], done == list(range(len(done))) and len(done) > 0

    assert run(main()) == (True, True)


# ------------------------------------------------------------ loops


def test_one_loop_after_the_other_may_use_a_client(aio):
    assert [run(aio.add(number, 1)) for number in range(3)] == [1, 2, 3]


def test_callbacks_run_in_a_thread_once_the_loop_has_ended(aio, client):
    assert run(aio.add(1, 1)) == 2
    assert client.call("call", callback(lambda: 5), nonblocking=True).wait() == 5


def test_a_loop_that_was_closed_stops_what_it_had_asked(aio):
    loop = asyncio.new_event_loop()
    task = loop.create_task(aio.note_the_end("loop closed"))
    loop.run_until_complete(asyncio.sleep(0.1))
    task._log_destroy_pending = False
    loop.close()

    async def main():
        async def has_ended():
            return "loop closed" in await aio.eval("ended")

        await until(has_ended)

    run(main())


def test_two_loops_at_once_are_refused(aio):
    began, refused = threading.Event(), threading.Event()
    said = []

    async def first():
        task = aio.nap(SOON, nonblocking=True)
        await asyncio.sleep(0.05)
        began.set()
        await asyncio.get_running_loop().run_in_executor(None, refused.wait)
        task.cancel()

    async def second():
        try:
            await aio.add(1, 1)
        except LoopError as exc:
            said.append(str(exc))

    thread = threading.Thread(target=run, args=(first(),), name="the first")
    thread.start()
    assert began.wait(SOON)
    run(second())
    refused.set()
    thread.join()
    (text,) = said
    assert text.endswith(
        "1 calls of another event loop, in thread 'the first', are under way; use a client in one loop, "
        "or await these first"
    )


def test_an_idle_client_goes_to_another_loop_that_runs(aio):
    asked, used = threading.Event(), threading.Event()

    async def first():
        await aio.add(1, 1)
        asked.set()
        await asyncio.get_running_loop().run_in_executor(None, used.wait)

    thread = threading.Thread(target=run, args=(first(),))
    thread.start()
    assert asked.wait(SOON)
    assert [run(aio.add(number, 1)) for number in range(2)] == [1, 2]
    used.set()
    thread.join()
    assert run(aio.add(3, 1)) == 4


def test_without_a_loop_a_call_says_what_it_needs(aio):
    coroutine = aio.add(1, 1)
    with pytest.raises(LoopError, match="no event loop of asyncio runs in this thread; call it from a coroutine"):
        coroutine.send(None)
