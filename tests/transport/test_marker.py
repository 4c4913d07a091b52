"""The search for the line of a far side's Python in whatever comes before it."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easycluster.transport.marker import MOST_NOISE, Found, MarkerSearch

MARKER = b"0f" * 16
GOOD = b"\n" + MARKER + b" 3.11.7 42 2f62696e2f707974686f6e33\n"
OLD = b"\n" + MARKER + b" 2.7.18 41 2f62696e2f707974686f6e\n"
NONE = b"\n" + MARKER + b" none\n"


CASES = [
    (b"", None, ""),
    (b"Welcome\n", None, ""),
    (GOOD, b"", ""),
    (GOOD + b"1rest\n", b"1rest\n", ""),
    (b"Welcome" + GOOD + b"1", b"1", ""),
    (GOOD[:-1], None, ""),
    (OLD, None, ""),
    (OLD + GOOD + b"1", b"1", ""),
    (OLD + NONE, None, "none"),
    (NONE, None, "none"),
    (GOOD + b"1" + GOOD, b"1" + GOOD, ""),
    (b"x" * MOST_NOISE, None, ""),
    (b"x" * (MOST_NOISE + 1), None, "noise"),
    (MARKER + b" 3.11.7 42 2f\n", None, ""),
]


def found(rest):
    return Found((3, 11, 7), 42, "/bin/python3", rest)


@pytest.mark.parametrize(("printed", "rest", "cause"), CASES)
def test_lines_are_read(printed, rest, cause):
    search = MarkerSearch(MARKER)
    assert search.look(printed) == (None if rest is None else found(rest))
    assert search.cause == cause


@pytest.mark.parametrize(
    ("printed", "result", "cause", "noise", "versions"),
    [
        (b"Welcome" + OLD + GOOD, found(b""), "", b"Welcome", []),
        (b"Welcome" * 1000 + OLD + NONE, None, "none", (b"Welcome" * 1000)[:500], ["2.7.18"]),
        (b"Sorry", None, "exit", b"Sorry", []),
        (OLD, None, "exit", b"", ["2.7.18"]),
        (b"x" * (MOST_NOISE + 1), None, "noise", b"x" * 500, []),
    ],
)
def test_search_ends_with_a_python_or_says_why_not(printed, result, cause, noise, versions, tmp_path):
    (tmp_path / "printed").write_bytes(printed)
    search = MarkerSearch(MARKER)
    with open(tmp_path / "printed", "rb") as file:
        assert search.read(file.fileno(), time.monotonic() + 10) == result
    assert (search.cause, search.noise, search.versions) == (cause, noise, versions)


def test_silence_ends_with_the_deadline():
    read_fd, write_fd = os.pipe()
    search = MarkerSearch(MARKER)
    assert search.read(read_fd, time.monotonic() + 0.01) is None
    assert search.cause == "timeout"
    os.close(read_fd)
    os.close(write_fd)


@given(noise=st.binary(max_size=200), rest=st.binary(max_size=50))
def test_any_noise_is_told_from_what_follows(noise, rest):
    assert MarkerSearch(MARKER).look(noise + GOOD + rest) == found(rest)
