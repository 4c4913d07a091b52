"""Callbacks: callables of this side that the far side calls."""

from __future__ import annotations

import gc
import pickle
import threading
import time
import weakref

import pytest

from easycluster import CallTimeout, RemoteError, callback, deadline, define_common

DEFINITIONS = "contract_callbacks"

define_common(
    """
    import threading
    import traceback

    kept = []
    results = []

    class Counter(ServerObject):
        def __init__(self, start):
            self.value = start

    def apply(function, *args, **kwargs):
        return function(*args, **kwargs)

    def apply_all(function, items):
        return [function(item) for item in items]

    def keep(function):
        kept.append(function)

    def same(a, b):
        return a is b

    def apply_kept(*args):
        return kept[-1](*args)

    def drop():
        kept.clear()

    def in_a_thread(function, *args):
        result = []
        thread = threading.Thread(target=lambda: result.append(function(*args)))
        thread.start()
        thread.join(10)
        return result

    def later(function, *args):
        threading.Thread(target=lambda: results.append(function(*args)), daemon=True).start()

    def catch(function):
        try:
            function()
        except Exception as exc:
            return type(exc).__name__, exc.args, "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))

    def catch_later(function):
        threading.Thread(target=lambda: results.append(catch(function)[:2]), daemon=True).start()

    def make_counter(function):
        return function(Counter(3))

    def loop_on(function):
        while True:
            function()
    """,
    DEFINITIONS,
)

# How long anything that must happen may take, in seconds.
SOON = 10.0


def wait_until(condition):
    """Wait until something holds, not longer than anything may take."""
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


@pytest.fixture(scope="module", autouse=True)
def callback_thread(shared_client):
    """Have the session's thread for callbacks that no call waits for started before any test."""
    called = threading.Event()
    shared_client.later(callback(called.set))
    wait_until(lambda: shared_client.eval("results") and called.is_set())
    shared_client.execblock("results.clear()")


class Fault(Exception):
    """Known on this side only."""


# During a call --------------------------------------------------------------------------------------


def test_a_callback_runs_in_the_thread_that_makes_the_call(client):
    calls = []

    def note(*args, **kwargs):
        calls.append((args, kwargs, threading.current_thread()))
        return "noted"

    assert client.apply(callback(note), 1, two=[2]) == "noted"
    assert calls == [((1,), {"two": [2]}, threading.current_thread())]


def test_a_callback_is_called_many_times_in_one_call(client):
    assert client.apply_all(callback(lambda item: item * item), list(range(500))) == [n * n for n in range(500)]


def test_a_bound_method_is_a_callback(client):
    items = []
    client.apply(callback(items.append), "one")
    assert items == ["one"]


def test_a_callback_may_decorate(client):
    @callback
    def double(number):
        """Double a number."""
        return 2 * number

    assert client.apply(double, 4) == 8
    assert double(4) == 8
    assert (double.__name__, double.__doc__) == ("double", "Double a number.")


def test_what_is_not_callable_is_no_callback():
    with pytest.raises(TypeError, match=r"^callback takes something callable, not 5$"):
        callback(5)


def test_large_values_cross_in_both_directions_of_a_callback(client):
    data = bytes(range(256)) * (1 << 14)
    assert client.apply(callback(lambda piece: piece[::-1]), data) == data[::-1]


def test_calls_nest_back_and_forth(client):
    def down(depth):
        return [depth, *client.apply(there_and_back, depth - 1)] if depth else ["bottom"]

    there_and_back = callback(down)
    assert client.apply(there_and_back, 20) == [*range(20, 0, -1), "bottom"]


def test_two_callbacks_call_each_other(client):
    odd = callback(lambda n: n != 0 and client.apply(even, n - 1))
    even = callback(lambda n: n == 0 or client.apply(odd, n - 1))
    assert client.apply(even, 10) is True
    assert client.apply(even, 7) is False


def test_a_far_side_object_given_to_a_callback_is_a_proxy(client):
    assert client.make_counter(callback(lambda counter: counter.value + 1)) == 4


def test_a_far_side_object_comes_back_as_itself_from_a_callback(client):
    counter = client.Counter(1)
    assert client.apply(callback(lambda: counter)) is counter


