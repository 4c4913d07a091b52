"""Evidence of failures: in the report, in folders, on the timeline; and in what others make of reports."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from easycluster.timeline import Timeline

LAB = """
roles:
  gpu:
    artifacts: {commands: ["echo state of things"]}
    code: |
      import logging, os, sys, time
      log = logging.getLogger("gpu")
      def rebuild(number, secret=""):
          print("rebuilding", number)
          log.warning("slow disk %d", number)
          return number
      def boom():
          raise ValueError("no such volume")
hosts:
  gpu[01:02]: {role: gpu, connect: local}
  san1: {role: gpu, connect: local, artifacts: {when: always}}
"""

# Keeps what reports carry, where they arrive.
CONFTEST = """
import json, pytest

def pytest_runtest_logreport(report):
    found = getattr(report, "ec_evidence", None)
    if found is not None:
        with open(OUT, "a") as file:
            file.write(json.dumps([report.nodeid, report.when, found]) + "\\n")
"""

# pytest-xdist has to be named where plugins are not loaded by themselves.
XDIST = ("-p", "xdist.plugin", "-p", "xdist.looponfail", "-n", "2")


class Reports:
    def __init__(self, suite):
        self.suite = suite
        self.file = suite.pytester.path / "evidence.jsonl"
        suite.pytester.makeconftest(f"OUT = {str(self.file)!r}\n{CONFTEST}")

    def run(self, *args):
        result = self.suite.run(f"--ec-artifacts={self.root}", *args)
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.found = {nodeid.rpartition("::")[2]: found for nodeid, _when, found in map(json.loads, lines)}
        self.phases = [when for _nodeid, when, _found in map(json.loads, lines)]
        return result

    @property
    def root(self):
        return self.suite.pytester.path / "kept"

    def files(self):
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())


@pytest.fixture
def reports(suite):
    suite.lab(LAB)
    return Reports(suite)


def test_a_failure_shows_what_was_collected_and_what_happened_before_it(reports):
    reports.suite.tests("""
        @pytest.mark.ec_hosts("gpu", count=2)
        def test_it(remote_hosts):
            a, b = remote_hosts
            a.rebuild(3)
            b.rebuild(4)
            a.boom()
    """)
    result = reports.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- Evidence -*",
            f"{reports.root}/test_*_test_it (*s)",
            "gpu01*: *echo state of things",
            "*- Timeline, the last * events, hosts' clocks to *ms -*",
            "*-      phase  * setup (passed)",
            "*gpu01  call *rebuild(3)",
            "*gpu02  call *rebuild(4)",
            "*gpu01  call *ERROR: boom() raised ValueError: no such volume",
            f"evidence of 1 test: {reports.root}",
        ]
    )
    text = result.stdout.str()
    assert text.count("WARNING: gpu: slow disk") == 2
    assert re.search("output +rebuilding 3", text)
    (folder,) = reports.root.iterdir()
    assert {"timeline.txt", "timeline.json"} <= {path.name for path in folder.iterdir()}
    assert (folder / "gpu01" / "echo_state_of_things.txt").read_text() == "state of things\n"


def test_the_report_of_each_test_carries_its_timeline(reports):
    reports.suite.tests("""
        import time
        def test_fails(gpu_node):
            gpu_node.rebuild(1)
            time.sleep(1.2)  # the recorder has looked twice
            assert not gpu_node.rebuild(2)
        def test_passes(gpu_node):
            gpu_node.rebuild(3)
        def test_alone():
            pass
    """)
    before = time.time()
    reports.run().assert_outcomes(failed=1, passed=2)
    assert sorted(reports.found) == ["test_fails", "test_passes"]
    assert reports.phases == ["teardown", "teardown"]
    failed, passed = reports.found["test_fails"], reports.found["test_passes"]
    assert failed["hosts"] == {"gpu01": {"role": "gpu", "label": "localhost"}}
    timeline = Timeline.from_plain(failed)
    calls = [event.text for event in timeline.only(kinds=["call"])]
    assert calls == ["rebuild(1)", "rebuild(2)"]
    assert [event.text for event in timeline.only(kinds=["phase"], hosts=[""])] == [
        "setup (passed)",
        "call (failed)",
        "teardown (passed)",
    ]
    assert all(before - 1 < event.time < time.time() for event in timeline)
    assert timeline.clocks["gpu01"]["error"] < 60
    assert failed["series"]["gpu01"]["memory used"]["unit"] == "MiB"
    (artifact,) = [one for one in failed["artifacts"] if one["name"] == "echo state of things"]
    assert (Path(failed["artifacts_dir"]) / artifact["path"]).stat().st_size == artifact["size"]
    assert [event[4] for event in passed["events"] if event[2] == "call"] == ["rebuild(3)"]
    assert (passed["series"], passed["artifacts"], passed["artifacts_dir"]) == ({}, [], "")


def test_reports_of_xdist_carry_it_too_and_workers_do_not_share_folders(reports):
    pytest.importorskip("xdist")
    reports.suite.tests("""
        @pytest.mark.parametrize("number", range(6))
        @pytest.mark.ec_shared
        @pytest.mark.ec_hosts("gpu")
        def test_it(remote_hosts, number):
            assert not remote_hosts[0].rebuild(1)
    """)
    result = reports.run(*XDIST)
    result.assert_outcomes(failed=6)
    assert len(reports.found) == 6
    assert len(list(reports.root.iterdir())) == 6
    result.stdout.fnmatch_lines([f"evidence of 6 tests: {reports.root}"])


def test_without_a_directory_it_is_beside_the_temporary_ones(reports):
    reports.suite.tests("def test_it(gpu_node, tmp_path):\n    print('here', tmp_path)\n    gpu_node.boom()")
    result = reports.suite.run("-s")
    text = result.stdout.str()
    base = text.split("here ", 1)[1].split("/test_it", 1)[0]
    assert f"evidence of 1 test: {base}/ec-artifacts" in text


@pytest.mark.parametrize(
    ("when", "kept"), [("never", 0), ("always", 2), ("failure", 1)], ids=["never", "always", "failure"]
)
def test_when_it_is_collected_can_be_said(reports, when, kept):
    reports.suite.tests("""
        def test_passes(gpu_node):
            gpu_node.rebuild(3)
        def test_fails(gpu_node):
            gpu_node.boom()
    """)
    result = reports.run(f"--ec-collect={when}")
    result.assert_outcomes(failed=1, passed=1)
    assert (len(list(reports.root.iterdir())) if reports.root.exists() else 0) == kept
    assert len(reports.found) == (0 if when == "never" else 2)
    assert ("Evidence" in result.stdout.str()) is (when != "never")


def test_the_lab_file_can_say_it_of_a_host(reports):
    reports.suite.tests("""
        @pytest.mark.ec_hosts("gpu", where="name == 'san1'")
        def test_passes(remote_hosts):
            remote_hosts[0].rebuild(3)
    """)
    reports.run("--ec-limit=san1").assert_outcomes(passed=1)
    assert any("san1/" in name for name in reports.files())


@pytest.mark.parametrize("phase", ["setup", "teardown"])
def test_failures_of_setup_and_teardown_are_collected_too(reports, phase):
    reports.suite.tests(f"""
        @pytest.fixture
        def unit(gpu_node):
            gpu_node.rebuild(1)
            if {phase == "setup"}:
                gpu_node.boom()
            yield gpu_node
            gpu_node.boom()
        def test_it(unit):
            pass
    """)
    result = reports.run()
    result.assert_outcomes(errors=1, passed=int(phase == "teardown"))
    result.stdout.fnmatch_lines(["*- Evidence -*", "gpu01: *echo state of things", "*call*ERROR: boom() raised*"])
    assert reports.found["test_it"]["artifacts"]


def test_a_crash_is_collected_with_the_counters_of_before(reports):
    reports.suite.tests("""
        import time
        def test_it(gpu_node):
            gpu_node.rebuild(1)
            time.sleep(1.1)
            gpu_node.remote.os.abort()
    """)
    result = reports.run()
    result.stdout.fnmatch_lines(["gpu01: *echo state of things", "*ERROR: os.abort() raised WorkerDied*", "CRASHED *"])
    assert len(reports.found["test_it"]["series"]["gpu01"]["memory used"]["points"]) >= 1


def test_a_host_that_does_not_answer_costs_little_and_is_named(reports):
    reports.suite.tests("""
        @pytest.mark.ec_hosts("gpu", count=2)
        def test_it(remote_hosts):
            a, b = remote_hosts
            b.rebuild(1)
            a._connection._dialer = gone
            a.remote._endpoint._carrier.kill()
            a.remote.time.sleep(60)

        def gone(*_):
            from easycluster.errors import ConnectError
            raise ConnectError("gpu01: no route to host", "gpu01")
    """)
    result = reports.run()
    result.stdout.fnmatch_lines([f"evidence of 1 test: {reports.root}", "gpu01 lost: 1 test *"])
    artifacts = reports.found["test_it"]["artifacts"]
    (trouble,) = [one["why"] for one in artifacts if one["host"] == "gpu01"]
    assert trouble.startswith("gpu01: no route to host")
    assert [one["path"].rpartition("/")[2] for one in artifacts if one["name"] == "echo state of things"] == [
        "echo_state_of_things.txt"
    ]


def test_secrets_are_masked(reports):
    reports.suite.lab(LAB.replace("hosts:", "vars: {password: !secret hunter22}\nhosts:"))
    reports.suite.tests("""
        def test_it(gpu_node):
            gpu_node.rebuild(1, secret="hunter22")
            print(gpu_node.remote.eval("print('hunter22')"))
            gpu_node.boom()
    """)
    result = reports.run()
    assert "rebuild(1, secret='***" in result.stdout.str()
    assert "hunter22" not in json.dumps(reports.found)
    assert not [name for name in reports.files() if "hunter22" in (reports.root / name).read_text(errors="replace")]


def test_a_test_with_many_events_has_a_bounded_report(reports):
    reports.suite.tests("""
        def test_it(gpu_node):
            for number in range(6000):
                gpu_node.remote.abs(number)
            gpu_node.rebuild("x" * 100_000)
            gpu_node.remote.eval("print('y' * 100_000)")
            gpu_node.boom()
    """)
    reports.run()
    found = reports.found["test_it"]
    assert len(found["events"]) <= 3001
    assert "earlier events are left out here" in found["events"][0][4]
    assert found["events"][-2][4].startswith("boom()") or "boom()" in json.dumps(found["events"][-6:])
    assert len(json.dumps(found["events"])) < 500_000


def test_calls_that_have_not_ended_are_on_the_timeline(reports):
    reports.suite.tests("""
        def test_it(gpu_node):
            response = gpu_node.remote.time.sleep(600, nonblocking=True)
            assert not gpu_node.remote.eval("1", threadid=5)
    """)
    reports.run().stdout.fnmatch_lines(["*gpu01*call*WARNING: time.sleep(600) has not ended after *s"])


def test_a_directory_that_cannot_be_made_costs_nothing_but_the_files(reports):
    (reports.suite.pytester.path / "kept").write_text("a file")
    reports.suite.tests("def test_it(gpu_node):\n    gpu_node.boom()")
    result = reports.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["nothing could be kept*", "gpu01: echo state of things: not kept: could not be kept*"])
    assert Timeline.from_plain(reports.found["test_it"]).only(kinds=["call"])


def test_a_wrong_word_is_refused(reports, monkeypatch):
    monkeypatch.setenv("EC_COLLECT", "sometimes")
    reports.suite.tests("def test_it(gpu_node): pass")
    result = reports.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*EC_COLLECT is 'sometimes'; write failure, always, never"])


def test_interrupting_it_ends_it_and_the_run_and_keeps_the_report(reports):
    # The command tells the run itself, whose number it finds in a file.
    reports.suite.lab(LAB.replace('"echo state of things"', '"kill -INT $$(cat pid); sleep 600"'))
    reports.suite.tests("""
        import os
        open("pid", "w").write(str(os.getpid()))
        def test_it(gpu_node):
            gpu_node.boom()
        def test_next(gpu_node):
            pass
    """)
    began = time.monotonic()
    result = reports.run()
    assert time.monotonic() - began < 30
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*ValueError: no such volume*", "it was interrupted"])
    assert "test_next" not in reports.found
