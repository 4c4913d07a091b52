"""Load tests:  python -m tests.load --seconds 60 --faults

64 sessions at once, 1,000 one after the other, 100,000 references, then mixed work; with ``--faults``
workers and keepers are killed, links cut and calls interrupted meanwhile.  Exit status 1 if anything was
lost, done twice or left over.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

# Shared parts of the tests are imported as ``support``.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from .mixed import mixed
from .scale import connects, crowd, opener, references, server


def parse(arguments):
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=7200, help="of mixed work (7200)")
    parser.add_argument("--faults", action="store_true", help="kill, cut and interrupt during the mixed work")
    parser.add_argument("--markdown", action="store_true", help="print a table in Markdown")
    parser.add_argument("--sessions", type=int, default=64, help="at once (64)")
    parser.add_argument("--connects", type=int, default=1000, help="one after the other (1000)")
    parser.add_argument("--references", type=int, default=100_000, help="made and dropped (100000)")
    parser.add_argument("--seed", type=int, default=1, help="of what is chosen at random (1)")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    results = []

    def do(name, work, *args):
        figures, wrong = work(*args)
        results.append((name, figures, wrong))
        if not options.markdown:
            print(f"{name}: {shown(figures)}", *(f"\n  WRONG: {text}" for text in wrong), flush=True)

    with server() as over_tcp, tempfile.TemporaryDirectory(prefix="load-") as folder:
        for transport in ("tcp", "spawned"):
            name = f"{options.sessions} sessions at once, {transport}"
            do(name, crowd, opener(transport, over_tcp), options.sessions)
        do(f"{options.connects} connects, tcp", connects, over_tcp, options.connects)
        do(f"{options.references} references, tcp", references, over_tcp, options.references)
        name = f"{options.seconds:g} s of mixed work{' under faults' if options.faults else ''}"
        ledger = Path(folder) / "ledger"
        do(name, mixed, over_tcp, ledger, options.seconds, options.faults, options.seed, log)
    if options.markdown:
        print("| load | figures | nothing lost, doubled or left |\n|---|---|---|")
        for name, figures, wrong in results:
            print(f"| {name} | {shown(figures)} | {'; '.join(wrong) or 'yes'} |")
    return 1 if any(wrong for _, _, wrong in results) else 0


def log(text):
    """Say at once how a long run goes, beside what it prints."""
    print(text, file=sys.stderr, flush=True)


def shown(figures):
    """Return figures as one line."""
    return ", ".join(f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}"
                     for name, value in figures.items())  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
