"""Things that are broken on purpose: what they do, and that they are whole again whoever dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from support.labboxes import CHECKOUT, require_labbox, require_parts

from easycluster.errors import Unsupported
from easycluster.lab import HostIsOff, Lab, LeaseError
from easycluster.labbox import LabBox, RunningBox
from easycluster.labbox.waiting import answers_ssh

SOON = 60.0

# Hosts of the box whose lab file does not say so, as any host that is reached by ssh.
REAL = """
include: [{inventory}]
defaults: {{keepalive: 2s, timeouts: {{connect: 60s}}}}
hosts:
  real[1:2]: {{faults: {{driver: host}}}}
  own[1:2]: {{faults: {{driver: host}}}}
"""

# A controller that breaks things and then does nothing more, with a child that has everything it has.
CONTROLLER = """
import os, sys, time
from contextlib import ExitStack
from easycluster.lab import Lab

with ExitStack() as stack:
    lab = stack.enter_context(Lab.load(sys.argv[1]))
    lab.leases.directory = ""
    stack.enter_context(lab.leases.take(lab.only("box1", "box2", "box3", "own1", "own2").connect(), destructive=True))
    for fault in sys.argv[2:]:
        stack.enter_context(eval(fault))
    if "fork" in os.environ:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    print("broken", flush=True)
    sys.stdin.read()
print("whole", flush=True)
"""


@pytest.fixture(scope="module")
def whole_box():
    require_labbox()
    require_parts("nft", "tc")
    with LabBox(["gpu[01:02]", "san1", "real[1:2]", "box[1:3]", "own[1:2]"], share=[CHECKOUT]) as box:
        yield box


@pytest.fixture(scope="module")
def file(whole_box, tmp_path_factory):
    file = tmp_path_factory.mktemp("faults") / "lab.yaml"
    file.write_text(REAL.format(inventory=whole_box.inventory))
    return file


@pytest.fixture(scope="module")
def lab(whole_box, file):
    """A lab with a lease of some hosts for many tests, because it takes its time; no test loses one of them."""
    with Lab.load(file) as lab:
        lab.leases.directory = ""
        lab.leases.take(lab.only("gpu01", "gpu02", "san1", "real1", "real2").connect(), destructive=True)
        yield lab


@pytest.fixture
def short_lab(box, file):
    """A lab of a test's own, with the other hosts."""
    with Lab.load(file) as lab:
        lab.leases.directory = ""
        yield lab


@pytest.fixture
def lease(short_lab):
    with short_lab.leases.take(short_lab.only("box1", "box2", "box3").connect(), destructive=True) as lease:
        yield lease


@pytest.fixture
def box(whole_box):
    yield whole_box
    assert shown(whole_box) == dict.fromkeys(whole_box.hosts, "on")
    assert [ruleset(host) for host in whole_box if host.name.startswith(("real", "own"))] == [""] * 4


def reaches(box, one, other):
    """Whether a host can connect to another one's sshd."""
    command = f"timeout 1 bash -c 'exec 3<>/dev/tcp/{box[other].address}/22'"
    with contextlib.suppress(subprocess.CalledProcessError):
        box[one].inside("sh", "-c", command)
        return True
    return False


def is_full(host):
    return "1" in host.inside("sh", "-c", "head -c 100000 /dev/zero 2>/dev/null >/root/some; echo $?; rm /root/some")


def shown(box):
    return {host.name: host.describe() for host in box}


def ruleset(host):
    """What tools have put into a host's network."""
    return host.inside("sh", "-c", "nft list ruleset; tc qdisc show dev eth0 | grep -v noqueue; true")


def wait_for(condition, timeout=SOON):
    end = time.monotonic() + timeout
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


# By the box ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "state"),
    [
        (lambda lab: lab.link("san1").down(), "on, link down"),
        (lambda lab: lab["san1"].link.delay(30, jitter=5), "on, delay 0.03, jitter 0.005"),
        (lambda lab: lab.link("san1").loss(5), "on, loss 0.05"),
        (lambda lab: lab.link("san1").rate("10mbit"), "on, rate 1e+07"),
        (lambda lab: lab.freeze("san1"), "on, frozen"),
        (lambda lab: lab.disk("san1").fill(), "on, disk full"),
        (lambda lab: lab.partition("san1", "gpu01"), "on, cut off from some"),
    ],
)
def test_a_fault_lasts_as_long_as_its_block(lab, box, begin, state):
    with begin(lab) as fault:
        assert (box["san1"].describe(), fault.lasts) == (state, True)
    assert (box["san1"].describe(), fault.lasts) == ("on", False)
    assert lab["san1"].run(["hostname"]).stdout == "san1\n"


def test_a_fault_ends_with_an_exception(lab, box):
    with pytest.raises(ZeroDivisionError), lab.link("san1").down():
        raise ZeroDivisionError
    assert box["san1"].describe() == "on"


