"""Persistent reservations: two initiators want the same unit, and one of them dies with it."""

from __future__ import annotations

import pytest

from easycluster.devices.iscsi.errors import ReservationConflict


@pytest.fixture
def rivals(san_target):
    """A session of each of two initiators, registered with the keys 1 and 2."""
    sessions = [san_target.login(number, host=host, lun=1) for number, host in enumerate(san_target.initiators)]
    for key, session in enumerate(sessions, 1):
        session.register(key)
    return sessions


def test_who_reserves_writes_and_the_other_does_not(rivals):
    first, second = rivals
    first.reserve("write exclusive")

    first.write(0, b"1" * 512)
    with pytest.raises(ReservationConflict):
        second.write(0, b"2" * 512)
    assert second.read(0, 1) == b"1" * 512

    first.release()
    second.write(0, b"2" * 512)


def test_the_survivor_takes_over_from_a_holder_that_died(rivals):
    first, second = rivals
    first.reserve("exclusive access")
    first.write(0, b"1" * 512)
    first.abandon()  # as if its host had lost power
    with pytest.raises(ReservationConflict):
        second.read(0, 1)

    second.preempt(1)

    assert second.read(0, 1) == b"1" * 512
    second.write(0, b"2" * 512)
    assert second.reservations().keys == [2]


def test_who_was_preempted_stays_out(rivals):
    first, second = rivals
    first.reserve("write exclusive, registrants only")
    second.preempt(1)

    second.write(0, b"2" * 512)
    with pytest.raises(ReservationConflict):
        first.write(0, b"1" * 512)
