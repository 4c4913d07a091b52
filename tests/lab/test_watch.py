"""What a watch notes of a lab while a test runs, and how much of it."""

from __future__ import annotations

import gc
import logging
import weakref

import pytest

from easycluster.lab import Lab
from easycluster.lab.recorder import Clock, ClockTrack
from easycluster.lab.watch import MOST_CALLS, Watch

SOON = 10.0


class Rude:
    def __repr__(self):
        raise AssertionError("the test's own code must not run for a timeline")

    def __reduce__(self):
        return int, (5,)


@pytest.fixture
def lab(tmp_path):
    (tmp_path / "lab.yaml").write_text("hosts: {gpu01: {connect: local}, gpu02: {connect: local}}\n")
    with Lab.load(tmp_path / "lab.yaml") as lab:
        yield lab


@pytest.fixture
def watch(lab):
    watch = Watch(lab)
    watch.begin()
    yield watch
    watch.close()


def texts(watch, kind="call"):
    return [event.text for event in sorted(watch.events({}), key=lambda one: one.time) if event.kind == kind]


def test_calls_are_shown_with_plain_arguments_and_the_types_of_others(lab, watch):
    remote = lab.hosts["gpu01"].remote
    remote.max(1, 2.5)
    remote.max(Rude(), 1)
    remote.len("x" * 100)
    remote.len([1, "two", None])
    remote.sorted([3] * 50, reverse=True)
    remote.eval("1 + 1")
    lab.hosts["gpu01"].run("true")
    assert texts(watch) == [
        "max(1, 2.5)",
        "max(<Rude>, 1)",
        f"len('{'x' * 60}'...)",
        "len([1, 'two', None])",
        "sorted(<list of 50>, reverse=True)",
        "eval('1 + 1')",
        "run('true')",
    ]
    assert watch.touched == {"gpu01"}


def test_what_a_call_was_given_is_not_held(lab, watch):
    class Mine:
        def __reduce__(self):
            return int, (5,)

    mine = Mine()
    reference = weakref.ref(mine)
    lab.hosts["gpu01"].remote.abs(mine)
    del mine
    gc.collect()
    assert reference() is None
    assert texts(watch) == ["abs(<Mine>)"]


def test_files_are_one_call_however_many_pieces(lab, watch, tmp_path):
    (tmp_path / "file").write_bytes(bytes(3 << 20))
    lab.hosts["gpu01"].put(tmp_path / "file", f"{tmp_path}/there")
    lab.hosts["gpu01"].get(f"{tmp_path}/there", tmp_path / "back")
    assert [text.partition("(")[0] for text in texts(watch)] == ["put", "get"]


def test_the_last_calls_are_kept(lab, watch):
    batchless = lab.hosts["gpu01"].remote.abs
    for number in range(MOST_CALLS + 10):
        batchless(number)
    assert texts(watch)[0] == "abs(10)"
    assert len(texts(watch)) == MOST_CALLS


def test_output_is_noted_in_whole_lines(lab, watch):
    remote = lab.hosts["gpu01"].remote
    remote.execblock("import sys\nsys.stdout.write('be'); sys.stdout.flush(); sys.stdout.write('gun\\nnext\\nrest')")
    remote.flush_output(SOON)
    assert texts(watch, "output") == ["begun", "next", "rest"]


def test_records_of_both_sides_are_noted_while_a_test_runs(lab, watch):
    log = logging.getLogger("watched")
    log.warning("before")
    watch.log(True)
    log.warning("of %s", "ours")
    far = logging.makeLogRecord(
        {"name": "far", "levelname": "ERROR", "levelno": 40, "msg": "over there", "created": 5000.0, "ec_host": "gpu01"}
    )
    logging.getLogger("watched").handle(far)
    watch.log(False)
    log.warning("after")
    track = ClockTrack()
    track.add(Clock(1000.0, 4000.0, 0.0, 0.001))
    found = [event for event in watch.events({"gpu01": track}) if event.kind == "log"]
    assert [(event.host, event.level, event.text) for event in found] == [
        ("", "warning", "watched: of ours"),
        ("gpu01", "error", "far: over there"),
    ]
    assert found[1].time == 1000.0


def test_a_new_test_begins_with_nothing_but_calls_that_have_not_ended(lab, watch):
    remote = lab.hosts["gpu02"].remote
    remote.abs(-1)
    response = remote.time.sleep(0.2, nonblocking=True)
    watch.begin()
    (event,) = [event for event in watch.events({}) if event.kind == "call"]
    assert event.text.startswith("time.sleep(0.2) has not ended after")
    assert watch.touched == {"gpu02"}
    response.wait()
    assert texts(watch) == ["time.sleep(0.2)"]


def test_a_watch_that_is_closed_leaves_nothing(lab):
    host = lab.hosts["gpu01"]
    host.remote.abs(-1)
    before = dict(host.remote.__dict__)
    handlers = list(logging.getLogger().handlers)
    watch = Watch(lab)
    watch.log(True)
    watch.close()
    assert host.remote.__dict__.keys() == before.keys()
    assert host._connection._listeners == []
    assert logging.getLogger().handlers == handlers