def test_nested_faults_add_up_and_end_in_any_order(lab, box):
    link = lab.link("san1")
    first, second, third = link.delay(20), link.delay("30ms"), link.down()
    assert box["san1"].describe() == "on, link down, delay 0.05"
    first.restore()
    assert box["san1"].describe() == "on, link down, delay 0.03"
    third.restore()
    second.restore()
    second.restore()
    assert box["san1"].describe() == "on"


def test_a_partition_is_between_two_sides_only(lab, box):
    with lab.partition("gpu01", ["san1"]):
        assert [reaches(box, *pair) for pair in (("gpu01", "san1"), ("san1", "gpu01"))] == [False, False]
        assert reaches(box, "gpu01", "gpu02")
        assert lab["san1"].run(["hostname"]).stdout == "san1\n"
    assert reaches(box, "gpu01", "san1")
    with pytest.raises(ValueError, match="hosts on both sides, and none on both"):
        lab.partition("gpu01", ["san1", "gpu01"])


def test_a_full_disk_takes_nothing_more(lab, box):
    with lab.disk("gpu01").fill():
        assert is_full(box["gpu01"])
    assert not is_full(box["gpu01"])


def test_a_host_that_was_killed_comes_back_with_its_lease(short_lab, box, lease):
    lab, before = short_lab, box["box2"].boot_id
    lab["box2"].undo("touch /root/undone")
    with lab.kill("box2"):
        assert box["box2"].power == "off"
        with pytest.raises(HostIsOff, match=r"was switched off by kill\(\) at "):
            lab["box2"].run(["true"])
    assert box["box2"].boot_id != before
    assert lab["box2"].run(["hostname"]).stdout == "box2\n"
    lease.release()
    assert "undone\n" in box["box2"].inside("ls", "/root")


def test_a_fault_ends_although_its_host_is_off(short_lab, box, lease):
    lab = short_lab
    with lab.kill("box2"), lab.link("box2").down(), lab.disk("box2").fill():
        assert box["box2"].describe() == "off, link down, disk full"
    with lab.freeze("box1"):
        box["box1"].kill()
    box["box1"].power_on()
    assert shown(box) == dict.fromkeys(box.hosts, "on")


def test_what_nobody_ended_ends_with_the_lease(short_lab, box, lease):
    lab = short_lab
    lab.link("box1").down()
    lab.kill("box2")
    lab.freeze("box3")
    assert "on" not in [box[name].describe() for name in ("box1", "box2", "box3")]
    assert lease.release().failures == []
    assert shown(box) == dict.fromkeys(box.hosts, "on")


def test_a_link_that_is_down_for_a_time_comes_up_by_itself(lab, box):
    fault = lab.link("san1").down(seconds=0.2)
    assert wait_for(lambda: box["san1"].describe() == "on")
    fault.restore()


def test_only_who_has_a_host_alone_may_break_it(short_lab, box):
    lab = short_lab
    for begin in (lambda: lab.link("box1").down(), lambda: lab.kill("box1"), lambda: lab.disk("own1").fill()):
        with pytest.raises(LeaseError, match="needs the host exclusively, and it is not leased"):
            begin()
    assert box["box1"].describe() == "on"


# By the host itself --------------------------------------------------------------------------------


def test_a_real_host_loses_packets_and_is_slow_and_cut_off(lab, box):
    with lab.link("real1").loss(10), lab.partition("real1", "san1"):
        assert "numgen random mod 10000 < 1000 drop" in ruleset(box["real1"])
        assert not reaches(box, "real1", "san1")
        assert lab["real1"].run(["hostname"]).stdout == "real1\n"
    with lab.link("real2").rate("4mbit"):
        began = time.monotonic()
        assert len(lab["real2"].run("head -c 300000 /dev/zero | base64 -w0", live=False).stdout) == 400_000
        assert time.monotonic() - began > 0.6
    assert [ruleset(box[name]) for name in ("real1", "real2")] == ["", ""]
    assert reaches(box, "real1", "san1")


def test_the_disk_of_a_real_host_is_filled_with_a_file(lab, box):
    before = box["real1"].inside("ls", "-A", "/root")
    with lab.disk("real1").fill("/root", room=4096):
        assert is_full(box["real1"])
    assert not is_full(box["real1"])
    assert box["real1"].inside("ls", "-A", "/root") == before


def test_a_host_that_cuts_itself_off_comes_back(lab, box):
    before = lab["real1"].remote.os.getpid()
    with lab.link("real1").down(seconds=2):
        assert not answers_ssh(box["real1"].address, 0.3)
    assert lab["real1"].remote.os.getpid() == before
    assert wait_for(lambda: ruleset(box["real1"]) == "")


