"""Nonblocking calls that travel together: nothing waits for others that should not."""

from __future__ import annotations

import signal
import threading
import time

import pytest
from support.transports import SOON

from easycluster import CallCancelled, define_common
from easycluster.link.sending import GATHER, GATHER_BODY

DEFINITIONS = "contract_gathering"

define_common(
    """
    import threading, time

    seen = []

    def note(item, seconds=0.0):
        time.sleep(seconds)
        seen.append(item)
        return item

    def wait_for(count, seconds=10.0):
        end = time.monotonic() + seconds
        while len(seen) < count and time.monotonic() < end:
            time.sleep(0.001)
        return len(seen)

    def fail(item):
        raise ValueError(item)

    def kind(item):
        return type(item).__name__

    def count(*args, **kwargs):
        return len(args) + len(kwargs)

    def same_objects(first, second):
        return first is second

    def change(**kwargs):
        kwargs["key"] = 1
        return len(kwargs)

    def say(item):
        print("said", item)
        return item
    """,
    DEFINITIONS,
)


@pytest.fixture(autouse=True)
def nothing_seen(client):
    """Begin each test with an empty list on the far side."""
    client.execblock("del seen[:]")


def test_many_calls_are_answered_each_with_its_own(client):
    responses = [client.note(number, nonblocking=True) for number in range(1000)]
    assert [response.wait() for response in responses] == list(range(1000))
    assert client.eval("seen") == list(range(1000))


def test_calls_begin_although_nobody_waits_and_this_thread_computes(client):
    first = [client.note(number, nonblocking=True) for number in range(5)]
    end = time.monotonic() + SOON
    # Busy in byte code: only the interpreter's switch interval lets others run.
    while not all(response.have_response for response in first) and time.monotonic() < end:
        client.read_response(False)
    assert [response.wait() for response in first] == list(range(5))


def test_calls_that_are_only_begun_arrive(client):
    for number in range(7):
        client.note(number, nonblocking=True)
    # Nothing is asked of the far side before all are there: the flusher alone has sent them.
    end = time.monotonic() + SOON
    while client._session.gathered and time.monotonic() < end:
        time.sleep(0.001)
    assert not client._session.gathered
    assert client.wait_for(7) == 7


def test_a_call_that_takes_long_keeps_no_answer_of_others_back(client):
    quick = [client.note(number, nonblocking=True) for number in range(20)]
    slow = client.note("slow", 60.0, nonblocking=True)
    begun = time.monotonic()
    assert [response.wait() for response in quick] == list(range(20))
    assert time.monotonic() - begun < SOON
    assert not slow.have_response
    slow.cancel()


def test_a_blocking_call_comes_after_those_that_were_begun_before(client):
    for number in range(GATHER + 3):
        client.note(number, nonblocking=True)
    assert client.eval("len(seen)") == GATHER + 3


def test_an_error_among_many_is_one_calls_own(client):
    responses = [
        client.fail(n, nonblocking=True) if n % 3 == 0 else client.note(n, nonblocking=True) for n in range(30)
    ]
    for number, response in enumerate(responses):
        if number % 3:
            assert response.wait() == number
        else:
            with pytest.raises(ValueError, match=rf"^{number}$"):
                response.wait("quiet")


def test_output_of_many_calls_is_there_before_their_answers(client, monkeypatch):
    # Not capfd: to read it while another thread prints loses what comes in between.
    printed = []
    monkeypatch.setattr(client, "on_output", lambda stream, text: printed.append(text))
    responses = [client.say(number, nonblocking=True) for number in range(40)]
    for number, response in enumerate(responses):
        assert response.wait() == number
        assert f"said {number}\n" in "".join(printed)


def test_large_and_small_calls_keep_their_order(client):
    large = b"x" * (GATHER_BODY * 2)
    responses = [client.note(large if number % 5 == 0 else number, nonblocking=True) for number in range(50)]
    assert [response.wait() for response in responses] == [large if n % 5 == 0 else n for n in range(50)]
    assert client.eval("[type(each) is bytes for each in seen]") == [n % 5 == 0 for n in range(50)]


EDGES = [
    *(sign * (2**63 + offset) for sign in (1, -1) for offset in (-1, 0, 1)),
    10**3000,
    *("e" * size for size in (0, 64, 65, 2000)),
    "\U0001f600" * 64,
    "\ud800",
    *(0.0, -0.0, float("inf"), True, False, None, b"bytes", (1, 2), [3], {"k": 4}),
]


def test_values_at_the_edges_of_what_travels_in_one_pickle_arrive_as_they_are(client):
    responses = [client.note(edge, nonblocking=True) for edge in EDGES for _ in range(3)]
    answers = [response.wait() for response in responses][::3]
    assert [(type(answer), repr(answer)) for answer in answers] == [(type(edge), repr(edge)) for edge in EDGES]
    responses = [client.kind(signal.SIGINT, nonblocking=True), client.kind(2, nonblocking=True)]
    assert [response.wait() for response in responses] == ["Signals", "int"]


def test_names_and_arguments_of_any_number_and_length_travel(client):
    long = "n" * 100
    client.execblock(f"def {long}(*args, **kwargs): return len(args) + len(kwargs)")
    responses = [client.count(*range(count), nonblocking=True) for count in range(10)]
    responses += [client.count(1, 2, key=count, nonblocking=True) for count in range(3)]
    responses += [getattr(client, long)(*range(count), nonblocking=True) for count in range(6)]
    assert [response.wait() for response in responses] == [*range(10), 3, 3, 3, *range(6)]


def test_what_a_call_was_given_is_its_own(client):
    pair = (1, 2)
    responses = [client.same_objects(pair, pair, nonblocking=True) for _ in range(3)]
    responses += [client.change(nonblocking=True) for _ in range(3)]
    assert [response.wait() for response in responses] == [True, True, True, 1, 1, 1]


def test_a_call_of_many_is_cancelled_alone(client):
    blocked = client.note("first", 60.0, nonblocking=True)
    rest = [client.note(number, nonblocking=True) for number in range(10)]
    assert rest[4].cancel()
    assert blocked.cancel()
    with pytest.raises(CallCancelled):
        rest[4].wait()
    assert [response.wait() for number, response in enumerate(rest) if number != 4] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert client.eval("seen") == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_threads_share_a_client_without_losing_a_call(client):
    failures = []

    def work(base):
        responses = [client.note((base, number), nonblocking=True) for number in range(300)]
        failures.extend(r for number, r in enumerate(responses) if r.wait() != (base, number))

    threads = [threading.Thread(target=work, args=(base,)) for base in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert not failures
    assert client.eval("len(seen), len(set(seen))") == (1200, 1200)


def test_responses_that_nobody_keeps_hold_nothing(client):
    for number in range(GATHER * 40):
        client.note(number, nonblocking=True)
    assert client.eval("len(seen)") == GATHER * 40
    assert not client._session.pending
    assert len(client._arrivals.completions) <= 4096
