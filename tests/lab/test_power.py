"""Power by the commands of the lab file and by drivers, on real hosts, and what it does to a lease."""

from __future__ import annotations

import sys
import threading
import time

import pytest
from support.labboxes import CHECKOUT, require_labbox

from easycluster.errors import SessionError, StaleProxy, Unsupported
from easycluster.lab import HostBusy, HostIsOff, InventoryError, Lab, LeaseError, NeverWentDown, PowerError
from easycluster.labbox import LabBox

SOON = 60.0

# Beside a box's own file, whose commands are used as they are.
EXTRA = """
include: [{inventory}]
defaults: {{keepalive: 700ms}}
hosts:
  gpu02:
    power: {{driver: labbox, box: {folder}}}
  through: {{runs_on: gpu02, power: {{on: gpu01, status: "sh -c 'hostname; echo off'", start: touch /root/switched}}}}
"""
DESK = """
vars:
  password: !secret hunter22
defaults: {{connect: local}}
hosts:
  talker:
    power:
      status: sh -c 'echo "$PASSWORD Chassis Power is on"'
      off: sh -c 'echo "no PDU at hunter22" >&2; exit 7' -- ${{password}}
      cycle: {python} -c 'import time; print("asking", flush=True); time.sleep(60)'
      env: {{PASSWORD: "${{password}}"}}
      timeout: 300ms
  mute: {{}}
  odd: {{power: {{status: "echo maybe", cycle: "echo 'half", off: /no/such/program}}}}
"""


@pytest.fixture(scope="module")
def box():
    require_labbox()
    with LabBox(["gpu[01:02]"], share=[CHECKOUT]) as box:
        yield box


@pytest.fixture
def run(box, tmp_path):
    """Make labs, each of which is a run of its own; afterwards all hosts are on."""
    file = tmp_path / "lab.yaml"
    file.write_text(EXTRA.format(inventory=box.inventory, folder=box.folder))
    labs = []

    def one():
        labs.append(Lab.load(file))
        labs[-1].leases.directory = ""
        return labs[-1]

    yield one
    for lab in labs:
        lab.close()
    for host in box:
        host.power_on()
        host.inside("sh", "-c", "rm -rf /var/tmp/easycluster-locks; rm -f /root/*")


@pytest.fixture
def desk(tmp_path):
    """A lab of this machine alone, whose commands switch nothing."""
    file = tmp_path / "desk.yaml"
    file.write_text(DESK.format(python=sys.executable))
    with Lab.load(file) as lab:
        yield lab


def take(lab, name, wait=0.0, **options):
    return lab.leases.take(lab.only(name).connect(), wait=wait, **{"destructive": True, **options})


@pytest.mark.parametrize("name", ["gpu01", "gpu02"])
def test_a_power_cycle_is_a_loss_of_power_and_the_lease_goes_on(run, box, name):
    lab, bob = run(), run()
    host, before = lab[name], box[name].boot_id
    lease = take(lab, name)
    host.undo("printf undone >/root/state")
    host.run("printf changed >/root/state; touch /tmp/volatile", check=True)
    function = host.remote.os.getpid
    waiting, errors = threading.Event(), []

    def call():
        try:
            waiting.set()
            host.remote.time.sleep(300)
        except SessionError as exc:
            errors.append(exc)

    thread = threading.Thread(target=call)
    thread.start()
    waiting.wait()

    assert host.power("cycle", timeout=SOON) == "on"

    thread.join(SOON)
    assert [error.host for error in errors] == [name]
    assert box[name].boot_id != before
    assert host.run("cat /root/state; ls /tmp/volatile").stdout == "changed"
    with pytest.raises(StaleProxy, match=rf"of before the power\('cycle'\) of {name} at "):
        function()
    with pytest.raises(HostBusy):
        take(bob, name)
    assert not lease.release().failures
    assert host.run(["cat", "/root/state"]).stdout == "undone"
    assert lab.take_reboots() == {}


