"""What hosts do at the same time: barriers, and calls that begin at a moment."""

from __future__ import annotations

import pickle
import threading
import time
from datetime import datetime, timedelta, timezone

import pytest

from easycluster.errors import WorkerDied
from easycluster.far.meeting import start_at
from easycluster.lab import HostErrors, Hosts
from easycluster.lab.clocks import as_time

SOON = 20.0
NAMES = ["host1", "host2", "host3", "host4"]


# ------------------------------------------------------------ barriers


def test_a_barrier_is_used_again_and_again(hosts):
    met = hosts.meet_often(hosts.barrier(timeout=SOON), 5)
    assert [sorted(numbers) for numbers in zip(*met.values(), strict=True)] == [[0, 1, 2, 3]] * 5


def test_this_side_may_take_part(hosts):
    barrier = hosts.barrier(here=True, timeout=SOON)
    assert barrier.parties == 5
    with hosts.executor() as executor:
        meeting = [executor.submit("meet", barrier) for _ in hosts]
        mine = barrier.wait()
        assert sorted([mine, *(future.result(SOON) for future in meeting)]) == [0, 1, 2, 3, 4]


def test_this_side_meets_calls_that_nobody_waits_for(hosts):
    barrier = hosts.barrier(here=True, timeout=SOON)
    meeting = [host.meet(barrier, nonblocking=True) for host in hosts]
    mine = barrier.wait()
    assert sorted([mine, *(response.wait() for response in meeting)]) == [0, 1, 2, 3, 4]


def test_one_that_waits_too_long_breaks_it_for_all(hosts):
    barrier = hosts.barrier()
    with pytest.raises(HostErrors) as caught:
        Hosts(hosts[:3]).meet(barrier, 0.2)
    assert {type(exc) for exc in caught.value.exceptions} == {threading.BrokenBarrierError}
    # Who was first to give up says so to all.
    (line,) = str(caught.value).splitlines()[1:]
    assert line.endswith(" waited for 0.2 s, in vain for host4")
    assert barrier.broken
    with pytest.raises(HostErrors, match="in vain for host4"):
        hosts.meet(barrier)
    barrier.reset()
    assert sorted(hosts.meet(barrier, SOON).values()) == [0, 1, 2, 3]


def test_it_can_be_aborted_from_here(hosts):
    barrier = hosts.barrier(here=True)
    meeting = [host.meet(barrier, nonblocking=True, origexc="quiet") for host in hosts[:2]]
    threading.Timer(0.05, barrier.abort, ["the power is gone"]).start()
    with pytest.raises(threading.BrokenBarrierError, match="the power is gone"):
        barrier.wait()
    for response in meeting:
        with pytest.raises(threading.BrokenBarrierError, match="the power is gone"):
            response.wait()


def test_this_side_waits_no_longer_than_told(hosts):
    barrier = hosts.barrier(here=True)
    with pytest.raises(
        threading.BrokenBarrierError, match=r"^this side waited for 0.05 s, in vain for host1 host2 host3 host4$"
    ):
        barrier.wait(0.05)


@pytest.mark.parametrize(
    ("what", "reason"),
    [("fail", "the call on host1 failed: ValueError: no barrier for me"), ("gone", "the call on host1 has ended")],
)
def test_a_call_that_will_not_come_any_more_breaks_it(hosts, what, reason):
    begin = time.monotonic()
    results = hosts.attempt.meet_unless(hosts.barrier(timeout=SOON), hosts[0].pid(), what)
    assert time.monotonic() - begin < SOON / 2
    assert {str(results.failed[name]) for name in NAMES[1:]} == {reason}


def test_a_lost_host_breaks_it(mortal_hosts):
    begin = time.monotonic()
    results = mortal_hosts.attempt.meet_unless(mortal_hosts.barrier(timeout=SOON), mortal_hosts[0].pid(), "die")
    assert time.monotonic() - begin < SOON / 2
    assert isinstance(results.failed.pop("host1"), WorkerDied)
    assert {type(exc) for name, exc in results.failed.items() if name != "host1"} == {threading.BrokenBarrierError}


