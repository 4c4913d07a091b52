"""Two paths to one unit: one is lost, comes back, and flaps, while the other has work to do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from easycluster.devices.iscsi.errors import ChapRefused, CommandTimeout


@pytest.mark.ec_each("san")
def test_a_path_is_lost_and_returns(ec_host):
    target = ec_host.san
    one, other = target.login(0, timeout=0.3), target.login(1)
    one.fill(1, blocks=64)

    with target.path_failed(0, "silent"):
        with pytest.raises(CommandTimeout):
            one.read(0, 1)
        assert other.verify(1, blocks=64) == []
    assert target.reachable == target.portals

    assert target.login(0).verify(1, blocks=64) == []


def test_latency_stays_low_while_the_other_path_flaps(san_target):
    steady = san_target.login(1)
    quiet = steady.perf(0.2, depth=4)

    flaps = 0
    with ThreadPoolExecutor() as threads:
        measured = threads.submit(steady.perf, 0.6, depth=4)
        while not measured.done():
            with san_target.path_failed(0, "refuse"):
                assert san_target.portals[0] not in san_target.reachable
            flaps += 1
    under_fire = measured.result()

    assert flaps >= 1
    assert quiet.errors == under_fire.errors == 0
    assert under_fire.p99 < 1.0, (quiet, under_fire)


def test_who_does_not_know_the_secret_gets_in_by_no_path(san_target):
    for portal in san_target.portals:
        for secret in (None, ("hw-lab", "wrong-wrong-wrong")):
            with pytest.raises(ChapRefused):
                san_target.login(portal, chap=secret)
        san_target.login(portal).ready()
