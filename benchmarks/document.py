"""``docs/performance.md``: made from results, so that no number in it is typed by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.limits import limits
from benchmarks.measures import MEASURES
from benchmarks.pictures import drawn
from benchmarks.tables import TABLES, goal_table, noise, rendered
from benchmarks.thousand import thousandfold

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.results import Results

# Which pictures stand under which table.
PICTURES = {
    "Synchronous call": ("latency",),
    "Many calls, calls/s": ("nonblocking", "threads"),
    "64 MiB, MB/s": ("bulk",),
    "Connect and first call, ms": ("connect",),
    "Ssh hosts brought up at once, ms": ("scaling-hosts",),
    "Memory of the far side's Pythons (PSS), MiB": ("memory",),
    "Bytes of growing size from the far side, us": ("scaling-size",),
    "Threads that call at once, calls/s": ("scaling-threads",),
    "Sessions held by one controller: a call to all, us for each": ("scaling-sessions",),
}

ABOUT = """\
This page is made by `python -m benchmarks --full`, numbers and pictures, from
[benchmarks/results](../benchmarks/results). How each is measured stands [below](#method). Absolute times are this
machine's; what compares is a ratio of two figures of the same round."""

METHOD = """\
Each measure of each peer runs in a process of its own, by an interpreter that has that peer, in interleaved rounds: all
peers once, then all again. A figure is the median of the rounds; the lowest and highest round stand behind the leading
figure of a table. Both ends are on this machine: TCP over loopback, ssh to an sshd of its own with fresh keys, which
sees no login files.

Calls alternate in batches of 100 with a raw TCP ping-pong of 100-byte messages between two plain Pythons, and `x raw`
is the median ratio of a batch to the ping-pong just before it. So a noisy machine moves both. "One core" has near side,
far side, ssh and sshd on the same core: that is what the software costs. "Two cores" has each side on one of its own,
which adds what it costs to wake a core, and that differs from machine to machine. Many calls, large values, sizes and
threads run on two cores; connects, memory and what is counted in hosts are not pinned, because they are the work of
many processes.

Every answer is checked: sums, order, lengths, contents of files. TCP is the server with HMAC-SHA256 on every record,
and nothing is switched off for these figures. What a peer does not do is named under the table, and so is a peer that
could not be installed. Peers are used as their own documentation has it; their adapters are small and stand in
`benchmarks/peers`.
"""

AGAIN = """\
    pip install -e ".[bench]"
    python -m benchmarks --full                        # every measure, the main peers, this page; about ten minutes
    python -m benchmarks --full --only bulk,values     # these anew, the others as they were
    python -m benchmarks --full --peers all            # with frameworks and command runners, much longer
    python -m benchmarks --from benchmarks/results/full.json --document docs/performance.md

The first run installs each library in an environment of its own, in `~/.cache/easycluster-benchmarks`. Without `--full`
it measures calls, connects and memory beside the nearest peers, in about two minutes. `--check` makes a missed goal an
error. [benchmarks.md](benchmarks.md) has all of it.
"""


def page(results: Results, folder: str) -> str:
    """Return the page; pictures are looked for in a folder beside it."""
    have = drawn(results)
    parts = [
        "# Performance",
        ABOUT,
        trust(results),
        "## Goals",
        goal_table(results),
    ]
    why = limits(results)
    if why:
        parts += ["### What stops us at the others", why]
    for table in TABLES:
        text = rendered(results, table)
        if text:
            parts += [f"## {table.title}", text]
            parts += [
                f"![{table.title}]({folder}/{name}.svg)" for name in PICTURES.get(table.title, ()) if name in have
            ]
    plan = thousandfold(results)
    if plan:
        parts += ["## A thousand hosts", plan]
    parts += [
        "## Method",
        METHOD.rstrip(),
        "## Machine and versions",
        surroundings(results),
        "## Again",
        AGAIN.rstrip(),
    ]
    return "\n\n".join(parts) + "\n"


def trust(results: Results) -> str:
    """Return what is not to be trusted."""
    found = noise(results)
    if not found:
        return "The machine was quiet: nothing else kept its cores busy, and the raw ping-pong kept its time."
    return "\n".join(["**The machine was not quiet.** Not to be trusted:", "", *(f"- {each}" for each in found)])


def surroundings(results: Results) -> str:
    """Return the machine, the versions and when each measure was taken, as Markdown."""
    lines = ["| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in results.data["machine"].items()]
    lines += [f"| {name} | {version} |" for name, version in sorted(results.data["versions"].items())]
    lines += [f"| not measured: {name} | {why} |" for name, why in sorted(results.data["absent"].items())]
    lines += [
        "",
        "| measure | when | rounds | took s | load at its start | others' cores | raw ping-pong us (spread) |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for measure in results.measures:
        taken, around = results.data["measures"][measure], results.around(measure)
        middle = sorted(around.gauge_us)[len(around.gauge_us) // 2] if around.gauge_us else 0.0
        others = max(around.foreign, default=0.0)
        rounds = max((len(record["rounds"]) for record in taken["peers"].values()), default=0)
        lines.append(
            f"| {MEASURES[measure].title} | {taken['when']} | {rounds} | {taken['took_s']:.0f} | {around.load:.1f} |"
            f" {others:.2f} | {middle:.1f} ({around.spread:.2f}) |"
        )
    return "\n".join(lines)


def write(results: Results, path: Path) -> list[Path]:
    """Write the page and its pictures beside it; returns all that was written."""
    folder = path.parent / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    pictures = drawn(results)
    for old in folder.glob("*.svg"):
        if old.stem not in pictures:
            old.unlink()
    written = []
    for name, picture in pictures.items():
        written.append(folder / f"{name}.svg")
        written[-1].write_text(picture)
    path.write_text(page(results, folder.name))
    return [path, *written]
