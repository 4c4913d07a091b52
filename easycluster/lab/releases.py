"""What comes of ending a lease, as values."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Failure:
    """An undo that did not work.

    Attributes:
        host: Where.
        what: What was to be done.
        error: What was wrong.
        output: The end of what it printed.
    """

    host: str
    what: str
    error: str
    output: str = ""

    def __str__(self) -> str:
        return f"{self.host}: undo failed: {self.what}: {self.error}"


@dataclass(frozen=True)
class Leftover:
    """Something that was not there when the lease began.

    Attributes:
        host: Where.
        kind: ``"process"``, ``"mount"``, ``"port"`` or ``"file"``.
        what: Which.
        since: The test after which it was first seen, in a lease for several tests; else ``""``.
    """

    host: str
    kind: str
    what: str
    since: str = ""

    def __str__(self) -> str:
        since = f" (there since {self.since})" if self.since else ""
        return f"{self.host}: {self.kind} {self.what}{since}"


@dataclass
class Release:
    """What came of ending a lease.

    Attributes:
        failures: Undos that did not work.
        leftovers: What the test left; processes among it are gone by now.
        lost: Hosts that were gone; they set themselves back.
    """

    failures: list[Failure] = field(default_factory=list)
    leftovers: list[Leftover] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
