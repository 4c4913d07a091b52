"""Calls at the same time: responses, completion functions, far-side threads, groups, shared clients."""

from __future__ import annotations

import concurrent.futures
import select
import threading
import time

import pytest

from easycluster import (
    SINGLE,
    Client,
    ClientGroup,
    ConnectionClosed,
    RemoteException,
    ThreadedClient,
    WorkerDied,
    call_method_multi,
    call_multi,
    define_common,
    eval_multi,
    execblock_multi,
)

DEFINITIONS = "contract_parallel"

define_common(
    """
    import os, threading, time

    class Counter(ServerObject):
        def __init__(self, start):
            self.count = start

        def up(self, by):
            self.count += by
            return self.count

    def add(a, b):
        return a + b

    def nap(seconds, result=None):
        time.sleep(seconds)
        return result

    def fail(text):
        raise ValueError(text)

    def thread():
        return threading.get_ident()

    def in_main_thread():
        return threading.current_thread() is threading.main_thread()

    def threads():
        return [thread.name for thread in threading.enumerate()]

    events = {}

    def event(name):
        return events.setdefault(name, threading.Event())

    def wait_for(name):
        return event(name).wait(10)

    def set_event(name):
        event(name).set()
    """,
    DEFINITIONS,
)

# Seconds that something may take which is sure to come.
SOON = 10.0


def until(condition):
    """Wait for a condition that other threads or processes bring about."""
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.002)


def is_readable(client, timeout=0.0):
    return bool(select.select([client], [], [], timeout)[0])


# Responses ---------------------------------------------------------------------------------------


def test_a_nonblocking_call_returns_before_it_has_finished(client):
    begin = time.monotonic()
    response = client.nap(0.2, "done", nonblocking=True)
    assert time.monotonic() - begin < 0.15
    assert not response.have_response
    assert response.wait() == "done"
    assert response.have_response


def test_waiting_twice_gives_the_same(client):
    response = client.add(1, 2, nonblocking=True)
    assert [response.wait(), response.wait()] == [3, 3]


def test_responses_are_waited_for_in_any_order(client):
    responses = [client.add(number, 1, nonblocking=True) for number in range(50)]
    assert [response.wait() for response in reversed(responses)] == list(range(50, 0, -1))


def test_a_response_raises_what_its_call_raised(client):
    response = client.fail("broken", nonblocking=True)
    with pytest.raises(ValueError, match=r"^broken$"):
        response.wait("quiet")
    with pytest.raises(RemoteException) as caught:
        response.wait(origexc=False)
    assert isinstance(caught.value.orig, ValueError)
    assert caught.value.text[-1] == "ValueError: broken\n"


def test_a_response_reads_as_what_it_is(client):
    response = client.add(1, 2, nonblocking=True)
    assert repr(response) == f"<NonblockingResponse {response.request_id} from {client.peername}, pending>"
    response.wait()
    assert repr(response) == f"<NonblockingResponse {response.request_id} from {client.peername}, done>"


def test_many_calls_are_under_way_at_once(client):
    responses = [client.add(number, number, nonblocking=True) for number in range(2000)]
    assert [response.wait() for response in responses] == [2 * number for number in range(2000)]


def test_calls_of_one_thread_run_in_their_order(client):
    client.execblock("order = []")
    for number in range(100):
        client.eval(f"order.append({number})", nonblocking=True)
    assert client.eval("order") == list(range(100))


def test_a_response_that_is_dropped_harms_nobody(client):
    for number in range(500):
        client.add(number, 1, nonblocking=True)
    assert client.add(1, 1) == 2
    assert not client._session.pending


# Reading them ------------------------------------------------------------------------------------


def test_read_response_reads_one_response_at_a_time(client):
    responses = [client.add(number, 0, nonblocking=True) for number in range(3)]
    while client.read_response(block=False):
        pass
    until(lambda: is_readable(client) or all(response.have_response for response in responses))
    while not all(response.have_response for response in responses):
        assert client.read_response()
    assert [response.wait() for response in responses] == [0, 1, 2]


def test_read_response_does_not_wait_unless_told(client):
    response = client.nap(0.1, 1, nonblocking=True)
    assert client.read_response(block=False) is False
    assert client.read_response() is True
    assert response.have_response
    response.wait()


