"""A box of hosts, pytest runs of users on it, and what is left of them afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from support.owners import processes, token_of

import easycluster

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from easycluster.labbox import BoxHost, RunningBox

__all__ = ["CONNECT", "GONE", "LEASE", "OPTIONS", "ROOT", "SHORT_CONNECT", "STATE", "Run", "Stage", "state_of"]

ROOT = str(Path(easycluster.__file__).parents[1])

# How long a connect may take, where it is the question, and how long a host may be silent.
CONNECT = 3.0
SHORT_CONNECT = "--ec-set=gpu01.timeouts.connect=3s"
LEASE = 1.5
# In which a far side is gone once its near side is.
GONE = 2.0
# For a run to come to a point, however busy the machine is.
SOON = 60.0

LAB = """\
include: [{inventory}]
defaults:
  python: ["{python}"]
  keepalive: 500ms
  timeouts: {{connect: 30s}}
roles:
  gpu: {{code_files: [far.py]}}
"""

# What hosts are set back to; see ``change`` below.
STATE = "/root/state"

FAR = '''\
"""Role code of the hosts: things to leave behind, and to be in the middle of."""
import os, signal, subprocess, time
import easycluster

def answer():
    return 42

def change(state="/root/state"):
    """Set up undo, then change: a file, an address, processes, and daemons that want to live on."""
    easycluster.undo("echo as it was >" + state)
    with open(state, "w") as file:
        file.write("changed\\n")
    easycluster.undo(["ip", "addr", "del", "192.0.2.7/32", "dev", "lo"], boot="forget")
    subprocess.check_call(["ip", "addr", "add", "192.0.2.7/32", "dev", "lo"])
    easycluster.undo("rm -f /tmp/scratch")
    open("/tmp/scratch", "w").close()
    subprocess.Popen(["sleep", "86401"])
    daemon = "trap '' HUP TERM; sleep 86402 & sleep 86403"
    subprocess.check_call('setsid sh -c "%s" >/dev/null 2>&1 &' % daemon, shell=True)

def rebuild(reached=None):
    """A long call."""
    print("md0: resync 41%", flush=True)
    if reached is not None:
        reached()
    time.sleep(600)

def crash():
    print("dma: bad descriptor", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
'''

SUITE = """\
import os, time
import pytest
import easycluster

HERE = os.path.dirname(os.path.abspath(__file__))

def say(name):
    "Let whoever watches this run know how far it is."
    open(os.path.join(HERE, name), "w").close()

@easycluster.callback
def reached():
    "Far sides call this."
    say("reached")

"""

OPTIONS = ("-v", "-p", "no:cacheprovider", "-p", "pytest_easycluster.plugin", "--junitxml=junit.xml")

# Elements of JUnit, and what they mean where no verdict of ours is told.
WORDS = {"failure": "FAILED", "error": "ERROR", "skipped": "SKIPPED"}

# What a host has that a run can leave: one line each.  sshd's own processes are not among it: how long one waits for
# a peer that fell silent is sshd's business.
INSPECT = """
import fcntl, glob, os, socket, subprocess
found = ["hostname " + socket.gethostname()]
for name in os.listdir("/proc"):
    if not name.isdigit() or int(name) in (1, os.getpid()):
        continue
    try:
        with open("/proc/%s/stat" % name) as file:
            head, _, tail = file.read().rpartition(")")
        with open("/proc/%s/cmdline" % name, "rb") as file:
            words = file.read().decode(errors="replace").replace(chr(0), " ").strip()
    except OSError:
        continue
    program = head.partition("(")[2]
    if tail.split()[0] not in "ZX" and not program.startswith("sshd"):
        found.append("process %s: %s" % (program, words[:150]))
paths = glob.glob("/var/tmp/easycluster-locks/**", recursive=True)
for path in [path for path in paths if os.path.isfile(path)]:
    if "/undo-" in path:
        found.append("pending undo " + path)
        continue
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            found.append("lock " + path + " " + file.read(200))
        if path.endswith(".reserved") and os.path.getsize(path):
            found.append("reservation " + path + " " + file.read(200))
for folder in ("/tmp", "/root", "/dev/shm", "/var/tmp", "/home/ann", "/home/bob", "/mnt", "/srv"):
    found += ["file " + folder + "/" + name for name in (os.listdir(folder) if os.path.isdir(folder) else [])]
