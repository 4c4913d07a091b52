"""The watcher: reads a session's link while nobody else does.

This module is shipped to the far side.
"""

from __future__ import annotations

import socket
import threading
from _thread import allocate_lock
from typing import TYPE_CHECKING, Callable, Optional

from easycluster.link.pending import wake

if TYPE_CHECKING:
    from easycluster.link.session import Session

__all__ = ["Watcher"]


class Watcher(threading.Thread):
    """Reads a session's link when nobody else does.

    While there is traffic it only looks every ``WATCH_AFTER`` seconds whether it is needed, so
    that it never races a caller for an answer.
    """

    def __init__(self, session: Session, run_completions: Optional[Callable[[], None]]) -> None:
        super().__init__(name="easycluster-watcher", daemon=True)
        self._session = session
        self._run_completions = run_completions
        self._tick = allocate_lock()
        self._tick.acquire()
        self._wake_receive, self._wake_send = socket.socketpair()
        for end in (self._wake_receive, self._wake_send):
            end.setblocking(False)
        self._stopped = False
        # Blocked in a wait with the reading role; a caller who wants the role kicks.
        self.reading = False

    def kick(self) -> None:
        """Make the watcher give up the reading role."""
        try:
            self._wake_send.send(b"k")
        except OSError:
            # Full: it is awake already.  Closed: it has ended.
            pass

    def unpark(self) -> None:
        """Make the watcher look again."""
        self._session.parked.clear()
        wake(self._tick)

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        self.kick()
        self.unpark()

    def run(self) -> None:
        """Read while nobody else does, until told to stop or the link ends."""
        session = self._session
        try:
            while not self._stopped and session.ended is None:
                seen = session.activity()
                self._tick.acquire(timeout=session.WATCH_AFTER)
                if self._run_completions is not None and session.completions:
                    self._run_completions()
                if session.activity_since(seen) or self._stopped:
                    continue
                # It may hold the buffers of a large frame.
                del seen
                if session._reading.acquire(blocking=False):
                    self._read_and_leave()
                else:
                    self._park()
            if session.ended is not None:
                session.end(session.ended)  # whoever noticed may have been interrupted in the middle of it
            if self._run_completions is not None and session.completions:
                self._run_completions()
        finally:
            self._wake_receive.close()
            self._wake_send.close()

    def _park(self) -> None:
        """Sleep without a time limit, because a reader is there and nothing happens, until it leaves."""
        session = self._session
        session.parked.append(self)
        # Not the other way round: who leaves the role looks at the list afterwards.
        if session._reading.acquire(blocking=False):
            session.parked.clear()
            self._read_and_leave()
            return
        if not self._stopped:
            self._tick.acquire()
        session.parked.clear()

    def _read_and_leave(self) -> None:
        session = self._session
        try:
            self._read()
        finally:
            self.reading = False
            session._leave_role()
        if self._run_completions is not None and session.completions:
            self._run_completions()

    def _read(self) -> None:
        """Read until somebody wants the role.  Holds it."""
        session = self._session
        wake_fd = self._wake_receive.fileno()
        self.reading = True
        while not self._stopped and session.ended is None:
            if session._decoder.ready or session._decoder.chunks:
                readable, kicked = True, False
            else:
                readable, _, kicked = session.stream.wait(write=False, timeout=None, wake_fd=wake_fd)
            if readable:
                session._pump()
                if session.completions and self._run_completions is not None:
                    return
            if kicked:
                try:
                    self._wake_receive.recv(4096)
                except BlockingIOError:
                    pass
                return
