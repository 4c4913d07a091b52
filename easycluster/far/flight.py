"""The flight recorder's place on a host: a process that samples, and memory that outlives it.

The process is a child of the template and goes with it.  What it does is sent by the near side
(:mod:`easycluster.lab.sampler`): a sensor that hangs hangs this process and nothing else, and what
was sampled before can still be read.  The memory is a ring of slots::

    0x00   I   4      length of what is in the slot, 0 while it is written
    0x04   -   n      JSON: {"t": monotonic, "w": seconds since 1970, "v": {"name unit": value},
                      "k": how far the monotonic clock is ahead of the kernel log's, or null}

This module is shipped to the far side.
"""

from __future__ import annotations

import os
import signal
import sys
import zlib
from typing import Any, Callable, Dict, Optional

from easycluster.far import reaper

__all__ = ["SLOT", "SLOTS", "Flight"]

SLOT = 8192
# A minute, and a little for a sample that is late.
SLOTS = 64

_PR_SET_PDEATHSIG = 1


class Flight:
    """The recorder of one session.

    Attributes:
        pid: Its process, 0 before it was started; it may have ended.
    """

    def __init__(self) -> None:
        self.pid = 0
        self._ring: Any = None

    def start(self, source: bytes, settings: Dict[str, Any], leave: Callable[[], None]) -> None:
        """Start it, once in a session.

        Args:
            source: Compressed text of a module with ``main(ring, slot, slots, settings)``.
            settings: For that.
            leave: Run in the child: closes what it must not hold.
        """
        if self.pid:
            return
        # Late: few sessions have one.
        import mmap

        self._ring = mmap.mmap(-1, SLOT * SLOTS)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                signal.set_wakeup_fd(-1)
                for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                    signal.signal(number, signal.SIG_DFL)
                _die_with(parent)
                leave()
                namespace: Dict[str, Any] = {"__name__": "easycluster_sampler"}
                exec(compile(zlib.decompress(source), "<easycluster sampler>", "exec"), namespace)
                namespace["main"](self._ring, SLOT, SLOTS, settings)
            except BaseException:  # noqa: BLE001 - nobody is there to hear of it; what was sampled can be read
                pass
            finally:
                os._exit(0)
        self.pid = pid

    def take(self) -> bytes:
        """Return what was sampled, compressed: the slots with something in them, one a line."""
        ring = self._ring
        found = []
        for at in range(0, SLOT * SLOTS if ring is not None else 0, SLOT):
            length = int.from_bytes(ring[at : at + 4], "little")
            if 0 < length <= SLOT - 4:
                found.append(ring[at + 4 : at + 4 + length])
        return zlib.compress(b"\n".join(found), 1)


def _die_with(parent: int) -> None:
    """End when the parent does, where the system can; else the sampler looks."""
    libc: Optional[Any] = reaper.ctypes
    if libc is not None and sys.platform.startswith("linux"):
        try:
            libc.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        except (OSError, AttributeError):
            pass
    if os.getppid() != parent:
        os._exit(0)
