"""Large values: what they cost in memory, on both sides and from the first one on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from easycluster import define_common

# Above what malloc ever takes from its heap (mallopt(3)): it has no such memory left from before.
SIZE = 33 << 20

# Of its size, what a value may take where it arrives; and what it may take besides where it comes from.
MOST = 1.3

KINDS = {"bytes": lambda data: data, "inside": lambda data: {"deep": [memoryview(bytearray(data))]}}

DEFINITIONS = "contract_large"
CODE = """
import os
from easycluster import *
KINDS = {"bytes": lambda data: data, "inside": lambda data: {"deep": [memoryview(bytearray(data))]}}
made = []

def make(kind, size):
    made[:] = [KINDS[kind](os.urandom(size))]

def give():
    return made[0]

def take(value):
    made[:] = [value]

class Taker(ServerObject):
    export_methods = ("take",)

    def take(self, value):
        made[:] = [value]
"""
define_common(CODE, DEFINITIONS, local=False)


def status(pid, name):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"no {name}")


class Peak:
    """How far the memory of a process rises above what it is now."""

    def __init__(self, pid):
        self.pid = pid
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # see proc(5)
        self.before = status(pid, "VmRSS")

    def of(self, size):
        return (status(self.pid, "VmHWM") - self.before) / size


@pytest.fixture
def far_pid(client):
    client.take(b"")
    return client.os.getpid()


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_argument_takes_its_own_size_where_it_arrives(client, far_pid, kind):
    value = KINDS[kind](os.urandom(SIZE))
    near, far = Peak(os.getpid()), Peak(far_pid)
    client.take(value)
    assert near.of(SIZE) < MOST - 1
    assert 1 <= far.of(SIZE) < MOST


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_result_takes_its_own_size_where_it_arrives(client, far_pid, kind):
    client.make(kind, SIZE)
    near, far = Peak(os.getpid()), Peak(far_pid)
    value = client.give()
    assert far.of(SIZE) < MOST - 1
    assert 1 <= near.of(SIZE) < MOST
    del value


@pytest.mark.parametrize("way", ["nonblocking", "by keyword", "method"])
def test_no_way_to_call_copies_a_large_argument(client, way):
    client.take(b"")
    taker = client.Taker()
    value = os.urandom(SIZE)
    near = Peak(os.getpid())
    if way == "nonblocking":
        client.take(value, nonblocking=True).wait()
    elif way == "by keyword":
        client.take(value=value)
    else:
        taker.take(value)
    assert near.of(SIZE) < MOST - 1
