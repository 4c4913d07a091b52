"""The server side of HMAC TCP: who may have a session, decided by one thread in one loop.

A connection passes three gates::

    accepted  --allow-list-->  pending  --handshake-->  proven  --keeper-->  handed over
       |                          |                        |
     closed                 closed, silently        told why, then closed

Before the handshake is through there is no fork, no thread, no pickle and no
zlib: a stranger costs one socket, at most ``MAX_HANDSHAKE`` bytes and
``handshake_timeout`` seconds.  A proven CONTROL connection gets a fresh keeper
process from the spawner, and the keeper gets the socket and the keys of this one
connection, never the key behind them.  A proven DATA connection goes to the
keeper that has its token, whichever of the two arrives first.  From then on the
listener only watches the socket to the keeper: its end is the session's end.

A key that is withdrawn ends what came in with it: connections at once, sessions
by telling their keepers, which tell their clients.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from easycluster.errors import EasyClusterError, RemoteProtocolError
from easycluster.far import fdpass
from easycluster.transport.addresses import (
    DEFAULT_PORT,
    Network,
    is_allowed,
    open_sockets,
    parse_allow,
    peer_name,
)
from easycluster.transport.auditing import Auditor
from easycluster.transport.serving import Limits, Session, Spawner, Watcher
from easycluster.wire.auth import CONTROL, ServerHandshake, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from easycluster.transport.audit import Audit
    from easycluster.transport.keyring import KeyRing

__all__ = ["DEFAULT_PORT", "Limits", "Listener", "Session", "Spawner", "Watcher", "open_sockets", "parse_allow"]

# How many connections to accept before looking after the others again.
_ACCEPT_AT_ONCE = 32

# Without a free file descriptor, accepting fails at once and for ever: rest a little.
_ACCEPT_PAUSE = 0.2

# 5 s.  Packets to and from a keeper are small and whole; one that stops in the middle must not stop us.
_KEEPER_TIMEOUT = 5.0

# 1 s between looks at the key files: two such and the keeper's own time are less than the 5 s promised.
_LOOK_AT_KEYS = 1.0

# 2 s.  A keeper that was told to end and does not is let go of; without us it ends, unless it is stopped.
_END_TIMEOUT = 2.0

# 4 s.  Longer than a keeper takes that has to kill what does not leave.
_ENDING = 4.0

_USUAL = Limits()

_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """One loop that lets clients in.

    Args:
        sockets: Listening sockets, from ``open_sockets``; the listener closes them.
        find_key: Gives the key for a key id, or None.
        spawner: Where keepers come from; the listener does not close it.
        watcher: Who is told.
        allow: Who may connect; empty means everybody.
        limits: How much to take on.
        settings: What every keeper is told besides, as ``limits`` of its first packet.
        keyring: The key files behind ``find_key``, for names, and to see that keys are withdrawn.
        audit: Where to write what happens; the listener does not close it.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        find_key: Callable[[bytes], bytes | None],
        spawner: Spawner,
        watcher: Watcher,
        *,
        allow: Sequence[Network] = (),
        limits: Limits = _USUAL,
        settings: dict[str, Any] | None = None,
        keyring: KeyRing | None = None,
        audit: Audit | None = None,
    ) -> None:
        self._sockets = list(sockets)
        self._find_key = find_key
        self._spawner = spawner
        self._watcher = watcher
        self._allow = list(allow)
        self._limits = limits
        self._settings = settings or {}
        self._keyring = keyring
        self._look_after = time.monotonic() + _LOOK_AT_KEYS
        self._reload_due = False
        self._selector = selectors.DefaultSelector()
        self._auditor = Auditor(audit, self._selector)
        # In order of arrival, so the first is the oldest.
        self._pending: dict[socket.socket, _Pending] = {}
        self._sessions: dict[tuple[bytes, bytes], Session] = {}
        self._accept_after: float | None = None
        self._stopping = False
        # stop() is called from other threads and from signal handlers: it may only write here.
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector.register(self._wake_in, selectors.EVENT_READ, self._wake_up)
        self._accept_on()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Address and port of each listening socket."""
        return [sock.getsockname()[:2] for sock in self._sockets]

    @property
    def pending(self) -> int:
        """How many connections have not come through yet."""
        return len(self._pending)

    @property
    def sessions(self) -> list[Session]:
        """The sessions that are up."""
        return list(self._sessions.values())

    def run(self) -> None:
        """Let clients in until ``stop``; then close every socket."""
        try:
            while not self._stopping:
                for key, _ in self._selector.select(self._wait()):
                    key.data()
                    del key  # it would hold the last connection until there is another event
                self._expire(time.monotonic())
        finally:
            self.close()

    def stop(self) -> None:
        """End ``run``, from any thread or signal handler."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._wake_out.send(b"x")

    def reload(self) -> None:
        """Look at the key files and open the audit log again, from any thread or signal handler."""
        self._reload_due = True
        with contextlib.suppress(OSError):
            self._wake_out.send(b"x")

    def close(self) -> None:
        """Close every socket and wait for the sessions to end; a keeper whose socket closes ends its own."""
        for pending in list(self._pending.values()):
            self._drop(pending, "the server stops")
        for sock in self._sockets:
            with contextlib.suppress(KeyError):  # nobody is let in just now
                self._selector.unregister(sock)
            sock.close()
        for session in self.sessions:
            session._why = session._why or "the server stops"
            with contextlib.suppress(OSError):
                session._keeper.shutdown(socket.SHUT_WR)
        end = time.monotonic() + _ENDING
        while self._sessions and (left := end - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                key.data()
        for session in self.sessions:
            self._end(session)
        for sock in (self._wake_in, self._wake_out):
            sock.close()
        self._selector.close()

    # ---- the loop

    def _wait(self) -> float | None:
        times = [pending.deadline for pending in self._pending.values()]
        times += [session._end_by for session in self._sessions.values() if session._end_by is not None]
        if self._accept_after is not None:
            times.append(self._accept_after)
        if self._keyring is not None:
            times.append(self._look_after)
        if self._auditor.due is not None:
            times.append(self._auditor.due)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _wake_up(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_in.recv(64)

    def _expire(self, now: float) -> None:
        if self._accept_after is not None and now >= self._accept_after:
            self._accept_after = None
            self._accept_on()
        for pending in [p for p in self._pending.values() if now >= p.deadline]:
            if pending.handshake.proven:
                self._refuse(pending, Status.NO_SUCH_SESSION)
            else:
                self._drop(pending, f"no proof within {self._limits.handshake_timeout:g} s")
        for session in [s for s in self._sessions.values() if s._end_by is not None and now >= s._end_by]:
            self._end(session)
        self._auditor.resume(now)
        if self._reload_due:
            self._reload_due = False
            self._look_at_keys(anew=True)
            self._auditor.reopen()
        elif now >= self._look_after:
            self._look_at_keys()

    # ---- keys

    def _look_at_keys(self, anew: bool = False) -> None:
        self._look_after = time.monotonic() + _LOOK_AT_KEYS
        if self._keyring is None:
            return
        changes = self._keyring.look(anew)
        for trouble in changes.troubles:
            self._watcher.failed(trouble)
        self._auditor.keys_changed(changes)
        withdrawn = changes.withdrawn
        if not withdrawn:
            return
        for pending in [p for p in self._pending.values() if p.handshake.key_id in withdrawn]:
            self._drop(pending, "its key was withdrawn")
        for key_id, name in withdrawn.items():
            for session in [s for (each, _), s in self._sessions.items() if each == key_id]:
                self._ask_to_end(session, f"the server has withdrawn its key {name!r}")

    def _ask_to_end(self, session: Session, why: str) -> None:
        """Have the keeper tell its client and end; :meth:`_expire` sees to it that it does."""
        session._why = why
        session._end_by = time.monotonic() + _END_TIMEOUT
        try:
            fdpass.send_packet(session._keeper, {"kind": "end", "reason": why})
        except OSError:
            self._end(session)

    # ---- accepted

    def _accept_on(self) -> None:
        for sock in self._sockets:
            self._selector.register(sock, selectors.EVENT_READ, lambda sock=sock: self._accept(sock))

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            if self._accept_after is not None:
                return
            try:
                sock, address = listening.accept()
            except OSError as exc:
                if exc.errno in _OUT_OF_FILES:
                    self._make_room(exc)
                # Anything else concerns one connection that is gone again, or says that none is left.
                return
            self._admit(sock, address)

    def _make_room(self, exc: OSError) -> None:
        if self._pending:
            self._drop(self._least_welcome(), "no file descriptor is free")
            return
        self._watcher.failed(f"cannot accept connections: {exc.strerror}; trying again")
        for sock in self._sockets:
            self._selector.unregister(sock)
        self._accept_after = time.monotonic() + _ACCEPT_PAUSE

    def _admit(self, sock: socket.socket, address: Any) -> None:
        host = str(address[0])
        peer = peer_name(host, address[1])
        if self._allow and not is_allowed(host, self._allow):
            sock.close()
            self._watcher.refused(f"{host} is not allowed to connect")
            self._auditor.refused(peer, "its address is not allowed")
            return
        self._auditor.accepted(peer)
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while len(self._pending) >= self._limits.pending:
            self._drop(self._least_welcome(), "too many connections wait")
        deadline = time.monotonic() + self._limits.handshake_timeout
        pending = _Pending(sock, host, peer, deadline, ServerHandshake(self._find_key))
        self._pending[sock] = pending
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._handshake(pending))

    def _least_welcome(self) -> _Pending:
        """Return the oldest connection of the address that has most of them.

        Dropping plainly the oldest lets one busy address push everybody else out.
        """
        counts: dict[str, int] = {}
        for pending in self._pending.values():
            counts[pending.host] = counts.get(pending.host, 0) + 1
        most = max(counts.values())
        return next(p for p in self._pending.values() if counts[p.host] == most)

    # ---- pending

    def _handshake(self, pending: _Pending) -> None:
        if pending.sock not in self._pending:
            return  # dropped by an earlier event of this round
        waiting = pending.handshake.proven
        if waiting:
            # A DATA connection whose session is not there yet.  Its client may say nothing, so it has left.
            self._drop(pending, "it left")
            return
        try:
            # Not a byte more than the handshake: what follows belongs to the keeper.
            data = pending.sock.recv(pending.handshake.needed)
            if not data:
                raise ConnectionError
            _send(pending.sock, pending.handshake.receive(data))
        except BlockingIOError:
            return
        except (OSError, RemoteProtocolError) as exc:
            self._say_farewell(pending)
            self._drop(pending, self._why_refused(pending, exc))
            if isinstance(exc, RemoteProtocolError):
                self._watcher.refused(f"{pending.peer} refused: {exc}")
            return
        if pending.handshake.proven:
            self._proven(pending)

    def _why_refused(self, pending: _Pending, exc: Exception) -> str:
        if not isinstance(exc, RemoteProtocolError):
            return "it left"
        known = self._find_key(pending.handshake.key_id) is not None
        return str(exc) if known or str(exc) != "wrong key" else "no key with this id"

    def _say_farewell(self, pending: _Pending) -> None:
        if not pending.handshake.farewell:
            return
        with contextlib.suppress(OSError):
            _send(pending.sock, pending.handshake.farewell)
            # Closing with bytes unread would send a reset, which overtakes the farewell.
            pending.sock.recv(512)
            pending.sock.shutdown(socket.SHUT_WR)

    def _drop(self, pending: _Pending, why: str = "") -> None:
        """Close a connection; ``why`` is for the audit log only."""
        self._forget(pending)
        pending.sock.close()
        if why:
            self._auditor.refused(pending.peer, why, self._name(pending.handshake.key_id))

    def _forget(self, pending: _Pending) -> None:
        del self._pending[pending.sock]
        self._selector.unregister(pending.sock)

    # ---- proven

    def _proven(self, pending: _Pending) -> None:
        handshake = pending.handshake
        name = (handshake.key_id, handshake.token)
        session = self._sessions.get(name)
        if handshake.role == CONTROL:
            if session is not None:
                self._refuse(pending, Status.CANNOT_START)
            else:
                self._start(pending, name)
        elif session is not None:
            self._hand_over(pending, session, {"kind": "data"})
        # Otherwise it waits for its CONTROL connection until its deadline.

    def _start(self, pending: _Pending, name: tuple[bytes, bytes]) -> None:
        if len(self._sessions) >= self._limits.sessions:
            self._refuse(pending, Status.TOO_MANY_SESSIONS)
            self._watcher.refused(f"{pending.peer} refused: {len(self._sessions)} sessions are up")
            return
        try:
            keeper = self._spawner.spawn()
            key_id, token = name
            shown_id = key_id.decode("ascii", "replace")
            session = Session(pending.peer, shown_id, time.monotonic(), keeper, token, self._name(key_id))
            try:
                pipe = self._auditor.open_pipe(session)
            except OSError:
                keeper.close()
                raise
        except (OSError, EasyClusterError) as exc:
            self._refuse(pending, Status.CANNOT_START)
            self._watcher.failed(f"cannot start a session for {pending.peer}: {exc}")
            return
        keeper.settimeout(_KEEPER_TIMEOUT)
        self._auditor.authenticated(session)
        started = self._hand_over(pending, session, {"kind": "control", "limits": self._settings}, pipe)
        for descriptor in pipe:
            os.close(descriptor)
        if not started:
            self._auditor.ended(session, "it left")
            keeper.close()
            return
        self._sessions[name] = session
        self._selector.register(keeper, selectors.EVENT_READ, lambda: self._listen_to(session))
        self._watcher.connected(session)
        for waiting in [p for p in self._pending.values() if p.handshake.proven]:
            if (waiting.handshake.key_id, waiting.handshake.token) == name:
                self._hand_over(waiting, session, {"kind": "data"})

    def _hand_over(
        self, pending: _Pending, session: Session, packet: dict[str, Any], besides: Sequence[int] = ()
    ) -> bool:
        """Give a connection, and descriptors of ours, to the keeper; return whether that went well."""
        keys = pending.handshake.keys
        assert keys is not None  # proven
        packet = {**packet, "send": keys.send, "receive": keys.receive, "peer": pending.peer}
        self._forget(pending)
        with pending.sock as sock:
            try:
                _send(sock, pending.handshake.finish())
                # The mode belongs to the open socket, which the keeper shares from here on.
                sock.setblocking(True)
                fdpass.send_packet(session._keeper, packet, [sock.fileno(), *besides])
            except OSError as exc:
                self._watcher.refused(f"{pending.peer} lost while its session started: {exc}")
                return False
        if packet["kind"] == "data":
            self._auditor.joined(session, pending.peer)
        return True

    def _refuse(self, pending: _Pending, status: Status) -> None:
        with contextlib.suppress(OSError):
            _send(pending.sock, pending.handshake.finish(status))
            pending.sock.shutdown(socket.SHUT_WR)
        self._drop(pending, status.name.lower().replace("_", " "))

    # ---- handed over

    def _listen_to(self, session: Session) -> None:
        try:
            received = fdpass.recv_packet(session._keeper)
        except Exception:  # noqa: BLE001  # a broken keeper ends its own session, not the server
            received = None
        if received is None:
            self._end(session)
            return
        packet, descriptors = received
        for descriptor in descriptors:
            os.close(descriptor)
        kind = packet.get("kind")
        if kind == "request":
            self._watcher.requested(session, str(packet.get("text", "")))
        elif kind == "ended":
            session._why = session._why or str(packet.get("why", ""))[:200]
        elif kind in ("started", "died"):
            self._auditor.keeper_says(session, packet)

    def _end(self, session: Session) -> None:
        name = (session.key_id.encode("ascii", "replace"), session._token)
        del self._sessions[name]
        self._selector.unregister(session._keeper)
        session._keeper.close()
        self._watcher.disconnected(session)
        self._auditor.ended(session, session._why or "its keeper is gone")

    def _name(self, key_id: bytes) -> str:
        """Return what we call a key."""
        return self._keyring.name(key_id) if self._keyring is not None else ""


@dataclass(eq=False)
class _Pending:
    """A connection that is not handed over yet."""

    sock: socket.socket
    host: str
    peer: str
    deadline: float
    handshake: ServerHandshake


def _send(sock: socket.socket, data: bytes) -> None:
    """Send a few bytes to an empty socket buffer, or fail."""
    if data and sock.send(data) != len(data):
        raise ConnectionError("the socket took only part of a handshake message")
