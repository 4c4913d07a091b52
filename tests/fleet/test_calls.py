"""The same call on several hosts: results, errors, and what becomes of calls that nobody waits for any more."""

from __future__ import annotations

import io
import pickle
import signal
import sys
import threading
import time

import pytest

import easycluster
from easycluster.client.inprogress import calls_in_progress
from easycluster.errors import CallTimeout, SerializationError, WorkerDied
from easycluster.lab import HostErrors, HostResults, Hosts
from easycluster.lab import progress as progress_module
from easycluster.lab.progress import Progress

NAMES = ["host1", "host2", "host3", "host4"]
# Seconds that something may take which is sure to come.
SOON = 20.0


def until(condition):
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


# ------------------------------------------------------------ calls


def test_a_name_of_the_hosts_is_called_on_all_of_them(hosts):
    assert hosts.add(1, b=2) == dict.fromkeys(NAMES, 3)
    assert list(hosts.call("add", 1)) == NAMES
    assert hosts.os.path.join("a", "b").common() == "a/b"


def test_a_function_of_this_side_goes_by_value(hosts):
    assert hosts.call(lambda x, y: x * y, 3, y=4).common() == 12


def test_all_hosts_work_at_the_same_time(hosts):
    # Each waits for the others: one after the other it would never end.
    assert sorted(hosts.meet(hosts.barrier(timeout=SOON)).values()) == [0, 1, 2, 3]


def test_no_thread_is_made_for_a_call(hosts):
    hosts.pid()
    before = set(threading.enumerate())
    seen = []
    for _ in hosts.as_completed("nap", 0.01):
        seen += [thread for thread in threading.enumerate() if thread not in before]
    assert seen == []


def test_large_results_of_all_hosts_come_at_once(hosts):
    results = hosts.random_bytes(10_000_000)
    assert [len(value) for value in results.values()] == [10_000_000] * 4
    assert len(set(results.values())) == 4


def test_no_hosts_give_no_results(lab):
    results = Hosts([]).call("pid")
    assert (len(results), results.ok, results.failed, results.grouped()) == (0, {}, {}, "no hosts")
    assert list(Hosts([]).as_completed("pid")) == []


def test_a_host_that_is_there_twice_is_called_once(lab):
    hosts = lab.only("host1", "host2", "host1")
    before = hosts[0].ended()
    assert list(hosts.note_the_end(0)) == ["host1", "host2"]
    assert hosts[0].ended() == before + 1


def test_each_host_gets_its_own_arguments(hosts):
    assert hosts.each({"host1": 1, "host3": (2, 5)}).add() == {"host1": 2, "host3": 7}
    assert hosts.each("add", {"host2": 3}) == {"host2": 4}
    assert hosts.each({hosts[0]: 1}).add(10) == {"host1": 11}
    with pytest.raises(KeyError, match="no host 'host9' here; did you mean 'host"):
        hosts.each({"host9": 1})


def test_each_calls_a_function_of_this_side_with_every_host(hosts):
    assert hosts.each(lambda host: (host.name, host.add(1))) == {name: (name, 2) for name in NAMES}


def test_results_come_as_they_complete(lab):
    hosts = lab.only("host2", "host1")
    slow = hosts[0].pid()
    coming = hosts.as_completed("nap_on", slow)
    assert [one.host.name for one in coming] == ["host1", "host2"]


def test_names_of_one_host_say_what_to_write(hosts):
    with pytest.raises(AttributeError, match=r"'console' is a name of one host; ask each: \[host.console for host in"):
        _ = hosts.console
    with pytest.raises(AttributeError, match=r"limit.value is one host's; ask each"):
        _ = hosts.limit.value
    with pytest.raises(TypeError, match=r"several have as_completed\(\) and executor\(\)"):
        hosts.add(1, nonblocking=True)
    with pytest.raises(TypeError, match="is a name or a function, not 7"):
        hosts.call(7)


# ------------------------------------------------------------ errors


def test_an_error_of_one_host_keeps_the_results_of_the_others(hosts):
    pid = hosts[1].pid()
    with pytest.raises(HostErrors) as caught:
        hosts.fail_on(pid, "broken")
    error = caught.value
    assert str(error) == "fail_on failed on 1 of 4 hosts\nhost2: ValueError: broken"
    assert error.succeeded == {"host1": "fine", "host3": "fine", "host4": "fine"}
    assert error.results.ok == error.succeeded
    assert [type(exc) for exc in error.exceptions] == [ValueError]


