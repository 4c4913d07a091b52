"""``python -m benchmarks``: measure us beside every peer, print tables, keep figures, make docs/performance.md."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import document, environment, machine, measures, peers, tables
from benchmarks.goals import judged
from benchmarks.measures.base import Options
from benchmarks.results import OtherMachine, Results
from benchmarks.runner import Runner, ssh_hosts

if TYPE_CHECKING:
    from benchmarks.measures import Measure
    from benchmarks.peers import Entry

ROOT = Path(__file__).resolve().parents[1]
FULL_RESULTS = ROOT / "benchmarks" / "results" / "full.json"
FULL_DOCUMENT = ROOT / "docs" / "performance.md"

# Distributions whose version a reader wants to know.
NAMED = (
    *(
        "execnet",
        "cloudpickle",
        "numpy",
        "EasyCluster",
        "rpyc",
        "Pyro5",
        "msgpack",
        "mitogen",
        "zerorpc",
        "ipyparallel",
    ),
    *("distributed", "ray", "paramiko", "fabric", "asyncssh", "pytest-testinfra"),
)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="every measure, the main peers, and docs/performance.md")
    parser.add_argument("--only", help="measures, of: core, all, " + ", ".join(measures.MEASURES))
    parser.add_argument(
        "--peers", help=f"peers or groups, of: {', '.join(peers.GROUPS)}; {', '.join(peers.ENTRIES)} (near)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each peer is measured (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.4, help="time of one measurement (%(default)s)")
    parser.add_argument(
        "--connects", type=int, default=200, help="connects one after the other, 0 for none (%(default)s)"
    )
    parser.add_argument("--many", type=int, default=20, help="2,000 calls so often, 0 for none (%(default)s)")
    parser.add_argument("--sessions", type=int, default=256, help="sessions held at once, up to 1000 (%(default)s)")
    parser.add_argument("--small", action="store_true", help="small sizes and few hosts, to see that all works")
    parser.add_argument("--cpu", type=int, help="the core for what is pinned to one (the idlest)")
    parser.add_argument("--json", type=Path, help="where figures go, into those that are there if it is --full")
    parser.add_argument("--from", type=Path, dest="source", metavar="FILE", help="measure nothing, show these figures")
    parser.add_argument("--document", type=Path, help="the page to make of them")
    parser.add_argument("--no-install", action="store_true", help="use the libraries that are there already")
    parser.add_argument("--check", action="store_true", help="exit 1 if a goal is missed")
    options = parser.parse_args(arguments)
    try:
        options.measures = measures.chosen(options.only or ("all" if options.full else "core"))
        options.entries = peers.chosen(options.peers or ("main" if options.full else "near"))
    except KeyError as exc:
        parser.error(f"unknown name {exc}; --help has all of them")
    options.thorough = bool(options.full or options.only or options.peers)
    if options.full:
        options.document = options.document or FULL_DOCUMENT
    options.json = options.json or (FULL_RESULTS if options.full else environment.cache_directory() / "results.json")
    left_out = {
        "connect": options.connects,
        "import": options.connects,
        "plugin": options.connects,
        "many": options.many,
    }
    options.measures = [each for each in options.measures if left_out.get(each.name, 1)]
    return options


def choose_cores(wanted: int | None) -> tuple[int, ...]:
    """Return the core for what is pinned to one, and another; none where that cannot be done."""
    if not hasattr(os, "sched_setaffinity"):
        print("this system cannot pin to a core: figures will jump between two values", file=sys.stderr)
        return ()
    idle = machine.by_idleness()
    return tuple([wanted, *(core for core in idle if core != wanted)] if wanted is not None else idle)[:2]


def show(progress: str) -> None:
    """Write a passing line for whoever watches."""
    if sys.stderr.isatty():
        print(f"{progress:70}", end="\r", file=sys.stderr, flush=True)


def versions_of(entries: list[Entry], absent: dict[str, str]) -> dict[str, str]:
    """Return the versions of what is compared."""
    found: dict[str, str] = {}
    for name in {entry.environment for entry in entries if entry.name not in absent}:
        if name == "here":
            installed = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
        else:
            installed = environment.versions(name)
        found.update({known: installed[known] for known in NAMED if known in installed})
    from easycluster import VERSION

    return {**found, "this EasyCluster": VERSION}


def begin(path: Path, goes_on: bool) -> Results:
    """Return the results to put figures into: those of a file, or new ones."""
    if goes_on and path.exists():
        return Results.read(path)
    return Results()


def take(options: argparse.Namespace, results: Results) -> None:
    """Measure everything that is asked for; figures are written after each measure."""
    entries: list[Entry] = options.entries
    with ssh_hosts(any(entry.over_ssh for entry in entries)) as ssh:
        told = Options(
            seconds=options.seconds,
            connects=options.connects,
            many=options.many,
            sessions=options.sessions,
            small=options.small,
            cores=choose_cores(options.cpu),
            ssh=ssh,
        )
        runner = Runner(told, show)
        runner.find(entries, install=not options.no_install)
        results.on(machine.about(), versions_of(entries, runner.absent))
        for entry in entries:
            results.data["absent"].pop(entry.name, None)
        results.data["absent"].update(runner.absent)
        for measure in options.measures:
            one(measure, entries, runner, results, options)
    show("")


def one(measure: Measure, entries: list[Entry], runner: Runner, results: Results, options: argparse.Namespace) -> None:
    """Take one measure and write what there is until now."""
    start = time.monotonic()
    # A short run looks at others for what changes most, and for the rest at us alone.
    asked = [entry for entry in entries if options.thorough or not measure.alone or entry.ours]
    records, around = runner.measure(measure, asked, options.rounds)
    settings: dict[str, Any] = {"seconds": options.seconds, "connects": options.connects, "small": options.small}
    if records:
        results.put(measure.name, records, around, time.monotonic() - start, settings)
        results.write(options.json)


def main() -> int:
    """Run what is asked for; returns the exit status."""
    options = parse()
    if options.source:
        results = Results.read(options.source)
    else:
        results = begin(options.json, goes_on=options.full or bool(options.only))
        try:
            take(options, results)
        except OtherMachine as exc:
            print(exc, file=sys.stderr)
            return 2
    print(tables.everything(results))
    for each in tables.noise(results):
        print(f"NOISY, not to be trusted: {each}")
    for name, why in sorted(results.data["absent"].items()):
        print(f"not measured: {name}: {why}")
    if options.document:
        for path in document.write(results, options.document):
            with contextlib.suppress(ValueError):
                path = path.resolve().relative_to(ROOT)
            print(f"wrote {path}")
    print(f"figures: {options.source or options.json}")
    lacking = results.missing()
    for each in lacking:
        print(f"MISSING: {each}")
    missed = [each for each, _, met in judged(results) if met is False]
    if missed:
        print(f"{len(missed)} goals are not met")
    return 1 if lacking or (options.check and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
