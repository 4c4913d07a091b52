"""Power and console by management controllers of others: a real ipmitool at pyghmi's, Redfish at sushy-tools'."""

from __future__ import annotations

import os
import shutil
import stat
import time
from pathlib import Path

import pytest
from support.bmcs import PASSWORD, USER, ipmi, redfish
from support.labboxes import CHECKOUT, require_labbox, require_parts

from easycluster.lab import ConsoleTimeout, HostIsOff, Lab
from easycluster.labbox import LabBox

SOON = 60.0

LAB = """
include: [{box.inventory}]
vars:
  bmc_pass: !secret {password}
defaults: {{keepalive: 2s, timeouts: {{connect: 60s}}}}
hosts:
  gpu01:
    power: {{driver: ipmi, address: 127.0.0.1, port: {port}, user: {user}, password: "${{bmc_pass}}", cipher: 3}}
    console:
      command: ipmitool -I lanplus -C 3 -H 127.0.0.1 -p {port} -U {user} -E sol activate
      env: {{IPMI_PASSWORD: "${{bmc_pass}}"}}
  gpu02:
    power: {{driver: redfish, url: "{url}", user: {user}, password: "${{bmc_pass}}", verify: {file}, system: gpu02}}
  wrong1: {{power: {{driver: ipmi, address: 127.0.0.1, port: {port}, user: {user}, password: !secret not-it-77}}}}
  wrong2: {{power: {{driver: redfish, url: "{url}", user: {user}, password: !secret not-it-77, verify: "no"}}}}
  wrong3: {{power: {{driver: redfish, url: "{url}", user: {user}, password: "${{bmc_pass}}"}}}}
  wrong4: {{power: {{driver: redfish, url: "{url}", user: {user}, password: "${{bmc_pass}}", verify: "no"}}}}
  wrong5: {{power: {{driver: redfish, url: "https://127.0.0.1:1", timeout: 5s}}}}
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A box whose hosts have controllers, and the lab file."""
    require_labbox()
    require_parts("ipmitool")
    folder = tmp_path_factory.mktemp("bmc")
    with LabBox(["gpu[01:02]"], share=[CHECKOUT]) as box:
        first, port = ipmi(box.folder, "gpu01")
        with first:
            second, url, file = redfish(box.folder, folder, "gpu01", "gpu02")
            with second:
                lab = folder / "lab.yaml"
                lab.write_text(LAB.format(box=box, password=PASSWORD, user=USER, port=port, url=url, file=file))
                yield box, lab


@pytest.fixture
def lab(bench):
    with Lab.load(bench[1]) as lab:
        lab.leases.directory = ""
        yield lab
    for host in bench[0]:
        host.power_on()


@pytest.mark.parametrize("name", ["gpu01", "gpu02"])
def test_a_real_controller_switches_the_host_and_the_lease_goes_on(bench, lab, name):
    box, host = bench[0], lab[name]
    with lab.leases.take(lab.only(name).connect(), destructive=True):
        before = box[name].boot_id
        assert host.power("cycle", timeout=SOON) == "on"
        assert box[name].boot_id != before
        assert host.run(["hostname"]).stdout == f"{name}\n"

        assert (host.power("status"), host.power("off"), host.power("status")) == ("on", "off", "off")
        assert box[name].power == "off"
        with pytest.raises(HostIsOff):
            host.run(["true"])
        # A controller that refuses to cycle what is off is told to switch it on.
        lab_driver_cycles_what_is_off(lab, host)
        assert host.power("on", timeout=SOON) == "on"
        assert host.run(["hostname"]).stdout == f"{name}\n"


def lab_driver_cycles_what_is_off(lab, host):
    from easycluster.lab.power import driver_for

    driver = driver_for(lab, host)
    driver.cycle()
    end = time.monotonic() + SOON
    while driver.status() != "on" and time.monotonic() < end:
        time.sleep(0.05)
    assert driver.status() == "on"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("wrong1", "wrong1: ipmitool chassis power status ended with exit code 1\n.*Unable to establish IPMI v2"),
        ("wrong2", r"wrong2: power status, after .*: user 'admin' is refused \(401\): see user and password"),
        ("wrong3", r"its certificate is not trusted \(self.signed certificate\); name a file with it: verify: FILE"),
        ("wrong4", r"has 2 systems; say which with system: \(it has .*gpu01.*gpu02\)"),
        ("wrong5", "wrong5: power status, after .*: https://127.0.0.1:1: .*Connection refused"),
    ],
)
def test_what_a_controller_refuses_is_told_without_the_password(lab, name, why):
    with pytest.raises(Exception, match=f"(?s){why}") as caught:
        lab[name].power("status")
    assert PASSWORD not in str(caught.value)
    assert "not-it-77" not in str(caught.value)
    assert PASSWORD not in repr(lab[name]._entry.settings)


def test_no_password_is_among_the_arguments(lab, tmp_path, monkeypatch):
    """Anybody may read those of all processes."""
    spy = tmp_path / "ipmitool"
    seen = tmp_path / "seen"
    spy.write_text(f'#!/bin/sh\ntr "\\0" " " </proc/$$/cmdline >{seen}\nexec {shutil.which("ipmitool")} "$@"\n')
    spy.chmod(spy.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    assert lab["gpu01"].power("status") == "on"

    words = seen.read_text()
    assert "chassis power status" in words
    assert PASSWORD not in words


def answer_of(console, command):
    """What a shell at a console says to a command; "" if it takes it for something that goes on."""
    try:
        return console.run(command, "root@gpu01# ", 3.0)
    except ConsoleTimeout:
        console.send("\x03")
        console.expect("root@gpu01# ", SOON)
        return ""


@pytest.mark.timeout(180)
def test_a_console_by_serial_over_lan_is_the_hosts_own(lab):
    console = lab["gpu01"].console
    console.expect("SOL Session operational", SOON)
    console.sendline()
    console.expect("gpu01 login: ", SOON)
    console.sendline("root")
    console.expect("root@gpu01# ", SOON)
    # On a busy machine ipmitool and the simulated BMC mix up characters that are typed together.
    assert any(answer_of(console, "echo $((6 * 7))") == "42\n" for _ in range(10))
    assert PASSWORD not in Path(f"/proc/{console._line._process.pid}/cmdline").read_text()
    console.close()
