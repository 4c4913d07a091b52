"""The matrix itself: nothing that is missing, slow or different gets through."""

from __future__ import annotations

from pathlib import Path

import pytest

from .__main__ import BEGIN, END, main, write
from .matrix import Seen, lines_of, problems_of, render
from .row import NOTHING, Row
from .rows import ROWS
from .rows_links import LINK_ROWS
from .rows_processes import PROCESS_ROWS

TESTS = Path(__file__).parents[1]

ROW = Row("gone", "it is gone", ("WorkerDied",), 1.0, "all of it", transports=("tcp", "ssh"))

GOOD = [
    ("tcp", "row", ""),
    ("tcp", "exception", "WorkerDied"),
    ("tcp", "seconds", 0.2),
    ("tcp", "cleaned", "all of it"),
    ("ssh", "row", ""),
    ("ssh", "seconds", 0.1),
]


def seen_of(notes):
    seen = Seen()
    for note in notes:
        seen.take(*note)
    return seen


def test_a_row_whose_promises_were_kept_is_right():
    seen = seen_of(GOOD)

    assert problems_of(ROW, seen) == []
    assert render([ROW], {"gone": seen}).splitlines()[2].split("|")[1:7] == [
        " it is gone ",
        " tcp, ssh   ",
        " WorkerDied ",
        " 0.20 (1)           ",
        " all of it  ",
        " yes ",
    ]


@pytest.mark.parametrize(
    ("notes", "problem"),
    [
        ([], "not proved over tcp, ssh"),
        ([note for note in GOOD if note[0] == "tcp"], "not proved over ssh"),
        ([note for note in GOOD if note[1] != "exception"], "no test noted what the caller saw"),
        ([*GOOD, ("ssh", "exception", "EOFError")], "EOFError was not promised"),
        ([note for note in GOOD if note[1] != "seconds"], "no test measured the time"),
        ([*GOOD, ("ssh", "seconds", 1.01)], "took 1.01 s, promised are 1 s"),
        ([note for note in GOOD if note[1] != "cleaned"], "no test looked at what is cleaned up"),
    ],
)
def test_a_row_is_wrong(notes, problem):
    assert problems_of(ROW, seen_of(notes)) == [problem]


def test_a_failed_test_makes_its_row_wrong():
    seen = seen_of(GOOD)
    seen.failed.append("test_gone failed in call")

    assert problems_of(ROW, seen) == ["test_gone failed in call"]
    assert "| no " in render([ROW], {"gone": seen})


def test_a_row_without_transports_needs_a_test_too():
    row = Row("name", "a wrong name", (NOTHING,), None, transports=())

    assert problems_of(row, Seen()) == ["no test proved it"]
    assert problems_of(row, seen_of([("", "row", ""), ("", "exception", NOTHING)])) == []


def test_a_fault_that_this_machine_cannot_have_is_not_missing():
    seen = seen_of([note for note in GOOD if note[0] == "tcp"])
    seen.not_here["ssh"] = "needs root"
    never = Seen(not_here={"tcp": "needs root", "ssh": "needs root"})

    assert problems_of(ROW, seen) == []
    assert problems_of(ROW, never) == []
    assert "| not here |" in render([ROW], {"gone": never})


def test_rows_have_names_of_their_own():
    assert len(ROWS) == len(PROCESS_ROWS) + len(LINK_ROWS)


def test_the_matrix_is_written_between_its_comments(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")

    write(page, "| new |")

    assert page.read_text() == f"before\n{BEGIN}\n\n| new |\n\n{END}\nafter\n"


def test_lines_of_rows_that_were_not_tried_stay():
    other = Row("other", "another one", (NOTHING,), None, transports=(), condition="at times")
    first = render(
        [ROW, other], {"gone": seen_of(GOOD), "other": seen_of([("", "row", ""), ("", "exception", NOTHING)])}
    )

    again = render([ROW, other], {"gone": seen_of([])}, lines_of(first))

    assert [line.split(" | ")[1] for line in again.splitlines()[2:3]] == ["none      "]
    assert again.splitlines()[3].split()[:3] == ["|", "another", "one"]
    assert render([ROW, other], {}, lines_of(first)) == first
    assert render([ROW, other], {}, {}).count("\n") == 1


def test_an_unknown_row_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--rows", "killed,nonsense"])

    assert caught.value.code == 2
    assert "there is no row nonsense" in capsys.readouterr().err
