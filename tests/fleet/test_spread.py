"""Calls spread over hosts: ``hosts.map()`` and ``hosts.executor()``, which is an executor as others are."""

from __future__ import annotations

import concurrent.futures
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import UserString
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, BrokenExecutor, CancelledError, wait

import pytest

import easycluster
from easycluster.errors import CallTimeout, WorkerDied
from easycluster.lab import HostErrors, Hosts
from easycluster.lab.spread import HostsLost, ItemErrors

SOON = 20.0


def until(condition):
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


# ------------------------------------------------------------ map


def test_map_gives_results_in_the_order_of_the_items(hosts):
    assert hosts.map("add", range(50), [1] * 50) == list(range(1, 51))
    assert hosts.map(lambda x: x * x, iter([1, 2, 3])) == [1, 4, 9]
    assert hosts.map("add", []) == []


def test_map_uses_all_hosts_and_takes_items_as_they_become_free(hosts):
    slow = hosts[0].pid()
    taken = []

    def items():
        for number in range(8):
            taken.append(number)
            yield slow

    hosts.map("nap_on", items())
    assert taken == list(range(8))
    pids = hosts.map("nap_and_tell", [0.05] * 4)
    assert sorted(pids) == sorted(hosts.pid().values())


def test_a_host_with_a_long_item_gets_no_other(hosts):
    first = hosts[0].pid()
    told = hosts.map("nap_and_tell", [0.5, *[0.01] * 11])
    assert told[0] == first
    assert told.count(first) == 1


def test_a_host_can_have_several_items_at_once(lab):
    host = lab.only("host2")
    assert host.map("meet_in_process", [3] * 3, per_host=3) == [True] * 3
    with pytest.raises(ValueError, match="at least 1, not 0"):
        host.map("pid", [1], per_host=0)


def test_an_item_that_fails_keeps_the_results_of_the_others(hosts):
    with pytest.raises(ItemErrors) as caught:
        hosts.map("fail_if", [1, -1, 2, -1])
    error = caught.value
    assert isinstance(error, HostErrors)
    assert (error.results, sorted(error.by_item)) == ({0: 1, 2: 2}, [1, 3])
    assert str(error).splitlines()[0] == "fail_if failed for 2 of 4 items"
    assert str(error).splitlines()[1].endswith(": ValueError: it is -1")
    assert len(str(error).splitlines()) == 2


def test_a_lost_host_fails_its_item_and_the_others_go_on(mortal_hosts):
    pid = mortal_hosts[1].pid()
    with pytest.raises(ItemErrors) as caught:
        mortal_hosts.map("die_on", [pid] * 9, range(9))
    error = caught.value
    assert [type(exc) for exc in error.exceptions] == [WorkerDied]
    assert list(error.by_host) == ["host2"]
    assert len(error.results) == 8


def test_the_item_of_a_lost_host_goes_to_another_if_asked(mortal_hosts):
    pid = mortal_hosts[1].pid()
    assert mortal_hosts.map("die_on", [pid] * 9, range(9), moves=1) == list(range(9))


def test_an_item_that_kills_every_host_stops_somewhere(mortal_hosts):
    with pytest.raises(ItemErrors) as caught:
        mortal_hosts.map("die", range(5), moves=10)
    kinds = {type(exc) for exc in caught.value.exceptions}
    assert kinds == {WorkerDied, HostsLost}
    assert len(caught.value.by_item) == 5
    assert "no host is left: host" in str(caught.value)


def test_map_without_hosts_says_so(lab):
    with pytest.raises(ValueError, match="there are no hosts to spread calls over"):
        Hosts([]).map("pid", [1])
    with pytest.raises(TypeError, match="needs items"):
        lab.hosts.map("pid")


def test_a_deadline_ends_a_map(hosts):
    with easycluster.deadline(0.3), pytest.raises(ItemErrors) as caught:
        hosts.map("nap", [60] * 10)
    assert {type(exc) for exc in caught.value.exceptions} == {CallTimeout}


def test_ctrl_c_stops_what_a_map_has_under_way(hosts, tmp_path):
    before = hosts.ended()

    def interrupt():
        until(lambda: len(list(tmp_path.iterdir())) == 4)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        hosts.map("note_the_end", [60] * 20, [str(tmp_path / "at-")] * 20)
    thread.join()
    until(lambda: hosts.ended() == {name: count + 1 for name, count in before.items()})


# ------------------------------------------------------------ the executor


@pytest.fixture
def executor(hosts):
    with hosts.executor() as executor:
        yield executor


def test_it_is_an_executor(executor):
    assert isinstance(executor, concurrent.futures.Executor)
    future = executor.submit(pow, 2, 8)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(SOON) == 256
    assert future.host in {"host1", "host2", "host3", "host4"}


def test_submit_takes_a_name_and_keywords_like_its_own(executor):
    assert executor.submit("add", 1, b=5).result(SOON) == 6
    assert executor.submit(dict, fn=1, self=2).result(SOON) == {"fn": 1, "self": 2}


def test_map_is_that_of_executors(executor):
    assert list(executor.map(pow, range(10), range(10))) == list(map(pow, range(10), range(10)))
    divided = executor.map(divmod, [1, 1, 1], [2, 0, 5])
    assert next(divided) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(divided)


def test_map_gives_up_after_its_timeout(executor):
    coming = executor.map("nap", [0, 0, 0.5], ["a", "b", "c"], timeout=0.3)
    assert [next(coming), next(coming)] == ["a", "b"]
    with pytest.raises(concurrent.futures.TimeoutError):
        next(coming)


