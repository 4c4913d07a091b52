"""Timelines: events of several hosts in one order, kept as plain values, cut down and shown."""

from __future__ import annotations

import json
import random

import pytest

from easycluster.timeline import Event, Timeline

NOON = 1_800_000_000.0


def event(after, host="gpu01", kind="call", text="f()", **rest):
    return Event(NOON + after, host, kind, text, **rest)


def test_events_are_in_the_order_of_their_times_and_equal_ones_as_given():
    events = [event(2, text="c"), event(1, text="a"), event(1, text="b")]
    assert [one.text for one in Timeline(events)] == ["a", "b", "c"]


def test_merged_timelines_are_in_order_and_know_all_clocks():
    events = [event(at, host=f"gpu{at % 3}") for at in range(30)]
    random.Random(3).shuffle(events)
    parts = [Timeline(events[at::3], {f"gpu{at}": {"offset": 1.0, "error": 0.001 * at}}) for at in range(3)]
    merged = parts[0].merged(*parts[1:])
    assert [one.time for one in merged] == [NOON + at for at in range(30)]
    assert sorted(merged.clocks) == ["gpu0", "gpu1", "gpu2"]
    assert merged.error == pytest.approx(0.003)


def test_a_timeline_survives_json():
    timeline = Timeline(
        [event(0, duration=1.5, level="error", data={"x": [1]}), event(1, host="", kind="phase", text="é\0\n")],
        {"gpu01": {"offset": -10800.0, "error": 0.01}},
    )
    again = Timeline.from_plain(json.loads(json.dumps(timeline.to_plain())))
    assert again.events == timeline.events
    assert again.clocks == timeline.clocks


def test_an_event_that_is_none_is_refused_with_what_it_should_be():
    for wrong in ([1, 2], ["noon", "h", "call", None, "", None], 5):
        with pytest.raises(ValueError, match="an event is a list of time, host, kind, duration, text and level"):
            Event.from_plain(wrong)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"hosts": ["san1"]}, "b"),
        ({"kinds": ["kernel"]}, "c"),
        ({"levels": ["error"]}, "c"),
        ({"since": NOON + 5}, "ac"),  # the first one lasts until then
        ({"until": NOON + 4}, "ab"),
        ({"hosts": [], "kinds": ["call"]}, ""),
        ({}, "abc"),
    ],
)
def test_only_some_events_can_be_had(asked, found):
    timeline = Timeline(
        [
            event(0, text="a", duration=6.0),
            event(4, host="san1", kind="log", text="b"),
            event(6, kind="kernel", text="c", level="error"),
        ]
    )
    assert "".join(one.text for one in timeline.only(**asked)) == found


def test_the_last_events_before_a_moment():
    timeline = Timeline([event(at, text=str(at)) for at in range(10)])
    assert [one.text for one in timeline.last(3)] == ["7", "8", "9"]
    assert [one.text for one in timeline.last(2, NOON + 4.5)] == ["3", "4"]
    assert len(timeline.last(0)) == 0


def test_the_table_has_one_line_for_each_event_and_says_what_is_left_out(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    timeline = Timeline(
        [
            event(0, text="old"),
            event(0.25, host="", kind="phase", text="call (failed)", duration=2.0),
            event(0.5, text="rebuild(3)", duration=0.0125),
            event(1, host="san1", kind="log", text="disk: gone\nand more", level="error"),
            event(2, host="san1", kind="output", text="\x1b[31mred\x07" + "x" * 200),
        ]
    )
    lines = timeline.table(4, width=20).splitlines()
    assert lines[0] == "(1 earlier events)"
    assert [line.split(None, 1)[1] for line in lines[1:]] == [
        "-      phase     2.0 s  call (failed)",
        "gpu01  call    12.5 ms  rebuild(3)",
        "san1   log              ERROR: disk: gone...",
        "san1   output           ?[31mred?xxxxxxxx...",
    ]


def test_long_runs_of_lines_are_folded_and_calls_are_not():
    lines = [event(at, kind="output", text=f"line {at}") for at in range(20)]
    calls = [event(at + 0.5, host="san1", text=f"f({at})") for at in range(20)]
    other = [event(30 + at, host="san1", kind="output", text="few") for at in range(6)]
    folded = Timeline([*lines[:15], *calls[14:16], *lines[16:], *other]).folded(6)
    assert [one.text for one in folded] == [
        *("line 0", "line 1", "line 2", "line 3", "... 10 more lines ...", "line 14"),
        *("f(14)", "f(15)", "line 16", "line 17", "line 18", "line 19"),
        *["few"] * 6,
    ]


def test_an_empty_timeline_is_an_empty_table():
    assert Timeline().table() == ""
    assert Timeline().error == 0.0
    assert Timeline.from_plain({}).hosts == []


def test_a_time_that_no_clock_has_is_shown_as_it_is():
    assert Timeline([Event(1e300, "gpu01", "call", "x")]).table().split()[1:] == ["gpu01", "call", "x"]
