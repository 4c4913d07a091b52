"""--ec-simulate: the tests of a lab on sessions of this machine, with fakes, and nothing of the lab reached."""

from __future__ import annotations

import socket
import tempfile
import threading
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.processes import wait_until_gone

from easycluster import generate_key, write_key_file
from easycluster.lab import InventoryError, read_inventory

# Everything that reaches a real host leaves a mark.
LAB = """
name: bench
roles:
  gpu:
    code: |
      import no_such_driver
      class DriverError(Exception):
          pass
      def clock(index, *, unit="MHz"):
          return no_such_driver.clock(index)
      def report(index):
          return "clock %d" % clock(index)
      def temperature(index):
          return no_such_driver.temperature(index)
      def add(x, y):
          return x + y
      def reach(host, port):
          import socket
          socket.create_connection((host, port))
      def probe():
          raise DriverError("nothing here")
    probe: probe
  switch:
    code: |
      from easycluster_machine import machine
      def who():
          return machine.name, machine.address, machine.vars["rack"]
  plain: {}
hosts:
  gpu[01:02]:
    role: gpu
    connect: {via: ssh, address: 192.0.2.7, ssh: "./mark.sh"}
    capabilities: {gpus: 2}
    vars: {rack: r1}
    power: {cycle: "./mark.sh cycle", off: "./mark.sh off", start: "./mark.sh start", status: "./mark.sh status"}
    reboot: ./mark.sh reboot
    console: {command: "./mark.sh console"}
    faults: {driver: host}
  tcp1: {role: plain, connect: {via: tcp, address: 127.0.0.1, port: PORT, key_file: lab.key}}
  sw1: {role: switch, runs_on: gpu01, address: 192.0.2.9, vars: {rack: r7}}
simulate:
  gpu:
    code: |
      from easycluster_machine import machine
      def clock(index, *, unit="MHz"):
          if index >= machine.capabilities["gpus"]:
              raise IndexError("%s has no GPU %d" % (machine.name, index))
          return 1400 + index
"""


@pytest.fixture
def lab(suite):
    """A lab whose hosts cannot be touched without a trace: ``touched()`` says how often that was."""
    folder = suite.pytester.path
    listener = socket.create_server(("127.0.0.1", 0))
    came = []

    def accept():
        while True:
            try:
                came.append(listener.accept()[0])
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    suite.lab(LAB.replace("PORT", str(listener.getsockname()[1])))
    write_key_file(folder / "lab.key", generate_key())
    (folder / "mark.sh").write_text(f"#!/bin/sh\necho $0 $@ >> {folder}/marks\nexit 1\n")
    (folder / "mark.sh").chmod(0o755)
    suite.touched = lambda: (folder / "marks").read_text().split("\n") if (folder / "marks").exists() else came
    yield suite
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for one in came:
        one.close()


TESTS = """
    import os
    def test_fakes(gpu_node):
        assert gpu_node.report(1) == "clock 1401"
        assert gpu_node.remote.eval("add(2, 3)") == 5
        assert gpu_node.remote.socket.gethostname() == gpu_node.name
        assert [one.emulated for one in gpu_node.devices] == [True, True]
    def test_errors_come_back(gpu_node):
        with pytest.raises(IndexError, match="gpu01 has no GPU 2"):
            gpu_node.clock(2)
    def test_missing(gpu_node): gpu_node.temperature(0)
    def test_reaches_out(gpu_node): gpu_node.reach("192.0.2.7", 22)
    def test_runs(gpu_node):
        assert gpu_node.run("echo well").stdout == "well\\n"
        gpu_node.run("cd / && reboot")
    def test_console(gpu_node): gpu_node.console.read(0.1)
    @pytest.mark.ec_destructive
    def test_link(gpu_node):
        with gpu_node.link.down(): pass
    @pytest.mark.ec_destructive
    def test_boots(gpu_node):
        before = gpu_node.remote.os.getpid()
        gpu_node.undo(["touch", "UNDONE"])
        boot = gpu_node.reboot(command="./mark.sh")
        assert boot.boot_id != boot.before and gpu_node.remote.os.getpid() != before
        assert gpu_node.power("status") == "on"
        gpu_node.power("off")
        assert gpu_node.power("status") == "off"
        with pytest.raises(Exception, match="was switched off by"):
            gpu_node.add(1, 1)
        gpu_node.power("on")
        assert gpu_node.power("cycle") == "on" and gpu_node.add(1, 1) == 2
        assert not os.path.exists("UNDONE")
    def test_undone(gpu_node): assert os.path.exists("UNDONE")
    def test_others(remote_hosts):
        assert remote_hosts["tcp1"].remote.os.getpid() != remote_hosts["gpu02"].remote.os.getpid()
        assert remote_hosts["sw1"].who() == ("sw1", "127.0.0.1", "r7")
"""


