"""The parts of reports by themselves: evidence of any shape, traces, the step summary, how a run ended."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pages import BEGAN, HOSTILE
from support.traces import check_trace

from pytest_easycluster.reporting import extras, summary, trace
from pytest_easycluster.reporting.build import embedded
from pytest_easycluster.reporting.ending import Ending
from pytest_easycluster.reporting.evidence import Artifact, Event, Evidence, Series, few, read, readable, thinned
from pytest_easycluster.reporting.records import Attempt, Phase, Record
from pytest_easycluster.reporting.rows import Row, address_of

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
KEYS = ("hosts", "events", "series", "clocks", "artifacts", "artifacts_dir")


@given(anything | st.dictionaries(st.sampled_from(KEYS), anything))
def test_evidence_of_any_shape_is_read_without_a_complaint(given):
    found = read(given)

    assert found.bad >= 0
    embedded([list(event) for event in found.events])


def test_what_is_not_of_the_shape_is_counted_and_the_rest_is_kept():
    found = read(
        {
            "hosts": {"gpu01": {"role": "gpu", "label": "rack 2"}, "gpu02": None},
            "events": [
                [2.0, "gpu01", "log", None, "\x1b[31mred\x1b[0m\x07", "ERROR"],
                [1.0, "gpu01", "call", 0.5, "f(1)"],
                [math.inf, "gpu01", "call", 0.5, "f(1)", None],
                ["1", "gpu01", "call", 0.5, "f(1)", None],
                [1.0, "gpu01", "wish", None, "", None],
                7,
            ],
            "series": {"gpu01": {"cpu": {"unit": "%", "points": [[1, 2], [0, 1], [2, None], "x"]}, "no": 3}},
            "clocks": {"gpu01": {"offset": 0.5, "error": 0.1}, "gpu02": {"offset": "?"}},
            "artifacts": [{"host": "gpu01", "path": "a/b", "size": 3, "why": "core"}, {"host": "gpu01"}],
        }
    )

    assert found.hosts == {"gpu01": ("gpu", "rack 2"), "gpu02": ("", "")}
    assert found.events == [
        Event(1.0, "gpu01", "call", 0.5, "f(1)", None),
        Event(2.0, "gpu01", "log", None, "red\u2407", "ERROR"),
    ]
    assert found.series == [Series("gpu01", "cpu", "%", [(0.0, 1.0), (1.0, 2.0)])]
    assert found.clocks == {"gpu01": (0.5, 0.1)}
    assert [(one.name, one.path, one.size) for one in found.artifacts] == [("a/b", "a/b", 3)]
    assert found.bad == 7


def test_secrets_are_masked_in_everything_that_was_seen():
    found = read(
        {"events": [[1, "gpu01", "log", None, "key is s3cret", None]]}, lambda text: text.replace("s3cret", "*")
    )

    assert found.events[0].text == "key is *"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("a\r\nb\rc", "a\nb\u240dc"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x07", "link"),
        ("\x1b[1;31mred\x1b[m", "red"),
        ("nul\0 del\x7f", "nul\u2400 del\u2421"),
    ],
)
def test_text_is_shown_without_what_a_terminal_would_do(text, shown):
    assert readable(text) == shown


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e9, 1e9)), max_size=300).map(sorted), st.integers(2, 40))
def test_fewer_points_keep_the_peaks_and_their_order(points, most):
    found = thinned(points, most)

    assert len(found) <= max(len(points) if len(points) <= most else most, 2)
    assert found == sorted(found)
    values = [value for _time, value in points]
    assert not points or {min(values), max(values)} <= {value for _time, value in found}


def test_of_too_many_events_each_kind_keeps_its_share_and_first_what_is_wrong():
    lines = [Event(float(at), "gpu01", "kernel", None, "line", "INFO") for at in range(5000)]
    lines[2500] = Event(2500.0, "gpu01", "kernel", None, "Xid 79", "ERROR")
    calls = [Event(at + 0.5, "gpu01", "call", 0.1, "f()", None) for at in range(3)]
    events = sorted([*lines, *calls], key=lambda event: event.time)

    found = few(events, 10)

    assert [event for event in found if event.kind == "call"] == calls
    assert len(found) == 10
    assert lines[2500] in found
    assert {lines[0], lines[-1]} <= set(found)
    assert found == sorted(found, key=lambda event: event.time)


calls = st.builds(
    Event,
    st.floats(BEGAN, BEGAN + 3),
    st.sampled_from(["", "gpu01", "gpu02"]),
    st.sampled_from(["call", "log", "kernel", "output", "artifact"]),
    st.none() | st.floats(0, 2),
    st.text(max_size=3),
    st.none() | st.just("ERROR"),
)


@given(st.lists(calls, max_size=25))
def test_a_trace_of_any_calls_is_in_the_format(events):
    seen = Evidence(events=sorted(events, key=lambda one: one.time))
    phases = [Phase("setup", "PASSED", BEGAN + 0.1, 0.5), Phase("call", "PASSED", BEGAN + 0.6, 2.0)]

    check_trace(trace.events_of(Record("a::b", attempts=[Attempt(phases, seen=seen)], given=["gpu01"])))


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("gpu01/a b#1?.txt", "./art/gpu01/a%20b%231%3F.txt"),
        ("javascript:alert(1)", "./art/javascript%3Aalert%281%29"),
        ("../../etc/passwd", ""),
        ("/etc/passwd", ""),
        ("C:/secrets", ""),
        ("", ""),
    ],
)
def test_a_file_is_linked_to_where_it_is_and_nowhere_else(path, address, tmp_path):
    to_file = address_of(str(tmp_path / "art"), tmp_path / "lab.html")

    assert to_file(Artifact("gpu01", "name", path, 1, "")) == address


def test_names_of_traces_are_good_on_every_file_system(tmp_path):
    folder = trace.Folder(tmp_path)
    for test in ("a/b.py::t[x]", "a/B.py::T[x]", "a.py::t[../../etc]", "a.py::t[\0\n:*?]", f"a.py::{'t' * 400}", "ä"):
        folder.write(Record(test, attempts=[Attempt([Phase("call", "PASSED", BEGAN, 1.0)])], given=["gpu01"]), None)

    names = [path.name for path in tmp_path.iterdir()]
    assert len({name.casefold() for name in names}) == 6
    assert "a_b.py_t[x].json" in names
    assert all(len(name) < 120 and name.isascii() and name.isprintable() for name in names)
    assert not any(character in name for name in names for character in '/\\:*?"<>|')


def rows(count, message):
    return [
        Row(f"t.py::test_{at}", "FAILED", 1.0, 1.0, {"gpu01": "FAILED"}, message, "", 1, {}, {}) for at in range(count)
    ]


def test_the_step_summary_is_a_short_table_and_no_markup_of_hosts():
    run = {"title": "Lab report: lab", "counts": {"FAILED": 900, "PASSED": 3}, "state": "complete", "state_text": ""}

    text = summary.markdown(run, rows(900, f"a | b @ann #1 https://x `y` {HOSTILE}\nnext"))

    lines = text.splitlines()
    assert lines[2] == "**900** failed · **3** passed"
    assert len(text.encode()) < 64 * 1024
    assert text.endswith("\nand 860 more\n")
    (row,) = [line for line in lines if "test&#95;7 |" in line]
    assert row.count("|") == 5
    assert not {"<", "`", "@", "https://"}.intersection(row)
    assert "a &#124; b &#64;ann &#35;1 https&#58;//x" in row


@pytest.mark.parametrize(
    ("ending", "sentence"),
    [
        (Ending(), "Complete: every test that was collected has run"),
        (Ending(exitstatus=1), "Complete: every test that was collected has run"),
        (
            Ending(interrupted="SIGTERM", cut_off=2, not_run=1, exitstatus=2),
            "Incomplete: the run was interrupted (SIGTERM); 2 tests were cut off; 1 has not run",
        ),
        (
            Ending(stopped="stopping after 1 failures", not_run=7, exitstatus=1),
            "Incomplete: the run was stopped (stopping after 1 failures); 7 have not run",
        ),
        (Ending(broken="INTERNALERROR", exitstatus=3), "Incomplete: pytest or a plugin failed"),
        (Ending(exitstatus=2, not_run=1), "Incomplete: the run was interrupted (told to end); 1 has not run"),
        (Ending(not_run=2), "Incomplete: the run ended early; 2 have not run"),
    ],
)
def test_a_report_says_how_the_run_ended(ending, sentence):
    assert ending.sentence == sentence


def test_the_picture_for_pytest_html_has_no_markup_of_hosts():
    seen = Evidence(
        events=[Event(BEGAN, HOSTILE, "call", 1.0, HOSTILE, None), Event(BEGAN, "gpu01", "log", None, "<b>", None)]
    )

    picture = extras.lanes(Record("a::b", attempts=[Attempt(seen=seen)]))

    assert picture.count("<script") == 0
    assert "<b>" not in picture
    assert "<img" not in picture
    assert 'aria-label="2 events on 2 hosts within 1 s"' in picture


def test_what_a_repetition_on_another_host_has_shown_is_part_of_the_message():
    phases = [Phase("call", "FAILED", BEGAN, 1.0, "E   ValueError: 3")]

    record = Record("a::b", attempts=[Attempt(phases, is_over=True)], twin="fails on gpu01 only: the machine")

    assert record.message == "ValueError: 3 (fails on gpu01 only: the machine)"