def test_an_exception_is_the_futures(executor):
    future = executor.submit("fail", "broken")
    assert str(future.exception(SOON)) == "broken"
    with pytest.raises(ValueError, match="broken"):
        future.result()


def test_what_waits_can_be_cancelled_and_what_runs_cannot(executor):
    running = [executor.submit("nap", 0.3) for _ in range(4)]
    waiting = executor.submit("pid")
    until(lambda: all(future.running() for future in running))
    assert waiting.cancel()
    assert not running[0].cancel()
    with pytest.raises(CancelledError):
        waiting.result()
    assert [future.result(SOON) for future in running] == [None] * 4


def test_wait_and_as_completed_know_its_futures(executor):
    quick, slow = executor.submit("nap", 0), executor.submit("nap", 0.3)
    done, pending = wait([quick, slow], SOON, FIRST_COMPLETED)
    assert (done, pending) == ({quick}, {slow})
    assert list(concurrent.futures.as_completed([slow, quick], SOON)) == [quick, slow]
    broken = executor.submit("fail", "x")
    done, _ = wait([executor.submit("nap", 0.2), broken], SOON, FIRST_EXCEPTION)
    assert broken in done


def test_a_done_callback_may_submit_more(executor):
    results = []
    ended = threading.Event()

    def more(future):
        results.append(future.result())
        executor.submit("add", 10).add_done_callback(lambda last: (results.append(last.result()), ended.set()))

    executor.submit("add", 1).add_done_callback(more)
    assert ended.wait(SOON)
    assert results == [2, 11]


def test_shutdown_waits_for_what_was_submitted(hosts):
    executor = hosts.executor()
    futures = [executor.submit("nap", 0.02, number) for number in range(12)]
    executor.shutdown()
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == list(range(12))
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit("pid")


def test_shutdown_can_cancel_what_has_not_begun(hosts):
    executor = hosts.executor()
    futures = [executor.submit("nap", 0.2) for _ in range(20)]
    until(lambda: sum(future.running() for future in futures) == 4)
    executor.shutdown(cancel_futures=True)
    assert [future.cancelled() for future in futures].count(False) == 4
    assert all(future.done() for future in futures)


def test_shutdown_need_not_wait(hosts):
    executor = hosts.executor()
    futures = [executor.submit("nap", 0.1, number) for number in range(8)]
    executor.shutdown(wait=False)
    assert not all(future.done() for future in futures)
    assert [future.result(SOON) for future in futures] == list(range(8))


def test_several_calls_run_on_a_host_at_once(lab):
    with lab.only("host1").executor(per_host=3) as executor:
        assert executor._max_workers == 3
        assert list(executor.map("meet_in_process", [3] * 3)) == [True] * 3


def test_what_cannot_be_sent_is_the_futures_error(executor):
    future = executor.submit("add", threading.Lock())
    assert "cannot pickle" in str(future.exception(SOON))
    assert executor.submit("add", 1).result(SOON) == 2


@pytest.mark.parametrize("name", ["len", "fail"])
def test_arguments_are_not_held_once_their_call_has_ended(executor, name):
    text = UserString("abc")
    held = weakref.ref(text)
    future = executor.submit(name, text)
    del text
    wait([future], SOON)
    until(lambda: held() is None)
    assert isinstance(future.exception(), ValueError) if name == "fail" else future.result() == 3


def test_a_lost_host_costs_its_call_and_the_others_go_on(mortal_hosts):
    pid = mortal_hosts[0].pid()
    with mortal_hosts.executor() as executor:
        futures = [executor.submit("die_on", pid, number) for number in range(9)]
    errors = [future.exception() for future in futures if future.exception()]
    assert [type(exc) for exc in errors] == [WorkerDied]
    assert errors[0].host == "host1"


def test_an_executor_without_a_host_left_is_broken(mortal_hosts):
    with mortal_hosts.executor(moves=1) as executor:
        futures = [executor.submit("die") for _ in range(6)]
        assert all(isinstance(future.exception(SOON), (WorkerDied, BrokenExecutor)) for future in futures)
        assert isinstance(executor.submit("pid").exception(SOON), BrokenExecutor)


def test_ctrl_c_in_its_block_stops_what_runs(hosts, tmp_path):
    before = hosts.ended()
    with pytest.raises(KeyboardInterrupt), hosts.executor() as executor:  # noqa: PT012
        futures = [executor.submit("note_the_end", 60, str(tmp_path / "at-")) for _ in range(9)]
        until(lambda: len(list(tmp_path.iterdir())) == 4)
        raise KeyboardInterrupt
    assert all(future.done() for future in futures)
    assert [future.cancelled() for future in futures].count(True) == 5
    until(lambda: hosts.ended() == {name: count + 1 for name, count in before.items()})


def test_no_hosts_make_no_executor():
    with pytest.raises(ValueError, match="there are no hosts"):
        Hosts([]).executor()


SCRIPT = """
from easycluster.lab import Lab
lab = Lab.load({file!r})
executor = lab.only("host1").executor()
futures = [executor.submit("nap", 0.2, number) for number in range(3)]
for future in futures:
    future.add_done_callback(lambda future: print(future.result(), flush=True))
print("at the end", flush=True)
"""


def test_the_interpreter_waits_for_what_was_submitted(lab_file):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(file=str(lab_file))],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("at the end\n0\n1\n2\n", 0), done.stderr
