"""The flusher: a thread that sends what sessions have gathered once the threads that gather let others run.

One a process, while there is something to do.  It is woken with the first small message that a
session keeps back.  Python lets it run when the gathering thread waits for something, at the latest
after the switch interval (5 ms); until then more messages come to the first, and go out with it in
one write.

This module is shipped to the far side.
"""

from __future__ import annotations

import os
import threading
from _thread import allocate_lock
from collections import deque
from typing import TYPE_CHECKING, Deque, List

from easycluster.link.pending import wake

if TYPE_CHECKING:
    from easycluster.link.sending import Sender

__all__ = ["flush_soon"]

# Seconds until a session is tried again whose link is full or in use.
AGAIN = 0.01
# Seconds without work after which the thread ends; the next one starts when it is needed.
IDLE = 1.0
# Seconds between looks of the thread while there was work a moment ago, and how many in vain end that.
LOOK = 0.002
LOOKS = 10

_starting = allocate_lock()
_tick = allocate_lock()
_tick.acquire()
_due: Deque[Sender] = deque()
_runs = False
# Whether the thread looks around every LOOK seconds.
_looks = False


def flush_soon(session: Sender, patient: bool = False) -> bool:
    """Have another thread send what ``session`` has gathered; return whether there is one that will.

    Args:
        session: The session.
        patient: Whether it may wait for the next look of a thread that looks around anyway.
    """
    global _runs
    _due.append(session)
    if _runs:
        if not (patient and _looks):
            wake(_tick)
        return True
    with _starting:
        if not _runs:
            try:
                threading.Thread(target=_run, name="easycluster-flusher", daemon=True).start()
            except (RuntimeError, MemoryError):
                # As many threads as the system allows; or the interpreter is about to end.
                _due.clear()
                return False
            _runs = True
    wake(_tick)
    return True


def _run() -> None:
    global _runs, _looks
    left: List[Sender] = []
    looks = 0
    while True:
        _looks = looks > 0
        # In this order: who relies on a look has appended before it saw that there is one.
        if not (_due and not _looks):
            woken = _tick.acquire(timeout=AGAIN if left else LOOK if _looks else IDLE)
            if not (woken or left or _looks or _due):
                with _starting:
                    # In this order: who has just appended looks at the one afterwards, and we at the other.
                    _runs = False
                    if not _due:
                        return
                    _runs = True
        looks = LOOKS if _due else max(0, looks - 1)
        sessions, left = left, []
        while _due:
            sessions.append(_due.popleft())
        for session in sessions:
            try:
                again = session.flush_if_free()
            except MemoryError:
                # Who gathers would wait for a thread that is no more.
                again = True
            if again:
                left.append(session)
        # Not to keep sessions alive while this sleeps.
        del sessions
        session = None  # type: ignore[assignment]


def _after_fork_in_child() -> None:
    """The thread is the parent's, and so is what it was to send."""
    global _runs, _looks, _starting, _tick
    _runs = _looks = False
    _due.clear()
    _starting, _tick = allocate_lock(), allocate_lock()
    _tick.acquire()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