def test_a_host_that_is_lost_while_threads_wait_for_it_breaks_it(mortal_hosts):
    barrier = mortal_hosts.barrier(timeout=SOON)
    waiting = [host.meet(barrier, nonblocking=True, origexc="quiet") for host in mortal_hosts[1:]]
    with pytest.raises(WorkerDied):
        mortal_hosts[0].die()
    for response in waiting:
        with pytest.raises(threading.BrokenBarrierError, match="host1 was lost"):
            response.wait(timeout=SOON)


def test_calls_one_after_the_other_may_meet_at_it_again(hosts):
    barrier = hosts.barrier(timeout=SOON)
    for _ in range(3):
        assert sorted(hosts.meet(barrier).values()) == [0, 1, 2, 3]
        meeting = [host.meet(barrier, nonblocking=True) for host in hosts]
        assert sorted(response.wait() for response in meeting) == [0, 1, 2, 3]


def test_what_a_barrier_is_not_for(hosts):
    with pytest.raises(RuntimeError, match=r"make it with hosts.barrier\(here=True\)"):
        hosts.barrier().wait()
    with pytest.raises(ValueError, match="needs hosts"):
        Hosts([]).barrier()
    with pytest.raises(TypeError, match="only be sent to its hosts"):
        pickle.dumps(hosts.barrier())
    with pytest.raises(TypeError, match="the barrier of host1 cannot be sent to host2"):
        hosts[1].meet(hosts[:1].barrier())
    assert repr(hosts[:2].barrier()) == "<Barrier of host1 host2, 0 of 2 have come>"


# ------------------------------------------------------------ moments


def test_a_moment_is_a_time_a_date_or_a_span_from_now():
    now = time.time()
    assert as_time(now + 3) == now + 3
    assert as_time(datetime.fromtimestamp(now + 3, timezone.utc)) == pytest.approx(now + 3)
    assert now + 3 <= as_time(timedelta(seconds=3)) <= time.time() + 3


def test_a_call_begins_on_all_hosts_at_a_moment(hosts):
    when = time.time() + 1
    results = hosts.at(when, "time.monotonic")
    ended = time.monotonic()
    # These hosts have one clock, ours: what is reported can be compared with what was.
    for name, began in results.items():
        start = results.starts[name]
        assert abs(start.clock.monotonic) <= start.clock.error
        assert start.late >= 0
        assert began <= ended
    assert results.moment == when
    spread = max(results.values()) - min(results.values())
    # Each reads its clock once more just after it began; on a busy machine that may be a while later.
    assert abs(results.skew - spread) < results.uncertainty + 1
    assert " ".join(results.table().splitlines()[0].split()) == "host clock ahead known to began after result"
    assert results.table().splitlines()[-1].startswith("skew ")


def test_what_a_call_at_a_moment_raises_is_its_hosts_error(hosts):
    with pytest.raises(HostErrors, match="host1, host2, host3, host4: ValueError: now"):
        hosts.at(timedelta(seconds=1), "fail", "now")


def test_a_moment_that_has_passed_begins_nothing(hosts):
    before = hosts.ended()
    with pytest.raises(ValueError, match="has passed already; give one that is later, such as"):
        hosts.at(time.time() - 1, "note_the_end", 0)
    with pytest.raises(ValueError, match="compared; nothing was begun"):
        hosts.at(timedelta(seconds=0.0001), "note_the_end", 0)
    with pytest.raises(TypeError, match="a moment is a number"):
        hosts.at("tomorrow", "note_the_end", 0)
    assert hosts.ended() == before


def test_a_host_that_is_told_too_late_says_so(hosts):
    busy = [host.nap(0.6, nonblocking=True) for host in hosts[:1]]
    # While it naps its clock cannot be asked; so the moment passes before anything begins.
    with pytest.raises(ValueError, match="nothing was begun"):
        hosts.at(timedelta(seconds=0.2), "pid")
    for response in busy:
        response.wait()
    with pytest.raises(TimeoutError, match=r"the call came \d+\.\d ms after the moment it was to begin at"):
        start_at(dict, time.monotonic() - 0.01, (), {})


def test_clocks_are_told_with_what_is_known_of_them(hosts):
    clocks = hosts.clocks()
    assert list(clocks) == NAMES
    for clock in clocks.values():
        assert 0 < clock.error < 1
        assert abs(clock.offset) <= clock.error + 0.01
