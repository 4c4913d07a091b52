"""Our target: who may log in, what goes wrong on demand, and what bad initiators cannot do."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

import pytest
from support.rawiscsi import Raw

from easycluster.devices.iscsi import discover, login
from easycluster.devices.iscsi.chap import Chap
from easycluster.devices.iscsi.errors import (
    ChapRefused,
    CheckCondition,
    CommandTimeout,
    LoginRefused,
    ProtocolFault,
    TargetGone,
    TaskRefused,
)
from easycluster.devices.iscsi.pdu import Header, Op, encode_lun
from easycluster.devices.iscsi.scsi import write16
from easycluster.devices.iscsi.stream import PduStream, encode_pdu
from easycluster.devices.iscsi.target import FileStorage, Target
from easycluster.devices.iscsi.text import encode_text

MIB = 1 << 20
CHAP = Chap("ann", "secret-of-ann", "tgt", "secret-of-tgt")


@pytest.fixture
def open_session(target):
    with contextlib.ExitStack() as stack:
        yield lambda portal=0, **options: stack.enter_context(
            login(target.portals[portal].address, target.iqn, lun=1, **options)
        )


@pytest.fixture
def session(open_session):
    return open_session()


def attentions(session):
    return [(seen.asc, seen.ascq) for seen in session.attentions]


# ------------------------------------------------------------ who may log in


@pytest.fixture
def guarded():
    with Target(chap=CHAP) as found:
        found.create_lun(MIB)
        yield found


@pytest.mark.parametrize("secret", [("ann", "secret-of-ann"), CHAP], ids=["one way", "mutual"])
def test_who_knows_the_secret_comes_in(guarded, secret):
    with login(guarded.portals[0].address, guarded.iqn, secret) as session:
        assert session.read(0, 1) == bytes(512)


SECRETS = [
    (None, "authentication failure; no CHAP secret was given"),
    (("ann", "wrong-secret-"), "authentication failure; it knows no user 'ann' with the secret that was given"),
    (("bob", "secret-of-ann"), "authentication failure; it knows no user 'bob' with the secret that was given"),
    (("ann", "secret-of-ann", "tgt", "wrong-secret-"), "the target did not prove that it is 'tgt'"),
    (("ann", "secret-of-ann", "other", "secret-of-tgt"), "the target did not prove that it is 'other'"),
]


@pytest.mark.parametrize(("secret", "why"), SECRETS)
def test_who_does_not_is_refused(guarded, secret, why):
    portal = guarded.portals[0].address
    with pytest.raises(ChapRefused) as caught:
        login(portal, guarded.iqn, secret)
    assert str(caught.value) == f"{portal}: login refused: {why}"
    assert guarded.sessions == []


def test_a_target_without_a_secret_is_not_believed_by_who_wants_proof(target):
    with pytest.raises(LoginRefused, match="login refused: authentication failure"):
        login(target.portals[0].address, target.iqn, CHAP)
    with login(target.portals[0].address, target.iqn, ("ann", "secret-of-ann")) as session:
        session.ready()


def test_the_targets_own_challenge_proves_nothing_for_who_sends_it_back(guarded):
    raw = Raw(guarded)
    keys = {"InitiatorName": "iqn.x", "TargetName": guarded.iqn, "AuthMethod": "CHAP"}
    raw.login(keys, 0x00)
    challenge = raw.login({"CHAP_A": "5"}, 0x00)
    answer = raw.login({"CHAP_N": "ann", "CHAP_R": "0x00", "CHAP_I": "1", "CHAP_C": challenge["CHAP_C"]}, 0x81)
    assert (answer, raw.status) == ({}, 0x0201)
    raw.close()


def test_a_login_cannot_go_round_the_proof(guarded):
    raw = Raw(guarded)
    raw.login({"InitiatorName": "iqn.x", "TargetName": guarded.iqn}, 0x87)
    assert raw.status == 0x0201
    raw.close()


def test_only_named_initiators_come_in():
    with Target(initiators=["iqn.2026-11.org.example:good"]) as target:
        target.create_lun(MIB)
        portal = target.portals[0].address
        with pytest.raises(LoginRefused, match="this initiator may not use the target"):
            login(portal, target.iqn)
        with login(portal, target.iqn, initiator="iqn.2026-11.org.example:good"):
            assert target.sessions == [("iqn.2026-11.org.example:good", portal)]


def test_what_does_not_speak_iscsi_is_named():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer():
            with listener.accept()[0] as peer:
                peer.recv(10)
                peer.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian and many more bytes to make a header of 48\r\n")
                peer.recv(10000)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ProtocolFault):
            login(f"127.0.0.1:{port}", "iqn.x", timeout=20)
        thread.join()


def test_a_target_that_has_moved_is_followed(target):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            with listener.accept()[0] as peer:
                stream = PduStream(peer, "initiator")
                asked, _ = stream.read(time.monotonic() + 20)
                moved = Header(Op.LOGIN_RESPONSE, 0, lun=asked.lun, itt=asked.itt, w36=0x0101 << 16)
                there = encode_text({"TargetAddress": f"{target.portals[1].address},1"})
                stream.write(encode_pdu(moved, there), time.monotonic() + 20)

        thread = threading.Thread(target=answer)
        thread.start()
        with login(f"127.0.0.1:{listener.getsockname()[1]}", target.iqn) as session:
            assert session.read(0, 1) == bytes(512)
            assert [at for _, at in target.sessions] == [target.portals[1].address]
        thread.join()


def test_a_portal_that_accepts_and_says_nothing_costs_no_more_than_the_limit():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        portal = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(CommandTimeout, match=rf"^{portal}: no login within 0\.2 s$"):
            login(portal, "iqn.x", timeout=0.2)


# ------------------------------------------------------------ what happens


def test_resize_is_told_to_every_initiator(target, session, open_session):
    other = open_session(1)
    for one in (session, other):
        one.capacity()
        one.attentions.clear()
    target.resize_lun(1, 16 * MIB)
    for one in (session, other):
        assert one.capacity().size == 16 * MIB
        assert attentions(one) == [(0x2A, 0x09)]


def test_a_new_unit_is_told_to_every_initiator(target, session):
    session.ready()
    session.attentions.clear()
    unit = target.create_lun(MIB)
    assert session.luns() == [1, unit.number]
    session.ready()
    assert attentions(session) == [(0x3F, 0x0E)]
    session.write(0, b"n" * 512, lun=unit.number)
    target.delete_lun(unit.number)
    with pytest.raises(CheckCondition, match="logical unit not supported"):
        session.read(0, 1, lun=unit.number)


def test_space_is_given_back(target, session):
    session.write(0, os.urandom(MIB))
    assert session.allocated(0, 16384) == 2048
    session.unmap(0, 1024)
    assert session.allocated(0, 16384) == 1024
    assert session.read(0, 1024) == bytes(1024 * 512)


def test_a_block_is_exchanged_in_one_step(session):
    session.write(5, b"a" * 512)
    assert session.compare_and_write(5, b"a" * 512, b"b" * 512)
    assert not session.compare_and_write(5, b"a" * 512, b"c" * 512)
    assert session.read(5, 1) == b"b" * 512


def test_a_unit_in_a_file_outlives_its_target(tmp_path):
    path = str(tmp_path / "unit.img")
    for turn in range(2):
        with Target() as target:
            target.create_lun(MIB if turn == 0 else None, path=path)
            with login(target.portals[0].address, target.iqn) as session:
                if turn == 0:
                    session.fill(3)
                assert session.verify(3) == []
    assert os.path.getsize(path) == MIB


def test_a_file_that_cannot_be_written_is_a_medium_error(target, session):
    unit = target.units[1]
    whole, unit.storage = unit.storage, FileStorage("/dev/full", None)
    unit.storage.size = whole.size
    try:
        with pytest.raises(CheckCondition, match=r"WRITE\(16\): medium error: write error"):
            session.write(0, bytes(512))
    finally:
        unit.storage.close()
        unit.storage = whole
    session.write(0, bytes(512))


def test_a_unit_that_may_only_be_read_is_not_written(target):
    target.create_lun(MIB, lun=2, readonly=True)
    with login(target.portals[0].address, target.iqn, lun=2) as session:
        with pytest.raises(CheckCondition, match="data protect: write protected"):
            session.write(0, bytes(512))
        assert session.read(0, 1) == bytes(512)


def test_a_nexus_that_comes_again_ends_its_old_session(target, open_session):
    from easycluster.devices.iscsi.logon import connect

    first = connect(target.portals[0].address, target.iqn, isid=b"\x80\0\0\1\0\0")
    second = connect(target.portals[0].address, target.iqn, isid=b"\x80\0\0\1\0\0")
    with pytest.raises(TargetGone):
        first.ping(20)
    second.ping(20)
    second.logout(20)


# ------------------------------------------------------------ faults on demand


def test_a_silent_path_answers_nothing_and_the_other_everything(target, session, open_session):
    other = open_session(1)
    session.read(0, 1)
    target.fail_path(target.portals[0].address)
    session.timeout = 0.2
    with pytest.raises(CommandTimeout, match=r"no answer to WRITE\(16\) within 0\.2 s$"):
        session.write(0, b"s" * 512)
    assert other.read(0, 1) == bytes(512)
    with pytest.raises(CommandTimeout):
        login(target.portals[0].address, target.iqn, timeout=0.2)
    target.restore_path(target.portals[0].address)
    session.timeout = 20
    # The write that nobody waited for is done, and its late answer does no harm.
    assert session.read(0, 1) == b"s" * 512


def test_a_refusing_path_resets_and_refuses(target, session, open_session):
    other = open_session(1)
    portal = target.portals[0].address
    target.fail_path(portal, "refuse")
    with pytest.raises(TargetGone):
        session.read(0, 1)
    with pytest.raises(TargetGone, match=rf"^{portal}: cannot connect: Connection refused$"):
        login(portal, target.iqn)
    assert discover(target.portals[1].address)[0].portals == (target.portals[1].address,)
    other.ready()
    target.restore_path(portal)
    with login(portal, target.iqn) as again:
        again.ready()


def test_a_hung_target_goes_on_where_it_was(target, session):
    session.ready()
    target.hang()
    session.timeout = 0.2
    with pytest.raises(CommandTimeout):
        session.ready()
    target.resume()
    session.timeout = 20
    session.fill(1, 0, 100)
    assert session.verify(1, 0, 100) == []


def test_writes_that_were_flushed_before_a_crash_are_there_after_it(target, session):
    session.fill(1, 0, 100)
    session.flush()
    target.crash()
    with pytest.raises(TargetGone):
        session.read(0, 1)
    target.restart()
    with login(target.portals[0].address, target.iqn) as again:
        assert again.verify(1, 0, 100) == []


def test_a_bad_block_is_named(target, session):
    session.write(0, bytes(64 * 512))
    target.units[1].bad_reads[40] = (3, 0x1100)
    target.units[1].bad_writes[7] = (3, 0x0C00)
    with pytest.raises(CheckCondition, match="medium error: unrecovered read error") as caught:
        session.read(32, 32)
    assert caught.value.information == 40
    with pytest.raises(CheckCondition, match="medium error: write error"):
        session.write(0, bytes(8 * 512))
    assert session.read(0, 40) == bytes(40 * 512)


def test_slow_commands_are_slow_side_by_side(target, session):
    session.ready()
    target.units[1].delay = 0.4
    found = session.perf(0.01, depth=8)
    assert found.p50 >= 0.4
    # One after the other the eight would take 3.2 s.
    assert found.commands == 8
    assert found.seconds < 3


def test_an_aborted_command_is_not_done(target, session):
    session.ready()
    target.units[1].delay = 30
    connection = session._connection
    task = connection.submit(encode_lun(1), write16(0, 1), None, memoryview(b"x" * 512))
    connection.manage("abort task", encode_lun(1), 20, task)
    assert connection.in_flight == 0
    with pytest.raises(TaskRefused, match="abort task: there is no such task"):
        connection.manage("abort task", encode_lun(1), 20, task)
    target.units[1].delay = 0
    assert session.read(0, 1) == bytes(512)


def test_a_reset_of_no_unit_is_refused(session):
    with pytest.raises(TaskRefused, match="lun reset: there is no such logical unit"):
        session.manage("lun reset", lun=200)


def test_a_session_answers_while_nobody_uses_it(target, session):
    session.ready()
    (served,) = target._sessions
    served.ping()
    deadline = time.monotonic() + 30
    while served.pings_answered == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert served.pings_answered == 1


def test_a_target_that_asks_for_a_logout_gets_it(target, session):
    session.ready()
    target.ask_logout()
    with pytest.raises(TargetGone, match="the target asks for a logout"):
        session.ready()
    assert [text for _, text in session.events] == ["the target asks for a logout"]
