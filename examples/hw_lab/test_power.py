"""Hosts that go away in the middle of something, and come back."""

from __future__ import annotations

import pytest

from easycluster.errors import StaleProxy


@pytest.mark.ec_destructive
@pytest.mark.ec_each("san", where="reboots == true")
def test_what_was_flushed_survives_a_reboot_of_the_storage_host(ec_host):
    """The host restarts, its processes are gone; the target comes back with the units that are on its disk."""
    san = ec_host
    session = san.login()
    session.fill(12, blocks=2048)
    session.flush()
    portals = san.portals

    boot = san.reboot(timeout=60)

    assert boot.boot_id != boot.before
    with pytest.raises(StaleProxy):
        san.create_lun(1 << 20)
    san.restart()
    assert san.portals == portals
    assert san.login().verify(12, blocks=2048) == []
