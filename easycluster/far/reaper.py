"""What ends processes that others have left behind.

As *subreaper* (prctl(2), Linux) a process becomes the parent of whatever its descendants leave
behind, daemons with sessions of their own included.  The template is one, and so is the keeper:
should the template be killed, what hung on it falls to the keeper.

This module is shipped to the far side.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, Collection, Dict, List, Set

ctypes: Any
try:
    # Early, so that the processes of a session share it.
    import ctypes
except ImportError:
    ctypes = None

__all__ = ["become_subreaper", "kill_children", "kill_group", "parents", "trim"]

_PR_SET_CHILD_SUBREAPER = 36


# Generations of children after which they are taken for a fork bomb.
FERTILE = 4


def become_subreaper() -> bool:
    """Become the parent of orphaned descendants, where the system can; return whether it could."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def trim() -> None:
    """Give free memory back, before it is shared: what a start has used once is half a megabyte (malloc_trim(3))."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        pass


def kill_children(spared: Collection[int] = ()) -> None:
    """Kill every child but some, and whatever falls to this process by that."""
    beyond_us = set(spared)
    for generation in range(100):
        if generation and generation % FERTILE == 0:
            _stop_descendants(beyond_us)
        children = [pid for pid in _children() if pid not in beyond_us]
        # What runs as somebody else (sudo) would be waited for in vain.
        beyond_us.update([pid for pid in children if not kill_group(pid)])
        children = [pid for pid in children if pid not in beyond_us]
        if not children:
            return
        for pid in children:
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                pass


def _stop_descendants(spared: Collection[int]) -> None:
    """Stop everything below this process but some, so that nothing forks faster than it is killed."""
    stopped: Set[int] = set()
    for _round in range(100):
        tree = {pid: parent for pid, parent in parents().items() if pid not in spared}
        below = {os.getpid()}
        size = 0
        while size != len(below):
            size = len(below)
            below.update([pid for pid, parent in tree.items() if parent in below])
        fresh = below - stopped - {os.getpid()}
        if not fresh:
            return
        for pid in fresh:
            try:
                os.kill(pid, signal.SIGSTOP)
            except OSError:
                pass
        stopped |= fresh


def parents() -> Dict[int, int]:
    """Return the parent of every process."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as stat:
                    found[int(name)] = int(stat.read().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
    return found


def _children() -> List[int]:
    """Return the children of this process, [] where the system does not tell."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as listing:
            return [int(pid) for pid in listing.read().split()]
    except (OSError, ValueError):
        return _children_by_status()


def _children_by_status() -> List[int]:
    """As :func:`_children`, for kernels without CONFIG_PROC_CHILDREN."""
    me = os.getpid()
    found = []
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    for name in names:
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as stat:
                    if int(stat.read().rpartition(")")[2].split()[1]) == me:
                        found.append(int(name))
            except (OSError, ValueError, IndexError):
                continue
    return found


def kill_group(pid: int) -> bool:
    """Kill a process and its group, if it leads one; return whether we may kill it."""
    allowed = True
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        except PermissionError:
            allowed = kill is not os.kill
    return allowed
