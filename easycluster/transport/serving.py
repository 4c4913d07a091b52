"""What a listener works with: its limits, the sessions it has let in, where keepers come from, and who is told."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket

__all__ = ["Limits", "Session", "Spawner", "Watcher"]


@dataclass(frozen=True)
class Limits:
    """How much a listener takes on.

    Attributes:
        pending: Connections that have not proven the key; one more drops the oldest.
        handshake_timeout: Seconds for the whole handshake.
        sessions: Sessions at a time.
    """

    pending: int = 64
    handshake_timeout: float = 5.0
    sessions: int = 64


@dataclass(eq=False)
class Session:
    """A session as the server sees it.

    Attributes:
        peer: The client's address and port.
        key_id: Which key it proved, as the client calls it; ``""`` for the only one.
        started: When, by ``time.monotonic``.
        key_name: What the server calls the key, ``""`` if it was given without a name.
        id: Names the session in the audit log.
    """

    peer: str
    key_id: str
    started: float
    _keeper: socket.socket = field(repr=False)
    _token: bytes = field(repr=False)
    key_name: str = ""
    id: str = field(default_factory=lambda: os.urandom(4).hex())
    # Why it is ending, and when we stop waiting for its keeper.
    _why: str = field(default="", repr=False)
    _end_by: float | None = field(default=None, repr=False)


class Spawner(Protocol):
    """Where keeper processes come from."""

    def spawn(self) -> socket.socket:
        """Return at once a socket to a new keeper that owns nothing else of ours."""

    def close(self) -> None:
        """End every keeper and what starts them."""


class Watcher(Protocol):
    """Who is told what a listener does; called in its thread."""

    def connected(self, session: Session) -> None:
        """A session began."""

    def disconnected(self, session: Session) -> None:
        """A session ended."""

    def requested(self, session: Session, text: str) -> None:
        """A session runs a call."""

    def refused(self, text: str) -> None:
        """A peer got no session; says who and why."""

    def failed(self, text: str) -> None:
        """The server itself could not do its work; says what and why."""
