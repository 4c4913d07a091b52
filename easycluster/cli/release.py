"""``easycluster release HOST [--force]``: give hosts back, or take them from whoever has them."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Final

from easycluster.cli import labs

if TYPE_CHECKING:
    import argparse

__all__ = ["add_parser", "run"]

_EPILOG: Final = """\
example:
  easycluster release gpu07 lab.yaml
  easycluster release gpu07 --force lab.yaml

Without --force only your own reservation ends; a test run that uses the host
goes on. With it all sessions that hold the host end as well: what they changed
is undone, then the locks go. The host writes down who did that, in syslog and
in force.log beside its locks. It ends with 0, with 1 if that cannot be done,
with 4 if the lab file has faults or lacks a host.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    from argparse import RawDescriptionHelpFormatter

    parser = commands.add_parser(
        "release",
        help="give reserved hosts back; --force takes them from whoever has them",
        description="End your reservation of hosts, or with --force whatever holds them.",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    labs.add_words(parser, "HOSTS [LAB]", "the hosts: names, ranges, or any pattern that --ec-limit takes")
    parser.add_argument("--force", action="store_true", help="end the reservations and sessions of everybody")


def run(opts: argparse.Namespace) -> int:
    """Release them."""
    from easycluster.lab.reserving import release

    outcomes = labs.on_hosts(opts, partial(release, force=opts.force))
    if isinstance(outcomes, int):
        return outcomes
    for outcome in outcomes:
        if outcome.trouble:
            advice = "; --force ends it" if outcome.busy else ""
            sys.stderr.write(f"{outcome.host}: {outcome.trouble}{advice}\n")
            continue
        if not outcome.ended:
            what = "nobody has it" if opts.force else "not reserved"
            sys.stdout.write(f"{outcome.host}: {what}\n")
        for one in outcome.ended:
            words = "ended by force" if opts.force else "released"
            sys.stdout.write(f"{outcome.host}: {words}; was {one}\n")
        for one in outcome.users:
            sys.stdout.write(f"  still {one}; --force ends it\n")
    return 1 if any(outcome.trouble for outcome in outcomes) else 0
