"""Malformed input by the hundred thousand: refused, every time, and nothing else happens."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import resource
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from fuzz import engine
from fuzz.tripwires import Tripped, Tripwires

from easycluster.wire import frames, pickling, values

REPOSITORY = Path(__file__).resolve().parents[2]
IN_CI = bool(os.environ.get("CI"))
MALFORMED = 200_000 if IN_CI else 20_000
# Of all inputs a few make sense.
RUNS = MALFORMED + MALFORMED // 8
# Two processors for a minute.
PROCESSOR_SECONDS = 120


def campaign(*arguments):
    """Run ``python -m tests.fuzz``; return its status and what it said."""
    command = [sys.executable, "-m", "tests.fuzz", *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=500, check=False)
    return done.returncode, done.stdout + done.stderr


def supports_atheris():
    """Whether there is an atheris for this Python: the condition in pyproject.toml."""
    return (
        (sys.platform, os.uname().machine, sys.implementation.name) == ("linux", "x86_64", "cpython")
        and sys.version_info < (3, 15)
        and "musl" not in (os.confstr("CS_GNU_LIBC_VERSION") or "musl")
    )


@pytest.mark.timeout(600)
def test_malformed_input_is_refused_and_nothing_else_happens(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    status, said = campaign("--runs", RUNS, "--json", tmp_path / "numbers")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert status == 0, said
    numbers = json.loads((tmp_path / "numbers").read_text())
    assert numbers["inputs"] >= RUNS
    assert numbers["malformed"] >= MALFORMED
    assert numbers["armed"] == numbers["inputs"]
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < PROCESSOR_SECONDS, said


@pytest.mark.skipif(not supports_atheris(), reason="there is no atheris for this Python and platform")
def test_atheris_is_there_where_it_can_be():
    if not engine.has_atheris():
        (pytest.fail if IN_CI else pytest.skip)("atheris is not installed; it comes with the extra 'test'")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", [["--plain"], []], ids=["plain", "guided"])
def test_planted_faults_are_found(how, tmp_path):
    faults = {
        "unpickling": "Tripped: pickle.loads was reached",
        "unpickling-past-names": "Tripped: pickle.find_class ('fractions',) happened",
        "importing": "Tripped: builtins.__import__ was reached",
        "crashing": "IndexError",
        "forging": "Finding: a record was forged",
        "careless-call": "Finding: what a stranger says was unpickled",
        "careless-serve": "Finding: what a stranger says was unpickled",
    }
    targets = [part for name in faults for part in ("--target", name)]
    status, said = campaign("--runs", 20_000, "--keep", tmp_path / "found", *targets, *how)
    assert status == 1, said
    for name, words in faults.items():
        log = (tmp_path / "found" / name / "log").read_text()
        assert words in log, log
        assert any((tmp_path / "found" / name).glob("crash-*")), said
        assert f"--target {name} --input" in said
    # The command that is printed shows the fault again.
    (found,) = (tmp_path / "found" / "crashing").glob("crash-*")
    status, said = campaign("--target", "crashing", "--input", found)
    assert status == 1
    assert "IndexError" in said


def test_the_same_seed_gives_the_same_inputs(tmp_path):
    said = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        command = [sys.executable, "-m", "tests.fuzz", "--target", "client", "--runs", "2000", "--alone", str(folder)]
        environ = {**os.environ, "PYTHONHASHSEED": "0"}
        subprocess.run(command, cwd=REPOSITORY, env=environ, check=True, capture_output=True, timeout=60)
        said.append(engine.Counts(folder / "counts").read())
    assert said[0] == said[1]
    assert said[0]["inputs"] >= 2000


# The tripwires themselves --------------------------------------------------------------------------


@pytest.fixture
def tripwires():
    return Tripwires()


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda: pickle.loads(b"N."),
        lambda: pickle.load(io.BytesIO(b"N.")),
        lambda: pickle.Unpickler(io.BytesIO(b"N.")),
        lambda: values._loads(b"N."),
        lambda: values.Values(None, None, None).loads(b"N."),
        lambda: pickling.PersistentUnpickler(io.BytesIO(b"N.")).load(),
        lambda: pickling.references_in(b"N."),
        lambda: zlib.decompress(zlib.compress(b"")),
        lambda: frames.decompress((1).to_bytes(8, "big") + b"x", 10),
        lambda: eval("1"),
        lambda: exec("1"),
        lambda: compile("1", "", "eval"),
        lambda: __import__("json"),
    ],
)
def test_whatever_is_forbidden_trips_and_works_again_afterwards(tripwires, forbidden):
    with tripwires.watching(), pytest.raises(Tripped):
        forbidden()
    with contextlib.suppress(Exception):
        forbidden()
    assert pickle.loads(pickle.dumps([1])) == [1]
    assert tripwires.armed == 1


def test_names_of_our_own_are_found(tripwires):
    assert {
        "pickle.loads",
        "zlib.decompressobj",
        "builtins.exec",
        "easycluster.wire.values._loads",
    } <= tripwires.names()
    assert "PersistentUnpickler.load" in tripwires.names()
