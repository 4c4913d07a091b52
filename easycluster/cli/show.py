"""``easycluster show [HOST] FILE...``: what a lab file comes to, and where each value stands."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from easycluster.cli.labs import is_lab

if TYPE_CHECKING:
    import argparse

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "show",
        help="print the hosts of a lab, or every value of one host and where it comes from",
        description="Print the hosts of a lab file, or every value of one host. Nothing is connected.",
        epilog="Several files are laid over each other, as with several --ec-inventory. Secrets are shown as ***.",
    )
    parser.add_argument("words", metavar="[HOST] FILE", nargs="*", help="a host of the lab, and the lab file or files")
    # The files may follow the option, as in  show gpu01 --origin lab.yaml; argparse would not give them to `words`.
    parser.add_argument("--origin", metavar="FILE", nargs="*", help="print file, line and column behind each value")
    parser.add_argument(
        "--set",
        dest="changes",
        metavar="HOST.KEY=VALUE",
        action="append",
        default=[],
        help="change a value first, as pytest --ec-set does",
    )


def run(opts: argparse.Namespace) -> int:
    """Print it."""
    from easycluster.lab.check import WRONG
    from easycluster.lab.positions import InventoryError, did_you_mean
    from easycluster.lab.reader import read_inventory
    from easycluster.lab.show import LAB_COLUMNS, lab_rows, show_host
    from easycluster.lab.sources import default_sources
    from easycluster.lab.tables import show

    words = [*opts.words, *(opts.origin or ())]
    name, files = _split(words) if words else ("", [])
    files = files or default_sources()
    if not files:
        sys.stderr.write("easycluster show: which lab file? write  easycluster show [HOST] FILE\n")
        return 2
    origin = opts.origin is not None
    try:
        inventory = read_inventory(files, changes=opts.changes)
    except InventoryError as exc:
        sys.stderr.write(f"{exc}\n")
        return WRONG
    if name and name not in inventory.hosts:
        hint = did_you_mean(name, list(inventory.hosts)) or f"hosts: {' '.join(inventory.hosts)}"
        sys.stderr.write(f"lab {inventory.name!r} has no host {name!r}; {hint}\n")
        return WRONG
    if name:
        sys.stdout.write(show_host(inventory, name, origin=origin) + "\n")
    elif origin:
        sys.stdout.write("\n\n".join(show_host(inventory, one, origin=True) for one in inventory.hosts) + "\n")
    else:
        show(lab_rows(inventory), LAB_COLUMNS)
    return 0


def _split(words: list[str]) -> tuple[str, list[str]]:
    """The host, if there is one, and the files.  The first word is a host unless it looks like a file."""
    if is_lab(words[0]) or os.path.exists(words[0]):
        return "", words
    return words[0], words[1:]
