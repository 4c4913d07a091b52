"""``easycluster status [HOSTS] [LAB]``: who has which host."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Final

from easycluster.cli import labs

if TYPE_CHECKING:
    import argparse

__all__ = ["add_parser", "run"]

_EPILOG: Final = """\
example:
  easycluster status lab.yaml
  easycluster status gpu lab.yaml --json

It ends with 0, with 1 if a host could not be asked, with 4 if the lab file has
faults. Nothing on the hosts is changed.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    from argparse import RawDescriptionHelpFormatter

    parser = commands.add_parser(
        "status",
        help="say who has which host of a lab, until when, and who waits",
        description="Ask all hosts at once who holds or has reserved them, their devices and the locks of the lab.",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    labs.add_words(parser, "[HOSTS] [LAB]", "only these hosts")
    labs.add_limit(parser)
    parser.add_argument(
        "--timeout", metavar="SPAN", type=labs.parse_span, default=30.0, help="for all hosts together (30s)"
    )
    parser.add_argument("--json", action="store_true", help="print it for programs")


def run(opts: argparse.Namespace) -> int:
    """Print it."""
    from easycluster.lab.status import STATUS_COLUMNS, as_json, look_around, rows
    from easycluster.lab.tables import Cell, show

    lab = labs.open_lab(opts, limit=opts.limit)
    if isinstance(lab, int):
        return lab
    try:
        states = look_around(lab.inventory, lab.hosts, opts.timeout)
    except KeyboardInterrupt:
        return labs.interrupted()
    if opts.json:
        sys.stdout.write(json.dumps({"lab": lab.inventory.name, "hosts": as_json(states)}, indent=2) + "\n")
    else:
        show([[Cell(text, kind) for text, kind in row] for row in rows(states)], STATUS_COLUMNS)
    unknown = [state for state in states if state.trouble and not state.trouble.startswith("disabled")]
    return 1 if unknown else 0
