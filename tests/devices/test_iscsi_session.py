"""What an initiator promises, on targets that are not ours and on ours."""

from __future__ import annotations

import glob
import os
import subprocess
import threading
import time

import pytest
from support.parts import require

from easycluster.devices.iscsi import Session, discover, login
from easycluster.devices.iscsi.errors import (
    CheckCondition,
    IscsiError,
    LoginRefused,
    ReservationConflict,
    TargetGone,
)
from easycluster.devices.iscsi.negotiation import Wishes
from easycluster.devices.iscsi.scsi import Capacity

MIB = 1 << 20
WAYS = {
    "as it comes": {},
    "all data asked for": {"wishes": Wishes(initial_r2t=True, immediate=False, max_r2t=1)},
    "unsolicited data": {"wishes": Wishes(initial_r2t=False, immediate=False, first_burst=16384)},
    "small pdus": {"wishes": Wishes(max_recv=1024, max_burst=4096, first_burst=2048)},
    "digests": {"header_digest": True, "data_digest": True},
}


@pytest.fixture
def lun(san):
    unit = san.create_lun(8 * MIB)
    yield unit
    san.delete_lun(unit)


@pytest.fixture
def open_session(san, lun):
    sessions = []

    def open_one(portal=0, **options):
        sessions.append(login(san.portals[portal], san.iqn, lun=lun.number, **options))
        return sessions[-1]

    yield open_one
    for session in sessions:
        session.close()


@pytest.fixture
def session(open_session):
    return open_session()


def test_portals_say_which_target_they_have(san):
    assert discover(san.portals[0])[0].iqn == san.iqn
    assert san.portals[0] in discover(san.portals[0])[0].portals


def test_unit_says_what_it_is(session, lun):
    assert lun.number in session.luns()
    assert session.lun == lun.number
    assert session.inquiry()[0] == 0
    assert session.inquiry().present
    assert session.capacity() == Capacity(16384, 512, True, True, 4096)
    assert session.serial()
    assert session.page(0x83)[1] == 0x83
    session.ready()
    assert 0 < session.ping() < 30


