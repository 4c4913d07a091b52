"""``--ec-report`` and ``--ec-trace``: what they hold of a run, whatever its end, and where they cannot be written."""

from __future__ import annotations

import json
import os
import textwrap
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from support.pages import Page
from support.traces import check_trace

from easycluster import generate_key, write_key_file

LAB = """
roles:
  gpu:
    code: |
      def ok(x):
          print("counting", x)
          return x + 1
      def bad(text):
          raise ValueError(text)
      def crash():
          import ctypes
          ctypes.string_at(0)
hosts:
  gpu[01:02]: {role: gpu, connect: local}
  down: {role: gpu, connect: {via: tcp, address: 127.0.0.1, port: 1, key_file: lab.key}, tags: [far]}
fixtures:
  of_the_module: {role: gpu, scope: module, where: "'far' not in tags"}
"""

TESTS = """
    def test_ok(gpu_node): assert gpu_node.ok(1) == 2

    def test_bad(gpu_node): gpu_node.bad("</script><b>")

    def test_near(gpu_node): assert gpu_node.ok(1) == 3

    def test_crash(gpu_node): gpu_node.crash()

    @pytest.mark.ec_hosts("gpu", where="'far' in tags")
    def test_lost(remote_hosts): remote_hosts[0].ok(1)

    @pytest.mark.ec_hosts("gpu", count=2, where="'far' not in tags")
    def test_two(remote_hosts): remote_hosts[1].bad("x")

    def test_in_module(of_the_module): assert of_the_module.ok(1) == 2

    @pytest.mark.skip("why not")
    def test_skip(gpu_node): pass

    @pytest.mark.xfail(reason="known")
    def test_known(gpu_node): gpu_node.bad("x")

    @pytest.fixture
    def broken(gpu_node):
        yield
        raise OSError("teardown broke")

    def test_torn(broken): pass

    def test_plain(): pass
"""

WORDS = {
    "test_ok": "PASSED",
    "test_bad": "FAILED",
    "test_near": "FAILED",
    "test_crash": "CRASHED",
    "test_lost": "LOST",
    "test_two": "FAILED",
    "test_in_module": "PASSED",
    "test_skip": "SKIPPED",
    "test_known": "XFAILED",
    "test_torn": "ERROR",
    "test_plain": "PASSED",
}


@pytest.fixture
def lab(suite):
    """A suite with hosts, of which one is down."""
    suite.lab(LAB)
    write_key_file(suite.pytester.path / "lab.key", generate_key())
    return suite


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n2")], ids=["alone", "xdist"])
def test_everything_that_is_written_tells_the_same_of_a_run(lab, workers, monkeypatch):
    lab.tests(TESTS)
    folder = lab.pytester.path
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    plugins = ("-p", "pytest_html.plugin", "-p", "pytest_metadata.plugin", "--html=html/all.html")

    options = ("--ec-report=out/lab.html", "--ec-trace=out/traces", "--ec-artifacts=out/art#1", "--junitxml=junit.xml")

    result = lab.run(*options, *plugins, *workers)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [f"lab report: file://{folder}/out/lab.html", f"traces of 9 tests: {folder}/out/traces"]
    )
    page = Page(folder / "out/lab.html")
    assert page.words == WORDS
    assert page.run["state_text"] == "Complete: every test that was collected has run"
    check_page(page, folder / "out")
    check_traces(folder / "out/traces", page)
    check_junit(folder / "junit.xml")
    check_html(folder / "html/all.html")
    summary = (folder / "summary.md").read_text()
    assert "**3** failed · **1** crashed · **1** error · **1** lost" in summary
    assert "| CRASHED | test&#95;" in summary


def check_page(page, folder):
    assert [host[:2] for host in page.run["hosts"]] == [["gpu01", "gpu"], ["gpu02", "gpu"], ["down", "gpu"]]
    assert page.hosts("test_two") == {"gpu01": "USED", "gpu02": "FAILED"}
    assert page.hosts("test_lost") == {"down": "LOST"}
    assert set(page.hosts("test_in_module").values()) == {"PASSED"}
    assert page.hosts("test_plain") == {}
    assert page.message("test_bad") == "ValueError: </script><b>"
    assert page.message("test_lost").startswith("down: connection refused")
    assert page.message("test_skip") == "Skipped: why not"
    bad = page.of("test_bad")
    (phase,) = [phase for phase in bad["attempts"][0]["phases"] if phase["text"]]
    assert (phase["when"], phase["on"]) == ("call", ["gpu01"])
    assert "lab.yaml:9: ValueError" in phase["text"]
    assert "raise ValueError(text)" in phase["text"]
    (call,) = [event for event in bad["events"] if event[2] == "call"]
    assert (bad["hosts"][call[1]], call[5]) == ("gpu01", "ERROR")
    assert call[4].startswith("bad('</script><b>') raised ValueError")
    assert call[3] > 0
    assert bad["clocks"].keys() == {"gpu01"}
    files = [file[2] for file in bad["artifacts"] if file[2]]
    assert files
    assert all(file.startswith("./art%231/") and (folder / unquote(file)).is_file() for file in files)
    near = page.of("test_near")
    assert ["Captured remote stdout [gpu01]", "counting 1\n"] in near["attempts"][0]["sections"]
    assert "pytest --ec-inventory=lab.yaml" in bad["again"]


