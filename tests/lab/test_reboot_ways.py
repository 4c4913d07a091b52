"""Reboots and power of hosts that are reached in other ways than root's ssh: by sudo, and by a TCP server."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time

import pytest
from support.labboxes import CHECKOUT, require_labbox, require_parts

from easycluster import generate_key, write_key_file
from easycluster.errors import BootstrapError, StaleProxy
from easycluster.lab import Lab, NeverCameBack
from easycluster.labbox import LabBox

SOON = 60.0
PORT = 11999
RULE = "ann ALL=(ALL) NOPASSWD: ALL"

EXTRA = """
include: [{inventory}]
defaults: {{keepalive: 700ms}}
hosts:
  gpu01: {{user: ann, become: sudo}}
  gpu02: {{connect: {{via: tcp, address: {address}, port: {port}, key_file: {key}}}}}
"""


class Service:
    """What starts the TCP server whenever its host has booted, as the service manager of a real one does."""

    def __init__(self, host, key):
        self.enabled = True
        self._host = host
        self._key = key
        self._over = threading.Event()
        self._start()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _start(self):
        self._boot = self._host.boot_id
        write = f"umask 77; printf '{self._key}' >/root/lab.key; cd {CHECKOUT}"
        serve = f"setsid {sys.executable} -m easycluster -S -k /root/lab.key -b '*' -p {PORT}"
        self._host.inside("sh", "-c", f"{write}; {serve} </dev/null >/dev/null 2>&1 &")

    def _run(self):
        while not self._over.wait(0.05):
            with contextlib.suppress(Exception):  # it is going down just now
                if self.enabled and self._host.boot_id != self._boot:
                    self._start()

    def end(self):
        self._over.set()
        self._thread.join()

    def wait(self):
        """Return once it answers."""
        end = time.monotonic() + SOON
        while True:
            with contextlib.suppress(OSError), socket.create_connection((self._host.address, PORT), timeout=1):
                return self
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.fixture(scope="module")
def box():
    require_labbox()
    require_parts("sudo")
    with LabBox(["gpu[01:02]"], share=[CHECKOUT], users=["ann"]) as box:
        yield box


@pytest.fixture
def lab(box, key, tmp_path):
    (tmp_path / "lab.yaml").write_text(
        EXTRA.format(inventory=box.inventory, address=box["gpu02"].address, port=PORT, key=key)
    )
    box["gpu01"].inside("sh", "-c", f"umask 227; echo '{RULE}' >/etc/sudoers.d/ann")
    with Lab.load(tmp_path / "lab.yaml") as lab:
        lab.leases.directory = ""
        yield lab


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    file = tmp_path_factory.mktemp("key") / "lab.key"
    write_key_file(file, generate_key())
    return file


@pytest.fixture(scope="module")
def service(box, key):
    service = Service(box["gpu02"], key.read_text().strip())
    yield service.wait()
    service.end()


def restart_and_lose_power(lab, name, user):
    """All that a lease has goes on over both."""
    with lab.leases.take(lab.only(name).connect(), destructive=True, wait=0.0):
        host = lab[name]
        host.undo("rm /root/changed")
        host.run("echo yes >/root/changed", check=True)
        old = host.remote

        boot = host.reboot(timeout=SOON)
        assert boot.boot_id != boot.before
        assert host.run("id -un; cat /root/changed").stdout == f"{user}\nyes\n"
        with pytest.raises(StaleProxy, match=f"it is of before the reboot of {name} at"):
            old.eval("1")

        assert host.power("cycle", timeout=SOON) == "on"
        assert host.run("id -un; cat /root/changed").stdout == f"{user}\nyes\n"
    assert lab[name].run("ls /root/changed").returncode == 2
    assert lab.take_reboots() == {}


def test_a_host_that_is_used_by_sudo_reboots_and_loses_power(lab):
    restart_and_lose_power(lab, "gpu01", "root")


def test_a_host_with_a_tcp_server_reboots_and_loses_power(lab, service):
    restart_and_lose_power(lab, "gpu02", "root")


def test_a_server_that_does_not_start_after_a_reboot_is_a_host_that_never_came_back(lab, service):
    with lab.leases.take(lab.only("gpu02").connect(), destructive=True, wait=0.0):
        service.enabled = False
        with pytest.raises(NeverCameBack, match=r"gpu02: went down .*, and does not answer \d+ s after it") as caught:
            lab["gpu02"].reboot(timeout=6, down_timeout=6)
        assert "refused" in caught.value.details
        service.enabled = True
        service.wait()


def test_who_may_not_use_sudo_any_more_reads_what_to_do(lab, box):
    box["gpu01"].inside("rm", "/etc/sudoers.d/ann")

    with pytest.raises(BootstrapError, match=r"sudo: a password is required; let ann run it without a password"):
        lab["gpu01"].run("id")
