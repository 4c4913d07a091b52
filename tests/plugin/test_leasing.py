"""Fixtures hold leases: runs that share a lab, and what a test leaves behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import pytest_easycluster

ROOT = str(Path(pytest_easycluster.__file__).parents[1])
SOON = 60.0
# One that every account may run; ours may lie in somebody's home.
SYSTEM_PYTHON = "/usr/bin/python3"

LAB = """
roles:
  gpu:
    code: |
      import os, subprocess

      def enter(folder, name):
          # Fails if somebody is in there.
          os.close(os.open(os.path.join(folder, name), os.O_CREAT | os.O_EXCL))

      def leave(folder, name):
          os.unlink(os.path.join(folder, name))

      def leave_behind():
          return subprocess.Popen(["sleep", "89"]).pid
  san: {}
hosts:
  gpu[01:02]: {role: gpu, connect: local, lock: exclusive}
  shared1: {role: san, connect: local}
"""

CROWD = """
import pytest, time

@pytest.mark.parametrize("number", range(3))
@pytest.mark.ec_hosts("gpu")
def test_alone(remote_hosts, number):
    (host,) = remote_hosts
    host.enter(FOLDER, host.name)
    time.sleep(0.05)
    host.leave(FOLDER, host.name)

@pytest.mark.parametrize("number", range(2))
@pytest.mark.ec_hosts("gpu", count=2)
def test_both(remote_hosts, number):
    for host in remote_hosts:
        host.enter(FOLDER, host.name)
    for host in remote_hosts:
        host.leave(FOLDER, host.name)
