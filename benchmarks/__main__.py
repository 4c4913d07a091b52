"""``python -m benchmarks``: measure every peer in interleaved rounds, print a table, write JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import child, connects, environment, many, plugin, report
from examples.hw_lab.far_hosts import FarHosts, find_sshd

ROOT = Path(__file__).resolve().parents[1]
CHILD = ROOT / "benchmarks" / "child.py"
CONNECTS = ROOT / "benchmarks" / "connects.py"
MANY = ROOT / "benchmarks" / "many.py"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each peer is measured (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="time of one measurement (%(default)s)")
    parser.add_argument("--peers", default=",".join(child.PEERS), help="comma-separated, of: %(default)s")
    parser.add_argument(
        "--connects", type=int, default=200, help="connects one after the other, 0 for none (%(default)s)"
    )
    parser.add_argument("--many", type=int, default=20, help="rounds of many calls at once, 0 for none (%(default)s)")
    parser.add_argument("--cpu", type=int, help="the core everything is pinned to (the idlest one)")
    parser.add_argument("--json", type=Path, help="where the figures go (results.json in the cache directory)")
    parser.add_argument("--check", action="store_true", help="exit 1 if a target is missed")
    options = parser.parse_args(arguments)
    options.peers = [name.strip() for name in options.peers.split(",")]
    unknown = sorted(set(options.peers) - child.PEERS.keys())
    if unknown:
        parser.error(f"unknown peer {unknown[0]!r}; known: {', '.join(child.PEERS)}")
    return options


def idle_ticks() -> dict[int, int]:
    """Return how long each core has been idle; empty where the system does not say."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return {}
    rows = [line.split() for line in lines if line.startswith("cpu")]
    return {int(row[0][3:]): int(row[4]) for row in rows if row[0] != "cpu"}


def quiet_core(seconds: float = 0.5) -> int:
    """Return the core that was idle most in the next moments: what else runs on it is in every figure."""
    before = idle_ticks()
    time.sleep(seconds)
    after = idle_ticks()
    return max(sorted(os.sched_getaffinity(0)), key=lambda cpu: after.get(cpu, 0) - before.get(cpu, 0))


def pin(cpu: int | None) -> int | None:
    """Pin this process, and so all it starts, to one core; returns the core, None where that cannot be done."""
    if not hasattr(os, "sched_setaffinity"):
        print("this system cannot pin to a core: figures will jump between two values", file=sys.stderr)
        return None
    chosen = quiet_core() if cpu is None else cpu
    os.sched_setaffinity(0, {chosen})
    return chosen


def show(progress: str) -> None:
    """Write a passing line for whoever watches."""
    if sys.stderr.isatty():
        print(f"{progress:60}", end="\r", file=sys.stderr, flush=True)


def measure(peer: str, python: str, seconds: float, settings: dict[str, str]) -> dict[str, float]:
    """Measure one peer once in a child process.

    Raises:
        RuntimeError: If the child fails or hangs; the message has the end of what it said.
    """
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if not peer.startswith("original"):
        env["PYTHONPATH"] = str(ROOT)
    return run_child([python, str(CHILD), peer, str(seconds), json.dumps(settings)], env, seconds + 40)


def measure_beside(script: Path, what: str, count: int, settings: dict[str, str]) -> dict[str, float]:
    """Measure one of the figures of :mod:`benchmarks.connects` or :mod:`benchmarks.many` in a child process.

    Raises:
        RuntimeError: If the child fails or hangs; the message has the end of what it said.
    """
    command = [sys.executable, str(script), what, str(count), json.dumps(settings)]
    return run_child(command, {**os.environ, "PYTHONPATH": str(ROOT)}, 120)


def run_child(command: list[str], env: dict[str, str], limit: float) -> dict[str, float]:
    """Run a command that prints one JSON line.

    Raises:
        RuntimeError: If it fails or hangs; the message has the end of what it said.
    """
    # With subprocess.run a grandchild that keeps stderr open would outlast the timeout, so the whole group is ours.
    with subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            raise RuntimeError(f"nothing came for {limit:g} s") from None
    if process.returncode != 0 or not out.strip():
        raise RuntimeError((err.strip() or f"exit status {process.returncode}")[-2000:])
    result: dict[str, float] = json.loads(out.splitlines()[-1])
    return result