def check_traces(folder, page):
    found = {path.name: json.loads(path.read_text()) for path in folder.iterdir()}
    assert len(found) == 9
    for trace in found.values():
        check_trace(trace)
    (bad,) = [trace for name, trace in found.items() if "test_bad" in name]
    assert bad["otherData"]["verdict"] == "FAILED"
    (call,) = [event for event in bad["traceEvents"] if event.get("cat") == "call"]
    (host,) = [event for event in bad["traceEvents"] if event["args"] == {"name": "gpu01"}]
    assert (call["ph"], call["pid"], call["args"]) == ("X", host["pid"], {"level": "ERROR"})
    assert call["name"].startswith("bad('</script><b>')")
    assert page.of("test_bad")["trace"].startswith("./traces/")


def check_junit(path):
    cases = {
        case.get("name"): {one.get("name"): one.get("value") for one in case.iter("property")}
        for case in ElementTree.parse(path).iter("testcase")
    }
    assert (cases["test_two"]["ec_hosts"], cases["test_two"]["ec_roles"]) == ("gpu01 gpu02", "gpu")
    assert cases["test_in_module"]["ec_hosts"] in ("gpu01", "gpu02")
    assert cases["test_lost"]["ec_verdict"] == "LOST"
    assert cases["test_plain"] == {}


def check_html(path):
    shown = path.read_text()
    assert "../out/lab.html#test=" in shown
    assert "aria-label=\\&#34;1 events on 1 hosts" in shown


@pytest.mark.parametrize("logs_teardown", [False, True], ids=["older", "newer"])
def test_a_test_that_passes_when_it_is_repeated_is_flaky_and_shows_what_went_wrong_before(lab, logs_teardown):
    lab.pytester.makeconftest(f"""
        import pytest
        from _pytest.runner import runtestprotocol

        def pytest_runtest_protocol(item, nextitem):  # as pytest-rerunfailures does it
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            for left in (2, 1, 0):
                again = False
                for report in runtestprotocol(item, nextitem=nextitem, log=False):
                    if report.failed and left:
                        report.outcome = "rerun"
                    item.ihook.pytest_runtest_logreport(report=report)
                    if report.outcome == "rerun":
                        again = True
                        if not {logs_teardown}:
                            break
                if not again:
                    break
                item._initrequest()
            item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
            return True
        """)
    lab.tests("""
        tries = []

        def test_third_time(gpu_node):
            tries.append(1)
            if len(tries) < 3: gpu_node.bad(f"try {len(tries)}")
        """)

    result = lab.run("--ec-report=lab.html")

    assert result.ret == 0
    page = Page(lab.pytester.path / "lab.html")
    assert page.words == {"test_third_time": "FLAKY"}
    assert page.message("test_third_time") == "ValueError: try 2"
    attempts = page.of("test_third_time")["attempts"]
    assert [attempt["word"] for attempt in attempts] == ["FAILED", "FAILED", "PASSED"]
    assert "try 1" in next(phase["text"] for phase in attempts[0]["phases"] if phase["text"])


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n1")], ids=["alone", "xdist"])
def test_a_run_that_is_interrupted_leaves_a_report_of_what_there_is(lab, workers):
    lab.tests("""
        import os, signal, time

        def test_first(gpu_node): assert gpu_node.ok(1) == 2

        def test_interrupted(gpu_node, request):
            run = os.getppid() if hasattr(request.config, "workerinput") else os.getpid()
            os.kill(run, signal.SIGINT)
            time.sleep(50)

        def test_never(gpu_node): pass
        """)

    result = lab.run("--ec-report=lab.html", *workers)

    assert result.ret == pytest.ExitCode.INTERRUPTED
    page = Page(lab.pytester.path / "lab.html")
    assert page.words == {"test_first": "PASSED", "test_interrupted": "CUT OFF", "test_never": "NOT RUN"}
    assert page.run["state"] == "interrupted"
    assert page.run["state_text"] == ("Incomplete: the run was interrupted (SIGINT); 1 test was cut off; 1 has not run")


