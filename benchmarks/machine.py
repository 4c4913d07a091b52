"""The machine: what it is, which cores are idle, and whether something else ran on it while it was measured."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path

# Of one core, while we did nothing: more, and a figure is of the machine's other work too.
MOST_FOREIGN = 0.15
# Of the raw ping-pong's medians in the children of a measure, the slowest tenth by the fastest.
MOST_SPREAD = 1.5


def cores() -> list[int]:
    """Return the cores that may be used."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def ticks() -> dict[str, list[int]]:
    """Return the rows of /proc/stat for the cores; empty where there is none."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return {}
    rows = [line.split() for line in lines if line.startswith("cpu")]
    return {row[0]: [int(word) for word in row[1:9]] for row in rows}


def busy(row: list[int]) -> int:
    """Return the ticks in which a core did something, or was taken away by whoever runs this machine."""
    return sum(row) - row[3] - row[4]


def foreign(seconds: float = 0.4) -> float:
    """Do nothing for a moment and return how many cores others kept busy meanwhile."""
    before = ticks()
    begin = time.monotonic()
    time.sleep(seconds)
    after = ticks()
    if "cpu" not in before:
        return 0.0
    used = busy(after["cpu"]) - busy(before["cpu"])
    return used / os.sysconf("SC_CLK_TCK") / (time.monotonic() - begin)


def by_idleness(seconds: float = 0.4) -> list[int]:
    """Return the cores, the one that was idle most in the next moments first."""
    before = ticks()
    time.sleep(seconds)
    after = ticks()

    def used(core: int) -> int:
        name = f"cpu{core}"
        return busy(after[name]) - busy(before[name]) if name in before else 0

    return sorted(cores(), key=lambda core: (used(core), core))


def about() -> dict[str, str]:
    """Return what a reader of the figures must know of the machine."""
    found = {
        "system": f"{platform.system()} {platform.release()}",
        "processor": processor(),
        "cores": str(len(cores())),
        "memory": memory(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    ssh = shutil.which("ssh")
    if ssh:
        said = subprocess.run([ssh, "-V"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        found["ssh"] = said.stderr.strip()
    return found


def processor() -> str:
    """Return what the processor calls itself."""
    with contextlib.suppress(OSError):
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if match:
            return match[1]
    return platform.processor() or platform.machine()


def memory() -> str:
    """Return how much memory there is."""
    with contextlib.suppress(OSError, ValueError):
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GiB"
    return "unknown"


def load() -> float:
    """Return how many processes wanted to run in the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