if os.path.exists("/root/state"):
    with open("/root/state") as file:
        found.append("state " + file.read().strip())
with open("/proc/self/mounts") as file:
    found += ["mount " + line.split()[1] for line in file]
for line in subprocess.check_output(["ip", "-o", "addr", "show"], text=True).splitlines():
    found.append("address " + " ".join(line.split()[1:4]))
print("\\n".join(found))
"""


def state_of(host: BoxHost) -> set[str]:
    """What a host has now that a run can leave or change, looked at without the network."""
    try:
        lines = host.inside(sys.executable, "-I", "-S", "-c", INSPECT).splitlines()
    except subprocess.CalledProcessError as exc:
        raise AssertionError(f"{host.name} cannot be looked at: {exc.stderr}") from None
    # The directory stays, with empty files that nobody has locked.
    return {line for line in lines if line != "file /var/tmp/easycluster-locks"}


class Run:
    """One pytest run, as a user starts it.

    Args:
        folder: Its own, with lab file and tests; where it says how far it is.
        options: Of pytest.
        environ: Laid over this process's environment.
        command: Stands in for pytest here.
    """

    def __init__(
        self, folder: Path, options: Sequence[str], environ: dict[str, str] | None = None, command: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.began = time.monotonic()
        self.seconds = 0.0
        scratch = folder / "tmp"
        scratch.mkdir(exist_ok=True)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("EC_", "PYTEST_"))},
            "PYTHONPATH": ROOT,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            # By which everything that belongs to this run is known, and where it leaves files.
            "TMPDIR": str(scratch),
            # What is kept of failures on purpose.
            "EC_ARTIFACTS": str(folder / "kept"),
            "COLUMNS": "200",
            **(environ or {}),
        }
        with (folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                list(command) or [sys.executable, "-m", "pytest", *options],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_for(self, name: str = "reached") -> None:
        """Wait until the suite has said that it is so far."""
        end = time.monotonic() + SOON
        while not (self.folder / name).exists():
            assert self.process.poll() is None, f"ended before {name}:\n{self.output}"
            assert time.monotonic() < end, f"never came to {name}:\n{self.output}"
            time.sleep(0.005)

    def tell(self, number: int, group: bool = False) -> None:
        """Send it a signal, or everybody in its terminal."""
        self.began = time.monotonic()
        if group:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def code(self, within: float = SOON) -> int:
        """Its exit code; it has to end within so many seconds, counted from its start or the last signal."""
        try:
            found = self.process.wait(max(0.1, within - (time.monotonic() - self.began)))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {within:.1f} s:\n{self.output}") from None
        self.seconds = time.monotonic() - self.began
        return found

    @property
    def output(self) -> str:
        """What it printed so far."""
        return (self.folder / "output").read_text(errors="replace")

    @property
    def junit(self) -> str:
        """The text of its JUnit report."""
        return (self.folder / "junit.xml").read_text()

    @property
    def words(self) -> dict[str, str]:
        """The verdict on each test, as the JUnit report has it."""
        found = {}
        for case in ElementTree.fromstring(self.junit).iter("testcase"):
            told = [one.get("value") for one in case.iter("property") if one.get("name") == "ec_verdict"]
            tags = [WORDS[part.tag] for part in case if part.tag in WORDS]
            found[str(case.get("name"))] = str((told or tags or ["PASSED"])[0])
        return found

    @property
    def times(self) -> dict[str, float]:
        """How long each test took."""
        cases = ElementTree.fromstring(self.junit).iter("testcase")
        return {str(case.get("name")): float(case.get("time", "0")) for case in cases}

    def gave(self, **verdicts: str) -> None:
        """Make sure that these tests ended so, and no others began."""
        assert self.words == verdicts, f"{self.words}, not {verdicts}:\n{self.output}"

    def says(self, *texts: str) -> None:
        """Make sure that each of these stands in the output."""
        for text in texts:
            assert text in self.output, f"{text!r} is not in:\n{self.output}"

    def left(self) -> list[str]:
        """What is left of it on this side: processes, and files in its folder for temporary ones."""
        scratch = self.folder / "tmp"
        found = [repr(process) for process in token_of(scratch, processes())]
        for folder, _, files in os.walk(scratch):  # which does not mind what vanishes meanwhile
            found += [f"file {folder}/{name}" for name in files]
        return found

    def close(self) -> None:
        """End it, whatever it is in."""
        for process in token_of(self.folder / "tmp", processes()):
            with contextlib.suppress(OSError):
                os.kill(process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


class Stage:
    """Where rows are played: a box whose hosts are known to be clean before each.

    Args:
        box: With hosts gpu01, gpu02 and bench at least, and accounts ann and bob.
        folder: For the runs.
        slack: How many times longer than promised things may take, on a machine that has other things to do.
    """

    def __init__(self, box: RunningBox, folder: Path, slack: float = 1.0) -> None:
        self.box = box
        self.folder = folder
        self.slack = slack
        self.runs: list[Run] = []
        # The boot id of its gpu01 when the row began.
        self.gpu_boot = ""
        self._before: dict[str, set[str]] = {}

    @property
    def gpu(self) -> BoxHost:
        """The host that most goes wrong with."""
        return self.box["gpu01"]

    def begin(self, hosts: Iterable[str] = ("gpu01",)) -> None:
        """Remember what hosts are like."""
        self._before.clear()
        self.gpu_boot = self.gpu.boot_id
        for name in hosts:
            self.box[name].inside("sh", "-c", f"echo as it was >{STATE}")
            self._before[name] = state_of(self.box[name])

    def lab_file(self, text: str = "") -> str:
        """The text of the lab file, with more laid behind it."""
        return LAB.format(inventory=self.box.inventory, python=sys.executable) + text

    def start(
        self,
        tests: str,
        *options: str,
        lab: str | None = "",
        whole_lab: str = "",
        environ: dict[str, str] | None = None,
    ) -> Run:
        """Start a run.

        Args:
            tests: What stands in its test file, behind ``SUITE``.
            options: Further options of pytest.
            lab: What stands in the lab file behind ``LAB``; None for a run without a lab.
            whole_lab: All of the lab file instead.
            environ: Laid over the environment.
        """
        folder = self.folder / f"run{len(self.runs)}"
        folder.mkdir(parents=True)
        (folder / "test_it.py").write_text(SUITE + textwrap.dedent(tests))
        (folder / "far.py").write_text(FAR)
        given: tuple[str, ...] = ()
        if lab is not None:
            (folder / "lab.yaml").write_text(whole_lab or self.lab_file(lab))
            given = ("--ec-inventory=lab.yaml",)
        run = Run(folder, [*OPTIONS, *given, *options], environ)
        self.runs.append(run)
        return run

    def within(self, seconds: float) -> float:
        """The seconds that something promised may take here."""
        return seconds * self.slack

    def clean(self, since: float, promised: float = GONE, near: bool = True) -> float:
        """Wait until nothing is left of the runs, on either side, and hosts are as they were.

        Args:
            since: When the clock began, of ``time.monotonic()``.
            promised: In how many seconds it has to be so.
            near: Whether to look at this side, too.

        Returns:
            After how many seconds it was.
        """
        while True:
            left = [what for run in self.runs for what in run.left()] if near else []
            left += self.differences()
            moment = time.monotonic()
            if not left:
                return moment - since
            assert moment - since < self.within(promised), f"left after {moment - since:.1f} s: " + "; ".join(left)
            time.sleep(0.02)

    def differences(self) -> list[str]:
        """In what hosts are not as they were."""
        found = []
        for name, before in self._before.items():
            now = state_of(self.box[name])
            found += [f"{name}: {line}" for line in sorted(now - before)]
            found += [f"{name}: no more {line}" for line in sorted(before - now)]
        return found

    def end(self) -> None:
        """Put everything back for the next row, whatever happened."""
        for run in self.runs:
            run.close()
            shutil.rmtree(run.folder, ignore_errors=True)
        self.runs.clear()
        for name in self._before:
            host = self.box[name]
            host.thaw()
            host.link.up()
            if self._before[name] != state_of(host) or not sshd_runs(host):
                host.inside("sh", "-c", "ip addr del 192.0.2.7/32 dev lo 2>/dev/null; true")
                host.reset()
                host.inside("sh", "-c", "rm -rf /var/tmp/easycluster-locks")


def sshd_runs(host: BoxHost) -> bool:
    """Whether new connections are answered."""
    done = subprocess.run([*host.entrance(), "pgrep", "-f", "sshd.*-D"], stdout=subprocess.DEVNULL, check=False)
    return done.returncode == 0
