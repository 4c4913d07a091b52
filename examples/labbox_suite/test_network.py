"""Hosts with role ``net``: what goes between two of them, and changes that are undone."""

from __future__ import annotations

import pytest

MIB = 1 << 20


def test_messages_go_there_and_back(two_racks):
    near, far = two_racks
    with far.echo() as service:
        times = near.round_trips(far.address, service.port(), 50)

    assert len(times) == 50
    assert sorted(times)[25] < 100  # milliseconds; a cable here takes less than one


def test_what_is_poured_in_comes_out_unaltered(two_racks):
    near, far = two_racks
    with far.sink() as service:
        seconds, checksum = near.pour(far.address, service.port(), 16 * MIB)
        assert service.result() == (16 * MIB, checksum)

    assert 16 / seconds > 5  # MiB/s


@pytest.mark.ec_hosts("net", "san", "gpu")
def test_kinds_of_hosts_reach_each_other(remote_hosts):
    with remote_hosts[0].echo() as service:
        for host in remote_hosts[1:]:
            assert len(host.round_trips(remote_hosts[0].address, service.port(), 3)) == 3


def test_a_closed_port_refuses_with_the_error_of_the_system(two_racks):
    near, far = two_racks
    with far.echo() as service:
        port = service.port()
    with pytest.raises(ConnectionRefusedError):
        near.hello(far.address, port)


def test_a_command_that_is_refused_says_why(two_racks):
    with pytest.raises(OSError, match='Cannot find device "eth7"'):
        two_racks[0].ip("link", "set", "eth7", "up")


def test_a_host_gets_a_second_address_for_a_while(two_racks):
    near, far = two_racks
    second = far.address.rpartition(".")[0] + ".200"
    far.add_address(second)
    with far.echo() as service:
        assert near.round_trips(second, service.port(), 1)


def test_a_prohibited_address_is_reached_by_nobody_here(two_racks):
    near, far = two_racks
    with far.echo() as service:
        near.refuse(far.address)
        with pytest.raises(OSError, match=r"Permission denied|Network is unreachable|No route"):
            near.hello(far.address, service.port())


def test_changes_of_the_network_end_with_the_lease(ec):
    """A lease in the test itself shows what other tests only rely on."""
    with ec.lease("net") as hosts:
        name, before = hosts[0].name, hosts[0].mtu()
        hosts[0].set_mtu(before - 100)
        assert hosts[0].mtu() == before - 100

    with ec.lease("net", where=f"name == '{name}'") as hosts:
        assert hosts[0].mtu() == before
