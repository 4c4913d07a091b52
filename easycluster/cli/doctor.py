"""``easycluster doctor [HOSTS] [LAB]``: what is wrong with the hosts of a lab, and what to do about it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Final

from easycluster.cli import labs

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from easycluster.lab.findings import Diagnosis

__all__ = ["add_parser", "run"]

# Notes that are shown without being asked for.
_NOTED: Final = ("holder", "lab file")

_EPILOG: Final = """\
example:
  easycluster doctor lab.yaml
  easycluster doctor gpu07 lab.yaml -v

It looks at name, address, ssh, login, what the shell prints, Python, sudo, the
session, the roles' code, clock, room for temporary files, limits, sshd's
settings, locks and who has them, probes and requirements, and power. It ends
with 0 if every host can be used (perhaps with warnings), with 1 if one cannot,
with 4 if the lab file has faults. Nothing on the hosts is changed.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    from argparse import RawDescriptionHelpFormatter

    parser = commands.add_parser(
        "doctor",
        help="look at the hosts of a lab; each fault comes with its fix",
        description="Look at all hosts at once, from their names to their locks. Each fault comes with its fix.",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    labs.add_words(parser, "[HOSTS] [LAB]", "only these hosts")
    labs.add_limit(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="show what is right, too")
    parser.add_argument(
        "--timeout", metavar="SPAN", type=labs.parse_span, default=120.0, help="for all hosts together (2m)"
    )
    parser.add_argument("--json", action="store_true", help="print everything for programs")


def run(opts: argparse.Namespace) -> int:
    """Look, and say."""
    from easycluster.lab.bounded import kill_everything
    from easycluster.lab.doctor import examine

    lab = labs.open_lab(opts, limit=opts.limit)
    if isinstance(lab, int):
        return lab
    try:
        diagnoses = examine(lab.inventory, lab.hosts, timeout=opts.timeout)
    except KeyboardInterrupt:
        kill_everything()
        return labs.interrupted()
    kill_everything()
    if opts.json:
        found = [one.as_json() for one in diagnoses]
        sys.stdout.write(json.dumps({"lab": lab.inventory.name, "hosts": found}, indent=2) + "\n")
    else:
        _show(diagnoses, verbose=opts.verbose)
    return 1 if any(one.verdict == "fail" for one in diagnoses) else 0


def _show(diagnoses: Sequence[Diagnosis], *, verbose: bool) -> None:
    from easycluster.lab.tables import Cell, paint, show

    kinds = {"note": "dim"}
    for diagnosis in diagnoses:
        verdict = diagnosis.verdict
        rows: list[list[str | Cell]] = []
        for one in diagnosis.findings:
            if verbose or one.verdict in ("warn", "fail") or (one.verdict == "note" and one.check in _NOTED):
                rows.append([one.check, Cell(one.verdict, kinds.get(one.verdict, one.verdict)), one.text])
                if one.fix:
                    rows.append(["", "", Cell(f"fix: {one.fix}", "dim")])
        good = [one.check for one in diagnosis.findings if one.verdict == "ok"]
        word = "disabled" if diagnosis.skipped else paint(verdict, verdict, sys.stdout)
        sys.stdout.write(f"{paint(diagnosis.host, 'title', sys.stdout)}  {word}  {diagnosis.seconds:.1f} s\n")
        if rows:
            show(rows, indent=2)
        if not verbose and good:
            show([["right", "", " ".join(good)]], indent=2)
    bad = [one.host for one in diagnoses if one.verdict == "fail"]
    warned = [one.host for one in diagnoses if one.verdict == "warn"]
    off = [one.host for one in diagnoses if one.skipped]
    count = f"{len(diagnoses)} host{'s' * (len(diagnoses) != 1)}"
    parts = [f"{len(diagnoses) - len(bad) - len(warned) - len(off)} fine"]
    parts += [f"{len(off)} disabled: {' '.join(off)}"] if off else []
    parts += [f"{len(warned)} with warnings: {' '.join(warned)}"] if warned else []
    parts += [f"{len(bad)} cannot be used: {' '.join(bad)}"] if bad else []
    sys.stdout.write(f"{count}: {'; '.join(parts)}\n")