def test_equal_errors_are_said_once(hosts):
    with pytest.raises(HostErrors) as caught:
        hosts.fail("no power")
    assert str(caught.value) == "fail failed on 4 of 4 hosts\nhost1, host2, host3, host4: ValueError: no power"
    assert list(caught.value.by_host) == NAMES


def test_one_host_alone_raises_its_own_error(lab):
    with pytest.raises(ValueError, match=r"^broken$"):
        lab.only("host1").fail("broken")


def test_an_attempt_raises_nothing(hosts):
    results = hosts.attempt.fail_on(hosts[2].pid(), "broken")
    assert list(results) == NAMES
    assert list(results.ok) == ["host1", "host2", "host4"]
    assert {name: str(exc) for name, exc in results.failed.items()} == {"host3": "broken"}
    with pytest.raises(ValueError, match="broken"):
        _ = results["host3"]
    for all_of_them in (results.raise_, results.values, results.items, results.common):
        with pytest.raises(HostErrors):
            all_of_them()


def test_an_exception_that_cannot_be_pickled_is_told(hosts):
    failed = hosts.attempt.fail_oddly().failed
    assert list(failed) == NAMES
    assert all("Unpicklable" in repr(exc) for exc in failed.values())


def test_an_argument_that_cannot_be_sent_is_an_error_of_every_host(hosts):
    with pytest.raises(HostErrors) as caught:
        hosts.add(threading.Lock())
    assert {type(exc) for exc in caught.value.exceptions} == {SerializationError}
    assert str(caught.value).count("cannot pickle") == 1


def test_a_host_that_dies_in_the_middle_is_one_error(mortal_hosts):
    hosts = mortal_hosts
    results = hosts.attempt.die_on(hosts[0].pid(), "alive")
    assert results.ok == {"host2": "alive", "host3": "alive"}
    assert isinstance(results.failed["host1"], WorkerDied)
    # It stays lost until something connects it anew, and says so.
    assert list(hosts.attempt.pid().failed) == ["host1"]


def test_a_deadline_stops_all_hosts_and_says_where_each_was(hosts):
    before = hosts.ended()
    with easycluster.deadline(0.3), pytest.raises(HostErrors) as caught:
        hosts.note_the_end(60)
    assert {type(exc) for exc in caught.value.exceptions} == {CallTimeout}
    assert "time.sleep(seconds)" in str(caught.value)
    assert hosts.ended() == {name: count + 1 for name, count in before.items()}


def test_errors_that_a_loop_does_not_look_at_are_raised_at_its_end(hosts):
    pid = hosts[1].pid()
    with pytest.raises(HostErrors, match="host2: ValueError: unseen"):
        for _ in hosts.as_completed("fail_on", pid, "unseen"):
            pass
    assert [one.ok for one in hosts.as_completed("fail_on", pid, "seen")].count(False) == 1


# ------------------------------------------------------------ interrupted


def test_ctrl_c_stops_the_call_on_all_hosts(hosts, tmp_path):
    before = hosts.ended()

    def interrupt():
        until(lambda: len(list(tmp_path.iterdir())) == 4)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        hosts.note_the_end(60, str(tmp_path / "at-"))
    thread.join()
    until(lambda: hosts.ended() == {name: count + 1 for name, count in before.items()})


def test_ctrl_c_stops_what_threads_ask_of_hosts(hosts, tmp_path):
    before = hosts.ended()

    def interrupt():
        until(lambda: len(list(tmp_path.iterdir())) == 4)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        hosts.each(lambda host: host.note_the_end(60, str(tmp_path / "at-")))
    thread.join()
    until(lambda: hosts.ended() == {name: count + 1 for name, count in before.items()})


def test_a_loop_that_is_left_stops_the_calls_that_have_not_finished(hosts, tmp_path):
    before = hosts.ended()
    pid = hosts[0].pid()
    for one in hosts.as_completed("leave_or_stay", pid, str(tmp_path / "at-")):
        assert one.host.name == "host1"
        break
    stopped = {name: count + (name != "host1") for name, count in before.items()}
    until(lambda: hosts.ended() == stopped)


def test_a_call_on_all_hosts_is_one_in_progress_on_each(hosts):
    barrier = hosts.barrier(here=True, timeout=SOON)
    thread = threading.Thread(target=hosts.meet, args=(barrier,))
    thread.start()
    until(lambda: sorted(call.host for call in calls_in_progress() if call.call == "meet()") == NAMES)
    barrier.wait()
    thread.join()


