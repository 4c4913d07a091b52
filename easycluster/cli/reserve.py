"""``easycluster reserve HOST --for SPAN``: keep hosts for somebody who works on them by hand."""

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
  easycluster reserve gpu07 --for 4h --why "bisecting LAB-91" lab.yaml
  easycluster reserve 'gpu[01:04]' --for 30m lab.yaml

Test runs of everybody else see who has the host, why and until when, and are
BUSY; your own go on using it, from every machine where your login is the same.
root and other accounts of the system are many people's: there it counts
together with the machine, unless EC_USER names who you are. Reserving again
changes the time. Who uses the host now keeps it until the end of his test.
All hosts are reserved, or none. It ends with 0, with 1 if that cannot be
done, with 4 if the lab file has faults or lacks a host.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    from argparse import RawDescriptionHelpFormatter

    parser = commands.add_parser(
        "reserve",
        help="keep hosts of a lab for yourself for a while",
        description="Keep hosts for yourself for a while. It is noted on the hosts, and ends by itself.",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    labs.add_words(parser, "HOSTS [LAB]", "the hosts: names, ranges, or any pattern that --ec-limit takes")
    parser.add_argument(
        "--for", dest="span", metavar="SPAN", type=labs.parse_span, required=True, help="how long: 90s, 20m, 4h or 2d"
    )
    parser.add_argument("--why", metavar="TEXT", default="", help="what others see that it is for")
    parser.add_argument(
        "--force",
        action="store_true",
        help="take the place of somebody else's reservation; the host writes down who did",
    )


def run(opts: argparse.Namespace) -> int:
    """Reserve them, or none."""
    from easycluster.lab.holders import clock
    from easycluster.lab.occupancy import person
    from easycluster.lab.reserving import reserve

    outcomes = labs.on_hosts(opts, partial(reserve, seconds=opts.span, why=opts.why, force=opts.force))
    if isinstance(outcomes, int):
        return outcomes
    troubles = [outcome for outcome in outcomes if outcome.trouble]
    for outcome in troubles:
        advice = "; --force takes its place" if outcome.busy else ""
        sys.stderr.write(f"{outcome.host}: {outcome.trouble}{advice}\n")
    if troubles:
        sys.stderr.write("nothing was reserved\n")
        return 1
    why = f' "{opts.why}"' if opts.why else ""
    for outcome in outcomes:
        sys.stdout.write(f"{outcome.host}: reserved for {person()['user']} until {clock(outcome.until)}{why}\n")
        for one in outcome.users:
            sys.stdout.write(f"  still {one}\n")
    return 0
