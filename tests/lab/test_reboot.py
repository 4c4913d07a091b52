"""Hosts that reboot and lose power under a lease, over real ssh: proved by the boot id, and nothing is forgotten."""

from __future__ import annotations

import threading
import time

import pytest
from support.labboxes import CHECKOUT, require_labbox

from easycluster.errors import SessionError, StaleProxy, Unsupported
from easycluster.lab import HostBusy, Lab, LeaseError, NeverCameBack, NeverWentDown, RebootFailed
from easycluster.labbox import LabBox

SOON = 60.0

EXTRA = """
include: [{inventory}]
defaults: {{keepalive: 700ms}}
roles:
  gpu:
    code: |
      import easycluster
      clocks = 1000
      class Clock(easycluster.ServerObject):
          export_methods = ["ticks"]
          def ticks(self):
              return clocks
      def clock():
          return Clock()
      def write(text):
          with open("/root/state", "w") as file:
              file.write(text)
hosts:
  me: {{connect: local, role: gpu}}
  switch1: {{runs_on: gpu02}}
"""


@pytest.fixture(scope="module")
def box():
    require_labbox()
    with LabBox(["gpu[01:02]"], share=[CHECKOUT], users=["ann", "bob"]) as box:
        yield box


@pytest.fixture
def run(box, tmp_path):
    """Make labs, each of which is a run of its own; afterwards all hosts are on."""
    file = tmp_path / "lab.yaml"
    file.write_text(EXTRA.format(inventory=box.inventory))
    labs = []

    def one(*changes):
        labs.append(Lab.load(file, changes=changes))
        labs[-1].leases.directory = ""
        labs[-1].leases.label = f"run {len(labs)}"
        labs[-1].told = []
        labs[-1].leases.tell = labs[-1].told.append
        return labs[-1]

    yield one
    for lab in labs:
        lab.close()
    for host in box:
        host.set_boot_seconds(0.1)
        host.power_on()
        host.inside(
            "sh",
            "-c",
            "umount /var/tmp/easycluster-locks/* 2>&-; rm -rf /var/tmp/easycluster-locks /root/kept; rm -f /root/*",
        )


def take(lab, name="gpu01", wait=0.0, **options):
    return lab.leases.take(lab.only(name).connect(), wait=wait, **{"destructive": True, **options})


def lost(host):
    end = time.monotonic() + SOON
    while host._connection._client.connected:
        assert time.monotonic() < end
        time.sleep(0.01)


def cut_power(box, lab, name="gpu01"):
    """A loss of power that nobody asked for; the lab has noticed it when this returns."""
    box[name].reset()
    lost(lab[name])
    lab[name]._connection.drop_lost()


def state(lab, name="gpu01"):
    return lab[name].run(["cat", "/root/state"]).stdout


# Reboots that were asked for -----------------------------------------------------------------------


def test_a_reboot_ends_with_another_boot_and_the_same_lease(run, box):
    ann, bob = run(), run()
    host, before = ann["gpu01"], box["gpu01"].boot_id
    with take(ann):
        host.remote.execblock("clocks = 1400")
        clock, function, client = host.clock(), host.clock, host.remote
        assert clock.ticks() == 1400

        boot = host.reboot(timeout=SOON)

        assert (boot.host, boot.before, boot.boot_id) == ("gpu01", before, box["gpu01"].boot_id)
        assert boot.boot_id != before
        assert 0 < boot.down <= boot.seconds < SOON
        # Definitions are there again, globals are fresh.
        assert host.clock().ticks() == 1000
        for stale in (clock.ticks, function):
            with pytest.raises(StaleProxy, match=r"it is of before the reboot of gpu01 at \d\d:\d\d"):
                stale()
        with pytest.raises(StaleProxy, match=r"at \d\d:\d\d; take from the host anew what is needed$"):
            client.eval("1")
        with pytest.raises(HostBusy, match=r'in use by .* "run 1"'):
            take(bob)
        assert ann.take_reboots() == {}
    take(bob).release()


def test_nobody_else_gets_a_host_that_is_down_and_nobody_finds_it_lost(run, box):
    ann = run()
    box["gpu01"].set_boot_seconds(2.0)
    with take(ann):
        thread = threading.Thread(target=ann["gpu01"].reboot)
        thread.start()
        lost(ann["gpu01"])
        while thread.is_alive():
            # Connects when it is back, and meets the reservation, or the lock.
            with pytest.raises(HostBusy, match=r"reserved for .* until|in use by"):
                take(run())
        thread.join()
        assert ann["gpu01"].clock().ticks() == 1000


