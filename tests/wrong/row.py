"""A row of the table: a situation, what others do in it, and the play that makes it happen to us."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .stage import Stage

__all__ = ["Peers", "Row", "Rows"]


@dataclass(frozen=True)
class Peers:
    """What others did in the same situation, run by hand on loopback; "" where it was not run or is not theirs."""

    testinfra: str = ""
    mh: str = ""
    labgrid: str = ""


NOT_RUN = Peers("not run", "not run", "not run")


@dataclass(frozen=True)
class Row:
    """One situation.

    Attributes:
        name: The row's id.
        situation: What goes wrong.
        peers: What others did.
        hosts: Names of the hosts that are looked at before and after.
        play: Makes it happen on a stage; returns what was seen of us, or raises AssertionError.
    """

    name: str
    situation: str
    peers: Peers
    hosts: tuple[str, ...]
    play: Callable[[Stage], str]


class Rows(dict[str, Row]):
    """Rows by name."""

    def add(
        self, situation: str, peers: Peers | None = None, hosts: tuple[str, ...] = ("gpu01",)
    ) -> Callable[[Callable[[Stage], str]], Callable[[Stage], str]]:
        """Make a row of a play, which gives it its name."""

        def take(play: Callable[[Stage], str]) -> Callable[[Stage], str]:
            name = play.__name__
            assert name not in self, name
            self[name] = Row(name, situation, peers or NOT_RUN, hosts, play)
            return play

        return take