def test_select_sees_a_response_arrive(client):
    response = client.nap(0.05, "here", nonblocking=True)
    assert not is_readable(client)
    assert is_readable(response, SOON)
    while not response.have_response:
        response.read_response()
    assert response.wait() == "here"
    assert not is_readable(client)


def test_select_sees_responses_that_were_read_and_not_taken(client):
    client.fileno()
    first, second = [client.add(number, 0, nonblocking=True) for number in (1, 2)]
    assert second.wait() == 2
    assert first.have_response
    assert is_readable(client)
    assert client.read_response(block=False)
    assert not is_readable(client)
    assert first.wait() == 1


def test_select_is_quiet_once_everything_is_taken(client):
    client.fileno()
    responses = [client.add(number, 0, nonblocking=True) for number in range(10)]
    assert [response.wait() for response in responses] == list(range(10))
    assert client.add(1, 1) == 2
    assert not is_readable(client)
    assert client.read_response(block=False) is False


# Futures -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched(transport):
    """A session whose responses are read although nobody waits: something waits in another way."""
    with transport.open(Client, definitions=DEFINITIONS) as client:
        client.add(1, 2, nonblocking=True).add_done_callback(lambda _response: None)
        yield client


def test_responses_can_be_waited_for_as_futures(watched):
    responses = [watched.nap(0.01, number, nonblocking=True, threadid=SINGLE) for number in range(10)]
    done, rest = concurrent.futures.wait(responses, SOON)
    assert (done, rest) == (set(responses), set())
    assert [response.result() for response in responses] == list(range(10))


def test_futures_come_as_they_complete(watched):
    slow = watched.wait_for("slow", nonblocking=True, threadid=1)
    quick = watched.add(1, 2, nonblocking=True, threadid=2)
    completed = concurrent.futures.as_completed([slow, quick], SOON)
    assert next(completed) is quick
    watched.set_event("slow")
    assert next(completed) is slow
    assert list(completed) == []


def test_futures_of_several_kinds_are_waited_for_together(watched):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        futures = [watched.nap(0.02, "far", nonblocking=True), pool.submit(lambda: "near")]
        concurrent.futures.wait(futures, SOON)
        assert [future.result() for future in futures] == ["far", "near"]


def test_a_future_has_its_exception(watched):
    response = watched.fail("no", nonblocking=True, origexc="quiet")
    done, _ = concurrent.futures.wait([response], SOON, concurrent.futures.FIRST_EXCEPTION)
    assert done == {response}
    assert str(response.exception()) == "no"
    with pytest.raises(ValueError, match=r"^no$"):
        response.result()


def test_a_done_callback_is_called_although_nobody_waits(watched):
    results = []
    watched.add(1, 2, nonblocking=True).add_done_callback(lambda response: results.append(response.result()))
    until(lambda: results)
    assert results == [3]


def test_a_done_callback_is_called_at_once_for_what_has_finished(watched):
    response = watched.add(1, 2, nonblocking=True)
    response.wait()
    results = []
    response.add_done_callback(results.append)
    assert results == [response]


