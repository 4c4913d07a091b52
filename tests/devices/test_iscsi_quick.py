"""Answers that come many at a time, or in pieces: the initiator takes them all the same, and no byte too many."""

from __future__ import annotations

import contextlib
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easycluster.devices.iscsi.connection import Connection
from easycluster.devices.iscsi.errors import ProtocolFault
from easycluster.devices.iscsi.negotiation import Parameters
from easycluster.devices.iscsi.pdu import Header, Op
from easycluster.devices.iscsi.scsi import read16
from easycluster.devices.iscsi.stream import PduStream, encode_pdu

STATUS, UNDERFLOW, LIMIT = 0x01, 0x02, 30.0
LUN = bytes(8)


@contextlib.contextmanager
def connected():
    """A connection in full feature phase, and the target's end of its socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        connection = Connection(PduStream(ours, "target"), Parameters(), 1, 1, 100)
        try:
            yield connection, theirs
        finally:
            connection.end(ProtocolFault("the test is over"))


def data_in(itt, number, data, offset=0, flags=0, status=0, residual=0):
    head = Header(Op.DATA_IN, flags, byte3=status, itt=itt, w24=number, w28=1, w32=100, w40=offset, w44=residual)
    return b"".join(bytes(piece) for piece in encode_pdu(head, data))


def block(number):
    return bytes([number]) * 512


@given(st.lists(st.integers(1, 3000), max_size=8), st.integers(1, 512))
def test_answers_are_the_same_however_they_are_cut(cuts, split):
    with connected() as (connection, theirs):
        places = [bytearray(512) for _ in range(6)]
        tasks = [connection.submit(LUN, read16(n, 1), memoryview(place), None) for n, place in enumerate(places)]
        said = b""
        for number, task in enumerate(tasks):
            said += data_in(task.itt, 0, block(number)[:split]) if split % 4 == 0 else b""
            start = split if split % 4 == 0 and split < 512 else 0
            said += data_in(task.itt, number + 1, block(number)[start:], start, STATUS)
        begin = 0
        for cut in [*cuts, len(said)]:
            theirs.sendall(said[begin : begin + cut])
            begin += cut
            while connection.pump(0.0):
                pass
        assert [connection.wait(task, LIMIT).status for task in tasks] == [0] * 6
        assert places == [block(number) for number in range(6)]
        assert connection._exp_stat_sn == 7


def test_data_beyond_what_was_asked_for_is_refused():
    with connected() as (connection, theirs):
        task = connection.submit(LUN, read16(0, 1), memoryview(bytearray(512)), None)
        # One that is right before it, so that the wrong one is there already when it is looked at.
        theirs.sendall(data_in(task.itt, 0, block(1)) + data_in(task.itt, 1, block(2), 512, STATUS))
        with pytest.raises(ProtocolFault, match=r"READ\(16\) brings 1024 bytes, 512 were asked for$"):
            connection.wait(task, LIMIT)


def test_data_of_a_command_that_nobody_sent_is_left_alone():
    with connected() as (connection, theirs):
        task = connection.submit(LUN, read16(0, 1), memoryview(bytearray(512)), None)
        theirs.sendall(data_in(task.itt + 5, 1, block(9), 0, STATUS) + data_in(task.itt, 2, block(1), 0, STATUS))
        assert bytes(connection.wait(task, LIMIT).read) == block(1)


def test_fewer_bytes_than_asked_for_are_told():
    with connected() as (connection, theirs):
        task = connection.submit(LUN, read16(0, 2), memoryview(bytearray(1024)), None)
        theirs.sendall(data_in(task.itt, 1, block(1), 0, STATUS | UNDERFLOW, residual=512))
        assert connection.wait(task, LIMIT).residual == 512
