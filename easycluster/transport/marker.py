"""Finds the line by which a far side's Python says that it is there, in whatever start-up files print before it."""

from __future__ import annotations

import os
import select
import time
from dataclasses import dataclass, field

from easycluster.far.start import OLDEST_PYTHON

__all__ = ["MOST_NOISE", "Found", "MarkerSearch"]

# What start-up files may print before the marker.
MOST_NOISE = 64 * 1024

# How much of it an error shows.
SHOWN_NOISE = 500


@dataclass(frozen=True)
class Found:
    """A Python that runs.

    Attributes:
        version: Its version.
        pid: Its process id.
        executable: Its path.
        rest: What came right behind its line.
    """

    version: tuple[int, ...]
    pid: int
    executable: str
    rest: bytes


@dataclass
class MarkerSearch:
    """Reads up to the line of a usable interpreter, see :mod:`easycluster.far.start`.

    Attributes:
        marker: The marker, 32 hex digits.
        cause: Why it was given up: ``"timeout"``, ``"exit"`` (what was read has ended), ``"noise"`` (too much of it) or
            ``"none"`` (the far side has no Python); ``""`` otherwise.
        noise: The first bytes of something else.
        versions: Of interpreters that are too old.
    """

    marker: bytes
    cause: str = ""
    noise: bytes = b""
    versions: list[str] = field(default_factory=list)

    def read(self, fd: int, deadline: float) -> Found | None:
        """Read until it is there; None, and the cause, if it does not come.

        Args:
            fd: What to read.
            deadline: When to give up, by ``time.monotonic``.
        """
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        seen = b""
        found = None
        while found is None and not self.cause:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                self.cause = "timeout" if left <= 0 or time.monotonic() >= deadline else ""
                continue
            data = os.read(fd, 65536)
            seen += data
            found = self.look(seen)
            if found is None and not self.cause and not data:
                self.cause = "exit"
        at = seen.find(self._line)
        self.noise = (seen[:at] if at >= 0 else seen)[:SHOWN_NOISE]
        return found

    @property
    def _line(self) -> bytes:
        return b"\n" + self.marker + b" "

    def look(self, seen: bytes) -> Found | None:
        """Look for marker lines in everything that was printed so far."""
        old: list[str] = []
        noise, *lines = seen.split(self._line)
        for count, line in enumerate(lines, 1):
            text, newline, rest = line.partition(b"\n")
            if not newline:
                break
            words = text.decode("ascii", "replace").split(" ")
            if words[0] == "none":
                self.versions, self.cause = old, "none"
                return None
            version = tuple(int(part) for part in words[0].split("."))
            if version[:2] >= OLDEST_PYTHON:
                path = os.fsdecode(bytes.fromhex(words[2]))
                return Found(version, int(words[1]), path, self._line.join([rest, *lines[count:]]))
            old.append(words[0])
        self.versions = old
        if len(noise) > MOST_NOISE:
            self.cause = "noise"
        return None
