"""What a host of a box has of its own, and what a boot does to it."""

from __future__ import annotations

from easycluster.lab import Lab


def test_each_host_has_a_name_an_address_and_a_boot_id_of_its_own(labbox):
    said = {host.name: host.run("hostname; cat /proc/sys/kernel/random/boot_id").split() for host in labbox}
    assert said == {host.name: [host.name, host.boot_id] for host in labbox}
    assert len({host.boot_id for host in labbox}) == len({host.address for host in labbox}) == 4


def test_the_inventory_of_a_box_loads_and_its_hosts_answer(labbox):
    with Lab.load(labbox.inventory) as lab:
        assert [host.name for host in lab.hosts] == ["gpu01", "gpu02", "san1", "bench"]
        assert lab.hosts["gpu02"].run("hostname").stdout == "gpu02\n"


def test_a_reboot_is_a_new_start_with_the_old_disk(fresh_labbox):
    host = fresh_labbox["gpu01"]
    before = host.boot_id
    host.run("echo kept > /root/kept; echo gone > /tmp/gone; touch /run/gone /dev/shm/gone")
    host.reboot()
    assert host.boot_id != before
    assert host.run("cat /proc/sys/kernel/random/boot_id").strip() == host.boot_id
    assert float(host.run("cat /proc/uptime").split()[0]) < 30
    assert host.run("cat /root/kept; ls /tmp/gone /run/gone /dev/shm/gone 2>/dev/null || echo none") == "kept\nnone\n"