def test_who_waits_for_a_host_that_is_rebooted_goes_on_waiting_and_sees_no_crash(run):
    ann, bob, eve = run(), run(), run()
    assert eve["gpu01"].clock().ticks() == 1000
    lease, got = take(ann), []
    thread = threading.Thread(target=lambda: got.append(take(bob, wait=SOON)))
    thread.start()
    while not bob.told:
        time.sleep(0.01)

    ann["gpu01"].reboot(timeout=SOON)
    ann["gpu01"].power("cycle", timeout=SOON)
    assert got == []
    lease.release()

    thread.join()
    got[0].release()
    lost(eve["gpu01"])
    eve.drop_lost()
    assert eve["gpu01"].clock().ticks() == 1000
    assert (bob.take_reboots(), eve.take_reboots()) == ({}, {})


def test_who_waits_for_any_of_two_hosts_gets_the_one_that_is_free_while_the_other_is_down(run, box):
    ann, bob, eve = run(), run(), run()
    first, second, got = take(ann), take(eve, "gpu02"), []
    bob.only("gpu01", "gpu02").connect()

    def wait():
        with bob.lease("gpu", where="name == 'gpu01' or name == 'gpu02'", wait=SOON) as hosts:
            got.extend(hosts.names)

    thread = threading.Thread(target=wait)
    thread.start()
    while not bob.told:
        time.sleep(0.01)
    box["gpu01"].set_boot_seconds(600)
    ann["gpu01"].power("off")
    end = time.monotonic() + SOON
    while bob["gpu01"]._connection.is_open:
        assert time.monotonic() < end
        time.sleep(0.01)

    second.release()
    thread.join(SOON)

    assert got == ["gpu02"]
    assert bob.told[0].startswith("waiting for the first of gpu01 gpu02: ")
    box["gpu01"].set_boot_seconds(0.1)
    ann["gpu01"].power("on", timeout=SOON)
    first.release()


def test_a_reservation_of_ones_own_holds_over_a_reboot(run):
    ann, bob = run(), run()
    ann.leases._info["owner"] = "ann@ci"
    ann.leases.reserve(ann["gpu01"], 600.0, "for today")
    with take(ann):
        ann["gpu01"].reboot(timeout=SOON)
    with pytest.raises(HostBusy, match="for today"):
        take(bob)
    ann.leases.reserve(ann["gpu01"], 0)
    take(bob).release()


def test_what_is_to_be_undone_still_is_after_a_reboot_each_lease_what_is_its_own(run):
    lab = run()
    host = lab["gpu01"]
    outer = take(lab)
    host.undo(host.write, "outer")
    inner = take(lab)
    host.undo("printf inner >/root/state")
    host.undo("echo cannot work; exit 3", boot="forget")
    host.undo(lambda: open("/root/by_value", "w").close())
    host.write("changed")

    host.reboot(timeout=SOON)

    assert state(lab) == "changed"
    assert not inner.release().failures
    assert state(lab) == "inner"
    assert host.run(["test", "-f", "/root/by_value"]).returncode == 0
    assert not outer.release().failures
    assert state(lab) == "outer"


def test_two_reboots_in_a_row_lose_nothing(run):
    lab = run()
    with take(lab):
        lab["gpu01"].undo("printf undone >/root/state")
        lab["gpu01"].reboot(timeout=SOON)
        lab["gpu01"].undo("printf first >/root/state")
        lab["gpu01"].reboot(timeout=SOON)
        lab["gpu01"].write("changed")
    assert state(lab) == "undone"


def test_a_call_in_progress_ends_with_the_reboot_and_does_not_hold_it_up(run):
    lab = run()
    with take(lab):
        call = lab["gpu01"].remote.time.sleep(300, nonblocking=True)
        boot = lab["gpu01"].reboot(timeout=SOON)
        assert boot.seconds < SOON
        with pytest.raises(SessionError):
            call.wait()


def test_a_host_that_never_goes_down_is_told_and_stays_as_it_was(run, box):
    lab, before = run(), box["gpu01"].boot_id
    with take(lab):
        lab["gpu01"].write("changed")
        lab["gpu01"].undo("printf undone >/root/state")
        with pytest.raises(NeverWentDown, match=rf"^gpu01: is still up \d+ s after the reboot at .*{before}"):
            lab["gpu01"].reboot(command="true", timeout=SOON, down_timeout=0.5)
        assert state(lab) == "changed"
    assert state(lab) == "undone"