@pytest.mark.parametrize("way", WAYS)
def test_what_was_written_is_read(open_session, way):
    # Digests are slow, and as right for little data as for much.
    data = os.urandom((128 << 10 if way == "digests" else 3 * MIB) + 512 * 7)
    session = open_session(**WAYS[way])
    session.write(5, data)
    assert session.read(5, len(data) // 512) == data
    assert session.read(4, 1) == bytes(512)


def test_reading_into_a_buffer_fills_it(session):
    session.write(0, b"a" * 512 + b"b" * 512)
    buffer = bytearray(1024)
    session.read_into(0, buffer)
    assert buffer == b"a" * 512 + b"b" * 512
    with pytest.raises(ValueError, match=r"^100 bytes are not whole blocks of 512$"):
        session.write(0, bytes(100))


def test_blocks_that_are_not_as_written_are_found_by_another_initiator(session, open_session):
    session.fill(1, 0, 2000)
    session.fill(1, 10, 2, generation=2)
    session.write(100, session.read(200, 1))
    session.write(50, session.read(50, 1)[:200] + bytes(312))
    session.unmap(64, 8)
    session.flush()
    found = [str(bad) for bad in open_session(1).verify(1, 0, 2000)]
    assert found == [
        "block 10: future, generation 2",
        "block 11: future, generation 2",
        "block 50: torn",
        *(f"block {number}: zero" for number in range(64, 72)),
        "block 100: misplaced, belongs to block 200",
    ]


def test_one_block_is_written_many_times(session):
    session.write_same(8, 100, b"z" * 512)
    assert session.read(7, 102) == bytes(512) + b"z" * 51200 + bytes(512)


def test_a_block_beyond_the_end_is_refused_in_words(session, san, lun):
    with pytest.raises(CheckCondition) as caught:
        session.read(16384, 1)
    assert (caught.value.key, caught.value.asc, caught.value.ascq) == (5, 0x21, 0)
    assert str(caught.value).startswith(
        f"{san.portals[0]} lun {lun.number}: READ(16): illegal request: logical block address out of range (5/21/00)"
    )
    session.ready()


def test_the_session_goes_on_after_one_of_many_commands_has_failed(session):
    with pytest.raises(CheckCondition, match="out of range"):
        session.write(16384 - 2048, bytes(4 * MIB))
    session.write(0, b"x" * 512)
    assert session.read(0, 1) == b"x" * 512


def test_attention_of_a_new_nexus_is_kept_and_the_command_done(session):
    session.read(0, 1)
    assert [(seen.asc, seen.ascq) for seen in session.attentions][:1] in ([(0x29, 0)], [])


def test_who_has_no_reservation_is_kept_off(session, open_session):
    other = open_session(1)
    session.register(0xA)
    session.reserve("write exclusive")
    held = session.reservations()
    assert (held.keys, held.holder, held.kind) == ([0xA], 0xA, "write exclusive")
    with pytest.raises(ReservationConflict, match=r"another initiator holds the unit"):
        other.write(0, bytes(512))
    assert other.read(0, 1) == bytes(512)
    session.release()
    other.write(0, b"o" * 512)
    session.register(0)
    assert session.reservations().keys == []


def test_a_reservation_is_taken_away(session, open_session):
    other = open_session(1)
    session.register(0xA)
    other.register(0xB)
    session.reserve("exclusive access")
    with pytest.raises(ReservationConflict):
        other.read(0, 1)
    other.preempt(0xA, "exclusive access")
    assert other.read(0, 1) == bytes(512)
    with pytest.raises(ReservationConflict):
        session.read(0, 1)
    other.clear()
    session.read(0, 1)


def test_who_has_not_registered_is_told_so(san):
    lun = san.create_lun(MIB).number
    with san.login(lun=lun) as session, pytest.raises(ReservationConflict, match="or we are not registered there with"):
        session.reserve()
    san.delete_lun(lun)


def test_registrants_may_write_where_only_they_may(session, open_session):
    other, third = open_session(1), open_session()
    session.register(0xA)
    other.register(0xB)
    session.reserve("write exclusive, registrants only")
    other.write(0, bytes(512))
    with pytest.raises(ReservationConflict):
        third.write(0, bytes(512))
    session.clear()


def test_a_kind_of_reservation_that_is_none_is_refused(session):
    with pytest.raises(ValueError, match=r"^'mine' is not a kind of reservation; there are 'write exclusive', "):
        session.reserve("mine")


def test_resize_is_seen_by_every_initiator(session, open_session, san, lun):
    other = open_session(1)
    assert [one.capacity().size for one in (session, other)] == [8 * MIB] * 2
    san.resize_lun(lun, 16 * MIB)
    for one in (session, other):
        assert one.capacity().size == 16 * MIB
        one.write(32767, b"e" * 512)


def test_a_unit_is_resized_and_taken_away_under_load(san):
    """tgtd refuses that while commands are in flight, and with many of them there is no moment without."""
    lun = san.create_lun(4 * MIB).number
    found = []
    with san.login(lun=lun, timeout=60) as session:
        load = threading.Thread(target=lambda: found.append(session.perf(1.0, depth=32)))
        load.start()
        time.sleep(0.2)

        assert san.resize_lun(lun, 64 * MIB).size == 64 * MIB
        san.delete_lun(lun)
        load.join(60)

    (perf,) = found
    assert perf.commands > 0
    assert perf.iops == pytest.approx(perf.commands / perf.seconds)
    assert lun not in san.luns


def test_what_a_unit_tells_under_load_is_no_error(target):
    with login(target.portals[0].address, target.iqn, timeout=60) as session:
        session.ready()
        seen = len(session.attentions)
        growth = threading.Timer(0.1, lambda: target.resize_lun(1, 16 * MIB))
        growth.start()
        perf = session.perf(0.4)
        growth.join()

        assert perf.errors == 0
        assert [(one.asc, one.ascq) for one in session.attentions[seen:]] == [(0x2A, 9)]


def test_a_snapshot_keeps_what_was(session, san, lun):
    session.fill(1, 0, 100)
    session.flush()
    copy = san.snapshot(lun)
    session.fill(1, 0, 100, generation=2)
    assert session.verify(1, 0, 100, generation=1, lun=copy.number) == []
    assert session.verify(1, 0, 100, generation=2) == []
    san.delete_lun(copy)


def test_a_reset_of_the_unit_is_told_to_the_others(session, open_session):
    other = open_session(1)
    other.ready()
    other.attentions.clear()
    session.manage("lun reset")
    other.ready()
    assert [seen.asc for seen in other.attentions] == [0x29]


def test_many_commands_at_once_are_measured(session):
    found = session.perf(0.1, size=4096, depth=8, writes=0.5)
    assert found.errors == 0
    assert found.commands == pytest.approx(found.iops * found.seconds)
    assert found.mb_s == pytest.approx(found.iops * 4096 / 1e6)
    assert 0 < found.p50 <= found.p99 <= found.slowest < 30
    with pytest.raises(ValueError, match=r"^an area of 4 blocks is smaller than a command of 8$"):
        session.perf(0.1, size=4096, blocks=4)


def test_threads_share_a_session(session):
    failures = []

    def work(number):
        try:
            for turn in range(10):
                data = bytes([number, turn]) * 2048
                session.write(number * 100, data)
                assert session.read(number * 100, 8) == data
        except Exception as exc:  # noqa: BLE001  # shown by the test
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_closed_session_says_so(session):
    session.close()
    assert session.closed
    with pytest.raises(TargetGone, match="the session was closed here"):
        session.read(0, 1)
    session.close()


def test_a_target_that_is_not_there_is_refused(san):
    with pytest.raises(LoginRefused, match=r"login refused: .*; target iqn\.2026-11\.org\.example:none$") as caught:
        login(san.portals[0], "iqn.2026-11.org.example:none")
    assert caught.value.status >> 8 == 2


def test_a_target_without_disks_says_so(san):
    with login(san.portals[0], san.iqn) as bare, pytest.raises(IscsiError, match="has no disk; give lun= "):
        bare.read(0, 1)


def test_qemu_reads_what_we_wrote_and_we_read_what_it_wrote(session, san, lun):
    program = require("qemu-io", "qemu-utils")
    if not glob.glob("/usr/lib/*/qemu/block-iscsi.so"):
        require("qemu's block-iscsi.so", "qemu-block-extra")
    session.write(0, b"\xab" * MIB)
    session.flush()
    done = subprocess.run(
        [
            *(program, "-f", "raw", "-c", "read -P 0xab 0 1M", "-c", "write -P 0xcd 1M 64k", "-c", "flush"),
            f"iscsi://{san.portals[1]}/{san.iqn}/{lun.number}",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "Pattern verification failed" in done.stdout) == (0, False), done.stdout + done.stderr
    assert session.read(2048, 128) == b"\xcd" * 65536
    assert session.read(2176, 1) == bytes(512)


def test_a_session_is_a_context(san, lun):
    with login(san.portals[0], san.iqn, lun=lun.number) as found:
        assert isinstance(found, Session)
        assert repr(found) == f"<Session {san.iqn} at {san.portals[0]}>"
    assert repr(found) == f"<Session {san.iqn} at {san.portals[0]}, closed>"
