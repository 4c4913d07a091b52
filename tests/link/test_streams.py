"""Byte streams: what pipes, sockets and the memory pair promise alike."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

import pytest

from easycluster.link.streams import PipeStream, SocketStream, stream_from_fds
from easycluster.transport.memory import memory_pair

# How long anything that must happen may take, in seconds.
SOON = 10.0


def pipes():
    to_far, from_near = os.pipe()
    to_near, from_far = os.pipe()
    return PipeStream(to_near, from_near), PipeStream(to_far, from_far)


def tcp():
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _address = server.accept()
    return SocketStream(near), SocketStream(far)


OPENERS = {"memory": memory_pair, "pipes": pipes, "tcp": tcp}


@pytest.fixture(params=OPENERS)
def ends(request):
    """Two joined streams of each kind."""
    near, far = OPENERS[request.param]()
    yield near, far
    near.close()
    far.close()


def read(stream):
    """Read once."""
    (data,) = stream.read_map()
    return data


def write(stream, data):
    """Write once and return how many bytes were taken."""
    (count,) = stream.write_map(data)
    return count


def write_until_an_error(stream):
    """Write without an end; return how many bytes were taken before the error, and the error."""
    count = 0
    try:
        while True:
            count += write(stream, bytes(1 << 16))
    except OSError as exc:
        return count, exc


def fill(stream):
    """Write until the stream takes no more; return how many bytes it took."""
    count, error = write_until_an_error(stream)
    assert isinstance(error, BlockingIOError)
    return count


def test_what_is_written_is_read(ends):
    near, far = ends
    assert write(near, b"there") == 5
    assert read(far) == b"there"
    assert write(far, memoryview(b"back")) == 4
    assert read(near) == b"back"


def test_bytes_are_read_into_place(ends):
    near, far = ends
    write(near, b"0123456789")
    place = bytearray(12)
    counts = []
    while sum(counts) < 10:
        done = sum(counts)
        views = [memoryview(place)[done:4], memoryview(place)[max(4, done) :]]
        counts.extend(far.readv_map([view for view in views if view]))
    assert place == b"0123456789\0\0"


def test_reading_waits_for_bytes(ends):
    near, far = ends
    got = []
    thread = threading.Thread(target=lambda: got.append(read(far)))
    thread.start()
    thread.join(0.05)
    assert got == []
    write(near, b"x")
    thread.join(SOON)
    assert got == [b"x"]


def test_writing_never_waits(ends):
    near, far = ends
    count = fill(near)
    assert count > 0
    while count:
        count -= len(read(far))
    assert write(near, b"room again") == 10


def test_the_end_of_one_is_the_end_of_the_other(ends):
    near, far = ends
    write(near, b"last")
    near.shutdown()
    assert read(far) == b"last"
    assert read(far) == b""


def test_writing_to_an_end_that_is_gone_is_an_error(ends):
    near, far = ends
    far.close()
    _count, error = write_until_an_error(near)
    assert isinstance(error, (BrokenPipeError, ConnectionResetError))


def test_waiting_tells_what_can_be_done(ends):
    near, far = ends
    assert far.wait(write=False, timeout=0) == (False, False, False)
    assert far.wait(write=True, timeout=SOON) == (False, True, False)
    write(near, b"x")
    assert far.wait(write=False, timeout=SOON) == (True, False, False)
    assert far.wait(write=True, timeout=SOON) == (True, True, False)
    assert far.wait(write=True, read=False, timeout=SOON) == (False, True, False)


def test_waiting_ends_with_its_timeout_and_not_earlier(ends):
    begin = time.monotonic()
    assert ends[0].wait(write=False, timeout=0.05) == (False, False, False)
    assert 0.05 <= time.monotonic() - begin < SOON


def test_waiting_for_room_ends_when_the_other_end_reads(ends):
    near, far = ends
    fill(near)
    assert near.wait(write=True, timeout=0) == (False, False, False)
    for _ in range(100):
        if near.wait(write=True, timeout=0)[1]:
            break
        read(far)
    assert near.wait(write=True, timeout=SOON) == (False, True, False)


def test_waiting_ends_for_another_descriptor(ends):
    wake, waker = socket.socketpair()
    with wake, waker:
        waker.send(b"k")
        assert ends[0].wait(write=False, timeout=SOON, wake_fd=wake.fileno()) == (False, False, True)


def test_the_end_of_the_other_can_be_read(ends):
    near, far = ends
    near.close()
    assert far.wait(write=False, timeout=SOON) == (True, False, False)
    assert read(far) == b""


def test_closing_twice_does_nothing(ends):
    near, _far = ends
    near.close()
    near.close()
    assert near.fileno() == near.write_fileno() == -1


def test_a_stream_that_was_closed_touches_no_descriptor_that_took_its_number(ends):
    near, _far = ends
    number = near.write_fileno()
    near.close()
    stranger = os.memfd_create("stranger")
    os.dup2(stranger, number)
    with pytest.raises(OSError, match="Bad file descriptor"):
        write(near, b"for a stranger")
    assert os.fstat(stranger).st_size == 0
    for fd in {stranger, number}:
        os.close(fd)


def test_two_descriptors_that_were_handed_over_are_pipes():
    read_fd, write_fd = os.pipe()
    stream = stream_from_fds(read_fd, write_fd)
    assert isinstance(stream, PipeStream)
    assert write(stream, b"round") == 5
    assert read(stream) == b"round"
    stream.close()


def test_two_descriptors_of_one_socket_are_a_socket():
    left, right = socket.socketpair()
    fd = left.detach()
    stream = stream_from_fds(fd, os.dup(fd))
    assert isinstance(stream, SocketStream)
    with right:
        write(stream, b"there")
        assert right.recv(10) == b"there"
        stream.close()
        assert right.recv(10) == b""


def test_a_late_shutdown_leaves_other_peoples_descriptors_alone():
    near, far = os.pipe(), os.pipe()
    stream = PipeStream(near[0], far[1])
    stream.close()
    reader, writer = os.pipe()  # with the numbers that have become free
    try:
        assert {reader, writer} & {near[0], far[1]}
        stream.shutdown()
        os.write(writer, b"still there")
        assert os.read(reader, 100) == b"still there"
    finally:
        for fd in (reader, writer, near[1], far[0]):
            os.close(fd)


def test_a_look_takes_no_time():
    ours, theirs = socket.socketpair()
    with contextlib.closing(SocketStream(ours)) as stream, theirs:

        def look():
            begin = time.perf_counter()
            assert stream.wait(write=False, timeout=0) == (False, False, False)
            return time.perf_counter() - begin

        # A millisecond each, it was; a busy machine takes some of them longer.
        assert min(look() for _ in range(50)) < 0.0005