def test_a_host_that_never_comes_up_is_told_apart_and_counts_as_lost(run, box):
    lab = run()
    box["gpu01"].set_boot_seconds(3600)
    lease = take(lab)
    lab["gpu01"].write("changed")
    lab["gpu01"].undo("printf undone >/root/state")
    with pytest.raises(NeverCameBack, match=r"^gpu01: went down \d+ s after the reboot at \d\d:\d\d, and does not"):
        lab["gpu01"].reboot(timeout=2.0)
    assert lease.release().lost == ["gpu01"]

    # Repaired by hand: the same run, and nobody takes it for a crash.
    box["gpu01"].set_boot_seconds(0.1)
    box["gpu01"].reset()
    lab["gpu01"]._connection.memory.forget()
    with take(lab):
        assert state(lab) == "undone"
    assert lab.take_reboots() == {}


def test_a_command_that_does_not_work_says_what_it_said(run):
    lab = run("gpu01.reboot=echo must be superuser >&2; exit 4")
    with take(lab):
        with pytest.raises(RebootFailed, match=r"gpu01: cannot be rebooted: .* exit code 4: must be superuser"):
            lab["gpu01"].reboot()
        assert lab["gpu01"].clock().ticks() == 1000


@pytest.mark.parametrize(
    ("host", "options", "why"),
    [
        (
            "gpu01",
            {"destructive": False, "shared": True},
            "gpu01: reboot.. needs the host exclusively, .*ec_destructive",
        ),
        ("me", {}, "reboot..: me is this machine"),
        ("switch1", {}, "reboot..: switch1 has no system of its own here, its code runs on gpu02"),
    ],
)
def test_a_reboot_is_refused(run, host, options, why):
    lab = run()
    with take(lab, host, **options), pytest.raises((LeaseError, Unsupported), match=why):
        lab[host].reboot()


def test_a_host_that_keeps_a_lock_of_others_is_not_rebooted(run):
    ann, bob = run(), run()
    why = r"gpu01: reboot\(\) would take the lock 'fabric-A' from .*; wait for them"
    with bob.leases.take([], locks=["fabric-A"]), take(ann), pytest.raises(LeaseError, match=why):
        ann["gpu01"].reboot()


# Undo over a loss of power --------------------------------------------------------------------------


def test_a_loss_of_power_is_undone_before_anybody_gets_the_host(run, box):
    ann, bob = run(), run()
    take(ann)
    ann["gpu01"].undo(ann["gpu01"].write, "as it was")
    ann["gpu01"].undo("touch /root/first")
    ann["gpu01"].undo("exit 9", boot="forget")
    ann["gpu01"].write("changed")

    cut_power(box, ann)

    with take(bob):
        assert state(bob) == "as it was"
        assert bob["gpu01"].run(["test", "-f", "/root/first"]).returncode == 0
    assert [line.split(" (of")[0] for line in bob.told] == [
        "gpu01: undid after a reboot or loss of power: write()",
        "gpu01: undid after a reboot or loss of power: touch /root/first",
    ]
    assert bob.told[0].endswith('"run 1")')
    # Once only.
    bob["gpu01"].write("later")
    take(bob).release()
    assert state(bob) == "later"


def test_a_lease_that_goes_on_after_a_loss_of_power_has_its_lock_again(run, box):
    ann, bob = run(), run()
    with take(ann):
        ann["gpu01"].undo("printf undone >/root/state")
        ann["gpu01"].write("changed")
        cut_power(box, ann)

        assert state(ann) == "changed"
        with pytest.raises(HostBusy, match='"run 1"'):
            take(bob)
    assert state(ann) == "undone"
    take(bob).release()
    assert list(ann.take_reboots()) == ["gpu01"]


def test_an_inner_lease_that_ended_with_the_power_is_undone_when_the_outer_one_goes_on(run, box):
    lab = run()
    with take(lab):
        lab["gpu01"].undo("printf outer >/root/state")
        inner = take(lab)
        lab["gpu01"].undo("printf inner >/root/state")
        lab["gpu01"].write("changed")
        box["gpu01"].kill()
        lost(lab["gpu01"])
        assert inner.release().lost == ["gpu01"]
        lab.drop_lost()
        box["gpu01"].power_on()

        assert state(lab) == "inner"
    assert state(lab) == "outer"


