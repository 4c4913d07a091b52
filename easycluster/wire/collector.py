"""Python's garbage collector rests while a large value is rebuilt.

Each few hundred new objects make the collector look at young ones for cycles, and again and again at
all.  None of what a pickle makes is garbage yet: 100,000 records took 128 ms with it and 58 without.

Imported when a large value arrives.  This module is shipped to the far side.
"""

from __future__ import annotations

import gc
import sys
from _thread import get_ident
from typing import Set

__all__ = ["MOST", "pause", "resume"]

# 64 MiB of pickle, a second or so.  What other threads leave behind is not to pile up for longer.
MOST = 64 << 20

# Threads that rebuild something meanwhile.  Signals may leave some here, and the collector on or off; the
# next large value sets that right.
_rebuilding: Set[int] = set()


def pause() -> None:
    """Let the collector rest until this thread calls :func:`resume`, unless it is turned off anyway."""
    if gc.isenabled():
        _rebuilding.clear()
    elif not _rebuilding:
        return
    _rebuilding.add(get_ident())
    gc.disable()


def resume() -> None:
    """Let it work on, if this thread has paused it and no other still rebuilds something."""
    ident = get_ident()
    if ident in _rebuilding:
        if len(_rebuilding) > 1 and (_rebuilding - {ident}) & sys._current_frames().keys():
            _rebuilding.discard(ident)
        else:
            gc.enable()
            _rebuilding.clear()
