"""One thread for all open sessions: answers targets that ask for a sign of life while no command waits."""

from __future__ import annotations

import threading
import weakref
from typing import Optional, Protocol

__all__ = ["Idle", "watch"]

# LIO gives up on an initiator after 15 s without an answer, others after 5.
EVERY = 1.0


class Idle(Protocol):
    """What is watched."""

    def answer_idle(self) -> bool:
        """Answer what came in; False if there will never be anything again."""


_sessions: weakref.WeakSet[Idle] = weakref.WeakSet()
_lock = threading.Lock()
_changed = threading.Event()
_thread: Optional[threading.Thread] = None


def watch(session: Idle) -> None:
    """Have ``session.answer_idle`` called every second until it says False, or nobody has the session any more."""
    global _thread
    with _lock:
        _sessions.add(session)
        if _thread is None or not _thread.is_alive():
            _changed.clear()
            _thread = threading.Thread(target=_run, name="easycluster-iscsi-idle", daemon=True)
            _thread.start()


def unwatch(session: Idle) -> None:
    """Stop; with the last session the thread ends at once."""
    with _lock:
        _sessions.discard(session)
        if not _sessions:
            _changed.set()


def _run() -> None:
    global _thread
    while True:
        _changed.wait(EVERY)
        with _lock:
            open_ones = list(_sessions)
            if not open_ones:
                _thread = None
                return
            _changed.clear()
        while open_ones:
            # Popped, so that no session is kept alive by the list.
            session = open_ones.pop()
            if not session.answer_idle():
                with _lock:
                    _sessions.discard(session)
            del session
