"""What this process and the far sides under it use."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from support.owners import family, processes

__all__ = ["Use", "grown", "in_use", "quiet", "settled"]

# The same on both sides: objects whose class is ours.
COUNT_OURS = """
import gc
from collections import Counter
gc.collect()
kinds = [type(each) for each in gc.get_objects()]
exec_return(dict(Counter(
    "%s.%s" % (kind.__module__, kind.__name__)
    for kind in kinds
    if isinstance(kind.__module__, str) and kind.__module__.partition(".")[0] == "easycluster"
)))
"""


@dataclass
class Use:
    """What is used at one moment.

    Attributes:
        rss: Of this process, in KiB.
        pss: Of all far-side processes under it, in KiB.
        descriptors: Of this process.
        far_descriptors: Of the others together.
        threads: Of this process.
        far_threads: Of the others together.
        processes: How many others there are.
        objects: Of our classes, in this process.
        far_objects: Of our classes, in the workers.
        kinds: All these objects by class, those of the workers marked as far.
    """

    rss: int
    pss: int
    descriptors: int
    far_descriptors: int
    threads: int
    far_threads: int
    processes: int
    objects: int
    far_objects: int = 0
    kinds: Counter = field(default_factory=Counter, repr=False, compare=False)

    def counts(self):
        """Return what must be the same afterwards, to the last one."""
        return {
            name: getattr(self, name)
            for name in (
                "descriptors", "far_descriptors", "threads", "far_threads", "processes", "objects", "far_objects",
            )
        }  # fmt: skip


def in_use(clients=()):
    """Return what is in use now; the clients' workers are asked for their objects."""
    far = Counter()
    for client in clients:
        far.update({f"far {name}": count for name, count in client.execblock(COUNT_OURS).items()})
    gc.collect()
    # What malloc keeps for later is no growth.
    ctypes.CDLL(None).malloc_trim(0)
    kinds = Counter(
        f"{kind.__module__}.{kind.__qualname__}"
        for kind in map(type, gc.get_objects())
        if isinstance(kind.__module__, str) and kind.__module__.partition(".")[0] == "easycluster"
    )
    others = {process.pid for process in family(os.getpid(), processes())} - {os.getpid()}
    return Use(
        rss=_kib(Path("/proc/self/status"), "VmRSS:"),
        pss=sum(_kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") for pid in others),
        descriptors=len(os.listdir("/proc/self/fd")),
        far_descriptors=sum(_entries(f"/proc/{pid}/fd") for pid in others),
        threads=threading.active_count(),
        far_threads=sum(_entries(f"/proc/{pid}/task") for pid in others),
        processes=len(others),
        objects=kinds.total(),
        far_objects=far.total(),
        kinds=kinds + far,
    )


def quiet(seconds=5.0, clients=()):
    """Wait until what was closed just now is gone, so that it does not count as used before."""
    end = time.monotonic() + seconds
    last = in_use(clients)
    while time.monotonic() < end:
        time.sleep(0.2)
        now = in_use(clients)
        if now.counts() == last.counts():
            break
        last = now
    return last


def settled(before, clients=(), seconds=30.0):
    """Wait until no count is higher than before; return what is in use then, whether or not it is so."""
    end = time.monotonic() + seconds
    while True:
        now = in_use(clients)
        if not grown(before, now) or time.monotonic() > end:
            return now
        time.sleep(0.05)


def grown(before, now):
    """Return which counts are higher than before, and by how much."""
    old = before.counts()
    more = {name: count - old[name] for name, count in now.counts().items()}
    return {name: count for name, count in more.items() if count > 0}


def _kib(path, name):
    try:
        lines = path.read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def _entries(folder):
    try:
        return len(os.listdir(folder))
    except OSError:
        return 0
