"""``easycluster check FILE...``: look lab files over without running tests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import argparse

__all__ = ["add_parser", "run"]

_FILES: Final = "a lab file, as pytest --ec-inventory takes it; by default EC_INVENTORY, or that of pytest here"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    check = commands.add_parser(
        "check",
        help="look lab files over without running tests",
        description="Say of each lab file what is wrong with it, or what it has. Nothing is connected.",
        epilog="It ends with 0 if all files are right, with 4 if there are faults.",
    )
    check.add_argument("files", metavar="FILE", nargs="*", help=_FILES)
    check.add_argument(
        "--overlay",
        action="store_true",
        help="lay the files over each other, as several --ec-inventory do, instead of checking each by itself",
    )
    check.add_argument(
        "--set",
        dest="changes",
        metavar="HOST.KEY=VALUE",
        action="append",
        default=[],
        help="change a value first, as pytest --ec-set does",
    )


def run(opts: argparse.Namespace) -> int:
    """Check the files."""
    from easycluster.lab.check import check
    from easycluster.lab.sources import default_sources

    if opts.files:
        return check(opts.files, overlay=opts.overlay, changes=opts.changes)
    files = default_sources()
    if not files:
        sys.stderr.write("easycluster check: which lab file? write  easycluster check FILE\n")
        return 2
    return check(files, overlay=True, changes=opts.changes)
