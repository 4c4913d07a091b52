"""Many hosts: one call to eight, gathered; and 32 ssh hosts brought up at once, beside one and beside plain ssh."""

from __future__ import annotations

import contextlib
import functools
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from benchmarks import machine
from benchmarks.measures.base import Taken, repeated
from benchmarks.peers.base import FAR, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.peers.base import Peer, Session

HOSTS = 8
STEPS = (1, 2, 4, 8, 16, 32)


def gathered(peers: list[Peer], taken: Taken) -> dict[str, float]:
    """Call eight hosts, each with a server of its own, and gather what they say.

    Raises:
        ValueError: If an answer is wrong.
    """
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(contextlib.closing(stack.enter_context(peer).open())) for peer in peers]
        for session in sessions:
            session.add(1, 2)
        together = together_of(sessions)

        def once() -> None:
            if together() != [3] * HOSTS:
                raise ValueError("a host cannot add")

        for _ in range(10):
            once()
        times = repeated(once, taken.options.seconds, least=10)
    return {"ms": statistics.median(times) * 1e3, "p99_ms": sorted(times)[int(len(times) * 0.99)] * 1e3}


def together_of(sessions: list[Session]) -> Callable[[], list[Any]]:
    """Return what calls ``add`` on all: the way the peer has for it, else all are begun and then waited for."""
    everywhere = sessions[0].everywhere(sessions, "add", 1, 2)
    if everywhere is not None:
        return everywhere

    def begun_and_waited_for() -> list[Any]:
        started = [session.start("add", 1, 2) for session in sessions]
        return [session.gather([each])[0] for session, each in zip(sessions, started, strict=True)]

    return begun_and_waited_for


def run_gathered(peer: Peer, taken: Taken) -> None:
    """Measure one call to eight."""
    sys.path.insert(0, str(FAR))
    taken.part("gathered", lambda: gathered([type(peer)(peer.settings) for _ in range(HOSTS)], taken))


def used_share(before: list[int], after: list[int]) -> float:
    """Return which share of all cores' time was used between two rows of /proc/stat."""
    total = sum(after) - sum(before)
    return (machine.busy(after) - machine.busy(before)) / total if total else 0.0


def up(count: int, bring_up: Callable[[int], Any], taken: Taken) -> dict[str, float]:
    """Bring so many hosts up at once, twice; returns the median, and how busy the cores were."""
    times, shares = [], []
    with ThreadPoolExecutor(count) as pool:
        for _ in range(1 if taken.options.small else 2):
            before = machine.ticks().get("cpu", [])
            begin = time.perf_counter()
            sessions = list(pool.map(bring_up, range(count)))
            times.append(time.perf_counter() - begin)
            after = machine.ticks().get("cpu", [])
            shares.append(used_share(before, after))
            list(pool.map(lambda session: session.close() if session else None, sessions))
    return {"ms": statistics.median(times) * 1e3, "busy": statistics.median(shares)}


def run_up(peer: Peer, taken: Taken) -> None:
    """Measure hosts that are brought up over ssh; of the raw peer, ``ssh host python3 -c pass``."""
    if not peer.settings:
        raise Unsupported("no sshd here: install openssh-server")
    peer.lean = True
    plain = type(peer).__name__ == "RawSsh"

    def bring_up(_number: int) -> Session | None:
        if plain:
            subprocess.run([*peer.ssh, "python3 -c pass"], stdin=subprocess.DEVNULL, check=True)
            return None
        session = peer.open()
        if session.add(2, 3) != 5:
            raise ValueError("the far side cannot add")
        return session

    with peer:
        bring_up(0)
        for count in STEPS[:3] if taken.options.small else STEPS:
            taken.part(f"up{count}", functools.partial(up, count, bring_up, taken))
