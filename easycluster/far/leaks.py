"""What a test leaves behind on a host: the state before it, compared with the state after it.

Processes are looked for below the session only.  Mounts, listening ports and files belong to nobody in particular, so
they are compared only where nobody else uses the host.

This module is shipped to the far side; it reads /proc, and finds nothing where there is none.
"""

from __future__ import annotations

import os
import socket
from typing import Any, Collection, Dict, List, Sequence, Set

from easycluster.far.reaper import parents

__all__ = ["Baseline"]

# Entries of one directory that are looked at.
MOST_FILES = 10_000
_LISTEN = "0A"

Leak = Dict[str, Any]


class Baseline:
    """The state at one moment.

    Args:
        root: The process below which everything belongs to the session.
        spared: Processes of ours among those.
        directories: Where files are looked for; "" and missing ones are passed over.
        alone: Whether nobody else uses the host.
    """

    def __init__(self, root: int, spared: Collection[int], directories: Sequence[str], alone: bool) -> None:
        self._root = root
        self._directories = tuple(directories) if alone else ()
        self._alone = alone
        self._processes = set(self._below(spared))
        self._mounts = _mounts() if alone else set()
        self._ports = _ports() if alone else {}
        self._files = self._list_files()

    def compare(self, spared: Collection[int]) -> List[Leak]:
        """Return what is there now and was not then: each has ``kind`` and ``what``."""
        now = self._below(spared)
        # Without a command it has ended, and only waits for its parent to look.
        commands = {pid: _command(pid) for pid in now if pid not in self._processes}
        found: List[Leak] = [
            {"kind": "process", "what": f"{pid} {command}", "pid": pid} for pid, command in commands.items() if command
        ]
        if self._alone:
            found += [{"kind": "mount", "what": where} for where in sorted(_mounts() - self._mounts)]
            ports = _ports()
            found += [
                {"kind": "port", "what": ports[inode]}
                for inode in sorted(ports, key=ports.__getitem__)
                if inode not in self._ports
            ]
        else:
            found += [{"kind": "port", "what": text} for text in sorted(_ports_of(now))]
        found += [{"kind": "file", "what": path} for path in sorted(self._list_files() - self._files)]
        return [leak for leak in found if leak["what"]]

    def _below(self, spared: Collection[int]) -> List[int]:
        return sorted(_descendants(self._root) - set(spared) - {self._root})

    def _list_files(self) -> Set[str]:
        """Files of this account; others' are none of the test's doing, unless it is root's."""
        me = os.geteuid()
        found = set()
        for directory in self._directories:
            try:
                with os.scandir(os.path.expanduser(directory)) as entries:
                    for number, entry in enumerate(entries):
                        if number >= MOST_FILES:
                            break
                        if me == 0 or entry.stat(follow_symlinks=False).st_uid == me:
                            found.add(entry.path)
            except OSError:
                continue
        return {path for path in found if not os.path.basename(path).startswith(_OURS)}


# Made by this library: a keeper's directory, the locks.
_OURS = ("ec-", ".ec-", "easycluster-locks")


def _descendants(root: int) -> Set[int]:
    """A process and all below it."""
    found, fresh = {root}, [root]
    if os.path.exists(f"/proc/{root}/task/{root}/children"):
        while fresh:
            children = _children(fresh.pop()) - found
            found |= children
            fresh += children
        return found
    # A kernel without CONFIG_PROC_CHILDREN: look at every process there is.
    try:
        tree = parents()
    except OSError:
        return set()
    size = 0
    while size != len(found):
        size = len(found)
        found.update([pid for pid, parent in tree.items() if parent in found])
    return found


def _children(pid: int) -> Set[int]:
    found: Set[int] = set()
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found.update(map(int, file.read().split()))
    except OSError:
        pass
    return found


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(400).split(b"\0")
        if any(words):
            return b" ".join(words).decode("utf-8", "replace").strip()[:200]
        with open(f"/proc/{pid}/stat") as file:
            text = file.read()
        # Dead, and waiting for its parent to look.
        return "" if text.rpartition(")")[2].split()[0] == "Z" else text.partition("(")[2].partition(")")[0]
    except (OSError, IndexError):
        return ""


def _mounts() -> Set[str]:
    try:
        with open("/proc/self/mountinfo") as file:
            lines = [line.split() for line in file]
    except OSError:
        return set()
    found = set()
    for fields in lines:
        kind = fields[fields.index("-") + 1] if "-" in fields else "?"
        found.add(f"{fields[4]} ({kind})")
    return found


def _ports() -> Dict[str, str]:
    """Listening TCP ports by the inode of their socket."""
    found = {}
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        try:
            with open(f"/proc/net/{name}") as file:
                lines = file.read().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) > 9 and fields[3] == _LISTEN:
                found[fields[9]] = _address(fields[1], family)
    return found


def _address(text: str, family: int) -> str:
    host, _, port = text.partition(":")
    raw = bytes.fromhex(host)
    # In words of the machine's byte order, which is little on all that we know.
    words = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    shown = socket.inet_ntop(family, words)
    return f"{f'[{shown}]' if ':' in shown else shown}:{int(port, 16)}"


def _ports_of(pids: Sequence[int]) -> List[str]:
    ports = _ports()
    found = []
    for pid in pids:
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        for link in links:
            inode = link[8:-1] if link.startswith("socket:[") else ""
            if inode in ports:
                found.append(ports[inode])
    return found
