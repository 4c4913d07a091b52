"""The launcher's search for the marker; what it does with a real ssh is in test_gateway.py."""

from __future__ import annotations

import ast
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easycluster.transport.launcher import MOST_NOISE, Launcher

MARKER = b"0f" * 16
GOOD = b"\n" + MARKER + b" 3.11.7 42 2f62696e2f707974686f6e33\n"
OLD = b"\n" + MARKER + b" 2.7.18 41 2f62696e2f707974686f6e\n"
NONE = b"\n" + MARKER + b" none\n"


@pytest.fixture
def launcher(tmp_path):
    return Launcher(str(tmp_path), os.getppid(), 0.0, MARKER)


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


@pytest.mark.parametrize(("printed", "rest", "cause"), CASES)
def test_lines_are_read(printed, rest, cause, launcher):
    assert launcher.read_lines(printed) == (rest, cause)


def test_status_says_which_python_runs(launcher, tmp_path):
    launcher.read_lines(OLD + GOOD)
    status = ast.literal_eval((tmp_path / "status").read_text())
    assert status == {
        "stage": "running",
        "version": "3.11.7",
        "pid": 42,
        "executable": "2f62696e2f707974686f6e33",
    }


def test_failure_shows_the_noise_and_the_old_versions(launcher, tmp_path):
    launcher.read_lines(OLD + NONE)
    launcher.fail("none", b"Welcome" * 1000)
    status = ast.literal_eval((tmp_path / "status").read_text())
    assert status == {
        "stage": "failed",
        "cause": "none",
        "login": True,
        "noise": (b"Welcome" * 1000)[:500],
        "versions": ["2.7.18"],
    }


@given(noise=st.binary(max_size=200), rest=st.binary(max_size=50))
def test_any_noise_is_told_from_what_follows(noise, rest, tmp_path_factory):
    launcher = Launcher(str(tmp_path_factory.getbasetemp()), os.getppid(), 0.0, MARKER)
    assert launcher.read_lines(noise + GOOD + rest) == (rest, "")
