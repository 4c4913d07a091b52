"""Cables that are pulled, and bad ones."""

from __future__ import annotations

import socket
import time

import pytest

from easycluster.labbox import LabBoxError


def greeting(host, timeout=20.0):
    """What an sshd says at once, and the seconds until then."""
    began = time.monotonic()
    with socket.create_connection((host.address, 22), timeout) as connection:
        connection.settimeout(timeout)
        return connection.recv(4), time.monotonic() - began


def test_a_pulled_cable_is_silence_and_the_host_goes_on(host):
    with socket.create_connection((host.address, 22), 20) as connection:
        connection.settimeout(20)
        assert connection.recv(200)
        host.link.down()
        with pytest.raises(TimeoutError):
            greeting(host, 0.3)
        assert "NO-CARRIER" in host.inside("ip", "link", "show", "eth0")
        host.link.up()
        # TCP was only waiting.
        connection.sendall(b"SSH-2.0-test\r\n")
        assert connection.recv(200)
    assert host.boots == 1


def test_one_cable_does_not_touch_the_others(fresh_labbox):
    fresh_labbox["gpu01"].link.down()
    assert fresh_labbox["gpu02"].run("hostname") == "gpu02\n"


def test_a_pulled_cable_stays_pulled_over_a_reboot(host):
    before = host.boot_id
    host.link.down()
    host.reboot(wait=False)
    host.wait_for_boot(before)
    with pytest.raises(TimeoutError):
        greeting(host, 0.3)
    host.link.up()
    host.wait_for_ssh()


def test_a_delay_is_paid_in_each_direction_also_after_a_reboot(host):
    host.link.shape(delay=0.1)
    # There and back for the connection, and again for what comes over it: 4, but sshd may be ahead with the last.
    assert greeting(host)[1] >= 0.3
    host.reboot()
    assert greeting(host)[1] >= 0.3
    host.link.clear()
    assert min(greeting(host)[1] for _ in range(20)) < 0.3


def test_a_rate_holds_back_what_is_too_much_for_it(host):
    host.link.shape(rate=8e6)
    began = time.monotonic()
    assert len(host.run("head -c 1000000 /dev/zero | base64 -w0")) > 1_300_000
    assert time.monotonic() - began > 1.3


def test_what_a_bad_cable_loses_tcp_sends_again(host):
    host.link.shape(loss=0.02)
    assert len(host.run("head -c 300000 /dev/zero | base64 -w0")) == 400_000
    host.link.shape(loss=1.0)
    with pytest.raises(TimeoutError):
        greeting(host, 0.3)


def test_a_cable_that_cannot_be_is_refused(labbox):
    with pytest.raises(ValueError, match="loss is from 0 to 1"):
        labbox["gpu01"].link.shape(loss=5)


def test_the_cable_of_a_host_that_is_off_can_be_changed(host):
    host.kill()
    host.link.shape(delay=0.1)
    with pytest.raises(LabBoxError, match="gpu01: it is off"):
        host.inside("true")
    host.power_on()
    assert greeting(host)[1] >= 0.3
