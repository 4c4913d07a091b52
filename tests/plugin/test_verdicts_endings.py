"""Ctrl-C, SIGTERM and SIGHUP end a run soon, with its reports, and leave nothing running anywhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.processes import wait_until_gone

from easycluster import generate_key, write_key_file
from easycluster.server import Server

# The seconds in which a run that is told to end is back; and what a busy machine may add.
BACK = 2.0
SLACK = float(os.environ.get("EASYCLUSTER_TEST_SLACK", "3.0"))

LAB = """
roles:
  gpu:
    code: |
      import os, subprocess, time
      def note(name, text=""):
          with open(os.path.join({folder!r}, name), "a") as file:
              file.write("%s\\n" % (text or os.getpid()))
      def hang(name, seconds=600):
          child = subprocess.Popen(["sleep", "600"])
          note("pids", child.pid)
          note("pids")
          note(name)
          end = time.monotonic() + seconds
          while time.monotonic() < end:
              time.sleep(0.05)
          note(name + "-ended")
hosts:
  gpu01: {host}
"""

SUITE = """
import os, time, pytest
HERE = os.path.dirname(__file__)
def say(name):
    open(os.path.join(HERE, name), "w").close()
def test_first(gpu_node):
    gpu_node.note("first")
"""


class Run:
    """A pytest process, and what it notes in its folder."""

    def __init__(self, pytester, host):
        self.pytester = pytester
        self.folder = pytester.path
        self.host = host
        self.process = None

    def start(self, test, *args, tests=SUITE):
        (self.folder / "lab.yaml").write_text(
            LAB.replace("{folder!r}", repr(str(self.folder))).replace("{host}", self.host)
        )
        (self.folder / "test_it.py").write_text(tests + test)
        plugins = ("-p", "pytest_easycluster.plugin", "-p", "no:cacheprovider")
        command = [sys.executable, "-mpytest", *plugins, "--ec-inventory=lab.yaml", "--junitxml=junit.xml", *args]
        with open(self.folder / "output", "wb") as output:
            self.process = self.pytester.popen(
                command, cwd=self.folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
            )
        return self

    def wait_for(self, name, seconds=30.0):
        """Wait for a file that the suite or the far side writes."""
        end = time.monotonic() + seconds
        while not (self.folder / name).exists():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, self.output
            time.sleep(0.01)

    def tell(self, number):
        self.told = time.monotonic()
        self.process.send_signal(number)

    def ended(self, seconds=BACK):
        """The exit code; it has to come in time, and nothing may be left then."""
        try:
            code = self.process.wait(seconds + SLACK)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still there after {seconds + SLACK} s\n{self.output}", pytrace=False)
        assert wait_until_gone(self.pids) == []
        assert self.links() == []
        return code

    @property
    def pids(self):
        """Processes of the far side."""
        path = self.folder / "pids"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def links(self):
        """The ssh processes of this run that are still there after a moment."""
        marker = str(self.folder / "ssh_config").encode()
        end = time.monotonic() + BACK
        while True:
            found = [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if marker in _read(path)]
            if not found or time.monotonic() > end:
                return found
            time.sleep(0.02)

    @property
    def output(self):
        return (self.folder / "output").read_text()

    @property
    def cases(self):
        """What JUnit's report says about tests: name, and the tag of what went wrong."""
        cases = ElementTree.parse(self.folder / "junit.xml").iter("testcase")
        return {case.get("name"): [part.tag for part in case if part.tag != "properties"] for case in cases}

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.fixture
def via(request):
    """How the host is reached: over ssh, unless a test says otherwise."""
    return getattr(request, "param", "ssh")


@pytest.fixture
def run(request, via, suite, pytester):
    host = "{role: gpu, connect: local}"
    if via == "ssh":
        sshd = request.getfixturevalue("sshd")
        # A name of this run's own, by which its ssh processes are known.
        (pytester.path / "ssh_config").write_text(sshd.config_path.read_text())
        connect = "{via: ssh, address: 127.0.0.1, ssh_config: ssh_config}"
        host = f"{{role: gpu, python: {sys.executable}, connect: {connect}}}"
    server = None
    if via == "tcp":
        key = generate_key()
        server = Server(0, key, bind="127.0.0.1")
        server.start()
        write_key_file(pytester.path / "lab.key", key)
        connect = f"{{via: tcp, address: 127.0.0.1, port: {server.port}, key_file: lab.key}}"
        host = f"{{role: gpu, connect: {connect}}}"
    started = Run(pytester, host)
    yield started
    started.stop()
    if server is not None:
        server.close()


