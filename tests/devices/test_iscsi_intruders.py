"""What bad initiators cannot do to our target, and to others that use it."""

from __future__ import annotations

import contextlib
import random
import time

import pytest
from support.rawiscsi import Raw

from easycluster.devices.iscsi import login
from easycluster.devices.iscsi.errors import (
    TargetGone,
)
from easycluster.devices.iscsi.negotiation import Wishes
from easycluster.devices.iscsi.pdu import FINAL, Header, Op, encode_lun
from easycluster.devices.iscsi.scsi import read16, write16


@pytest.fixture
def open_session(target):
    with contextlib.ExitStack() as stack:
        yield lambda portal=0, **options: stack.enter_context(
            login(target.portals[portal].address, target.iqn, lun=1, **options)
        )


@pytest.fixture
def session(open_session):
    return open_session()


def command(flags, length, cdb, cmd_sn=1):
    return Header(Op.SCSI_COMMAND, flags, lun=encode_lun(1), itt=5, w20=length, w24=cmd_sn, cdb=cdb)


BROKEN = {
    "data that was not asked for": [
        (Header(Op.DATA_OUT, FINAL, itt=5), b"x"),
        (command(0x20, 1024, write16(0, 2)), b""),
    ],
    "more immediate data than the command has": [(command(0xA0, 512, write16(0, 1)), bytes(1024))],
    "data out of order": [
        (command(0xA0, 1024, write16(0, 2)), b""),
        (Header(Op.DATA_OUT, FINAL, itt=5, w20=1, w36=1), bytes(1024)),
    ],
    "data of another transfer": [
        (command(0xA0, 1024, write16(0, 2)), b""),
        (Header(Op.DATA_OUT, FINAL, itt=5, w20=77), bytes(1024)),
    ],
    "data behind the end": [
        (command(0xA0, 1024, write16(0, 2)), b""),
        (Header(Op.DATA_OUT, FINAL, itt=5, w20=1, w40=512), bytes(1024)),
    ],
}


@pytest.mark.parametrize("pdus", BROKEN.values(), ids=BROKEN)
def test_who_breaks_the_rules_is_put_out_and_others_stay(target, session, pdus):
    raw = Raw(target).enter(target, InitialR2T="Yes")
    for header, data in pdus:
        raw.send(header, data)
    assert raw.ended()
    assert session.read(0, 2) == bytes(1024)


def test_a_command_out_of_turn_is_ignored(target):
    raw = Raw(target).enter(target)
    raw.send(command(0xC1, 512, read16(0, 1), cmd_sn=9))
    raw.send(Header(Op.NOP_OUT, itt=6, w20=0xFFFFFFFF, immediate=True), b"ping")
    header, data = raw.stream.read(time.monotonic() + 20)
    assert (header.opcode, header.itt, bytes(data)) == (Op.NOP_IN, 6, b"ping")
    raw.close()


def test_what_is_not_known_is_rejected_with_its_header(target):
    raw = Raw(target).enter(target)
    raw.send(Header(0x1C, itt=6, immediate=True))
    header, data = raw.stream.read(time.monotonic() + 20)
    assert (header.opcode, header.byte2, data[0], data[16:20].hex()) == (Op.REJECT, 0x05, 0x5C, "00000006")
    raw.close()


@pytest.mark.parametrize(
    ("keys", "flags", "status"),
    [
        ({}, 0x87, 0x0207),
        ({"InitiatorName": "iqn.x"}, 0x87, 0x0207),
        ({"InitiatorName": "iqn.x", "SessionType": "Odd"}, 0x87, 0x0209),
        ({"InitiatorName": "iqn.x", "TargetName": "iqn.y"}, 0x87, 0x0203),
        ({"InitiatorName": "iqn.x", "SessionType": "Discovery", "MaxBurstLength": "-1"}, 0x87, 0x0200),
        ({"InitiatorName": "iqn.x", "SessionType": "Discovery"}, 0x84, 0x020B),
    ],
)
def test_a_login_that_is_none_is_refused(target, keys, flags, status):
    raw = Raw(target)
    raw.login(keys, flags)
    assert raw.status == status
    assert raw.ended()


def test_noise_puts_only_itself_out(target, session):
    chance = random.Random(1)
    for _ in range(30):
        raw = Raw(target)
        if chance.random() < 0.7:
            raw.enter(target)
        noise = bytearray(chance.randbytes(48 * chance.randrange(1, 5)))
        # Opcodes that exist, and lengths that end soon, get further than pure noise.
        for start in range(0, len(noise), 48):
            noise[start] = chance.choice([0, 1, 2, 3, 4, 5, 6, 0x10, 0x40, 0x41, 0x42])
            noise[start + 4 : start + 7] = b"\0\0\0"
        with contextlib.suppress(OSError, TargetGone):
            raw.sock.setblocking(True)
            raw.sock.sendall(noise)
        raw.close()
    session.fill(1, 8000, 100)
    assert session.verify(1, 8000, 100) == []


def test_a_peer_that_asks_for_too_much_memory_is_told_to_wait(target):
    raw = Raw(target).enter(target)
    raw.send(command(0xA1, 0xFFFFFFFF, write16(0, 1)))
    header, _ = raw.stream.read(time.monotonic() + 20)
    assert (header.opcode, header.byte3) == (Op.SCSI_RESPONSE, 0x28)
    raw.close()


def test_small_wishes_of_an_initiator_hold(target):
    with login(
        target.portals[0].address, target.iqn, wishes=Wishes(max_recv=512, max_burst=512, first_burst=512)
    ) as one:
        one.write(0, b"q" * 4096)
        assert one.read(0, 8) == b"q" * 4096
