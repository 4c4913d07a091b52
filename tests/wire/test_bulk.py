"""Large buffers: room for what arrives, in the object that it becomes."""

from __future__ import annotations

import itertools
import mmap
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from easycluster.wire import bulk, pages
from easycluster.wire.bulk import CHUNK, FIRST_ROOM, GROWTH, READ_ONLY, Incoming
from easycluster.wire.frames import FrameDecoder, FrameEncoder, Kind
from easycluster.wire.records import Mac

MIB = 1 << 20
HEAD = Kind.CALL, 0, 1, 0


def incoming(*sizes):
    """A frame of a trusted link."""
    return Incoming(HEAD, b"pickle", sizes, tagged=False)


def take(frame, data):
    """Read ``data`` into a frame, chunk by chunk; return the frame after that."""
    data = memoryview(data)
    while data:
        (view,) = frame.targets()
        piece = data[: view.nbytes]
        view[: piece.nbytes] = piece
        frame, _number = frame.settle(sum(frame.counts) + piece.nbytes, None, 0)
        data = data[piece.nbytes :]
    return frame


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("size", [FIRST_ROOM - 1, FIRST_ROOM, FIRST_ROOM + 1, 4 * FIRST_ROOM + 3, 18 * MIB + 5])
def test_a_buffer_grows_into_what_it_becomes(kind, size):
    data = kind(random.Random(size).randbytes(size))
    frame = take(incoming(size | (READ_ONLY if kind is bytes else 0)), data)
    assert frame.whole
    (buffer,) = frame.buffers()
    assert type(buffer) is kind
    assert buffer == data


@pytest.mark.parametrize("fixed", [READ_ONLY, 0], ids=["bytes", "bytearray"])
def test_there_is_never_more_room_than_follows_from_what_has_arrived(fixed):
    size, frame, most = 40 * MIB, incoming(40 * MIB | fixed), 0
    chunk = bytes(CHUNK)
    tracemalloc.start()
    for arrived in range(0, size, CHUNK):
        tracemalloc.reset_peak()
        frame = take(frame, chunk)
        _, peak = tracemalloc.get_traced_memory()
        # What was there moves: both are held for a moment.
        assert peak <= max(FIRST_ROOM, (GROWTH + 1) * (arrived + CHUNK)) + CHUNK
        most = max(most, peak)
    tracemalloc.stop()
    assert frame.whole
    assert most < 1.3 * size


def test_a_step_that_was_broken_off_is_taken_again():
    size = FIRST_ROOM + CHUNK
    data = random.Random(1).randbytes(size)
    frame = incoming(size)
    for start in range(0, size, CHUNK):
        piece = data[start : start + CHUNK]
        frame.targets()  # makes room
        (view,) = frame.targets()
        view[: len(piece)] = piece
        frame.settle(len(piece), None, 0)
        frame, _number = frame.settle(len(piece), None, 0)
    frame.buffers()
    assert frame.buffers() == [data]


def test_a_bytearray_that_was_handed_out_can_grow():
    mac, data = Mac(bytes(32)), bytearray(2 * FIRST_ROOM)
    _, pieces = FrameEncoder(mac).encode_large(0, HEAD, b"pickle", [memoryview(data)])
    [(*_head, (buffer,))] = FrameDecoder(mac).receive_data(b"".join(map(bytes, pieces)))
    buffer.append(1)
    assert len(buffer) == 2 * FIRST_ROOM + 1


def test_a_tag_is_made_once(monkeypatch):
    """Who sends looks at it several times: is all of it sent?"""
    made = []
    monkeypatch.setattr(Mac, "tag", lambda _mac, number, _data: made.append(number) or bytes(32))
    _, pieces = FrameEncoder(Mac(bytes(32))).encode_large(7, HEAD, b"pickle", [memoryview(bytes(2 * CHUNK))])
    for piece in pieces:
        assert bytes(piece) == bytes(piece)
    assert made == [8, 9]


# Huge pages ----------------------------------------------------------------------------------------


def flags_at(address):
    """Return the flags of this process's memory there, as the kernel names them; see proc(5)."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if name == "VmFlags:" and inside:
            return rest.split()
        first, dash, last = name.partition("-")
        if dash and not name.endswith(":"):
            inside = int(first, 16) <= address < int(last, 16)
    raise AssertionError("there is no such memory")


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists() or not hasattr(mmap, "MADV_HUGEPAGE"),
    reason="this system has no huge pages",
)
@pytest.mark.parametrize("fixed", [READ_ONLY, 0], ids=["bytes", "bytearray"])
def test_large_buffers_lie_in_huge_pages(fixed):
    import ctypes

    frame = incoming(4 * FIRST_ROOM | fixed)
    (view,) = frame.targets()
    middle = ctypes.addressof(ctypes.c_char.from_buffer(view)) + FIRST_ROOM // 2
    assert "hg" in flags_at(middle)


def test_advice_for_less_than_a_page_is_none():
    pages.prefer_huge_pages(memoryview(bytearray(100)))


WITHOUT = """
import sys
sys.modules["ctypes"] = None
from easycluster.wire import bulk, pages
assert pages.new_bytearray is bytearray
for fixed in (0, bulk.READ_ONLY):
    size = bulk.FIRST_ROOM + 5
    place = bulk._Place(size | fixed)
    for start in range(0, size, bulk.CHUNK):
        view = place.view(start, min(start + bulk.CHUNK, size))
        view[:] = b"x" * view.nbytes
    assert place.value() == b"x" * size
"""


def test_a_python_without_ctypes_does_without():
    subprocess.run([sys.executable, "-c", WITHOUT], check=True)


def test_small_buffers_import_nothing():
    program = "import sys; from easycluster.wire import bulk; bulk._Place(1 << 20).view(0, 5); "
    subprocess.run([sys.executable, "-c", program + "assert 'easycluster.wire.pages' not in sys.modules"], check=True)


def test_room_is_made_in_steps_that_end_at_the_size():
    steps, needed = [], 1
    while not steps or steps[-1] < 1000 * MIB + 1:
        steps.append(bulk._enough(1000 * MIB + 1, needed))
        needed = steps[-1] + 1
    assert steps[0] <= FIRST_ROOM
    assert all(before < after <= GROWTH * before for before, after in itertools.pairwise(steps))
