"""All hosts at once: calls in parallel, files for everybody, locks, and a reboot in the middle."""

from __future__ import annotations

import time

import pytest

from easycluster.lab import HostErrors

EVERY = ["net01", "net02", "san01", "san02", "gpu01", "gpu02", "video01", "video02"]


def test_every_host_is_a_machine_of_its_own(remote_hosts):
    names = remote_hosts.call("socket.gethostname")

    assert list(names) == EVERY
    assert all(name == said for name, said in names.items())


def test_calls_to_all_hosts_take_as_long_as_one(remote_hosts):
    remote_hosts.connect()
    begin = time.monotonic()
    pending = [host.remote.time.sleep(0.5, nonblocking=True) for host in remote_hosts]
    for response in pending:
        response.wait()

    assert 0.5 <= time.monotonic() - begin < 0.5 * len(EVERY)


def test_a_command_runs_on_every_host(remote_hosts):
    done = remote_hosts.run(["hostname"], check=True)

    assert {name: result.stdout.strip() for name, result in done.items()} == {name: name for name in EVERY}


def test_the_hosts_that_fail_are_named_and_the_others_answer(remote_hosts):
    with pytest.raises(HostErrors) as caught:
        remote_hosts.call("os.stat", "/etc/labbox/only-on-net01")
    assert sorted(caught.value.by_host) == sorted(EVERY)

    remote_hosts["san01"].run("touch /tmp/only-here", check=True)
    remote_hosts["san01"].undo("rm /tmp/only-here")
    with pytest.raises(HostErrors) as caught:
        remote_hosts.call("os.stat", "/tmp/only-here")

    assert list(caught.value.succeeded) == ["san01"]
    assert all(isinstance(error, FileNotFoundError) for error in caught.value.by_host.values())


def test_a_file_is_handed_out_to_everybody(remote_hosts, tmp_path):
    config = tmp_path / "config"
    config.write_text("level = 3\n")

    def install(host):
        host.undo("rm -f /tmp/config")
        host.put(config, "/tmp/config")
        return host.run(["cat", "/tmp/config"], check=True).stdout

    assert set(remote_hosts.each(install).values()) == {"level = 3\n"}


@pytest.mark.ec_lock("fabric-A")
@pytest.mark.ec_hosts("net")
def test_a_host_is_ours_while_the_test_runs(remote_hosts, ec, request):
    (host,) = remote_hosts
    labels = [holder.label for holder in ec.leases.holders(host) if holder.name == host.name]

    assert len(labels) == 1
    assert request.node.name in labels[0]


@pytest.mark.ec_destructive
@pytest.mark.ec_hosts("net", where="rack == 'r2'")
def test_a_host_comes_back_from_a_reboot(remote_hosts):
    (host,) = remote_hosts
    host.undo("rm -f /srv/kept")
    host.run("touch /tmp/gone-with-the-boot /srv/kept", check=True)

    boot = host.reboot()

    assert boot.boot_id != boot.before
    assert not host.remote.os.path.exists("/tmp/gone-with-the-boot")
    assert host.remote.os.path.exists("/srv/kept")


@pytest.mark.ec_destructive
@pytest.mark.ec_hosts("video", where="rack == 'r2'")
def test_a_host_is_switched_off_and_on(remote_hosts):
    (host,) = remote_hosts
    before = host.remote.open("/proc/sys/kernel/random/boot_id").read()

    host.power("off")
    assert host.power("status") == "off"
    host.power("on")

    assert host.remote.open("/proc/sys/kernel/random/boot_id").read() != before


@pytest.mark.ec_destructive
@pytest.mark.ec_hosts("net", where="rack == 'r2'")
def test_a_host_may_end_in_the_middle(remote_hosts):
    """What the loss raises in the block is expected; the next use connects anew."""
    with remote_hosts[0].expect_loss():
        remote_hosts[0].run("reboot")

    assert remote_hosts[0].remote.socket.gethostname() == "net02"