def test_calls_with_callbacks_run_in_threads_at_once(client):
    barrier = threading.Barrier(3)
    results = []

    def call(number):
        results.append(client.raw_call("apply", (callback(lambda: barrier.wait(SOON)),), threadid=number))

    threads = [threading.Thread(target=call, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert sorted(results) == [0, 1, 2]


def test_a_nonblocking_call_has_callbacks_too(client):
    response = client.apply(callback(lambda: "back"), nonblocking=True)
    assert response.wait(timeout=SOON) == "back"


def test_a_callback_runs_during_a_call_of_eval_and_execblock(client):
    client.reply.value = callback(lambda number: number + 1)
    assert client.eval("reply(1)") == 2
    assert client.execblock("exec_return(reply(2))") == 3


# Exceptions -----------------------------------------------------------------------------------------


def test_an_exception_of_a_callback_can_be_caught_on_the_far_side(client):
    def refuse():
        raise LookupError("not here", 5)

    name, args, text = client.catch(callback(refuse))
    assert (name, args) == ("LookupError", ("not here", 5))
    assert "in refuse" in text
    assert 'raise LookupError("not here", 5)' in text


def test_an_exception_of_a_callback_crosses_the_far_side_and_is_raised_here(client):
    def refuse():
        raise KeyError("key")

    with pytest.raises(KeyError, match="key"):
        client.apply(callback(refuse), origexc="quiet")


def test_an_exception_that_only_this_side_knows_comes_back_as_itself(client):
    def refuse():
        raise Fault("mine")

    with pytest.raises((Fault, RemoteError), match="mine"):
        client.apply(callback(refuse), origexc="quiet")
    assert client.eval("1 + 1") == 2


def test_an_exit_of_a_callback_does_not_end_the_worker(client):
    def leave():
        raise SystemExit(3)

    with pytest.raises((SystemExit, RemoteError)):
        client.apply(callback(leave), origexc="quiet")
    assert client.eval("1 + 1") == 2


def test_ctrl_c_in_a_callback_reaches_the_caller(client):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.apply(callback(interrupt), origexc="quiet")
    assert client.eval("1 + 1") == 2


def test_a_result_that_cannot_cross_is_an_error_on_the_far_side(client):
    name, _args, text = client.catch(callback(threading.Lock))
    assert name == "SerializationError"
    assert "lock" in text
    assert client.eval("1 + 1") == 2


def test_a_deadline_ends_a_call_that_calls_back_for_ever(client):
    calls = []
    with pytest.raises(CallTimeout), deadline(0.3):
        client.loop_on(callback(lambda: calls.append(None)))
    assert calls
    assert client.eval("1 + 1") == 2


# Identity and life ----------------------------------------------------------------------------------


def test_a_callback_is_one_object_on_the_far_side(client):
    function = len
    assert client.same(callback(function), callback(function))


def test_a_callback_sent_back_is_the_function_itself(client):
    def function():
        pass

    assert client.apply(callback(lambda: None)) is None
    client.keep(callback(function))
    assert client.eval("kept[-1]") is function
    client.drop()


def test_a_callback_that_the_far_side_keeps_is_called_in_a_later_call(client):
    client.keep(callback(lambda number: -number))
    assert [client.apply_kept(number) for number in (1, 2)] == [-1, -2]
    client.drop()


def test_a_callback_is_let_go_when_the_far_side_drops_it(client):
    def function():
        pass

    alive = weakref.ref(function)
    client.keep(callback(function))
    del function
    gc.collect()
    assert alive() is not None
    client.drop()
    wait_until(lambda: client.eval("1") and gc.collect() is not None and alive() is None)


def test_a_callback_is_let_go_when_the_session_ends(connect):
    def function():
        pass

    client, alive = connect(), weakref.ref(function)
    client.keep(callback(function))
    del function
    client.close()
    gc.collect()
    assert alive() is None


# Threads of the far side ----------------------------------------------------------------------------


def test_another_far_side_thread_may_call_back_during_a_call(client):
    assert client.in_a_thread(callback(lambda number: number + 1), 1) == [2]


def test_a_far_side_thread_may_call_back_after_its_call_with_a_plain_client(connect):
    client = connect()
    client.later(callback(lambda: "called"))
    # A plain client reads what comes while one of its calls waits.
    wait_until(lambda: client.eval("results") == ["called"])


def test_a_far_side_thread_may_call_back_while_a_threaded_client_is_idle(threaded):
    called = threading.Event()
    threaded.later(callback(called.set))
    assert called.wait(SOON)
    wait_until(lambda: threaded.eval("results") == [None])


def test_an_exception_of_a_callback_of_an_idle_threaded_client_goes_to_the_far_side_thread(threaded):
    done = threading.Event()

    def refuse():
        done.set()
        raise LookupError("nobody waits")

    threaded.catch_later(callback(refuse))
    assert done.wait(SOON)
    wait_until(lambda: threaded.eval("results") == [("LookupError", ("nobody waits",))])


def test_a_callback_of_an_idle_threaded_client_may_call_the_far_side(threaded):
    answers = []
    threaded.later(callback(lambda: answers.append(threaded.eval("6 * 7"))))
    wait_until(lambda: answers == [42])


def test_a_callback_stands_in_the_error_when_it_is_used_outside_of_a_call():
    with pytest.raises(TypeError, match="can only be sent in a call; it cannot be pickled"):
        pickle.dumps(callback(len))
