"""What of a box is on this machine: processes, namespaces, devices, mounts and its folder."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

__all__ = ["Traces"]

KINDS = ("pid", "net", "mnt", "uts", "ipc", "time")


class Traces:
    """What a running box has, to be looked for when it is over.

    Args:
        folder: Of the box.
        supervisor: Its outer process.
    """

    def __init__(self, folder: Path, supervisor: int) -> None:
        self.folder = folder
        self.processes = _below(supervisor)
        ours = {_namespace("self", kind) for kind in KINDS}
        self.namespaces = {_namespace(pid, kind) for pid in self.processes for kind in KINDS} - ours - {""}
        # Of its device the name says the addresses, which the inventory has, too.
        address = folder.joinpath("hosts").read_text().splitlines()[-1].split()[0]
        self.device = "lb" + "-".join(address.split(".")[:3])
        self._started = {pid: _started(pid) for pid in self.processes}
        # In ticks since the boot.  Who was started later has the same numbers by chance: they are used again.
        self._seen = float(Path("/proc/uptime").read_text().split()[0]) * os.sysconf("SC_CLK_TCK")

    def left(self) -> list[str]:
        """What is still there."""
        found = [f"process {pid}" for pid, start in self._started.items() if start and _started(pid) == start]
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(_started(entry) or self._seen + 1) <= self._seen:
                held = {_namespace(entry, kind) for kind in KINDS} & self.namespaces
                found += [f"{name} of process {entry}" for name in held]
        found += [f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if self._ours(line)]
        if Path(f"/sys/class/net/{self.device}").exists():
            found.append(f"device {self.device}")
        if self.folder.exists():
            found.append(f"folder {self.folder}")
        return found

    def _ours(self, mount: str) -> bool:
        return str(self.folder) in mount or any(name in mount for name in self.namespaces)

    def wait_for_end(self, timeout: float = 30.0, ignore: str = "-") -> list[str]:
        """What is left after so many seconds; returns as soon as nothing is, but for what begins with ``ignore``."""
        end = time.monotonic() + timeout
        while (left := [what for what in self.left() if not what.startswith(ignore)]) and time.monotonic() < end:
            time.sleep(0.02)
        return left


def _below(pid: int) -> list[int]:
    """A process and everything it has started."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, IndexError):
            if entry.isdigit():
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def _started(pid: object) -> str:
    """Which process has this pid, "" if none; one that nobody has waited for yet is over."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    return ""


def _namespace(pid: object, kind: str) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    return ""
