"""The live object of a storage target, whatever stands behind it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.interpreters import interpreters
from support.parts import require

import easycluster.devices
from easycluster.devices.iscsi import discover
from easycluster.devices.iscsi.errors import ChapRefused, CheckCondition, CommandTimeout, TargetGone
from easycluster.devices.san import SanTarget, open_san
from easycluster.devices.san.child import Child, ChildError
from easycluster.devices.san.driver import Options, UnitsLost
from easycluster.devices.san.served import MODULES
from easycluster.devices.san.target import open_driver
from easycluster.errors import Unsupported
from easycluster.server import spawn_local

MIB = 1 << 20
ROOT = Path(easycluster.devices.__file__).parent
SECRET = ("ann", "secret-of-ann", "tgt", "secret-of-tgt")


@pytest.fixture(params=["embedded", "tgt"])
def mine(request):
    """A target of this test alone, with a secret."""
    if request.param == "tgt":
        require("tgtd", "tgt")
    with open_san(request.param, chap=SECRET) as found:
        yield found


@pytest.fixture
def embedded():
    with open_san() as found:
        yield found


def test_target_says_what_it_has(mine):
    assert (mine.luns, mine.sessions, len(mine.portals)) == ({}, [], 2)
    lun = mine.create_lun(MIB)
    assert mine.luns == {1: lun}
    assert (lun.number, lun.size, lun.block_size, lun.thin) == (1, MIB, 512, True)
    mine.login()
    assert mine.sessions == ["iqn.2026-11.org.easycluster:initiator"]
    assert mine.reachable == mine.portals
    mine.delete_lun(lun)
    assert mine.luns == {}


def test_target_believes_only_its_secret(mine):
    mine.create_lun(MIB)
    mine.login().ready()
    for chap in (None, ("ann", "wrong-secret-"), (*SECRET[:3], "wrong-secret-")):
        with pytest.raises(ChapRefused):
            mine.login(chap=chap)


def test_what_was_flushed_survives_a_crash(mine):
    lun = mine.create_lun(MIB)
    session = mine.login(1)
    session.fill(9)
    session.flush()
    mine.crash()
    with pytest.raises(TargetGone):
        session.read(0, 1)
    assert mine.reachable == []
    mine.restart()
    assert mine.luns == {1: lun}
    assert mine.login(1).verify(9) == []


def test_a_hung_target_goes_on_where_it_was(mine):
    mine.create_lun(MIB)
    session = mine.login(timeout=20)
    session.read(0, 1)
    with mine.hung():
        session.timeout = 0.2
        with pytest.raises(CommandTimeout):
            session.write(0, b"h" * 512)
    session.timeout = 20
    assert session.read(0, 1) == b"h" * 512


def test_a_hung_target_is_told_nothing_and_says_what_it_has_afterwards(mine):
    """What a stopped process was asked for meanwhile came late, as the answer to something else."""
    lun = mine.create_lun(MIB)
    mine.login()
    with mine.hung():
        for ask in (lambda: mine.sessions, lambda: mine.create_lun(MIB), lambda: mine.resize_lun(lun, 2 * MIB)):
            with pytest.raises(ValueError, match=r"hangs, so it can be told nothing; resume\(\) lets it go on$"):
                ask()
    assert mine.resize_lun(lun, 4 * MIB).size == 4 * MIB
    assert len(mine.sessions) == 1
    assert list(mine.luns) == [1]


def test_an_answer_that_comes_late_is_not_that_of_the_next_call(embedded):
    child = embedded._driver._child
    child.stop()
    child.limit = 0.05
    with pytest.raises(ChildError, match=r"^the target's process did not answer 'sessions' within 0\.05 s$"):
        child.call("sessions")
    child.limit = 20.0
    child.resume()

    assert embedded.create_lun(MIB).size == MIB
    assert embedded.sessions == []


def test_threads_may_break_a_target_at_the_same_time(embedded):
    lun = embedded.create_lun(MIB)
    wrong, done = [], []

    def flap():
        for _ in range(50):
            embedded.fail_path(1)
            embedded.restore_path(1)
        done.append(True)

    def grow():
        sizes = [size * MIB for size in range(1, 50)]
        wrong.extend(size for size in sizes if embedded.resize_lun(lun, size).size != size)
        done.append(True)

    threads = [threading.Thread(target=what) for what in (flap, grow)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert (wrong, done) == ([], [True, True])
    assert embedded.reachable == embedded.portals


@pytest.mark.parametrize("moment", ["verify", "fill", "perf"])
def test_a_target_that_dies_in_the_middle_is_an_error_at_once(mine, moment):
    mine.create_lun(16 * MIB)
    session = mine.login(timeout=60)
    session.fill(7)
    work = {
        "verify": lambda: session.verify(7),
        "fill": lambda: session.fill(7, generation=2),
        "perf": lambda: session.perf(30),
    }[moment]
    said = []

    def go_on():
        try:
            while True:
                work()
        except TargetGone as exc:
            said.append((time.monotonic(), str(exc)))

    thread = threading.Thread(target=go_on)
    thread.start()
    time.sleep(0.1)
    begin = time.monotonic()
    mine.crash()
    thread.join(60)

    ((end, text),) = said
    assert end - begin < 20
    assert text.startswith(f"{mine.portals[0]}: ")
    mine.restart()
    assert {bad.kind for bad in mine.login().verify(7)} <= {"future"}


def test_a_portal_that_is_none_is_named(embedded):
    with pytest.raises(IndexError, match=r"has no portal 2; there are 2, from 0: 127\.0\.0\.1:\d+, 127\.0\.0\.1:\d+$"):
        embedded.login(2)


def test_nothing_is_left_of_a_target(mine, tmp_path):
    lun = mine.create_lun(MIB)
    mine.snapshot(lun)
    driver = mine._driver
    mine.close()
    assert not os.path.exists(driver._directory)
    mine.close()


@pytest.mark.parametrize("hangs", [False, True], ids=["", "hung"])
def test_what_was_started_ends_with_who_started_it(mine, hangs):
    name = "tgt" if hasattr(mine._driver, "_program") else "embedded"
    program = (
        "import sys, time\n"
        "from easycluster.devices.san import open_san\n"
        f"san = open_san({name!r})\n"
        f"if {hangs}: san.hang()\n"
        "print(san.portals[0], san._driver._directory, flush=True)\n"
        "time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as controller:
        portal, directory = controller.stdout.readline().split()
        assert hangs or discover(portal)[0].portals
        assert os.path.isdir(directory)
        controller.kill()
        controller.wait()
    deadline = time.monotonic() + 30
    while os.path.isdir(directory) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(directory)
    with pytest.raises(TargetGone):
        discover(portal)


def test_a_path_fails_and_comes_back(embedded):
    embedded.create_lun(MIB)
    session, other = embedded.login(0), embedded.login(1)
    with embedded.path_failed(0, "refuse"):
        with pytest.raises(TargetGone):
            session.read(0, 1)
        assert other.read(0, 1) == bytes(512)
        assert embedded.reachable == embedded.portals[1:]
    assert embedded.login(0).read(0, 1) == bytes(512)


def test_blocks_and_times_go_bad_on_demand(embedded):
    lun = embedded.create_lun(MIB)
    session = embedded.login()
    session.ready()
    embedded.fail_blocks(lun, 5, 2)
    with pytest.raises(CheckCondition, match=r"medium error: unrecovered read error \(3/11/00\), at block 5$"):
        session.read(0, 10)
    embedded.fail_blocks(lun, 0, 0)
    embedded.delay(lun, 0.05)
    assert session.perf(0.01, depth=4).p50 >= 0.05


@pytest.fixture
def tgt():
    require("tgtd", "tgt")
    with open_san("tgt") as found:
        yield found


@pytest.mark.parametrize("how", ["silent", "refuse"])
def test_a_path_of_tgtd_fails_and_comes_back(tgt, how):
    require("nft", "nftables")
    if os.geteuid() != 0:
        pytest.skip("needs root: packets are filtered by root only")
    tgt.create_lun(MIB)
    session, other = tgt.login(0), tgt.login(1)
    session.fill(3)
    with tgt.path_failed(0, how):
        session.timeout = 0.2 if how == "silent" else 20
        with pytest.raises(CommandTimeout if how == "silent" else TargetGone):
            session.read(0, 1)
        assert other.verify(3) == []
        if how == "refuse":
            assert tgt.reachable == tgt.portals[1:]
    assert tgt.reachable == tgt.portals
    assert tgt.login(0).verify(3) == []


def test_a_cut_path_is_mended_by_the_system_when_its_owner_dies(tgt):
    program = require("nft", "nftables")
    if os.geteuid() != 0:
        pytest.skip("needs root: packets are filtered by root only")
    tgt.fail_path(0)
    table = tgt._driver._cuts._table
    assert table in subprocess.run([program, "list", "tables"], capture_output=True, text=True, check=True).stdout
    tgt._driver._cuts._process.stdin.close()
    tgt._driver._cuts._process.wait(30)
    assert table not in subprocess.run([program, "list", "tables"], capture_output=True, text=True, check=True).stdout
    assert tgt.reachable == tgt.portals


def test_what_a_driver_cannot_do_it_says(tgt, monkeypatch):
    with pytest.raises(Unsupported, match=r"^delay: tgtd has no delays on demand; ") as caught:
        tgt.delay(1, 1.0)
    assert caught.value.operation == "delay"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unsupported, match=r"^fail_path: .*(root|nft)"):
        tgt.fail_path(0)


def test_a_snapshot_is_of_one_moment_while_others_write(mine):
    lun = mine.create_lun(MIB)
    session = mine.login()
    session.fill(5, generation=1)
    copy = mine.snapshot(lun)
    session.fill(5, generation=2)
    assert mine.login(lun=copy.number).verify(5, generation=1) == []
    assert session.verify(5, generation=2) == []


def test_units_outlive_their_target(mine, tmp_path):
    """What a host that has booted does: the same units, names and addresses in a new process."""
    driver = "tgt" if hasattr(mine._driver, "_program") else "embedded"
    options = Options(directory=str(tmp_path))
    first = open_driver(driver, options)
    with SanTarget(first) as san:
        san.create_lun(MIB)
        small = san.create_lun(2 * MIB, block_size=4096)
        san.login(lun=1).fill(6)
        units, portals = tuple(first.units()), tuple(first.portals())
        first.crash()
        with SanTarget(open_driver(driver, options._replace(units=units, portals=portals))) as again:
            assert (again.luns[2], tuple(again.portals)) == (small, portals)
            assert again.login(lun=1).verify(6) == []
            assert again.create_lun(MIB).number == 3
        with pytest.raises(UnitsLost, match=r"^unit 1 was in .*, which is gone; "):
            open_driver(driver, options._replace(units=units))


def test_an_array_of_somebody_else_is_only_logged_in_to(mine):
    mine.create_lun(MIB)
    with open_san("external", iqn=mine.iqn, portals=mine.portals, chap=SECRET) as array:
        assert array.reachable == mine.portals
        assert array.luns == mine.luns
        array.login().fill(1)
        with pytest.raises(Unsupported, match=r"^crash: this target is somebody else's and is only logged in to$"):
            array.crash()
    assert mine.login().verify(1) == []


def test_a_driver_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"^'lio' is not a driver; there are 'embedded', 'tgt', 'external'$"):
        open_san("lio")


def test_an_address_that_is_taken_is_named(embedded):
    with pytest.raises(ChildError, match=r"open: OSError: .*in use"):
        open_san(portals=embedded.portals)


def test_a_child_that_cannot_start_says_why():
    with pytest.raises(
        ChildError, match=r"(?s)the target's process has ended; it said:\n.*No module named 'easycluster"
    ):
        Child("easycluster.devices.san.served", ["easycluster.devices"])


def test_the_example_of_the_page_runs_as_it_stands():
    page = Path(__file__).parents[2] / "docs" / "devices_san.md"
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    for source in blocks:
        exec(compile(source, str(page), "exec"), {})


# ------------------------------------------------------------ other machines


@pytest.mark.parametrize("version", [next(iter(interpreters())), f"{sys.version_info[0]}.{sys.version_info[1]}"])
def test_another_host_needs_nothing_but_python(version):
    with (
        spawn_local(python=interpreters()[version]) as host,
        open_san(host=host) as san,
    ):
        san.create_lun(MIB)
        session = san.login(0, host=host)
        session.fill(4)
        assert session.verify(4) == []
        assert san.login(1).verify(4) == []
        with pytest.raises(CheckCondition, match="out of range"):
            session.read(1 << 40, 1)
        assert session.perf(0.05).errors == 0
        assert host.eval("__import__('sys').modules['easycluster.devices'].__file__").startswith(str(ROOT))


FILES = sorted([*ROOT.glob("iscsi/**/*.py"), *ROOT.glob("san/*.py")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_sent_needs_only_python_3_8_and_what_is_there(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    needed = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            needed |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            needed.add(node.module)
    ours = {name for name in needed if name.partition(".")[0] == "easycluster"}
    there = ("easycluster.devices", "easycluster.errors", "easycluster.objects", "easycluster.wire")
    assert all(name.startswith(there) for name in ours)
    assert {name.partition(".")[0] for name in needed - ours} <= sys.stdlib_module_names


def test_the_process_of_a_target_is_sent_all_that_it_needs_and_no_more():
    program = (
        "import sys; before = set(sys.modules); import easycluster.devices.san.served as served;"
        "print(*sorted(n for n in set(sys.modules) - before if n.startswith('easycluster.devices')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) | {"easycluster.errors"} == set(MODULES)
