"""Results so large that memory is the question."""

from __future__ import annotations

import json

import pytest

from .outcome import LONG

MIB = 1 << 20
SIZE = 1024 * MIB if LONG else 64 * MIB

# Of the size of the result: it is received where it stays, and a little lies about in a process.
MOST = 1.3

CODE = """
import os
def make(size):
    return os.urandom(1 << 20) * (size >> 20)
"""


@pytest.mark.fault("large")
@pytest.mark.parametrize("transport", ["tcp", "spawned", "ssh"], indirect=True)
def test_a_large_result_needs_little_more_memory_than_its_size(run_client, outcome):
    process = run_client(f"SIZE = {SIZE}\n{LARGE}")
    out, err = process.communicate(timeout=240)
    assert (err, process.returncode) == ("", 0)
    told = json.loads(out)
    outcome.saw(seconds=told["seconds"] * 64 * MIB / SIZE)
    assert told["size"] == SIZE
    assert told["grown"] <= MOST * SIZE
    assert told["after"] == 2
    outcome.cleaned("session lives")


LARGE = """
import json, resource
client.make(1 << 20)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
begin = time.monotonic()
value = client.make(SIZE)
told = {"seconds": time.monotonic() - begin, "grown": peak() - before, "size": len(value)}
told["after"] = client.eval("1 + 1")
print(json.dumps(told))
"""