@pytest.mark.parametrize(
    ("via", "number"),
    [
        ("ssh", signal.SIGINT),
        ("ssh", signal.SIGTERM),
        ("ssh", signal.SIGHUP),
        ("local", signal.SIGTERM),
        ("tcp", signal.SIGINT),
    ],
    indirect=["via"],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_call_is_ended(run, number):
    run.start("def test_hangs(gpu_node): gpu_node.hang('called')\ndef test_later(gpu_node): pass\n")
    run.wait_for("called")

    run.tell(number)

    assert run.ended() == pytest.ExitCode.INTERRUPTED
    assert run.cases["test_first"] == []
    assert "test_later" not in run.cases
    assert "1 passed" in run.output
    assert not (run.folder / "called-ended").exists()
    # What was going on, and where in the suite.
    what = f"KeyboardInterrupt: {signal.Signals(number).name} in test_it.py::test_hangs (call), hang() on gpu01"
    assert f"! {what} !" in run.output
    line = 1 + (run.folder / "test_it.py").read_text().splitlines().index(
        "def test_hangs(gpu_node): gpu_node.hang('called')"
    )
    assert f"{run.folder / 'test_it.py'}:{line}: {what}" in run.output


def test_fixtures_are_taken_down_after_a_call_was_ended(run):
    run.start("""
@pytest.fixture
def change(gpu_node):
    yield
    gpu_node.note("undone")
def test_hangs(gpu_node, change): gpu_node.hang('called')
""")
    run.wait_for("called")

    run.tell(signal.SIGTERM)

    assert run.ended() == pytest.ExitCode.INTERRUPTED
    assert (run.folder / "undone").exists()


def test_a_teardown_that_has_begun_goes_on(run):
    run.start("""
@pytest.fixture
def change(gpu_node):
    yield
    gpu_node.hang("teardown", 1.0)
def test_changes(change): pass
def test_later(gpu_node): pass
""")
    run.wait_for("teardown")

    run.tell(signal.SIGTERM)

    assert run.ended(1.0 + BACK) == pytest.ExitCode.INTERRUPTED
    assert (run.folder / "teardown-ended").exists()
    assert run.cases["test_changes"] == []
    assert "test_later" not in run.cases


def test_what_was_registered_for_undoing_is_undone(run):
    marker = run.folder / "undone"
    run.start(f"""
def test_hangs(gpu_node):
    gpu_node.undo(["touch", {str(marker)!r}])
    gpu_node.hang("called")
""")
    run.wait_for("called")

    run.tell(signal.SIGTERM)

    assert run.ended() == pytest.ExitCode.INTERRUPTED
    assert marker.exists()


def test_an_undo_that_has_begun_goes_on(run):
    run.start(f"""
def test_it(gpu_node):
    gpu_node.undo("cd {run.folder} && touch begun && sleep 1 && touch undone")
""")
    run.wait_for("begun")

    run.tell(signal.SIGTERM)

    assert run.ended(1.0 + BACK) == pytest.ExitCode.INTERRUPTED
    assert (run.folder / "undone").exists()
    assert run.cases["test_it"] == []


def test_a_second_one_ends_a_teardown_at_once(run):
    run.start("""
@pytest.fixture
def change(gpu_node):
    yield
    gpu_node.hang("teardown")
def test_changes(change): pass
""")
    run.wait_for("teardown")

    run.tell(signal.SIGINT)
    time.sleep(0.1)
    assert run.process.poll() is None
    run.tell(signal.SIGINT)

    assert run.ended() == pytest.ExitCode.INTERRUPTED
    assert run.cases["test_changes"] == []


def test_a_teardown_that_hangs_is_ended_after_ten_seconds(run):
    run.start("""
@pytest.fixture
def change(gpu_node):
    yield
    gpu_node.hang("teardown")
def test_hangs(gpu_node, change): gpu_node.hang("called")
""")
    run.wait_for("called")

    run.tell(signal.SIGTERM)

    assert run.ended(10.0 + BACK) == pytest.ExitCode.INTERRUPTED
    assert time.monotonic() - run.told > 9.5
    assert "teardown after SIGTERM was cut off" in run.output
    assert run.cases["test_first"] == []


def test_reports_are_written_whatever_comes_meanwhile(run):
    (run.folder / "conftest.py").write_text(f"""
import os, time
def pytest_terminal_summary(terminalreporter):
    open({str(run.folder / "reporting")!r}, "w").close()
    end = time.monotonic() + 30
    while not os.path.exists({str(run.folder / "go")!r}) and time.monotonic() < end:
        time.sleep(0.01)
    terminalreporter.write_line("all of it is written")
""")
    run.start("def test_hangs(gpu_node): gpu_node.hang('called')\n")
    run.wait_for("called")
    run.tell(signal.SIGTERM)
    run.wait_for("reporting")

    run.tell(signal.SIGTERM)
    time.sleep(0.1)
    (run.folder / "go").touch()

    assert run.ended() == pytest.ExitCode.INTERRUPTED
    assert "all of it is written" in run.output
    assert "Traceback" not in run.output
    assert run.cases["test_first"] == []


def test_collecting_is_ended(run):
    run.start("say('collecting'); time.sleep(600)\n")
    run.wait_for("collecting")

    run.tell(signal.SIGTERM)

    assert run.ended() == pytest.ExitCode.INTERRUPTED


def test_the_workers_of_xdist_end_too(run):
    run.start(
        "def test_a(gpu_node): gpu_node.hang('a')\ndef test_b(gpu_node): gpu_node.hang('b')\n",
        *("-p", "xdist", "-n2"),
    )
    run.wait_for("a")
    run.wait_for("b")

    run.tell(signal.SIGTERM)

    assert run.ended() == pytest.ExitCode.INTERRUPTED
    assert run.cases["test_first"] == []


def test_connecting_is_ended(run):
    config = run.folder / "ssh_config"
    config.write_text(f"Host *\n    ProxyCommand sh -c 'touch {run.folder}/connecting; exec sleep 600'\n")
    run.start("", tests="def test_it(gpu_node): pass\n")
    run.wait_for("connecting")

    run.tell(signal.SIGTERM)

    assert run.ended() == pytest.ExitCode.INTERRUPTED
