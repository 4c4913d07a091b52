"""A sender and a receiver: two hosts in one test, each by what it is for."""

from __future__ import annotations

import time

import pytest

FRAMES, SIZE = 50, 20_000

pytestmark = pytest.mark.ec_hosts(sender="video", receiver="video")


def test_every_frame_arrives_in_its_order(remote_hosts):
    sender, receiver = remote_hosts["sender"], remote_hosts["receiver"]
    with receiver.receiver(SIZE) as screen:
        sending = sender.send(receiver.address, screen.port, FRAMES, SIZE, nonblocking=True)
        numbers = [number for number, _ in screen.frames()]
        sending.wait()

    assert numbers == list(range(FRAMES))


def test_a_stream_begins_when_it_is_told_to(remote_hosts):
    sender, receiver = remote_hosts["sender"], remote_hosts["receiver"]
    moment = time.time() + 0.3
    with receiver.receiver(SIZE) as screen:
        sending = sender.send(receiver.address, screen.port, 5, SIZE, at=moment, nonblocking=True)
        delays = [delay for _, delay in screen.frames()]
        began = sending.wait()

    assert 0 <= began - moment < 2.0
    assert len(delays) == 5


def test_a_broken_stream_fails_where_it_is_noticed(remote_hosts):
    sender, receiver = remote_hosts["sender"], remote_hosts["receiver"]
    with receiver.receiver(SIZE) as screen:
        # Half of what the receiver takes for a frame.
        sending = sender.send(receiver.address, screen.port, 1, SIZE // 2, nonblocking=True)
        with pytest.raises(AssertionError, match="frame 0 is short"):
            list(screen.frames())
        sending.wait()


def test_sender_and_receiver_are_two_machines(remote_hosts):
    assert remote_hosts["sender"].remote.os.uname()[1] != remote_hosts["receiver"].remote.os.uname()[1]