@pytest.mark.timeout(180)  # many sessions start
def test_everything_works_on_this_machine_and_nothing_of_the_lab_is_touched(lab):
    lab.tests(TESTS)

    result = lab.run("--ec-simulate", "-rs", "--junitxml=junit.xml")

    result.assert_outcomes(passed=5, skipped=5)
    result.stdout.fnmatch_lines(
        [
            "lab: SIMULATED: its hosts are sessions on this machine; gpu with 1 fake (clock); switch without fakes; *",
            "lab: bench (simulated) (lab.yaml): 4 hosts; *",
            "lab: SIMULATED: nothing of the real lab was used",
        ]
    )
    reasons = result.stdout.str()
    assert "gpu01 is simulated here, where there is no module 'no_such_driver'; give its role a fake" in reasons
    assert "connecting to 192.0.2.7: gpu01 is simulated, and it reaches nothing but this machine" in reasons
    assert "running reboot: gpu01 is simulated" in reasons
    assert "console: gpu01 is simulated, and has none" in reasons
    assert "link.down(): gpu01 is simulated; --ec-chaos breaks simulated hosts, too" in reasons
    suite = ElementTree.parse(lab.pytester.path / "junit.xml").find("testsuite")
    assert suite.find("properties/property").attrib == {"name": "ec_simulated", "value": "true"}
    assert list(lab.touched()) == []


def test_without_it_the_same_run_touches_the_lab(lab):
    """Else the test above could not fail."""
    lab.tests("def test_first(gpu_node): pass")

    lab.run()

    assert list(lab.touched()) != []


def test_workers_of_xdist_share_the_hosts_and_their_locks(lab):
    pytest.importorskip("xdist")
    lab.tests("""
        import os, time
        @pytest.mark.parametrize("number", range(4))
        @pytest.mark.ec_hosts("gpu", where="name == 'gpu01'")
        def test_alone(remote_hosts, number):
            with open("now", "x"):  # fails if it is there
                time.sleep(0.1)
            os.unlink("now")
        """)

    result = lab.run("--ec-simulate", "-p", "xdist", "-n2", "--dist=load")

    result.assert_outcomes(passed=4)


def test_what_cannot_even_be_defined_here_is_faked_or_skipped(suite):
    suite.lab("""
        roles:
          gpu:
            code: |
              import ctypes, no_such_compiler
              LIB = ctypes.CDLL("no_such_library.so.1")
              @no_such_compiler.jit
              def fast(x): return LIB.fast(x)
              def line(): return fast(1), LIB.count()
          jit:
            code: |
              import no_such_compiler
              @no_such_compiler.jit
              def fast(x): return x
          wrong:
            code: |
              def f(): pass
              f.table = open("/no/such/table")
        hosts:
          gpu1: {role: gpu}
          jit1: {role: jit}
          wrong1: {role: wrong}
        simulate:
          gpu:
            code: |
              class LIB:
                  @staticmethod
                  def count(): return 7
              def fast(x): return x + 1
        """)
    suite.tests("""
        def test_faked(gpu_node): assert gpu_node.line() == (2, 7)
        @pytest.mark.ec_hosts("jit")
        def test_skipped(remote_hosts): pass
        @pytest.mark.ec_hosts("wrong")
        def test_wrong(remote_hosts): pass
        """)

    result = suite.run("--ec-simulate", "-rs")

    result.assert_outcomes(passed=1, skipped=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            'E   *, line 18: f.table = open("/no/such/table")',
            "E   wrong1 is simulated: if its role's code does not work on this machine, give what fails a fake",
            "SKIPPED * no_such_compiler.jit: jit1 is simulated here, where there is no module 'no_such_compiler'; *",
        ]
    )


