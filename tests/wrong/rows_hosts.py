"""Hosts that are down, silent, cut off, frozen, rebooted, and workers that crash."""

from __future__ import annotations

import time

from .row import Peers, Rows
from .stage import CONNECT, LEASE, SHORT_CONNECT, Stage

__all__ = ["HOST_ROWS"]

HOST_ROWS = Rows()

# Nobody waits for a host that refuses connections; pytest itself takes most of this.
REFUSED = 8.0
# How long the attempt takes to reach a host anew whose cable is out.
AGAIN = 10.0

# sshd's process for one connection; the one that listens is called otherwise.
SESSIONS = "^sshd(-session)?: root"

THREE = """
def test_one(ec): assert ec.hosts["gpu01"].answer() == 42
def test_two(ec): assert ec.hosts["gpu01"].answer() == 42
def test_three(ec): assert ec.hosts["gpu01"].answer() == 42
"""

IN_TEST_TWO = """
def test_one(ec): assert ec.hosts["gpu01"].answer() == 42
def test_two(ec): ec.hosts["gpu01"].rebuild(reached)
def test_three(ec): assert ec.hosts["gpu01"].answer() == 42
"""


@HOST_ROWS.add(
    "host down at start",
    Peers(
        "every test FAILED (RuntimeError dump)",
        'INTERNALERROR, nothing runs, even a test that needs no host; says "Unable to authenticate"',
        "not reached",
    ),
    hosts=("gpu01", "gpu02"),
)
def down(stage: Stage) -> str:
    """Its sshd has ended, so connections are refused."""
    stage.gpu.inside("pkill", "-f", "sshd.*-D")
    run = stage.start(
        THREE
        + """
def test_without(): pass
def test_other(ec): assert ec.hosts["gpu02"].answer() == 42
"""
    )

    assert run.code(stage.within(REFUSED)) == 16, run.output
    lost = dict.fromkeys(("test_one", "test_two", "test_three"), "LOST")
    run.gave(**lost, test_without="PASSED", test_other="PASSED")
    run.says(f"gpu01 lost: 3 tests (ssh root@{stage.gpu.address})", "Connection refused", "2 passed, 3 lost")
    assert "Traceback" not in run.output
    assert "INTERNALERROR" not in run.output
    stage.clean(time.monotonic())
    return f"exit 16 after {run.seconds:.1f} s: 3 LOST with ssh's words, the tests that can pass"


@HOST_ROWS.add(
    "the same with lazy connect", Peers(mh='1 failed + 2 skipped "Error in topology setup"'), hosts=("gpu01", "gpu02")
)
def lazy(stage: Stage) -> str:
    """We always connect on first use: tests that only name the host do not need it."""
    stage.gpu.inside("pkill", "-f", "sshd.*-D")
    run = stage.start("""
def test_names_it(remote_hosts): assert "gpu01" in remote_hosts.names
def test_uses_it(remote_hosts): remote_hosts["gpu01"].answer()
def test_uses_other(remote_hosts): assert remote_hosts["gpu02"].answer() == 42
""")

    assert run.code(stage.within(REFUSED)) == 16, run.output
    run.gave(test_names_it="PASSED", test_uses_it="LOST", test_uses_other="PASSED")
    stage.clean(time.monotonic())
    return "exit 16: 1 LOST, 2 passed; connecting is always lazy"


@HOST_ROWS.add(
    "silent host, 3 tests",
    Peers("30.19 s = 10 s x each test; no memory that the host is dead", "not run", "not run"),
)
def silent(stage: Stage) -> str:
    """It accepts connections and never says a word."""
    stage.gpu.freeze()
    run = stage.start(THREE, SHORT_CONNECT)
    code = run.code()
    stage.gpu.thaw()

    assert code == 16
    run.gave(**dict.fromkeys(("test_one", "test_two", "test_three"), "LOST"))
    first, *others = run.times.values()
    assert CONNECT / 2 < first < stage.within(CONNECT + 0.5), run.times
    assert sum(others) < stage.within(0.5), run.times
    run.says("gpu01 lost: 3 tests")
    stage.clean(time.monotonic())
    return (
        f"one connect timeout (3 s) for all: {first:.1f} s, then {sum(others):.1f} s for both others; "
        "exit 16, the host named once"
    )


@HOST_ROWS.add(
    "link killed in test 2 of 3",
    Peers(
        "test 2 FAILED, test 3 passes; paramiko backend says only `assert -1 == 0`",
        "test 2 FAILED, test 3 FAILED too: never reconnects",
    ),
)
def link_killed(stage: Stage) -> str:
    """The sshd process of the connection is killed."""
    run = stage.start(IN_TEST_TWO)
    run.wait_for()
    stage.gpu.inside("pkill", "-KILL", "-f", SESSIONS)
    killed = time.monotonic()

    assert run.code() == 16, run.output
    run.gave(test_one="PASSED", test_two="LOST", test_three="PASSED")
    took = time.monotonic() - killed
    assert took < stage.within(3.0), took
    run.says("gpu01 lost: 1 test", "into rebuild(); answers again", "last output: md0: resync 41%", "2 passed, 1 lost")
    stage.clean(killed, took + 2)
    return f"test 2 LOST with the call and its last output, test 3 passes; {took:.1f} s to the end, exit 16"