def test_what_was_undone_is_not_undone_again_after_a_loss_of_power(run, box):
    lab = run()
    with take(lab):
        inner = take(lab)
        lab["gpu01"].undo("printf undone >>/root/count")
        inner.release()
        cut_power(box, lab)
    assert lab["gpu01"].run(["cat", "/root/count"]).stdout == "undone"


def test_a_host_that_cannot_be_set_back_is_kept_from_everybody_until_it_is_forced(run, box):
    ann, bob = run(), run()
    lease = take(ann)
    ann["gpu01"].undo("echo no such device; exit 5")
    cut_power(box, ann)
    assert lease.release().lost == ["gpu01"]

    needs = "gpu01: needs restore since .*: undo after a reboot or loss of power failed: .*ended with exit code 5"
    for lab in (bob, ann):
        began = time.monotonic()
        with pytest.raises(HostBusy, match=needs):
            take(lab, wait=600.0)
        assert time.monotonic() - began < SOON
    assert box["gpu01"].inside("grep", "-c", "exit 5", "/var/tmp/easycluster-locks/undo.log") == "1\n"

    assert [one.mode for one in bob.leases.force_release(bob["gpu01"])] == ["dirty"]
    take(bob).release()


def test_an_undo_is_done_although_its_whole_session_was_killed(run):
    ann, bob = run(), run()
    take(ann)
    ann["gpu01"].undo("printf undone >/root/state")
    ann["gpu01"].write("changed")
    template = ann["gpu01"].remote.os.getppid()

    bob["gpu01"].run(["kill", "-9", str(template)], check=True)

    with take(bob, wait=SOON):
        assert state(bob) == "undone"


def test_what_another_account_left_is_told_and_not_touched(run, box):
    ann, bob = run("gpu01.user=ann"), run("gpu01.user=bob")
    lease = take(ann)
    ann["gpu01"].undo("touch /home/ann/undone")
    cut_power(box, ann)

    with pytest.raises(HostBusy, match=r"gpu01: needs restore since .*: account ann left something .*connect as ann"):
        take(bob, wait=600.0)

    assert lease.release().lost == ["gpu01"]
    take(ann).release()
    assert ann["gpu01"].run(["ls", "/home/ann"]).stdout == "undone\n"
    take(bob).release()


ATTACKS = (
    "chmod 666 {file}",
    "ln {file} /root/other",
    "rm {file}; ln -s /root/kept/* {file}",
    "chown ann {file}",
    "chmod 777 {folder}",
    "chown ann {folder}",
)


def test_what_others_could_have_written_is_not_done(run, box):
    lab = run()
    lease = take(lab)
    lab["gpu01"].undo("touch /root/attacked")
    cut_power(box, lab)
    lease.release()
    folder = "/var/tmp/easycluster-locks/undo-0"
    file = folder + "/" + box["gpu01"].inside("ls", folder).strip()
    box["gpu01"].inside("cp", "-a", folder, "/root/kept")
    for attack in ATTACKS:
        afresh = "rm -rf {folder} /root/other; cp -a /root/kept {folder}; " + attack
        box["gpu01"].inside("sh", "-c", afresh.format(file=file, folder=folder))
        why = r"/undo-0.*(not this account's alone|other accounts|cannot be read).*remove it"
        with pytest.raises(LeaseError, match=why):
            take(lab)
    assert "attacked" not in box["gpu01"].inside("ls", "/root")


def test_an_undo_that_cannot_be_kept_is_refused_in_a_lease_for_reboots(run):
    lab = run()
    take(lab).release()
    folder = "/var/tmp/easycluster-locks/undo-0"
    lab["gpu01"].run(f"mkdir {folder} && mount -t tmpfs -o ro,mode=755 none {folder}", check=True)
    with take(lab, destructive=False):
        # As good as ever, but for a reboot.
        lab["gpu01"].undo("printf undone >/root/state")
        with pytest.raises(LeaseError, match="undone >/root/state' is to be undone, and cannot be kept over a reboot"):
            lab["gpu01"].reboot()
    assert state(lab) == "undone"
    with take(lab), pytest.raises(OSError, match=r"'true' cannot be kept over a reboot: .*Read-only file system"):
        lab["gpu01"].undo("true")
