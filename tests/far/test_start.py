"""The first stage: what it must be able to pass through, and what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from easycluster.far.start import FIRST_STAGE, PASSER, SEARCH

PYTHONS = [sys.executable, *map(str, sorted(Path("~/.pyenv/versions").expanduser().glob("*/bin/python")))]
MARKER = "0f" * 16


@pytest.mark.parametrize("text", [FIRST_STAGE, PASSER, SEARCH])
@pytest.mark.parametrize("part", ["!", "\n", "'", "//"])
def test_text_has_nothing_that_a_login_shell_spoils(text, part):
    assert part not in text


@pytest.mark.parametrize("python", PYTHONS)
def test_every_python_names_itself_after_the_marker(python):
    done = subprocess.run([python, "-u", "-c", FIRST_STAGE, MARKER], input=b"", stdout=subprocess.PIPE)
    version = subprocess.check_output([python, "-c", "import platform; print(platform.python_version())"]).decode()
    empty, line, rest = done.stdout.decode().split("\n")
    marker, said, _, executable = line.split(" ")
    assert (empty, rest) == ("", "")
    assert (marker, said) == (MARKER, version.strip())
    assert Path(bytes.fromhex(executable).decode()).samefile(python)


def run_search(*pairs):
    command = ["sh", "-c", 'eval "$0"', SEARCH, MARKER, FIRST_STAGE, *pairs]
    return subprocess.run(command, input=b"", stdout=subprocess.PIPE, check=False)


def test_search_without_any_python_says_none():
    done = run_search("python9", "python9")
    assert done.stdout.decode() == f"\n{MARKER} none\n"
    assert done.returncode == 127


def test_search_takes_the_first_that_exists():
    done = run_search("python9", "python9", sys.executable, sys.executable, "false", "false")
    assert [line.split(" ")[0] for line in done.stdout.decode().split("\n")] == ["", MARKER, ""]
