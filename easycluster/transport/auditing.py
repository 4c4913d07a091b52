"""What a listener tells its audit log; without one every method does nothing."""

from __future__ import annotations

import os
import selectors
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from easycluster.transport.audit import SessionCalls

if TYPE_CHECKING:
    from easycluster.transport.audit import Audit
    from easycluster.transport.keyring import Changes
    from easycluster.transport.serving import Session

__all__ = ["Auditor"]


# 20 ms.  A call has two lines; to wake up for each costs more than all the rest.  What comes within
# this time is read in one go; a pipe holds 64 KiB, twice what the fastest session says meanwhile.
_PAUSE = 0.02


@dataclass
class _Heard:
    """What is known of one session's calls.

    Attributes:
        pipe: Where it reports them, -1 once it has closed that.
        read_again: When to read on, None while the selector watches the pipe.
        calls: What it said.
    """

    pipe: int
    read_again: float | None = None
    calls: SessionCalls = field(default_factory=SessionCalls)


class Auditor:
    """Turns what happens in a listener into lines.

    Args:
        audit: Where to write, or None.
        selector: The listener's; the pipes of sessions are read when it says so.
    """

    def __init__(self, audit: Audit | None, selector: selectors.BaseSelector) -> None:
        self._audit = audit
        self._selector = selector
        self._heard: dict[Session, _Heard] = {}

    def reopen(self) -> None:
        """Open the log again by its name."""
        if self._audit is not None:
            self._audit.reopen()

    # ---- connections

    def accepted(self, peer: str) -> None:
        """A connection came."""
        if self._audit is not None:
            self._audit.write_of_stranger("accepted", peer=peer)

    def refused(self, peer: str, why: str, key_name: str = "") -> None:
        """A connection was closed that has got nothing."""
        if self._audit is not None:
            self._audit.write_of_stranger("refused", peer=peer, why=why, **({"key": key_name} if key_name else {}))

    def keys_changed(self, changes: Changes) -> None:
        """The key files have changed."""
        if self._audit is not None and (changes.added or changes.withdrawn):
            withdrawn = sorted(set(changes.withdrawn.values()))
            self._audit.write("keys", added=changes.added, withdrawn=withdrawn)

    # ---- sessions

    def open_pipe(self, session: Session) -> list[int]:
        """Return the descriptor, if any, on which the session is to report its calls; the caller closes it.

        Raises:
            OSError: If there is none to be had.
        """
        if self._audit is None:
            return []
        pipe, theirs = os.pipe()
        os.set_blocking(pipe, False)
        self._heard[session] = _Heard(pipe)
        self._watch(session)
        return [theirs]

    @property
    def due(self) -> float | None:
        """When :meth:`resume` is to be called, by ``time.monotonic``."""
        return min((heard.read_again for heard in self._heard.values() if heard.read_again is not None), default=None)

    def resume(self, now: float) -> None:
        """Listen again to sessions that were read a moment ago."""
        for session, heard in self._heard.items():
            if heard.read_again is not None and now >= heard.read_again:
                heard.read_again = None
                self._watch(session)

    def authenticated(self, session: Session) -> None:
        """A client has proven a key and is to get a session."""
        if self._audit is not None:
            self._audit.write("authenticated", peer=session.peer, **_who(session))

    def joined(self, session: Session, peer: str) -> None:
        """The session's data connection came."""
        if self._audit is not None:
            self._audit.write("joined", peer=peer, session=session.id)

    def keeper_says(self, session: Session, packet: dict[str, Any]) -> None:
        """The session's keeper tells of its process or of a worker's end."""
        if self._audit is None:
            return
        if packet["kind"] == "died":
            # Its last words come first.
            self._hear(session)
            unfinished = self._heard[session].calls.unfinished()
            self._write_calls(session, unfinished)
            how = {"signal": packet.get("signal"), "exit_code": packet.get("exit_code")}
            # One that leaves in peace does so because its client does.
            if unfinished or how != {"signal": None, "exit_code": 0}:
                self._audit.write("died", **_who(session), **how)
        else:
            self._audit.write("started", **_who(session), pid=packet.get("pid"), user=_user_name(packet.get("uid")))

    def ended(self, session: Session, why: str) -> None:
        """The session is over."""
        if self._audit is None:
            return
        self._hear(session)
        self._stop_hearing(session)
        calls = self._heard.pop(session).calls
        self._write_calls(session, calls.unfinished())
        self._audit.write(
            "ended",
            **_who(session),
            why=why,
            seconds=round(time.monotonic() - session.started, 3),
            calls=calls.count,
            bytes_received=calls.bytes_received,
            bytes_sent=calls.bytes_sent,
            reported_by="session",
        )

    # ---- calls

    def _hear(self, session: Session) -> None:
        """Read what the session says about its calls; a pipe holds no more than one read takes."""
        heard = self._heard.get(session)
        if heard is None or heard.pipe < 0:
            return  # it ended in this very round of the loop
        try:
            data = os.read(heard.pipe, 1 << 16)
        except BlockingIOError:
            return
        if data:
            self._write_calls(session, heard.calls.take(data))
            if heard.read_again is None:
                self._selector.unregister(heard.pipe)
                heard.read_again = time.monotonic() + _PAUSE
        else:
            self._stop_hearing(session)

    def _watch(self, session: Session) -> None:
        self._selector.register(self._heard[session].pipe, selectors.EVENT_READ, lambda: self._hear(session))

    def _stop_hearing(self, session: Session) -> None:
        heard = self._heard[session]
        if heard.pipe >= 0:
            if heard.read_again is None:
                self._selector.unregister(heard.pipe)
            heard.read_again = None
            os.close(heard.pipe)
            heard.pipe = -1

    def _write_calls(self, session: Session, calls: list[dict[str, Any]]) -> None:
        if calls and self._audit is not None:
            who = _who(session)
            self._audit.write_all([("call", {**who, **call}) for call in calls])


def _who(session: Session) -> dict[str, str]:
    return {"session": session.id, "key": session.key_name}


def _user_name(uid: Any) -> str | None:
    """Return the login of a user id, or the number as text."""
    if not isinstance(uid, int):
        return None
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError):
        return str(uid)