def test_a_run_that_has_to_be_left_leaves_a_report(lab):
    lab.pytester.makeconftest("""
        import pytest_easycluster.endings as endings
        endings.TEARDOWN = endings.HARD = 0.3
        """)
    lab.tests("""
        import os, signal, time

        def test_first(gpu_node): assert gpu_node.ok(1) == 2

        @pytest.fixture
        def deaf():
            yield
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            time.sleep(50)

        def test_hangs(deaf):
            os.kill(os.getpid(), signal.SIGTERM)

        def test_never(): pass
        """)

    result = lab.run("--ec-report=lab.html")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    page = Page(lab.pytester.path / "lab.html")
    assert page.words == {"test_first": "PASSED", "test_hangs": "CUT OFF", "test_never": "NOT RUN"}
    said = "Incomplete: the run was interrupted (SIGTERM; it did not end by itself); 1 test was cut off; 1 has not run"
    assert page.run["state_text"] == said


def test_a_run_without_a_lab_that_cannot_be_collected_has_a_report_too(suite):
    suite.pytester.makepyfile(test_a="def test_a(): pass", test_b="import nothing_by_this_name")

    suite.run("--ec-report=lab.html", "--continue-on-collection-errors", lab=None)

    page = Page(suite.pytester.path / "lab.html")
    assert sorted(page.words.values()) == ["ERROR", "PASSED"]
    assert page.run["hosts"] == []
    assert "nothing_by_this_name" in page.details[0]["attempts"][0]["phases"][0]["text"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--ec-report=.", "--ec-report: {0} is a folder; write the name of a file, such as {0}/lab.html"),
        (
            "--ec-report=lab.yaml/lab.html",
            "--ec-report: {0}/lab.yaml/lab.html cannot be written (*); give a path that can be",
        ),
        ("--ec-report=/dev/null", "--ec-report: /dev/null is no ordinary file; give another name"),
        ("--ec-trace=lab.yaml", "--ec-trace: {0}/lab.yaml cannot be written (*); give a path that can be"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_runs(lab, option, message):
    lab.tests("def test_never(): raise SystemExit(9)")

    result = lab.run(option)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message.format(lab.pytester.path)}"])


def test_a_report_that_can_no_longer_be_written_fails_the_run_and_leaves_the_old_one(lab):
    out = lab.pytester.path / "out"
    out.mkdir()
    (out / "lab.html").write_text("of the run before")
    lab.tests(f"""
        import os, shutil
        def test_moves_the_folder():
            os.rename({str(out)!r}, {str(out) + "2"!r})
        """)

    result = lab.run("--ec-report=out/lab.html")

    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(["lab report could not be written: *No such file or directory*"])
    assert os.listdir(f"{out}2") == ["lab.html"]
    assert (lab.pytester.path / "out2/lab.html").read_text() == "of the run before"


def test_a_secret_of_the_lab_is_nowhere_in_what_is_written(suite):
    suite.lab("""
        vars: {token: !secret hunter2hunter}
        roles:
          gpu:
            code: |
              def say(text):
                  print("the token is", text)
                  raise ValueError("bad token " + text)
        hosts:
          gpu01: {role: gpu, connect: local}
        """)
    suite.tests("""
        @pytest.mark.parametrize("token", ["hunter2hunter"])
        def test_it(gpu_node, token, record_property):
            record_property("token", token)
            gpu_node.say(token)
        """)

    suite.run("--ec-report=lab.html", "--ec-trace=traces", "--ec-artifacts=art", "--showlocals")

    page = Page(suite.pytester.path / "lab.html")
    (trace,) = (suite.pytester.path / "traces").iterdir()
    assert page.words == {"test_it[***]": "FAILED"}
    assert "the token is ***" in page.text
    assert "hunter2" not in page.text + trace.read_text() + trace.name


def test_the_ini_file_and_the_environment_can_say_where(lab, monkeypatch):
    (lab.pytester.path / "pytest.ini").write_text(
        textwrap.dedent("""
        [pytest]
        ec_report = out/lab.html
        """)
    )
    (lab.pytester.path / "below").mkdir()
    monkeypatch.setenv("EC_TRACE", "traces")
    lab.tests("def test_a(gpu_node): gpu_node.ok(1)")
    monkeypatch.chdir(lab.pytester.path / "below")

    result = lab.run("..", lab="../lab.yaml")

    assert result.ret == 0
    assert (lab.pytester.path / "out/lab.html").is_file()
    assert len(list((lab.pytester.path / "below/traces").iterdir())) == 1
