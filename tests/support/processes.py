"""Whether processes are there, by their ids."""

from __future__ import annotations

import time
from pathlib import Path

__all__ = ["GONE", "exists", "wait_until_gone"]

# Seconds in which everything behind what has ended is gone.
GONE = 2.0


def exists(pid):
    """Return whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_gone(pids, seconds=GONE):
    """Return which of the processes are still there after that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(map(exists, pids)):
        time.sleep(0.01)
    return [pid for pid in pids if exists(pid)]
