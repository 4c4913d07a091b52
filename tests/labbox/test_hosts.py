"""What a host of a box has of its own, and what a boot does to it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.labboxes import require_labbox

from easycluster.lab import Lab
from easycluster.labbox import LabBox, LabBoxError

BOOT_ID = "/proc/sys/kernel/random/boot_id"


@contextlib.contextmanager
def connected(host):
    """A connection to the sshd of a host, which has sent its greeting."""
    with socket.create_connection((host.address, 22), 20) as connection:
        connection.settimeout(20)
        assert connection.recv(200).startswith(b"SSH-")
        yield connection


def test_each_host_has_a_name_an_address_and_a_boot_id_of_its_own(labbox):
    said = {host.name: host.run("hostname; cat", BOOT_ID).split() for host in labbox}
    assert said == {host.name: [host.name, host.boot_id] for host in labbox}
    assert len({host.boot_id for host in labbox}) == len({host.address for host in labbox}) == 4
    assert Path(BOOT_ID).read_text().strip() not in {host.boot_id for host in labbox}


def test_hosts_know_each_other_by_name(labbox):
    assert labbox["gpu01"].run("getent hosts san1").split() == [labbox["san1"].address, "san1"]


def test_a_host_has_its_own_home_temporary_files_processes_and_devices(labbox):
    seen = labbox["gpu02"].run("ls -A /home /tmp /mnt; ls /dev; cat /proc/[0-9]*/comm").split()
    assert "sshd" in seen
    # Of this machine there is its Python if it lies in a home, and nothing else.
    assert not {path.name for path in Path("/dev").glob("[svn]d[a-z]*")} & set(seen)
    assert "systemd" not in seen
    assert len([word for word in seen if word == "sshd"]) < 6


def test_who_enters_a_host_stands_in_its_own_root_folder(labbox):
    done = subprocess.run(
        [*labbox["bench"].entrance(), "sh", "-c", "pwd -P"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "/\n", "")


def test_the_running_python_is_there_too(labbox):
    assert labbox["bench"].run(sys.executable, "-c", "'import pytest, easycluster; print(1)'") == "1\n"


def test_a_host_cannot_change_settings_of_this_machine(labbox):
    with pytest.raises(subprocess.CalledProcessError) as info:
        labbox["bench"].run("echo 1 > /proc/sys/vm/drop_caches")
    assert "Read-only file system" in info.value.stderr


def test_the_inventory_of_a_box_loads_and_its_hosts_answer(labbox):
    with Lab.load(labbox.inventory) as lab:
        assert [host.name for host in lab.hosts] == ["gpu01", "gpu02", "san1", "bench"]
        assert lab.hosts["gpu02"].run("hostname").stdout == "gpu02\n"


def test_a_reboot_is_a_new_start_with_the_old_disk(fresh_labbox):
    host = fresh_labbox["gpu01"]
    before = host.boot_id
    host.run("echo kept > /root/kept; touch /tmp/gone /run/gone /dev/shm/gone; setsid sleep 999 </dev/null >&0 2>&0 &")
    assert "sleep" in host.run("cat /proc/[0-9]*/comm")
    uptime = float(host.run("cat /proc/uptime").split()[0])
    with connected(host) as connection:
        host.reboot()
        # It was told: the system ended its processes in order.
        assert b"" in (connection.recv(100), connection.recv(100))
    assert host.boot_id != before
    assert host.run("cat", BOOT_ID).strip() == host.boot_id
    assert host.run("cat /root/kept; ls /tmp/gone /run/gone /dev/shm/gone 2>/dev/null || echo none") == "kept\nnone\n"
    assert "sleep" not in host.run("cat /proc/[0-9]*/comm")
    # How much later this is is not known; that the clock did not go on is.
    fresh_labbox["gpu02"].run("true")
    later = float(fresh_labbox["gpu02"].run("cat /proc/uptime").split()[0])
    assert float(host.run("cat /proc/uptime").split()[0]) < later
    assert uptime < later


@pytest.mark.parametrize("command", ["reboot", "reboot -f", "shutdown -r now", "/usr/sbin/reboot"])
def test_a_host_that_is_told_to_reboot_does(host, command):
    before = host.boot_id
    with contextlib.suppress(subprocess.CalledProcessError):
        host.run(command)
    host.wait_for_boot(before)
    host.wait_for_ssh()
    assert host.run("cat", BOOT_ID).strip() == host.boot_id != before


def test_a_host_that_switches_itself_off_stays_off(host):
    with contextlib.suppress(subprocess.CalledProcessError):
        host.run("poweroff")
    host.wait_for_power("off")
    with pytest.raises(LabBoxError, match="gpu01 is off"):
        host.wait_for_ssh()
    host.power_on()
    assert host.run("hostname") == "gpu01\n"
    assert host.boots == 2


def test_a_host_that_is_switched_off_says_goodbye_and_one_that_lost_its_power_does_not(fresh_labbox):
    polite, killed = fresh_labbox["gpu01"], fresh_labbox["gpu02"]
    with connected(polite) as told, connected(killed) as untold:
        polite.power_off()
        killed.kill()
        assert (polite.power, killed.power) == ("off", "off")
        assert b"" in (told.recv(100), told.recv(100))
        # Off, it is silent; on again, it knows nothing of the connection.
        untold.settimeout(0.2)
        with pytest.raises(TimeoutError):
            untold.recv(100)
        killed.power_on()
        untold.settimeout(20)
        untold.send(b"SSH-2.0-test\r\n")
        with pytest.raises(ConnectionResetError):
            untold.recv(100)


def test_what_was_written_survives_a_loss_of_power_and_memory_does_not(host):
    host.run("echo kept > /root/kept; touch /tmp/gone")
    host.reset()
    assert host.run("cat /root/kept; ls /tmp/gone 2>/dev/null || echo none") == "kept\nnone\n"


def test_a_host_that_is_off_is_silent_and_does_not_refuse(host):
    host.kill()
    with pytest.raises(TimeoutError):
        socket.create_connection((host.address, 22), 0.3)


def test_a_frozen_host_takes_connections_and_answers_nothing_until_it_is_thawed(host):
    host.freeze()
    with socket.create_connection((host.address, 22), 20) as connection:
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(100)
        host.thaw()
        connection.settimeout(20)
        assert connection.recv(100).startswith(b"SSH-")


def test_a_host_is_away_for_as_long_as_its_boot_takes(host):
    host.set_boot_seconds(3600)
    before = host.boot_id
    host.reboot(wait=False)
    with pytest.raises(LabBoxError, match="in vain for gpu01 to boot"):
        host.wait_for_boot(before, 0.5)
    # Somebody loses patience and presses the button.
    host.power_on()
    assert host.boot_id != before


def test_a_disk_is_as_large_as_it_was_ordered(host):
    with pytest.raises(subprocess.CalledProcessError) as info:
        host.run("head -c 300M /dev/zero > /root/large")
    assert "No space left on device" in info.value.stderr


def test_an_unknown_host_is_named_with_those_there_are(labbox):
    with pytest.raises(LabBoxError, match="the box has no host 'gpu3'; it has gpu01, gpu02, san1, bench"):
        labbox["gpu3"]


def test_accounts_that_are_asked_for_can_log_in():
    require_labbox()
    with LabBox(["gpu01"], users=["ann", "bob"]) as box:
        words = ["ssh", "-F", str(box.ssh_config), "gpu01", "-l", "bob", "id -un; pwd; touch mine; touch /home/ann/x"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=50)
    assert done.stdout == "bob\n/home/bob\n"
    assert "'/home/ann/x': Permission denied" in done.stderr
