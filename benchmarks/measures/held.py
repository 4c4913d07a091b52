"""What one controller holds, from one session to 256 or more: what each costs, and where it bends; memory there."""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measures.base import Taken, below, line_of, name_of, parents, repeated
from benchmarks.peers.base import FAR

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.peers.base import Peer, Session

STEPS = (1, 4, 16, 64, 128, 256, 512, 1000)
# Sessions beyond the first by which the memory of a further one is told.
FURTHER = 8


def is_python(pid: int) -> bool:
    """Whether a process is a Python; ssh and sshd are not counted."""
    try:
        return "python" in os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return False


def pss(pids: set[int]) -> float:
    """Return the proportional set size of processes in MiB: pages that several share count once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(each.split()[1]) for each in lines if each.startswith("Pss:"))
    return total / 1024


def far_processes(sessions: list[Session]) -> set[int]:
    """Return the Pythons of the far sides: those that answer, what they descend from and what descends from that."""
    above = parents()
    roots = set()
    for session in sessions:
        line = line_of(session.call("process_id"), above)
        # Over ssh the sshd of the session is the root, and not the listener that serves others too.
        pythons = [pid for pid in line if is_python(pid)]
        roots.add(above.get(pythons[-1], 0) if len(line) > len(pythons) else pythons[-1])
    return {pid for pid in below(roots - {os.getpid(), 0, 1}, above) if is_python(pid)}


def memory(peer: Peer) -> dict[str, float]:
    """Hold one session, then some more, and see what the processes take."""
    with peer, contextlib.ExitStack() as stack:
        sessions: list[Session] = []

        def used() -> float:
            sessions.append(stack.enter_context(contextlib.closing(peer.open())))
            sessions[-1].add(2, 3)
            return pss(far_processes(sessions))

        first = used()
        for _ in range(FURTHER):
            last = used()
        found = {"first_mib": first, "further_mib": (last - first) / FURTHER}
        clients = {pid for pid in below({os.getpid()}, parents()) if name_of(pid) == "ssh"}
        if clients:
            found["ssh_mib"] = pss(clients) / len(sessions)
        return found


def run_memory(peer: Peer, taken: Taken) -> None:
    """Measure the far side's memory."""
    sys.path.insert(0, str(FAR))
    peer.lean = True
    taken.part("memory", lambda: memory(peer))


def resident() -> int:
    """Return what memory this process has, in KiB."""
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmRSS"))
    return int(line.split()[1])


def look(sessions: list[Session], opened: float, before: int, taken: Taken) -> dict[str, float]:
    """Return what sessions cost that are held."""
    count = len(sessions)
    everywhere = sessions[0].everywhere(sessions, "add", 1, 2)
    assert everywhere is not None
    if everywhere() != [3] * count:
        raise ValueError("a host cannot add")
    seconds = taken.options.seconds / 2
    return {
        "open_ms": opened * 1e3,
        "call_us": statistics.median(repeated(lambda: sessions[0].add(1, 2), seconds / 4, least=20)) * 1e6,
        "all_us": statistics.median(repeated(everywhere, seconds, least=3)) * 1e6 / count,
        "near_kib": (resident() - before) / count,
        "far_mib": pss(far_processes(sessions)) / count,
        "descriptors": len(os.listdir("/proc/self/fd")) / count,
        "threads": threading.active_count() / count,
    }


def run_held(peer: Peer, taken: Taken) -> None:
    """Open more and more sessions, some at a time, and look at each step."""
    sys.path.insert(0, str(FAR))
    peer.lean = True
    sessions: list[Session] = []
    steps = [count for count in STEPS if count <= (4 if taken.options.small else taken.options.sessions)]

    def step(count: int, before: int, open_one: Callable[[int], Session]) -> dict[str, float]:
        more = count - len(sessions)
        begin = time.perf_counter()
        with ThreadPoolExecutor(min(8, more)) as pool:
            sessions.extend(pool.map(open_one, range(more)))
        return look(sessions, (time.perf_counter() - begin) / more, before, taken)

    with peer:
        warm = peer.open()
        warm.add(1, 2)
        before = resident()
        try:
            for count in steps:
                taken.part(f"held{count}", functools.partial(step, count, before, lambda _: peer.open()))
        finally:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda session: session.close(), [warm, *sessions]))
