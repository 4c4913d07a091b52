"""Tables for terminals, and for everything else."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import sys

import pytest

from easycluster.lab.tables import Cell, lines, show

ROWS = [
    ["gpu01", Cell("ok", "ok"), "fine"],
    ["san1", Cell("fail", "fail"), "a text that is long enough to be folded [b]"],
]


@pytest.fixture
def on_terminal(monkeypatch):
    """Show the table on a terminal of 40 columns; what it gets."""

    def on_terminal(*, rich=False, **environment):
        ours, theirs = pty.openpty()
        with monkeypatch.context() as patch, os.fdopen(theirs, "w") as stream:
            for name in ("NO_COLOR", "FORCE_COLOR"):
                patch.delenv(name, raising=False)
            for name, value in {"COLUMNS": "40", "TERM": "xterm", **environment}.items():
                patch.setenv(name, value)
            if not rich:
                patch.setitem(sys.modules, "rich", None)
            show(ROWS, ["host", "state", "why"], file=stream)
        text = b""
        with contextlib.suppress(OSError):
            while data := os.read(ours, 4096):
                text += data
        os.close(ours)
        return text.decode().replace("\r\n", "\n")

    return on_terminal


def test_a_file_gets_aligned_text_however_wide():
    file = io.StringIO()

    show(ROWS, ["host", "state", "why"], file=file, indent=2)

    assert file.getvalue() == (
        "  host   state  why\n  gpu01  ok     fine\n  san1   fail   a text that is long enough to be folded [b]\n"
    )


def test_lines_are_those_of_a_file():
    assert lines([("a", "b"), ("long", "")]) == ["a     b", "long"]
    assert lines([]) == []


def test_a_terminal_without_rich_gets_colours_and_folded_text(on_terminal):
    assert on_terminal() == (
        "\x1b[2mhost\x1b[0m   \x1b[2mstate\x1b[0m  \x1b[2mwhy\x1b[0m\n"
        "gpu01  \x1b[32mok\x1b[0m     fine\n"
        "san1   \x1b[31mfail\x1b[0m   a text that is long enough\n"
        "              to be folded [b]\n"
    )


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_without_colours_gets_none(on_terminal, environment):
    text = on_terminal(**environment)

    assert "\x1b" not in text
    assert "  to be folded" in text


def test_rich_draws_where_it_is_installed_and_reads_no_markup(on_terminal):
    pytest.importorskip("rich")

    coloured, plain, dumb = (on_terminal(rich=True, **one) for one in ({}, {"NO_COLOR": "1"}, {"TERM": "dumb"}))

    assert "─" in coloured
    assert "\x1b[32mok" in coloured
    assert "folded [b]" in plain
    assert "\x1b[3" not in plain
    assert "─" not in dumb
