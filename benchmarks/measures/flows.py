"""What flows: files over ssh beside scp, a million lines of output, a stream of 100,000 items, sizes, and threads."""

from __future__ import annotations

import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measures.base import Taken, connected, megabytes, pinned, repeated
from benchmarks.measures.many import in_threads, rate
from benchmarks.peers.base import FAR, Session, Unsupported

if TYPE_CHECKING:
    from benchmarks.peers.base import Peer


LINES = 1_000_000
ITEMS = 100_000
SIZES = (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 64 << 20)
CROWDS = (1, 2, 4, 8, 16, 32)


# ---------------------------------------------------------------- files


def run_files(peer: Peer, taken: Taken) -> None:
    """Move a file of random bytes; ``scp`` over a connection that stands already, as ours does."""
    from easycluster import remote

    if not peer.settings:
        raise Unsupported("no sshd here: install openssh-server")
    size = taken.options.bulk
    host = peer.settings["ssh_master"]
    scp = ["scp", "-q", "-F", peer.settings["ssh_config"]]
    master = ["ssh", "-F", peer.settings["ssh_config"]]
    with tempfile.TemporaryDirectory() as temporary, connected(peer) as session:
        folder = Path(temporary)
        source, target = folder / "source", folder / "target"
        source.write_bytes(os.urandom(size))
        client: Any = session.client  # type: ignore[attr-defined]  # of ours only
        subprocess.run([*master, host, "true"], stdin=subprocess.DEVNULL, check=True)

        def ours(way: Any) -> None:
            way(client, str(source), str(target))

        def theirs(command: list[str]) -> None:
            subprocess.run(command, stdin=subprocess.DEVNULL, check=True)

        def both(way: Any, command: list[str]) -> dict[str, float]:
            here: list[float] = []
            there: list[float] = []
            for _ in range(2 if taken.options.small else 4):
                here += repeated(lambda: ours(way), 0, least=1)
                if target.read_bytes() != source.read_bytes():
                    raise ValueError("the file did not arrive whole")
                target.unlink()
                there += repeated(lambda: theirs(command), 0, least=1)
                target.unlink()
            return {
                "mbs": megabytes(size, statistics.median(here[1:])),
                "scp_mbs": megabytes(size, statistics.median(there[1:])),
                "share": statistics.median(b / a for a, b in zip(here[1:], there[1:], strict=True)),
            }

        try:
            taken.part("put", lambda: both(remote.put, [*scp, str(source), f"{host}:{target}"]))
            taken.part("get", lambda: both(remote.get, [*scp, f"{host}:{source}", str(target)]))
        finally:
            subprocess.run([*master, "-O", "exit", host], stderr=subprocess.DEVNULL, check=False)


# ---------------------------------------------------------------- output and streams


def output_rate(session: Session, taken: Taken) -> dict[str, float]:
    """Have the far side print, and count what arrives.

    Raises:
        ValueError: If a line is missing.
    """
    lines = LINES // 100 if taken.options.small else LINES
    client: Any = session.client  # type: ignore[attr-defined]  # of ours only
    arrived = 0

    def count(_stream: str, text: str) -> None:
        nonlocal arrived
        arrived += text.count("\n")

    client.on_output = count
    begin = time.perf_counter()
    session.call("print_lines", lines)
    client.flush_output()
    seconds = time.perf_counter() - begin
    if arrived != lines:
        raise ValueError(f"{arrived} of {lines} lines arrived")
    return {"rate": lines / seconds}


def raw_output_rate(taken: Taken) -> dict[str, float]:
    """Have a child print as much on a pipe."""
    lines = LINES // 100 if taken.options.small else LINES
    code = f"import sys; sys.path.insert(0, {str(FAR)!r}); import bench_far; bench_far.print_lines({lines})"
    begin = time.perf_counter()
    said = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout
    seconds = time.perf_counter() - begin
    if said.count(b"\n") != lines:
        raise ValueError("lines are missing")
    return {"rate": lines / seconds}


def run_output(peer: Peer, taken: Taken) -> None:
    """Measure far-side output; of the raw peer, a child's."""
    if type(peer).__name__ == "RawPipes":
        taken.part("output", lambda: raw_output_rate(taken))
        return
    with connected(peer) as session:
        taken.part("output", lambda: output_rate(session, taken))


def stream_rate(session: Session, taken: Taken) -> dict[str, float]:
    """Iterate over a far-side generator, over fewer items where that takes long.

    Raises:
        ValueError: If an item is missing.
    """

    def once(count: int) -> float:
        begin = time.perf_counter()
        number = -1
        for at, number in enumerate(session.stream(count)):
            if at != number:
                raise ValueError(f"item {number} at place {at}")
        if number != count - 1:
            raise ValueError(f"the stream ended at {number}")
        return time.perf_counter() - begin

    small = ITEMS // 100
    one = once(small) / small
    count = ITEMS if one * ITEMS < 4 and not taken.options.small else small
    return {"rate": count / statistics.median(once(count) for _ in range(3)), "items": count}


def run_stream(peer: Peer, taken: Taken) -> None:
    """Measure a stream."""
    with connected(peer) as session:
        taken.part("stream", lambda: stream_rate(session, taken))


# ---------------------------------------------------------------- how it scales


def fetch_time(session: Session, size: int, taken: Taken) -> dict[str, float]:
    """Return how long bytes of a size take from the far side.

    Raises:
        ValueError: If they did not arrive whole.
    """
    session.call("keep", "make_bytes", size)
    if len(session.fetch("make_bytes")) != size:
        raise ValueError("not all arrived")
    times = repeated(lambda: session.fetch("make_bytes"), taken.options.seconds / 2, least=3)
    return {"us": statistics.median(times) * 1e6}


def run_sizes(peer: Peer, taken: Taken) -> None:
    """Measure bytes of growing size."""
    with connected(peer) as session, pinned(session, taken.options, two=len(taken.options.cores) > 1):
        for size in SIZES[:4] if taken.options.small else SIZES:
            taken.part(f"size{size}", functools.partial(fetch_time, session, size, taken))


def run_threads(peer: Peer, taken: Taken) -> None:
    """Measure more and more threads that share a session, or have their own where it cannot be shared."""
    with connected(peer) as session:

        def crowd(count: int) -> dict[str, float]:
            one = session.for_thread if peer.shared else functools.partial(peer.own, session)
            sessions = [one() for _ in range(count)]
            try:
                with pinned(session, taken.options, two=len(taken.options.cores) > 1):
                    return rate(functools.partial(in_threads, sessions), taken)
            finally:
                for each in sessions:
                    if each is not session:
                        each.close()

        for count in CROWDS[:3] if taken.options.small else CROWDS:
            taken.part(f"threads{count}", functools.partial(crowd, count))