def measured_in_two_tries(peer: str, python: str, seconds: float, settings: dict[str, str]) -> dict[str, float]:
    """Measure a peer, once more if that fails: a port that was free a moment ago may be taken, a machine may be full.

    Raises:
        RuntimeError: As :func:`measure` does, the second time.
    """
    for attempt in (1, 2):
        try:
            return measure(peer, python, seconds, settings)
        except RuntimeError as exc:
            print(f"{peer} failed, attempt {attempt} of 2:\n{exc}", file=sys.stderr)
            failure = exc
    raise failure


def main() -> int:
    """Run the rounds and print what they say; returns the exit status."""
    options = parse()
    peers: list[str] = options.peers
    pythons = dict.fromkeys(peers, sys.executable)
    errors: dict[str, list[str]] = {peer: [] for peer in peers}
    figures: dict[str, list[dict[str, float]]] = {peer: [] for peer in peers}

    originals = [peer for peer in peers if peer.startswith("original")]
    if originals:
        try:
            python = str(environment.original_python())
        except RuntimeError as exc:
            print(exc, file=sys.stderr)
            for peer in originals:
                errors[peer].append("could not be installed")
        else:
            pythons.update(dict.fromkeys(originals, python))
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    cpu = pin(options.cpu)
    costs: dict[str, dict[str, float]] = {}

    with ExitStack() as stack:
        settings: dict[str, str] = {}
        if any(peer.endswith("ssh") for peer in peers):
            if find_sshd() and shutil.which("ssh"):
                hosts = FarHosts("ssh")
                stack.callback(hosts.stop)
                hosts.start()
                settings = hosts.settings
            else:
                for peer in peers:
                    if peer.endswith("ssh"):
                        errors[peer].append("no sshd here: install openssh-server")
        for number in range(options.rounds):
            for peer in peers:
                if errors[peer]:
                    continue
                show(f"round {number + 1} of {options.rounds}: {peer}")
                try:
                    figures[peer].append(measured_in_two_tries(peer, pythons[peer], options.seconds, settings))
                except RuntimeError as exc:
                    errors[peer].append(str(exc))
        if cores:
            os.sched_setaffinity(0, cores)
        beside = [(CONNECTS, what, options.connects) for what in connects.WHATS]
        beside += [(MANY, what, options.many) for what in many.WHATS]
        for script, what, count in beside:
            if count and (settings or not what.endswith("ssh")):
                show(what)
                try:
                    costs[what] = measure_beside(script, what, count, settings)
                except RuntimeError as exc:
                    print(f"{what} failed:\n{exc}", file=sys.stderr)
        show("")

    rows = [report.summarize(peer, figures[peer], errors[peer]) for peer in peers]
    reached = report.targets(rows) + report.cost_targets(costs) + report.many_targets(costs)
    print(report.table(rows))
    print(report.cost_table(costs))
    print(report.many_table(costs))
    for met, sentence in reached:
        print(f"{'met' if met else 'MISSED'}: {sentence}")
    if hasattr(os, "wait4") and len(peers) == len(child.PEERS):
        # Not for --check: what else the machine does is as large as the difference.
        met, sentence = plugin.target()
        print(f"{'met' if met else 'MISSED'}: {sentence}")

    path: Path = options.json or environment.cache_directory() / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": cpu,
        "seconds": options.seconds,
        "rounds": figures,
        "costs": costs,
        "errors": {peer: found for peer, found in errors.items() if found},
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"figures: {path}")
    failed = any(errors[peer] for peer in peers if peer.startswith("ours"))
    missed = options.check and not all(met for met, _ in reached)
    return 1 if failed or missed else 0


if __name__ == "__main__":
    sys.exit(main())
