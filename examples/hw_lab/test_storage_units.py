"""Units grow, shrink, are copied and given back, and every initiator sees it."""

from __future__ import annotations

import pytest

MIB = 1 << 20


@pytest.mark.ec_each("san")
def test_a_resize_is_seen_by_every_initiator(ec_host):
    target = ec_host.san
    lun = target.create_lun(2 * MIB)
    sessions = [target.login(host=host, lun=lun.number) for host in target.initiators]
    assert [session.capacity().size for session in sessions] == [2 * MIB, 2 * MIB]

    target.resize_lun(lun, 4 * MIB)

    for session in sessions:
        assert session.capacity().size == 4 * MIB
        # Without being asked the unit has told that something is new, once to each.
        assert [attention.asc for attention in session.attentions][-1:] in ([0x2A], [0x3F], [0x29])
    sessions[0].fill(2)
    assert sessions[1].verify(2) == []


def test_a_snapshot_keeps_what_was_there(san_target):
    session = san_target.login(lun=1)
    session.fill(3, blocks=100)

    copy = san_target.snapshot(1)
    session.fill(3, blocks=100, generation=2)

    assert san_target.login(lun=copy.number).verify(3, blocks=100, generation=1) == []
    assert session.verify(3, blocks=100, generation=2) == []


def test_what_is_given_back_reads_as_zeroes_and_takes_no_space(san_target):
    session = san_target.login(lun=1)
    session.fill(4, blocks=1024)
    assert session.allocated(0, 1024) == 1024

    session.unmap(256, 512)

    assert session.read(256, 512) == bytes(512 * 512)
    assert session.allocated(0, 1024) == 512
    assert session.verify(4, 0, 256) == session.verify(4, 768, 256) == []


def test_units_come_and_go(san_target):
    lun = san_target.create_lun(MIB, block_size=4096)
    session = san_target.login(lun=lun.number)
    assert (session.capacity().blocks, session.capacity().block_size) == (256, 4096)
    assert lun.number in session.luns()

    san_target.delete_lun(lun)

    assert lun.number not in session.luns()


@pytest.mark.ec_hosts("san", where="name == 'san02'")
def test_a_bad_block_is_reported_where_it_is(remote_hosts):
    target = remote_hosts[0].san
    session = target.login(lun=1)
    target.fail_blocks(1, 123, 1)

    with pytest.raises(OSError, match=r"medium error.*at block 123"):
        session.read(100, 64)
    session.write(123, bytes(512))
    target.fail_blocks(1, 0, 0)
    assert session.read(123, 1) == bytes(512)


@pytest.mark.ec_each("san")
def test_a_judge_who_is_not_ours_finds_nothing(ec_host):
    """Conformance, by `iscsi-test-cu` of libiscsi; a part that takes no time, `conformance()` runs all."""
    found = ec_host.san.conformance("SCSI.Inquiry")

    assert found.failed == []
    assert found.passed