def test_two_threads_can_wait_for_one_response(client):
    response = client.nap(0.1, "for both", nonblocking=True)
    results = []
    threads = [threading.Thread(target=lambda: results.append(response.wait())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert results == ["for both", "for both"]


# Completion functions ----------------------------------------------------------------------------


def test_oncomplete_is_called_with_the_result(client):
    results = []
    assert isinstance(client.add(1, 2, oncomplete=results.append), int)
    assert client.read_response()
    assert results == [3]


def test_the_tuple_form_passes_further_arguments(client):
    results = []
    client.add(1, 2, oncomplete=(lambda *args: results.append(args), "x", "y"))
    client.read_response()
    assert results == [(3, "x", "y")]


def test_onerror_is_called_with_a_remote_exception(client):
    results, errors = [], []
    client.fail("broken", oncomplete=results.append, onerror=(lambda *args: errors.append(args), "more"))
    client.read_response()
    ((error, more),) = errors
    assert results == []
    assert more == "more"
    assert isinstance(error, RemoteException)
    assert (type(error.orig), str(error.orig)) == (ValueError, "broken")
    assert error.text[0] == "Traceback (most recent call last):\n"


def test_oncomplete_alone_is_called_in_both_cases(client):
    results = []
    client.fail("broken", oncomplete=results.append)
    client.read_response()
    assert [type(result) for result in results] == [RemoteException]


def test_a_plain_client_calls_completion_functions_only_where_it_is_asked_to(client):
    threads = []
    client.add(1, 2, oncomplete=lambda _result: threads.append(threading.current_thread()))
    for _ in range(20):
        client.add(1, 1)
    assert threads == []
    assert client.read_response()
    assert threads == [threading.current_thread()]


def test_a_plain_client_calls_completion_functions_while_a_response_is_waited_for(client):
    results = []
    client.add(1, 2, oncomplete=results.append)
    assert client.add(3, 4, nonblocking=True).wait() == 7
    assert results == [3]


def test_a_completion_function_that_fails_is_heard_of(client):
    def fail(_result):
        raise LookupError("in a completion function")

    client.add(1, 2, oncomplete=fail)
    with pytest.raises(LookupError, match="in a completion function"):
        client.read_response()
    assert client.add(1, 2) == 3


def test_a_completion_function_may_make_calls(client):
    results = []
    client.add(1, 2, oncomplete=lambda result: results.append(client.add(result, 10)))
    client.read_response()
    assert results == [13]


# Far-side threads --------------------------------------------------------------------------------


def test_calls_run_in_the_main_thread_of_the_far_side(client):
    assert client.in_main_thread()


def test_a_thread_number_is_a_far_side_thread(client):
    first, again, second = (client.thread(threadid=number) for number in (1, 1, 2))
    assert first == again != second
    assert not client.in_main_thread(threadid=1)


@pytest.mark.parametrize("number", [-17, 12345678901234567890])
def test_any_integer_is_a_thread_number(client, number):
    assert client.add(1, 2, threadid=number) == 3


def test_threads_run_at_the_same_time(client):
    waiting = client.wait_for("parallel", threadid=1, nonblocking=True)
    client.set_event("parallel", threadid=2)
    assert waiting.wait() is True


def test_a_busy_thread_does_not_hold_up_another(client):
    waiting = client.wait_for("held", nonblocking=True)
    begin = time.monotonic()
    assert client.add(1, 2, threadid=1) == 3
    assert time.monotonic() - begin < 1
    client.set_event("held", threadid=1)
    assert waiting.wait() is True


def test_single_is_a_new_thread_that_ends_with_its_call(client):
    responses = [client.wait_for("single", threadid=SINGLE, nonblocking=True) for _ in range(5)]
    before = client.threads().count("easycluster-4294967295")
    client.set_event("single")
    assert [response.wait() for response in responses] == [True] * 5
    assert before == 5
    until(lambda: "easycluster-4294967295" not in client.threads())


def test_the_default_thread_can_be_set(client):
    try:
        client.set_default_thread(5)
        assert client.thread() == client.thread(threadid=5)
        assert not client.in_main_thread()
    finally:
        client.set_default_thread(0)
    assert client.in_main_thread()


def test_a_far_side_thread_can_be_stopped(client):
    client.thread(threadid=77)
    before = len(client.threads())
    client.stop_remote_thread(77)
    until(lambda: len(client.threads()) == before - 1)
    assert client.add(1, 2, threadid=77) == 3


def test_a_thread_that_is_stopped_answers_what_it_was_sent(client):
    responses = [client.nap(0.01, number, threadid=78, nonblocking=True) for number in range(3)]
    client.stop_remote_thread(78)
    assert [response.wait() for response in responses] == [0, 1, 2]


def test_the_main_thread_cannot_be_stopped(client):
    client.stop_remote_thread(0)
    client.stop_remote_thread(SINGLE)
    client.stop_remote_thread(987654)
    assert client.add(1, 2) == 3


# Many far sides ----------------------------------------------------------------------------------


@pytest.fixture
def pair(client, watched):
    return client, watched


def test_call_multi_calls_everywhere_at_once(pair):
    begin = time.monotonic()
    assert call_multi(pair, "nap", 0.8, result="done") == ["done", "done"]
    assert time.monotonic() - begin < 1.6


def test_the_multi_functions_return_in_the_order_of_the_clients(pair):
    pids = [client.os.getpid() for client in pair]
    assert eval_multi(pair, "os.getpid()") == pids
    assert execblock_multi(pair, "exec_return(os.getpid())") == pids
    assert call_multi(pair, "os.getpid") == pids
    counters = [client.Counter(start) for client, start in zip(pair, (10, 20), strict=True)]
    assert call_method_multi(counters, "up", 1) == [11, 21]


def test_a_group_reads_the_responses_of_all_its_clients(pair):
    group = ClientGroup(pair)
    results = []
    for client in pair:
        client.add(1, 2, oncomplete=(lambda result, name: results.append((name, result)), client.peername))
    assert group.read_responses(SOON, max=2) == 2
    assert sorted(results) == sorted((client.peername, 3) for client in pair)
    assert group.read_responses(0.05) == 0


def test_a_group_reads_as_many_as_it_is_told(pair):
    group = ClientGroup(pair)
    results = []
    for number in range(6):
        pair[number % 2].add(number, 0, oncomplete=results.append)
    assert group.read_responses(max=2) == 2
    assert len(results) == 2
    assert group.read_responses(SOON, max=4) == 4
    assert sorted(results) == list(range(6))


def test_a_client_leaves_its_group(pair):
    group = ClientGroup()
    for client in (*pair, *pair):
        group.add_client(client)
    assert group.clients == list(pair)
    group.remove_client(pair[0])
    group.remove_client(pair[0])
    assert group.clients == [pair[1]]


def test_a_group_without_an_end_is_refused(client):
    with pytest.raises(ValueError, match="needs a timeout or a maximum"):
        ClientGroup([client]).read_responses()
    with pytest.raises(ValueError, match="has no clients"):
        ClientGroup().read_responses(1)


def test_a_group_is_told_of_a_member_that_died(connect):
    client = connect()
    group = ClientGroup([client])
    errors = []
    client.os._exit(3, oncomplete=errors.append)
    with pytest.raises(WorkerDied, match="ended with exit code 3"):
        group.read_responses(SOON)
    assert [type(error.orig) for error in errors] == [WorkerDied]


def test_a_group_is_told_of_a_member_that_was_closed(connect):
    client = connect()
    group = ClientGroup([client])
    client.close()
    with pytest.raises(ConnectionClosed):
        group.read_responses(SOON)


def test_a_member_of_a_group_may_reconnect(connect):
    client = connect()
    group = ClientGroup([client])
    client.reconnect()
    results = []
    client.add(1, 2, oncomplete=results.append)
    assert group.read_responses(SOON, max=1) == 1
    assert results == [3]


def test_a_threaded_client_is_refused_in_a_group(connect):
    with pytest.raises(TypeError, match="reads its responses by itself"):
        ClientGroup([connect(ThreadedClient)])


# One client, many threads ------------------------------------------------------------------------


@pytest.mark.parametrize("far_threads", [1, 8])
def test_threads_that_share_a_client_get_their_own_answers(client, far_threads):
    wrong = []
    calls = 10_000 if far_threads == 1 else 2000

    def call_often(number):
        add, thread = client.add, number % far_threads
        for at in range(calls // 8):
            left, right = number * 1_000_000, at
            if add(left, right, threadid=thread) != left + right:
                wrong.append((number, at))

    threads = [threading.Thread(target=call_often, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_threads_share_a_client_for_large_and_small_values_alike(client):
    wrong = []

    client.execblock("def same(value): return value")

    def echo(number):
        value = bytes([number]) * (300_000 * (number % 2) + 10)
        wrong.extend(number for _ in range(15) if client.same(value) != value)

    threads = [threading.Thread(target=echo, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_an_error_reaches_the_thread_whose_call_raised_it(client):
    results = {}

    def call(number):
        for _ in range(50):
            try:
                client.fail(str(number), origexc="quiet")
            except ValueError as exc:
                results.setdefault(number, set()).add(str(exc))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == {number: {str(number)} for number in range(4)}


def test_responses_and_calls_of_several_threads_mix(client):
    wrong = []

    def mix(number):
        for at in range(100):
            response = client.add(number, at, nonblocking=True)
            if client.add(at, at) != 2 * at or response.wait() != number + at:
                wrong.append((number, at))

    threads = [threading.Thread(target=mix, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