def test_a_run_that_is_killed_leaves_no_process_and_its_folder_goes_with_the_next(suite):
    suite.lab(LAB.replace("PORT", "1"))
    suite.tests("""
        import os, signal
        @pytest.mark.ec_destructive
        def test_dies(gpu_node):
            gpu_node.undo(["touch", "UNDONE"])
            gpu_node.run("sleep 600 & echo $! > sleeper")
            open("pid", "w").write(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        def test_next(gpu_node): pass
        """)
    suite.run("--ec-simulate")
    pid = (suite.pytester.path / "pid").read_text()
    (left,) = Path(tempfile.gettempdir()).glob(f"easycluster-simulated-{pid}-*")

    assert wait_until_gone([int((suite.pytester.path / "sleeper").read_text())]) == []
    result = suite.run("--ec-simulate", "-k", "test_next")

    result.assert_outcomes(passed=1, deselected=1)
    assert not left.exists()


def test_it_needs_a_lab_file(suite):
    suite.tests("def test_nothing(): pass")

    result = suite.run("--ec-simulate", lab=None)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --ec-simulate needs a lab file: give --ec-inventory FILE"])


REAL = """
def clock(index, *, unit: str = "MHz"): pass
def reset(): pass
class Gpu:
    def upload(self, numbers): pass
    def free(self): pass
"""


@pytest.mark.parametrize(
    ("fake", "wrong"),
    [
        (
            "def clock(index, unit='MHz'): pass",
            "sim.py:1:5: fake clock(index, unit='MHz') differs from the real clock(index, *, unit='MHz') (gpu.py:2)",
        ),
        (
            "def clock(i, *, unit=1): pass",
            "sim.py:1:5: fake clock(i, *, unit=1) differs from the real clock(in",
        ),
        ("def reset(hard=False): pass", "fake reset(hard=False) differs from the real reset()"),
        ("reset = print", "sim.py:1:1: fake 'reset' is no def, so its arguments cannot be seen"),
        ("def clocks(index): pass", "fake 'clocks' stands for nothing in the code of role 'gpu'"),
        ("class Gpu:\n    def upload(self, numbers): pass", "fake class 'Gpu' lacks free of the real one (gpu.py:4)"),
        ("class Gpu(Gpu):\n    def upload(self, data): pass", "sim.py:2:9: fake Gpu.upload(self, data) differs from"),
        ("def name(): pass", "the code of role 'gpu' defines 'name', which is a name of every host"),
        ("def clock(:", "sim.py:1:11: is not Python"),
        ("def clock(index: int, *, unit='kHz'): pass\ndef _mine(): pass\nclass Gpu(Gpu): pass", None),
    ],
)
def test_a_fake_that_differs_from_what_it_stands_for_is_an_error_with_both(tmp_path, monkeypatch, fake, wrong):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpu.py").write_text(REAL)
    (tmp_path / "sim.py").write_text(fake)
    lab = "roles: {gpu: {code_files: gpu.py}}\nhosts: {h: {role: gpu}}\nsimulate: {gpu: {code_files: sim.py}}\n"
    (tmp_path / "lab.yaml").write_text(lab)
    if wrong is None:
        assert read_inventory("lab.yaml").simulate["gpu"].blocks
        return
    with pytest.raises(InventoryError) as caught:
        read_inventory("lab.yaml")
    assert wrong in str(caught.value)
