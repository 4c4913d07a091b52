"""``easycluster show [HOST] FILE...``: what a lab file comes to, and where each value stands."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

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
    from easycluster.lab.show import show_host, show_lab

    words = [*opts.words, *(opts.origin or ())]
    if not words:
        sys.stderr.write("easycluster show: which lab file? write  easycluster show [HOST] FILE\n")
        return 2
    name, files = _split(words)
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
        text = show_host(inventory, name, origin=origin)
    elif origin:
        text = "\n\n".join(show_host(inventory, one, origin=True) for one in inventory.hosts)
    else:
        text = show_lab(inventory)
    sys.stdout.write(text + "\n")
    return 0


def _split(words: list[str]) -> tuple[str, list[str]]:
    """The host, if there is one, and the files.  The first word is a host unless it looks like a file."""
    first = words[0]
    is_file = os.path.exists(first) or first.startswith(("hosts:", "ansible:")) or first.endswith((".yaml", ".yml"))
    return ("", words) if is_file or len(words) == 1 else (first, words[1:])