@HOST_ROWS.add(
    "frozen session",
    Peers("hangs for ever (killed at 25 s)", "timeout=8 honoured, then the next test fails as well (21 s in total)"),
)
def frozen(stage: Stage) -> str:
    """The sshd process of the connection is stopped."""
    run = stage.start(IN_TEST_TWO)
    run.wait_for()
    stage.gpu.inside("pkill", "-STOP", "-f", SESSIONS)
    stopped = time.monotonic()
    try:
        assert run.code() == 16, run.output
        took = time.monotonic() - stopped
        run.gave(test_one="PASSED", test_two="LOST", test_three="PASSED")
        assert LEASE - 0.6 < took < stage.within(LEASE + 2.5), took
        run.says("no heartbeat for 1.5 s", "into rebuild(); answers again")
        # What was behind the frozen process has ended by itself.
        stage.clean(stopped, took + 2)
    finally:
        stage.gpu.inside("sh", "-c", f"pkill -KILL -f '{SESSIONS}' || true")
    return f"test 2 LOST, test 3 passes on a new connection; {took:.1f} s to the end with a lease of 1.5 s, exit 16"


@HOST_ROWS.add("link cut while an undo is pending")
def undo_cut(stage: Stage) -> str:
    """The cable is pulled from a test that has changed things, and stays out."""
    run = stage.start(
        """
@pytest.mark.ec_hosts("gpu", where="name == 'gpu01'")
def test_changes(remote_hosts):
    remote_hosts[0].change()
    remote_hosts[0].rebuild(reached)
""",
        f"--ec-set=gpu01.timeouts.connect={AGAIN:g}s",
    )
    run.wait_for()
    stage.gpu.link.down()
    cut = run.began = time.monotonic()

    took = stage.clean(cut, LEASE + 2, near=False)
    assert run.code(stage.within(LEASE + AGAIN + 6)) == 16, run.output
    run.gave(test_changes="LOST")
    stage.clean(time.monotonic())
    return (
        f"{took:.1f} s later (lease 1.5 s) undone, no process and no lock left, with the cable still out; LOST, exit 16"
    )


@HOST_ROWS.add("the far-side worker crashes")
def worker_crash(stage: Stage) -> str:
    """A segmentation fault in role code."""
    run = stage.start("""
@pytest.mark.ec_hosts("gpu", where="name == 'gpu01'")
def test_crash(remote_hosts):
    remote_hosts[0].change()
    remote_hosts[0].crash()
@pytest.mark.ec_hosts("gpu", where="name == 'gpu01'")
def test_next(remote_hosts):
    assert remote_hosts[0].run(["cat", "/root/state"]).stdout == "as it was\\n"
    assert remote_hosts[0].answer() == 42
""")

    assert run.code() == 1, run.output
    run.gave(test_crash="CRASHED", test_next="PASSED")
    run.says("SIGSEGV", "dma: bad descriptor", "in crash", "CRASHED test_it.py::test_crash", "1 failed, 1 passed")
    stage.clean(time.monotonic())
    return "CRASHED with signal, last words and stack; undone before the next test, which passes; exit 1"


@HOST_ROWS.add("a reboot nobody asked for")
def unasked_reboot(stage: Stage) -> str:
    """The plug is pulled and put in again in the middle of a call, with an undo pending."""
    run = stage.start("""
pytestmark = pytest.mark.ec_hosts("gpu", where="name == 'gpu01'")
def test_one(remote_hosts): assert remote_hosts[0].answer() == 42
def test_two(remote_hosts):
    remote_hosts[0].change()
    remote_hosts[0].rebuild(reached)
def test_three(remote_hosts):
    assert remote_hosts[0].run(["cat", "/root/state"]).stdout == "as it was\\n"
""")
    run.wait_for()
    stage.gpu.reset()

    assert run.code() == 1, run.output
    run.gave(test_one="PASSED", test_two="CRASHED", test_three="PASSED")
    run.says("Kernel log of gpu01 before it rebooted", "gpu01: undid after a reboot or loss of power")
    stage.clean(time.monotonic())
    return (
        "CRASHED (another boot id) with the kernel's log; on the new system everything is undone before test 3, "
        "which passes; exit 1"
    )


@HOST_ROWS.add("a reboot under a lock")
def reboot_lock(stage: Stage) -> str:
    """A test reboots its host, and somebody else asks for it as soon as it is back."""
    run = stage.start("""
@pytest.mark.ec_destructive
@pytest.mark.ec_hosts("gpu", where="name == 'gpu01'")
def test_reboots(remote_hosts):
    (host,) = remote_hosts
    host.undo("echo as it was >/root/state")
    host.run("echo changed >/root/state", check=True)
    reached()
    host.reboot()
    assert host.answer() == 42
    assert host.run(["cat", "/root/state"]).stdout == "changed\\n"
    say("back")
    while not os.path.exists(os.path.join(HERE, "go")):
        time.sleep(0.01)
""")
    run.wait_for()
    stage.gpu.wait_for_boot(stage.gpu_boot)
    other = stage.start(
        """
@pytest.mark.ec_hosts("gpu", where="name == 'gpu01'")
def test_other(remote_hosts): pass
""",
        "--ec-wait=0s",
    )
    assert other.code() == 16, other.output
    other.gave(test_other="BUSY")
    run.wait_for("back")
    (run.folder / "go").touch()

    assert run.code() == 0, run.output
    run.gave(test_reboots="PASSED")
    stage.clean(time.monotonic())
    return (
        "the host comes back with another boot id, its lease and its pending undo; others stay BUSY throughout; "
        "then it is undone, and nothing is left"
    )
