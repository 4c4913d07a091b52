"""Packets between processes of one machine, with descriptors."""

from __future__ import annotations

import os
import pickle
import socket
import threading

import pytest

from easycluster.far.fdpass import MAX_PACKET, recv_packet, send_packet


@pytest.fixture
def ends():
    """Two joined unix sockets."""
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(10)
        right.settimeout(10)
        yield left, right


@pytest.fixture
def pipe():
    """A pipe; its ends may be closed by the test."""
    read_fd, write_fd = os.pipe()
    with open(read_fd, "rb", 0) as reader, open(write_fd, "wb", 0) as writer:
        yield reader, writer


def test_a_packet_is_its_length_and_a_pickled_dictionary(ends):
    left, right = ends
    send_packet(left, {"kind": "sync"})
    body = pickle.dumps({"kind": "sync"}, 4)
    assert right.recv(100) == len(body).to_bytes(4, "big") + body


def test_packets_arrive_one_by_one_and_in_order(ends):
    left, right = ends
    for number in range(3):
        send_packet(left, {"number": number, "data": b"x" * number})
    assert [recv_packet(right) for _ in range(3)] == [({"number": n, "data": b"x" * n}, []) for n in range(3)]


def test_descriptors_arrive_as_the_receivers_own(ends, pipe):
    left, right = ends
    reader, writer = pipe
    send_packet(left, {"kind": "link"}, [writer.fileno()])
    packet, (fd,) = recv_packet(right)
    writer.close()  # the sender keeps and closes its own
    with open(fd, "wb", 0) as passed:
        passed.write(b"through")
    assert packet == {"kind": "link"}
    assert reader.read(100) == b"through"


def test_several_descriptors_keep_their_order(ends, pipe):
    left, right = ends
    files = [os.memfd_create(f"file {number}") for number in range(8)]
    send_packet(left, {}, files)
    _packet, passed = recv_packet(right)
    assert [os.fstat(fd).st_ino for fd in passed] == [os.fstat(fd).st_ino for fd in files]
    for fd in files + passed:
        os.close(fd)


def test_descriptors_belong_to_the_packet_they_were_sent_with(ends, pipe):
    left, right = ends
    reader, _writer = pipe
    send_packet(left, {"number": 1})
    send_packet(left, {"number": 2}, [reader.fileno()])
    send_packet(left, {"number": 3})
    got = [recv_packet(right) for _ in range(3)]
    assert [(packet["number"], len(fds)) for packet, fds in got] == [(1, 0), (2, 1), (3, 0)]
    os.close(got[1][1][0])


def test_descriptors_that_were_received_are_not_inherited_by_commands(ends, pipe):
    left, right = ends
    send_packet(left, {}, [pipe[0].fileno()])
    _packet, (fd,) = recv_packet(right)
    assert not os.get_inheritable(fd)
    os.close(fd)


@pytest.mark.parametrize("size", [1000, 400_000, MAX_PACKET - 100])
def test_a_packet_larger_than_the_socket_buffer_arrives_whole(ends, size):
    left, right = ends
    packet = {"data": os.urandom(size)}
    sender = threading.Thread(target=send_packet, args=(left, packet))
    sender.start()
    assert recv_packet(right) == (packet, [])
    sender.join()


def test_a_packet_that_arrives_in_pieces_is_put_together(ends):
    left, right = ends
    body = pickle.dumps({"kind": "slow"}, 4)
    data = len(body).to_bytes(4, "big") + body

    def dribble():
        for byte in data:
            left.send(bytes([byte]))

    sender = threading.Thread(target=dribble)
    sender.start()
    assert recv_packet(right) == ({"kind": "slow"}, [])
    sender.join()


def test_the_end_of_the_stream_is_none(ends):
    left, right = ends
    left.close()
    assert recv_packet(right) is None


@pytest.mark.parametrize("end", [1, 3, 4, 10])
def test_a_packet_that_is_cut_off_is_the_end_of_the_stream(ends, end):
    left, right = ends
    body = pickle.dumps({"kind": "lost"}, 4)
    left.sendall((len(body).to_bytes(4, "big") + body)[:end])
    left.close()
    assert recv_packet(right) is None


def test_a_packet_that_is_too_long_is_refused_before_it_is_read(ends):
    left, right = ends
    left.sendall((MAX_PACKET + 1).to_bytes(4, "big"))
    with pytest.raises(OSError, match=r"^a packet of 1048577 bytes is longer than allowed$"):
        recv_packet(right)


def test_descriptors_of_a_packet_that_is_cut_off_are_closed(ends):
    left, right = ends
    before = len(os.listdir("/proc/self/fd"))
    read_fd, write_fd = os.pipe()
    socket.send_fds(left, [b"\0"], [read_fd])
    os.close(read_fd)
    left.close()
    assert recv_packet(right) is None
    with pytest.raises(BrokenPipeError):  # nobody can read from the pipe any more
        os.write(write_fd, b"x")
    os.close(write_fd)
    assert len(os.listdir("/proc/self/fd")) == before - 1  # without the left end


def test_sending_to_nobody_is_an_error(ends):
    left, right = ends
    right.close()
    with pytest.raises(OSError, match="Broken pipe"):
        send_packet(left, {"kind": "lost"})
