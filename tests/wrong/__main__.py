"""``python -m tests.wrong``: let everything go wrong that goes wrong in labs, and print what came of it.

Exit status 0 if every row is as promised, 1 if one is not, 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path

# Shared parts of the tests are imported as ``support``.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.labboxes import ACCOUNTS, CHECKOUT, HOSTS

from easycluster.labbox import LabBox, missing

from . import rounds
from .rows import ROWS
from .stage import Stage

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
ROUNDS_BEGIN, ROUNDS_END = "<!-- rounds: begin -->", "<!-- rounds: end -->"
# Each for one round at a time.
ROUND_HOSTS = ("gpu01", "gpu02", "gpu03", "gpu04")
HEADINGS = ("situation", "EasyCluster", "testinfra 10.2.2", "pytest-mh 1.0.30", "labgrid 26.0.1")
NOTHING = "-"


def parse(words):
    parser = argparse.ArgumentParser(prog="python -m tests.wrong", description="What happens when things go wrong.")
    parser.add_argument("--rows", metavar="A,B", help=f"only these rows: {', '.join(ROWS)}")
    parser.add_argument("--rounds", metavar="N", type=int, help='instead: rounds of "pull the cable, kill -9"')
    parser.add_argument("--first", type=int, default=1, help="number of the first round (%(default)s)")
    parser.add_argument("--ledger", metavar="FILE", type=Path, help="add these rounds to those in FILE, and count all")
    parser.add_argument("--seed", type=int, default=1, help="of what rounds leave to chance (%(default)s)")
    parser.add_argument("--slack", type=float, default=1.0, help="how many times longer things may take (%(default)s)")
    parser.add_argument(
        "--markdown", metavar="FILE", type=Path, help="write what is printed between the comments in FILE"
    )
    options = parser.parse_args(words)
    options.names = options.rows.split(",") if options.rows else list(ROWS)
    unknown = [name for name in options.names if name not in ROWS]
    if unknown:
        parser.error(f"there is no row {', '.join(unknown)}")
    return options


def main(words=None):
    """Do what the command line says; return the exit status."""
    options = parse(words)
    lacking = missing()
    if lacking:
        sys.exit(lacking)
    return play_rounds(options) if options.rounds else play_rows(options)


def play_rounds(options):
    """Play the rounds; return the exit status."""
    began = time.monotonic()
    with LabBox(ROUND_HOSTS, share=[CHECKOUT]) as box, tempfile.TemporaryDirectory(prefix="wrong-") as folder:
        numbers = range(options.first, options.first + options.rounds)
        played = rounds.play(
            box, Path(folder), numbers, ROUND_HOSTS, options.seed, options.slack, lambda one: print(one, flush=True)
        )
    every = rounds.add_to(options.ledger, played) if options.ledger else played
    text = rounds.render(every)
    print(f"\n{text}\n\nseed {options.seed}, in {time.monotonic() - began:.0f} s")
    if options.markdown:
        write(options.markdown, text, ROUNDS_BEGIN, ROUNDS_END)
    return 1 if any(one.faults for one in played) else 0


def play_rows(options):
    """Play the rows; return the exit status."""
    seen, faults = {}, {}
    began = time.monotonic()
    with LabBox(HOSTS, users=ACCOUNTS, share=[CHECKOUT]) as box, tempfile.TemporaryDirectory(prefix="wrong-") as folder:
        stage = Stage(box, Path(folder), options.slack)
        for name in options.names:
            try:
                seen[name] = played(stage, ROWS[name])
            except Exception as exc:  # noqa: BLE001  # the other rows are played too
                faults[name] = "".join(traceback.format_exception(exc))
                seen[name] = f"NOT AS PROMISED: {str(exc).partition(chr(10))[0]}"
            print(f"{name}: {seen[name]}", file=sys.stderr, flush=True)
    for name, fault in faults.items():
        print(f"\n==== {name}\n{fault}")
    table = render(options.names, seen)
    kept = len(seen) - len(faults)
    print(f"\n{table}\n\n{kept} of {len(seen)} rows are as promised, in {time.monotonic() - began:.0f} s")
    if options.markdown:
        write(options.markdown, table)
    return 1 if faults else 0


def played(stage, row):
    """Play one row, and put everything back; return what was seen."""
    stage.begin(row.hosts)
    try:
        return row.play(stage)
    finally:
        stage.end()


def render(names, seen):
    """Return the table in Markdown, which is also what the terminal shows."""
    rows = [(name, ROWS[name]) for name in names]
    lines = [HEADINGS, *((row.situation, seen[name], *peers_of(row)) for name, row in rows)]
    text = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(HEADINGS), *text[1:]])


def peers_of(row):
    peers = row.peers
    return tuple(cell or NOTHING for cell in (peers.testinfra, peers.mh, peers.labgrid))


def write(page, table, begin=BEGIN, end=END):
    """Put text between two comments of a page."""
    text = page.read_text(encoding="utf-8")
    pattern = f"{re.escape(begin)}.*?{re.escape(end)}"
    new, count = re.subn(pattern, lambda _: f"{begin}\n\n{table}\n\n{end}", text, flags=re.DOTALL)
    if count != 1:
        sys.exit(f"{page} must have {begin!r} and {end!r} once")
    page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
