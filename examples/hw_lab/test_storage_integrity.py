"""Data that was acknowledged is there, whatever happens in between; and what is wrong with data has a name.

`fill(seed)` writes blocks that know their number and how often they were written; `verify(seed)` reads them and returns
the bad ones.  The sessions are on the initiators of the lab file, the target is on the storage host.
"""

from __future__ import annotations

import pytest

from easycluster.devices.iscsi.errors import CommandTimeout, TargetGone

BLOCKS = 2048  # one mebibyte


@pytest.mark.ec_each("san")
def test_integrity_across_failover(ec_host):
    target = ec_host.san
    one, other = target.login(0), target.login(1, host=target.initiators[1])
    one.fill(7, blocks=BLOCKS)

    # Half of the second generation goes by the first path, and then that path is gone.
    one.fill(7, blocks=BLOCKS // 2, generation=2)
    with target.path_failed(0, "refuse"):
        with pytest.raises(TargetGone):
            one.fill(7, BLOCKS // 2, BLOCKS // 2, generation=2)
        other.fill(7, BLOCKS // 2, BLOCKS // 2, generation=2)

    assert other.verify(7, blocks=BLOCKS, generation=2) == []


def test_flushed_data_survives_a_crash_of_the_target(san_target):
    session = san_target.login()
    session.fill(8, blocks=BLOCKS)
    session.flush()
    session.fill(8, blocks=BLOCKS // 2, generation=2)  # acknowledged, not flushed: it may be there or not

    san_target.crash()
    with pytest.raises(TargetGone):
        session.read(0, 1)
    san_target.restart()

    again = san_target.login()
    assert again.verify(8, BLOCKS // 2, BLOCKS // 2) == []
    assert {bad.kind for bad in again.verify(8, 0, BLOCKS // 2, generation=2)} <= {"stale"}


def test_a_hung_target_goes_on_where_it_was(san_target):
    session = san_target.login(timeout=0.3)
    session.ready()
    with san_target.hung(), pytest.raises(CommandTimeout):
        session.fill(9, blocks=8)

    later = san_target.login()
    later.fill(9, blocks=8, generation=2)
    assert later.verify(9, blocks=8, generation=2) == []


@pytest.fixture
def written(san_target):
    """A session on a unit with a hundred good blocks of generation 2."""
    session = san_target.login(lun=1)
    session.fill(10, blocks=100, generation=2)
    return session


def test_a_lost_write_is_stale(written):
    written.fill(10, 40, 1, generation=1)

    assert [str(bad) for bad in written.verify(10, blocks=100, generation=2)] == ["block 40: stale, generation 1"]


def test_a_write_that_went_elsewhere_is_misplaced(written):
    written.write(41, written.read(57, 1))

    assert [str(bad) for bad in written.verify(10, blocks=100, generation=2)] == [
        "block 41: misplaced, belongs to block 57"
    ]


def test_a_write_that_ended_in_the_middle_is_torn(written):
    new = written.read(42, 1)
    written.fill(10, 42, 1, generation=1)
    written.write(42, new[:200] + written.read(42, 1)[200:])

    assert [str(bad) for bad in written.verify(10, blocks=100, generation=2)] == ["block 42: torn"]


def test_data_of_another_run_is_foreign_and_what_was_never_written_is_zero(written):
    written.fill(11, 43, 1, generation=2)
    written.unmap(44, 1)

    assert [(bad.lba, bad.kind) for bad in written.verify(10, blocks=100, generation=2)] == [
        (43, "foreign"),
        (44, "zero"),
    ]