def test_a_host_that_is_off_says_so_until_it_is_on(run, box):
    lab, name = run(), "gpu02"
    host = lab[name]
    with take(lab, name):
        host.undo("printf undone >/root/state")
        assert (host.power("status"), host.power("off"), host.power("status")) == ("on", "off", "off")
        assert box[name].power == "off"
        with pytest.raises(HostIsOff, match=rf"^{name}: was switched off by power\('off'\) at .*; call power\('on'\)"):
            host.run("true")
        assert host.power("off") == "off"

        assert host.power("on", timeout=SOON) == "on"

        assert host.run("cat /root/state").stdout == ""
        pid = host.remote.os.getpid()
        # It is on already: nothing changes.
        host.power("on")
        assert host.remote.os.getpid() == pid
    assert host.run(["cat", "/root/state"]).stdout == "undone"


def test_the_end_of_a_lease_switches_on_what_was_left_off(run, box):
    lab, bob = run(), run()
    lease = take(lab, "gpu02")
    lab["gpu02"].undo("touch /root/undone")
    lab["gpu02"].power("off")

    assert lease.release().failures == []

    assert box["gpu02"].power == "on"
    with take(bob, "gpu02"):
        assert bob["gpu02"].run(["ls", "/root"]).stdout == "undone\n"


def test_a_switch_that_does_nothing_is_told(run):
    lab = run()
    with take(lab, "gpu02"):
        lab["gpu02"]._entry.settings["power"].update(driver="command", cycle="true")
        with pytest.raises(NeverWentDown, match=r"^gpu02: is still up \d+ s after the power\('cycle'\) at "):
            lab["gpu02"].power("cycle", timeout=0.5)


def test_power_needs_the_host_exclusively(run):
    lab = run()
    with take(lab, "gpu02", destructive=False, shared=True):
        for action in ("on", "off", "cycle"):
            with pytest.raises(LeaseError, match=rf"gpu02: power\('{action}'\) needs the host exclusively"):
                lab["gpu02"].power(action)
        assert lab["gpu02"].power("status") == "on"


def test_a_command_has_its_environment_and_no_secret_shows(desk):
    host = desk["talker"]
    assert host.power("status") == "on"
    with take(desk, "talker"):
        with pytest.raises(PowerError) as failed:
            host.power("off")
        began = time.monotonic()
        with pytest.raises(PowerError) as late:
            host.power("cycle")
    assert time.monotonic() - began < SOON
    assert str(failed.value).startswith("talker: power off ended with exit code 7: ")
    assert failed.value.output == "no PDU at ***"
    assert str(late.value).startswith("talker: power cycle did not finish within 0.3 s: ")
    assert "hunter22" not in f"{failed.value} {late.value}"


def test_power_may_be_switched_by_another_host_of_the_lab(run, box):
    lab = run()
    assert lab["through"].power("status") == "off"
    with take(lab, "through"):
        assert lab["through"].power("on") == "on"
    assert box["gpu01"].inside("ls", "/root") == "switched\n"


@pytest.mark.parametrize(
    ("name", "action", "error", "why"),
    [
        ("mute", "status", Unsupported, r"power\(\): the lab file has no power: for mute"),
        ("odd", "on", Unsupported, r"power\('on'\): the lab file gives odd no command for it; add start to its power:"),
        ("odd", "cycle", PowerError, "odd: power cycle cannot be split into words .No closing quotation.: echo 'half"),
        ("odd", "status", PowerError, "odd: power status says neither on nor off\nmaybe"),
        ("odd", "off", PowerError, "odd: power off cannot be run: No such file or directory: /no/such/program"),
        ("odd", "reset", ValueError, "power is switched 'on', 'off', 'cycle', 'status', not 'reset'"),
    ],
)
def test_what_cannot_be_done_says_why(desk, name, action, error, why):
    with take(desk, name), pytest.raises(error, match=why):
        desk[name].power(action)


def test_a_driver_that_nobody_knows_is_a_fault_of_the_lab_file(tmp_path):
    file = tmp_path / "lab.yaml"
    file.write_text("hosts: {a: {power: {driver: ipmmi}}}")
    with pytest.raises(InventoryError, match=r"(?s)lab.yaml:1:29: .*ipmmi.*command.*labbox"):
        Lab.load(file)