"""


@pytest.fixture
def crowd():
    """Start runs of one suite on one lab, each in a process and a folder of its own."""
    folder = Path(f"/tmp/ec-crowd-{os.getpid()}")  # where another account may look; pytest's own is private
    (folder / "inside").mkdir(parents=True)
    for path in (folder, folder / "inside"):
        path.chmod(0o777)
    (folder / "lab.yaml").write_text(LAB + f"defaults: {{python: [{SYSTEM_PYTHON}, {sys.executable}]}}\n")
    (folder / "test_crowd.py").write_text(f"FOLDER = {str(folder / 'inside')!r}\n" + CROWD)
    environment = {
        **os.environ,
        "PYTHONPATH": ROOT,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "EC_LOCK_DIRECTORY": f"/tmp/ec-locks-crowd-{os.getpid()}",
        "HOME": str(folder),
    }
    started = []

    def start(*options, account=()):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_easycluster.plugin", "-p", "no:cacheprovider"]
        command += ["--ec-inventory=lab.yaml", "--ec-wait=50s", f"--basetemp={folder}/tmp{len(started)}", *options]
        process = subprocess.Popen(
            [*account, *command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    shutil.rmtree(folder)
    shutil.rmtree(environment["EC_LOCK_DIRECTORY"], ignore_errors=True)


def assert_all_passed(processes):
    for process in processes:
        output = process.communicate(timeout=SOON)[0]
        assert process.returncode == 0, output
        assert "5 passed" in output


def test_two_runs_and_their_xdist_workers_never_have_the_same_exclusive_host_at_once(crowd):
    pytest.importorskip("xdist")

    assert_all_passed([crowd("-p", "xdist", "-n2"), crowd()])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another account")
def test_accounts_never_have_the_same_exclusive_host_at_once(crowd):
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if shutil.which("setpriv") is None or subprocess.run([*nobody, sys.executable, "-c", ""], check=False).returncode:
        pytest.skip("another account cannot run this Python")
    if not os.access(SYSTEM_PYTHON, os.X_OK):
        pytest.skip(f"there is no {SYSTEM_PYTHON}")

    assert_all_passed([crowd(), crowd(account=nobody)])


HOLDER = """
    import os, time

    def test_it(remote_hosts, request):
        host = remote_hosts["gpu01"]
        host.undo("touch", os.environ["UNDONE"])
        open(os.environ["READY"], "w").close()
        time.sleep(100)
    """


def test_a_killed_run_leaves_its_hosts_free_and_set_back_within_two_seconds(suite, tmp_path, monkeypatch):
    undone, ready = tmp_path / "undone", tmp_path / "ready"
    monkeypatch.setenv("UNDONE", str(undone))
    monkeypatch.setenv("READY", str(ready))
    suite.lab(LAB)
    suite.tests(HOLDER)
    command = [sys.executable, "-m", "pytest", "-p", "pytest_easycluster.plugin", "--ec-inventory=lab.yaml"]
    with subprocess.Popen(command, cwd=suite.pytester.path, stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + SOON
        while not ready.exists():
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        killed = time.monotonic()
        while not undone.exists():
            assert time.monotonic() - killed < 2.0
            time.sleep(0.005)


def test_a_busy_host_is_an_error_that_names_who_has_it(suite):
    from easycluster.lab import Lab

    suite.lab(LAB)
    suite.tests("""
        @pytest.mark.ec_hosts("gpu", count=2)
        def test_it(remote_hosts): pass
        """)
    with Lab.load(suite.pytester.path / "lab.yaml") as lab:
        lab.leases.label = "calibration"
        with lab.leases.take(lab.only("gpu02").connect()):
            result = suite.run("--ec-wait=1s")

    assert result.ret != 0
    result.stdout.fnmatch_lines(
        ["gpu02 busy: 1 test*", f'*in use by * pid {os.getpid()} since ??:?? "calibration" (waited 1* s, 1st in line)']
    )
    result.stderr.fnmatch_lines(['lab: waiting for gpu02: in use by *"calibration" (1st in line, at most * s more)'])


def test_what_a_test_leaves_behind_is_named_with_the_test(suite):
    suite.lab(LAB)
    suite.tests("""
        @pytest.mark.ec_hosts("gpu")
        def test_untidy(remote_hosts):
            remote_hosts[0].leave_behind()
        @pytest.mark.ec_hosts("gpu")
        def test_tidy(remote_hosts):
            assert "sleep 89" not in remote_hosts[0].run(["ps", "-s", str(remote_hosts[0].os.getpid())]).stdout
        """)

    result = suite.run()

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*left behind on hosts*", "*::test_untidy", "  gpu01: process * sleep 89"])
    result.stdout.no_fnmatch_line("*::test_tidy")
    suite.run("--ec-leaks=error").assert_outcomes(passed=2, errors=1)


def test_an_undo_that_fails_is_an_error_of_the_teardown(suite):
    suite.lab(LAB)
    suite.tests("""
        def test_it(remote_hosts):
            remote_hosts["shared1"].undo("echo stuck; exit 7")
        """)

    result = suite.run()

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*shared1: undo failed: echo stuck; exit 7: ended with exit code 7*", "*stuck*"])


def test_unmarked_remote_hosts_touches_and_shares_only_what_is_used(suite):
    from easycluster.lab import Lab

    suite.lab(LAB)
    suite.tests("""
        def test_it(remote_hosts):
            assert remote_hosts["shared1"].os.getpid()
            found = remote_hosts["shared1"].remote._ask_keeper({"op": "holders"})["holders"]
            assert [one["mode"] for one in found if one["name"] == "shared1"] == ["shared"]
        """)
    with Lab.load(suite.pytester.path / "lab.yaml") as lab, lab.leases.take(lab.only("gpu01").connect()):
        suite.run("--ec-wait=0").assert_outcomes(passed=1)


def test_a_lock_of_the_lab_is_held_by_a_test_with_or_without_hosts(suite):
    from easycluster.lab import Lab

    suite.lab(LAB)
    suite.tests("""
        @pytest.mark.ec_lock("fabric-A")
        def test_without(): pass
        @pytest.mark.ec_lock("fabric-A")
        @pytest.mark.ec_hosts("gpu")
        def test_with(remote_hosts): pass
        @pytest.mark.ec_lock("fabric-B")
        def test_other(): pass
        """)
    with Lab.load(suite.pytester.path / "lab.yaml") as lab, lab.leases.take([], locks=["fabric-A"]):
        suite.run("--ec-wait=0").stdout.fnmatch_lines(["*fabric-A is in use by*", "*1 passed, 2 busy*"])
    suite.run().assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("option", "words"),
    [("--ec-wait=soon", "'soon' is no span"), ("--ec-leaks=maybe", "invalid choice: 'maybe'")],
)
def test_an_option_that_makes_no_sense_says_so(suite, option, words):
    suite.lab(textwrap.dedent(LAB))
    suite.tests("def test_it(): pass")

    result = suite.run(option)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert words in result.stderr.str()
