"""What the commands that work on a lab have in common: how a lab and its hosts are named on the command line.

    easycluster COMMAND [HOSTS] [LAB] [options]

A word that is a file, ends like one, or begins with ``hosts:`` or ``ansible:`` is a lab; every other word is a pattern
of hosts, as ``--ec-limit`` takes it.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from easycluster.lab import HostEntry, Inventory
    from easycluster.lab.reserving import Outcome

__all__ = [
    "BAD_LAB",
    "LabWords",
    "add_limit",
    "add_words",
    "interrupted",
    "is_lab",
    "on_hosts",
    "open_lab",
    "parse_span",
    "split",
]

# What pytest ends with for the same lab file (``ExitCode.USAGE_ERROR``).
BAD_LAB: Final = 4
# As a shell has it for a program that Ctrl-C ended.
INTERRUPTED: Final = 130

_LAB_HELP: Final = """\
a lab file, hosts:gpu1,ann@gpu2 or ansible:FILE; later ones are laid over earlier ones. By default EC_INVENTORY, or what
ec_inventory in pytest's configuration says here"""

_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?")
_UNITS: Final = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class LabWords:
    """A lab and some of its hosts.

    Attributes:
        inventory: The lab.
        hosts: The hosts that are meant, in their order.
    """

    inventory: Inventory
    hosts: tuple[HostEntry, ...]


def add_words(parser: argparse.ArgumentParser, metavar: str, hosts: str) -> None:
    """Add the words of the command and what changes the lab.

    Args:
        parser: Of the command.
        metavar: How the usage names the words.
        hosts: What hosts among them are for, ``""`` if the command wants only a lab.
    """
    parser.add_argument("words", metavar=metavar, nargs="*", help=f"{hosts}; and {_LAB_HELP}" if hosts else _LAB_HELP)
    # Options may stand between them:  reserve gpu07 --for 4h lab.yaml
    parser.set_defaults(takes_more_words=True)
    parser.add_argument(
        "--set",
        dest="changes",
        metavar="HOST.KEY=VALUE",
        action="append",
        default=[],
        help="change a value of the lab first, as pytest --ec-set does",
    )


def add_limit(parser: argparse.ArgumentParser) -> None:
    """Add ``--limit``."""
    parser.add_argument(
        "--limit",
        metavar="PATTERN",
        default="",
        help="only these hosts: names, groups, roles, tags, ranges and globs, as for --ec-limit of pytest",
    )


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """Patterns of hosts, and labs."""
    labs = [word for word in words if is_lab(word)]
    return [word for word in words if word not in labs], labs


def is_lab(word: str) -> bool:
    """Whether a word names a lab."""
    return word.startswith(("hosts:", "ansible:")) or word.endswith((".yaml", ".yml")) or os.path.isfile(word)


def open_lab(opts: argparse.Namespace, *, limit: str = "", all_by_default: bool = True) -> LabWords | int:
    """Read the lab that the command line means; nothing is connected.

    Args:
        opts: With ``words`` and ``changes``.
        limit: A pattern that the hosts have to meet besides.
        all_by_default: Whether no pattern means all hosts that are not disabled, and not a mistake.

    Returns:
        The lab and the hosts; or, once standard error says what is wrong, the exit status.
    """
    from easycluster.lab import InventoryError, PatternError, matching, read_inventory
    from easycluster.lab.sources import default_sources

    patterns, labs = split(opts.words)
    labs = labs or default_sources()
    command = f"easycluster {opts.command}"
    if not labs:
        return _complain(f"{command}: which lab? name its file, set EC_INVENTORY, or ec_inventory for pytest", 2)
    if not patterns and not all_by_default:
        return _complain(f"{command}: which hosts? write  {command} HOST [LAB]", 2)
    try:
        inventory = read_inventory(labs, changes=opts.changes)
        names = matching(inventory, ",".join(patterns)) if patterns else list(inventory.hosts)
        if limit:
            within = set(matching(inventory, limit))
            names = [name for name in names if name in within]
    except InventoryError as exc:
        return _complain(str(exc), BAD_LAB)
    except PatternError as exc:
        caret = f"\n  {exc.pattern}\n  {' ' * exc.position}^" if exc.position else ""
        return _complain(f"{exc}{caret}", BAD_LAB)
    if not names:
        said = " and --limit ".join(filter(None, [",".join(patterns), limit]))
        return _complain(f"{said} leaves no host of lab {inventory.name!r}", BAD_LAB)
    return LabWords(inventory, tuple(inventory.hosts[name] for name in names))


def on_hosts(
    opts: argparse.Namespace, do: Callable[[Inventory, Sequence[HostEntry]], list[Outcome]]
) -> list[Outcome] | int:
    """Do something with the hosts that the command line names; all have to be enabled.

    Returns:
        What came of it; or, once standard error says what is wrong, the exit status.
    """
    lab = open_lab(opts, all_by_default=False)
    if isinstance(lab, int):
        return lab
    off = [entry.name for entry in lab.hosts if not entry.enabled]
    if off:
        return _complain(f"{', '.join(off)}: disabled in the lab file; nothing was done", 1)
    try:
        return do(lab.inventory, lab.hosts)
    except KeyboardInterrupt:
        return interrupted()


def parse_span(text: str) -> float:
    """Seconds of a span such as ``90s``, ``20m``, ``4h`` or ``2d``.

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    import argparse

    match = _SPAN.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no span; write 90s, 20m, 4h or 2d")
    return float(match[1]) * _UNITS[match[2] or "s"]


def interrupted() -> int:
    """End after Ctrl-C: at once, whatever threads wait for; what they have begun ends with this process."""
    sys.stderr.write("interrupted\n")
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(INTERRUPTED)


def _complain(text: str, status: int) -> int:
    sys.stderr.write(f"{text}\n")
    return status
