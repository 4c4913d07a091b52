"""Leases over real ssh to hosts of their own: cables that are pulled, hosts that reboot."""

from __future__ import annotations

import time

import pytest
from support.labboxes import fresh_labbox

from easycluster.lab import HostBusy, Lab

__all__ = ["fresh_labbox"]

SOON = 30.0


@pytest.fixture
def run(fresh_labbox, tmp_path):
    """Make labs with a short lease, each of which is a run of its own."""
    file = tmp_path / "short.yaml"
    file.write_text(f"include: [{fresh_labbox.inventory}]\ndefaults: {{keepalive: 700ms}}\n")
    labs = []

    def one():
        labs.append(Lab.load(file))
        labs[-1].leases.directory = ""
        labs[-1].leases.label = f"run {len(labs)}"
        return labs[-1]

    yield one
    for lab in labs:
        lab.close()


def take(lab, name, wait=0.0):
    return lab.leases.take(lab.only(name).connect(), wait=wait, destructive=True)


def test_a_host_whose_cable_is_pulled_is_set_back_before_it_is_free(run, fresh_labbox):
    ann, bob = run(), run()
    take(ann, "gpu01")
    ann["gpu01"].run("echo changed >/root/state", check=True)
    ann["gpu01"].undo("echo as it was >/root/state")

    fresh_labbox["gpu01"].link.down()
    end = time.monotonic() + SOON
    while ann["gpu01"].remote.connected:
        assert time.monotonic() < end
        time.sleep(0.02)
    fresh_labbox["gpu01"].link.up()

    with take(bob, "gpu01", wait=SOON):
        assert bob["gpu01"].run(["cat", "/root/state"]).stdout == "as it was\n"


def test_a_host_stays_ours_while_it_reboots(run, fresh_labbox):
    ann, bob = run(), run()
    with take(ann, "gpu01"):
        ann.leases.keep_over_reboot(ann["gpu01"], 120)
        with ann["gpu01"].expect_loss():
            fresh_labbox["gpu01"].reboot()
        with pytest.raises(HostBusy, match=r"reserved for .* until "):
            take(bob, "gpu01")

        ann.leases.take_again(ann["gpu01"])

        with pytest.raises(HostBusy, match="in use by"):
            take(bob, "gpu01")
    take(bob, "gpu01").release()