# ------------------------------------------------------------ results


def results_of(values, errors=None):
    return HostResults("driver", values, errors or {}, [*values, *(errors or {})])


def test_results_are_grouped_by_value():
    values = {f"gpu0{number}": "580.1" for number in (1, 2, 4, 5, 6, 7)}
    assert results_of({**values, "gpu03": "570.9"}).grouped() == "6 hosts 580.1, gpu03 570.9"
    assert results_of({"a": 1}, {"b": ValueError("b: x\ny"), "c": ValueError("x")}).grouped() == (
        "a 1, 2 hosts failed: ValueError: x"
    )


def test_unlike_types_and_things_without_equality_are_groups_of_their_own():
    class Odd:
        def __eq__(self, other):
            raise TypeError("no")

        __hash__ = None

        def __repr__(self):
            return "odd"

    assert len(results_of({"a": 1, "b": True, "c": 1.0}).groups()) == 3
    assert results_of({"a": Odd(), "b": Odd()}).grouped() == "2 hosts odd"


def test_a_common_result_is_common():
    assert results_of({"a": 1, "b": 1}).common() == 1
    with pytest.raises(AssertionError, match=r"^driver differs: a 1, b 2$"):
        results_of({"a": 1, "b": 2}).common()
    with pytest.raises(ValueError, match="driver: no host was asked"):
        results_of({}).common()


def test_results_are_a_mapping_with_equality():
    results = results_of({"a": [1], "b": {}})
    assert results == {"a": [1], "b": {}}
    assert results == {"a": [1], "b": {}}
    assert results == results_of({"b": {}, "a": [1]})
    assert results != {"a": [1]}
    assert results_of({}, {"a": ValueError("x")}) == results_of({}, {"a": ValueError("x")})
    assert results_of({}, {"a": ValueError("x")}) not in ({}, results_of({}, {"a": ValueError("y")}))
    assert (dict(results), results.get("c", 3), "a" in results, "c" in results) == (results.ok, 3, True, False)
    assert pickle.loads(pickle.dumps(results)) == {"a": [1], "b": {}}
    with pytest.raises(KeyError, match="no result of 'c' here; there are: a b"):
        _ = results["c"]


def test_results_read_as_one_line_and_as_a_table():
    results = results_of({"gpu1": "580.1", "gpu22": b"x" * 1_000_000}, {"san": OSError("san: no\nmore")})
    assert repr(results).startswith("<HostResults of driver: gpu1 580.1, gpu22 b'xxx")
    assert len(repr(results)) < 300
    assert [line[:32] for line in results.table().splitlines()] == [
        "host   result",
        "gpu1   580.1",
        "gpu22  b'" + "x" * 23,
        "san    failed: OSError: no",
    ]


# ------------------------------------------------------------ progress


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(progress_module, "_is_wanted", lambda: True)
    monkeypatch.setattr(progress_module, "PATIENCE", 0.0)


def test_progress_is_plain_lines_where_there_is_no_terminal(impatient):
    stream = io.StringIO()
    with Progress("flash", 6, stream=stream) as progress:
        progress.note(failed=False)
        progress.note(failed=True)
        progress.look(lambda: ["h3", "h4", "h5", "h6", "h7"])
        progress.look(list)
    assert stream.getvalue() == "flash: 2 of 6 hosts done, 1 failed, waiting for h3 h4 h5 h6 and 1 more, 0 s\n"


def test_progress_is_one_line_that_changes_on_a_terminal(impatient, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with Progress("flash", 3, stream=stream) as progress:
        progress.note(failed=False)
        progress.look(lambda: ["h2", "h3"])
    assert "flash: 1 of 3 hosts done, waiting for h2 h3" in stream.getvalue()


def test_tests_see_no_progress_unless_they_are_not_captured(monkeypatch):
    monkeypatch.setattr(progress_module, "PATIENCE", 0.0)
    stream = io.StringIO()
    with Progress("flash", 3, stream=stream) as progress:
        progress.look(lambda: ["h1"])
    assert stream.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    with Progress("flash", 3, stream=stream) as progress:
        progress.look(lambda: ["h1"])
    assert stream.getvalue() == "flash: 0 of 3 hosts done, waiting for h1, 0 s\n"