@pytest.mark.parametrize(
    ("begin", "why"),
    [
        (lambda lab: lab.link("real1").down(), r"our own session comes by eth0, so nobody could end it; say for how"),
        (lambda lab: lab.link("real1").down(5), r"is given up after 6 s of silence; have it down for 4 s at most"),
        (lambda lab: lab.link("real1").loss(90), r"our own session comes by eth0, and would be lost; at most 50 %"),
        (lambda lab: lab.freeze("real1"), r"freeze\(\): real1 cannot be stopped from inside"),
        (lambda lab: lab.disk("real1").fill("/no/such"), r"disk.fill\('/no/such'\): /no/such: No such file or dir"),
        (lambda lab: lab.disk("gpu01").fill("/tmp"), r"disk.fill\('/tmp'\): /tmp of gpu01 is in memory"),
    ],
)
def test_what_a_host_cannot_do_is_unsupported(lab, box, begin, why):
    with pytest.raises(Unsupported, match=why):
        begin(lab)


def test_a_delay_is_netem_where_the_kernel_has_it(lab, box):
    try:
        with lab.link("real1").delay(20, jitter=2):
            assert "netem" in ruleset(box["real1"])
    except Unsupported as exc:
        assert str(exc).startswith("link.delay(20 ms): this kernel has no netem")  # noqa: PT017  # either is right


def test_faults_of_one_real_link_are_nested_and_end_in_any_order(lab, box):
    link = lab.link("real2")
    slow, slower, lossy = link.rate("80mbit"), link.rate("40mbit"), link.loss(3)
    try:
        assert "rate 40Mbit" in ruleset(box["real2"])
        assert "mod 10000 < 300 drop" in ruleset(box["real2"])
        # What cannot be done leaves the others as they are.
        with contextlib.suppress(Unsupported), link.delay(20):
            assert "netem" in ruleset(box["real2"])
        assert "tbf" in ruleset(box["real2"])
        slower.restore()
        assert "rate 80Mbit" in ruleset(box["real2"])
    finally:
        slow.restore()
        slower.restore()
        lossy.restore()
    assert ruleset(box["real2"]) == ""


# Whoever dies --------------------------------------------------------------------------------------


@pytest.fixture
def victims(box, file):
    """The box and its lab file, for controllers that are killed; nothing keeps hosts for those afterwards."""
    yield box, file
    for name in ("box1", "box2", "box3", "own1", "own2"):
        box[name].wait_for_ssh()
        box[name].inside("rm", "-rf", "/var/tmp/easycluster-locks")


@contextlib.contextmanager
def controller(inventory, *faults, **environment):
    process = subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, str(inventory), *faults],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout.readline() == "broken\n", process.communicate()[1]
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


BY_BOX = [
    'lab.link("box1").delay(5, jitter=1)',
    'lab.link("box1").loss(1)',
    'lab.link("box1").rate("100mbit")',
    'lab.partition("box1", "box3")',
    'lab.disk("box1").fill()',
    'lab.kill("box2")',
    'lab.freeze("box3")',
    'lab.link("box3").down()',
]


def test_a_controller_that_is_killed_leaves_a_whole_box(victims):
    box, file = victims
    with controller(file, *BY_BOX) as process:
        states = shown(box)
        assert states["box1"] == "on, delay 0.005, loss 0.01, rate 1e+08, jitter 0.001, cut off from some, disk full"
        assert states["box2"] == "off"
        assert states["box3"] == "on, frozen, link down, cut off from some"
        process.kill()
        assert wait_for(lambda: set(shown(box).values()) == {"on"}, 10), shown(box)
    box["box2"].wait_for_ssh()
    assert reaches(box, "box1", "box3")


def test_a_child_that_outlives_its_controller_holds_nothing(victims):
    box, file = victims
    with controller(file, 'lab.link("box3").down()', fork="1") as process:
        process.kill()
        assert wait_for(lambda: box["box3"].describe() == "on", 10)


def test_a_controller_that_is_killed_leaves_real_hosts_whole(victims):
    box, file = victims
    faults = ['lab.link("own1").loss(2)', 'lab.disk("own1").fill("/root")', 'lab.partition("own2", "box3")']
    faults += ['lab.link("own1").rate("50mbit")', 'lab.link("own2").down(seconds=3)']
    with controller(file, *faults) as process:
        assert all(ruleset(box[name]) for name in ("own1", "own2"))
        assert is_full(box["own1"])
        process.kill()
        # Three heartbeats of 2 s, for the one that is cut off.
        assert wait_for(lambda: [ruleset(box[name]) for name in ("own1", "own2")] == ["", ""], 20)
        assert wait_for(lambda: not is_full(box["own1"]), 20)
    assert reaches(box, "own2", "box3")


def test_a_controller_that_is_killed_has_its_victim_switched_on_by_another_process(victims):
    """For power that no box holds: management controllers and commands."""
    box, file = victims
    with controller(file, 'lab.kill("own2")') as process:
        assert box["own2"].power == "off"
        process.kill()
        assert wait_for(lambda: box["own2"].power == "on")
    box["own2"].wait_for_ssh()


def test_a_box_can_be_broken_without_a_lab(box):
    running = RunningBox(box.folder)
    with running.link("box1").down(), running.kill("box3"):
        assert (box["box1"].describe(), box["box3"].describe()) == ("on, link down", "off")
    box["box3"].wait_for_ssh()
