"""Run the children: one for each measure, round and peer, in interleaved rounds, with a look at the machine between."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import environment, machine
from benchmarks.measures.base import timed
from benchmarks.peers.base import die_with_parent, home
from benchmarks.peers.raw import RawTcp
from examples.hw_lab.far_hosts import FarHosts, find_sshd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.measures import Measure
    from benchmarks.measures.base import Options
    from benchmarks.peers import Entry

ROOT = Path(__file__).resolve().parents[1]
WORKER = ROOT / "benchmarks" / "worker.py"

# Of a child, in seconds: the parts of a measure have limits of their own, this is for what hangs before or behind them.
LIMIT = 120
SMALL_LIMIT = 400

MASTER = """
Host lab-master
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/id
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
    LogLevel ERROR
    ControlMaster auto
    ControlPath {folder}/m-%C
    ControlPersist 30
"""


@dataclass
class Record:
    """What is known of one peer in one measure."""

    rounds: list[dict[str, float]] = field(default_factory=list)
    cannot: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass
class Surroundings:
    """What else the machine did while a measure was taken.

    Attributes:
        gauge_us: Medians of a raw ping-pong, one before each child.
        foreign: How many cores others kept busy while we did nothing, now and then.
        load: Load average when it began.
    """

    gauge_us: list[float] = field(default_factory=list)
    foreign: list[float] = field(default_factory=list)
    load: float = 0.0

    @property
    def spread(self) -> float:
        """How far the ping-pong's medians lie apart: the slowest tenth by the fastest."""
        if len(self.gauge_us) < 2:
            return 1.0
        ordered = sorted(self.gauge_us)
        return ordered[-1 - len(ordered) // 10] / ordered[len(ordered) // 10]

    def noise(self) -> str:
        """Return why figures are not to be trusted, "" if they are."""
        reasons = []
        others = statistics.median(self.foreign) if self.foreign else 0.0
        if others > machine.MOST_FOREIGN:
            reasons.append(f"others kept {others:.2f} cores busy")
        if self.spread > machine.MOST_SPREAD:
            reasons.append(f"the raw ping-pong's medians lie {self.spread:.1f} times apart")
        return " and ".join(reasons)


@contextlib.contextmanager
def ssh_hosts(wanted: bool) -> Iterator[dict[str, str]]:
    """Run a private sshd if one is wanted and there; gives ``ssh_config``, ``ssh_host`` and ``ssh_master``."""
    if not wanted or not find_sshd():
        yield {}
        return
    hosts = FarHosts("ssh")
    hosts.start()
    try:
        config = Path(hosts.settings["ssh_config"])
        words = config.read_text().split()
        port, user = (words[words.index(word) + 1] for word in ("Port", "User"))
        config.write_text(config.read_text() + MASTER.format(port=port, user=user, folder=config.parent))
        yield {**hosts.settings, "ssh_master": "lab-master"}
    finally:
        hosts.stop()


class Gauge:
    """A raw ping-pong that tells how fast this machine is now."""

    def __init__(self, cores: tuple[int, ...]) -> None:
        self.cores = cores
        self.session = RawTcp({}).open()
        if cores:
            os.sched_setaffinity(self.session.process.pid, {cores[0]})

    def now(self) -> float:
        """Return the median of some hundred, in microseconds."""
        before = os.sched_getaffinity(0) if self.cores else set()
        if self.cores:
            os.sched_setaffinity(0, {self.cores[0]})
        try:
            return statistics.median(timed(lambda number: self.session.add(number, 2), 400)[100:])
        finally:
            if self.cores:
                os.sched_setaffinity(0, before)

    def close(self) -> None:
        """End it."""
        self.session.close()


class Runner:
    """Measures peers.

    Args:
        options: What the children are told.
        show: Called with a passing line for whoever watches.
    """

    def __init__(self, options: Options, show: Callable[[str], None]) -> None:
        self.options = options
        self.show = show
        self.pythons: dict[str, str] = {}
        self.absent: dict[str, str] = {}

    def find(self, peers: list[Entry], install: bool) -> None:
        """Find the Python of each peer, and note which are not there."""
        for entry in peers:
            if entry.over_ssh and not self.options.ssh:
                self.absent[entry.name] = "no sshd here: install openssh-server"
                continue
            try:
                self.pythons[entry.name] = str(environment.python_of(entry.environment, install))
            except environment.NotInstalled as exc:
                self.absent[entry.name] = str(exc)

    def measure(self, measure: Measure, peers: list[Entry], rounds: int) -> tuple[dict[str, Record], Surroundings]:
        """Take a measure of all peers that can be asked, round by round."""
        asked = [entry for entry in peers if measure.asks(entry) and entry.name in self.pythons]
        records = {entry.name: Record() for entry in asked}
        around = Surroundings(load=machine.load())
        gauge = Gauge(self.options.cores)
        try:
            for number in range(min(rounds, measure.rounds)):
                around.foreign.append(round(machine.foreign(), 3))
                for entry in asked:
                    self.show(f"{measure.name}: round {number + 1}, {entry.name}")
                    around.gauge_us.append(round(gauge.now(), 2))
                    self.note(records[entry.name], self.child(measure, entry))
            around.foreign.append(round(machine.foreign(), 3))
        finally:
            gauge.close()
        return records, around

    def note(self, record: Record, found: dict[str, Any]) -> None:
        """Add what a child found."""
        # Five digits are more than can be trusted, and keep the file small.
        record.rounds.append({name: float(f"{value:.5g}") for name, value in found["figures"].items()})
        record.cannot.update(found["cannot"])
        record.failed.update(found["failed"])

    def child(self, measure: Measure, entry: Entry) -> dict[str, Any]:
        """Measure a peer once in a process of its own, once more if nothing came: a port may be taken."""
        for attempt in (1, 2):
            found, said = self.run(measure, entry)
            if found["figures"] or not found["failed"] or attempt == 2:
                break
        if found["failed"]:
            reasons = "; ".join(f"{part} {reason}".strip() for part, reason in found["failed"].items())
            print(f"{entry.name}, {measure.name}: {reasons}\n{said[-1500:]}", file=sys.stderr)
        return found

    def run(self, measure: Measure, entry: Entry) -> tuple[dict[str, Any], str]:
        """Run the worker; returns what it found, and the end of what it said."""
        limit = SMALL_LIMIT if self.options.small else LIMIT
        settings = json.dumps({**vars(self.options), "ssh": self.options.ssh or {}})
        paths = [home()] + ([str(ROOT)] if entry.environment != "original" else [])
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        command = [self.pythons[entry.name], str(WORKER), entry.name, measure.name, settings]
        # Files, not pipes: what a peer leaves behind would hold a pipe open.  A group of its own, ended as a whole.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(
                command,
                env=env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
            late = False
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                late = True
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            out.seek(0)
            err.seek(0)
            lines, said = out.read().decode().splitlines(), err.read().decode(errors="replace")
        if lines:
            found: dict[str, Any] = json.loads(lines[-1])
            return found, said
        reason = f"nothing came for {limit} s" if late else f"ended with {process.returncode}"
        last = environment.last_line(said)
        return {"figures": {}, "cannot": {}, "failed": {"": f"{reason}: {last}"}}, said
