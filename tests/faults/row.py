"""What a row of the fault matrix says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

# What stands in a row where no exception is promised, or none was seen.
NOTHING = "-"

# What stands there where nothing has to be cleaned up.
LIVES = "session lives"

EVERY = ("tcp", "spawned", "ssh")


class Peers(NamedTuple):
    """What others did with the same fault, one run each; ``> 9 s`` means that we gave up waiting."""

    classic: str = ""
    threaded: str = ""
    rpyc: str = ""
    execnet: str = ""


UNKNOWN = Peers()


@dataclass(frozen=True)
class Row:
    """One fault and what we promise.

    Attributes:
        name: The row's id, which markers use.
        fault: What goes wrong.
        exceptions: Names of the exceptions that the caller may see; NOTHING if it may see none.
        within: Seconds in which it is told, under the settings of the test; None if time plays no part.
        cleaned: What is put in order, or "" if the session just goes on.
        transports: Those that it must be proved over; () if it does not depend on one.
        peers: What others did.
        condition: What the seconds are counted from or depend on, if not from the fault itself.
    """

    name: str
    fault: str
    exceptions: tuple[str, ...]
    within: float | None
    cleaned: str = ""
    transports: tuple[str, ...] = EVERY
    peers: Peers = UNKNOWN
    condition: str = ""
