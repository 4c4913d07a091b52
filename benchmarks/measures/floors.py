"""What lies below a call: the same bytes, pickles and tags by nothing but a loop on each side.

Each step of the ladder does what the one before did and one thing more, so its price is the difference; the last
step is our client.  Then eight threads: what it costs that they take turns, and calls of eight that have a link each.
And what memory Pythons take that do next to nothing.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
from _thread import allocate_lock
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measures.base import Taken, below, connected, paired, parents, pinned, raw_floor
from benchmarks.measures.many import THREADS, rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.peers.base import Peer

Step = tuple["Callable[[socket.socket, int], int]", "Callable[[socket.socket], None]"]
"""What the near side does for a call, and the far side for all."""

NAMES = {"add": lambda a, b: a + b}
# As long as the records of a call and its answer.
CALL, ANSWER = b"c" * 95, b"a" * 60
READ = 64 << 10
# Of the standard library, what a far side cannot do without.
IMPORTED = "select, signal, socket, struct, sys, threading, traceback, pickle, zlib"


def bytes_near(link: socket.socket, number: int) -> int:
    """Send as many bytes as a call has, and read as many as its answer."""
    link.send(CALL)
    return number + 2 if len(link.recv(READ)) == len(ANSWER) else -1


def bytes_far(link: socket.socket) -> None:
    """Answer."""
    while link.recv(READ):
        link.send(ANSWER)


def pickle_near(link: socket.socket, number: int) -> int:
    """Pickle a call, rebuild an answer."""
    link.send(pickle.dumps((0, "add", (number, 2), {}), 5))
    result: int = pickle.loads(link.recv(READ))
    return result


def pickle_far(link: socket.socket) -> None:
    """Rebuild the call, do it, pickle the answer."""
    while data := link.recv(READ):
        _, name, args, kwargs = pickle.loads(data)
        link.send(pickle.dumps(NAMES[name](*args, **kwargs), 5))


def tagged(framed: bool) -> Step:
    """Return the same with a tag on what is sent, and perhaps with frames."""
    from easycluster.wire.records import Mac

    mac = Mac(b"k" * 32)
    seal, unseal = mac.seal, mac.open
    header = struct.Struct(">IIII")
    counts = {"near": 0}

    def near(link: socket.socket, number: int) -> int:
        count = counts["near"]
        data = pickle.dumps((0, "add", (number, 2), {}), 5)
        if framed:
            data = header.pack(len(data), 2 << 24, count, 0) + data
        link.send(seal(count, data))
        frames = unseal(count, link.recv(READ))
        counts["near"] = count + 1
        if frames is None:
            raise ValueError("a wrong tag")
        if framed:
            if frames[:16] != header.pack(len(frames) - 16, 4 << 24, count, 0):
                raise ValueError("a wrong frame")
            frames = frames[16:]
        result: int = pickle.loads(frames)
        return result

    def far(link: socket.socket) -> None:
        count = 0
        while data := link.recv(READ):
            frames = unseal(count, data)
            if frames is None:
                raise ValueError("a wrong tag")
            request = 0
            if framed:
                length, kind, request, thread = header.unpack_from(frames)
                if kind != 2 << 24 or thread or length != len(frames) - 16:
                    raise ValueError("a wrong frame")
                frames = frames[16:]
            _, name, args, kwargs = pickle.loads(frames)
            answer = pickle.dumps(NAMES[name](*args, **kwargs), 5)
            if framed:
                answer = header.pack(len(answer), 4 << 24, request, 0) + answer
            link.send(seal(count, answer))
            count += 1

    return near, far


@contextlib.contextmanager
def links(count: int, serve: Callable[[socket.socket], None], cpu: int | None) -> Iterator[list[socket.socket]]:
    """Give sockets to a process that serves each in a thread of its own."""
    near: list[socket.socket] = []
    far: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(count):
            near.append(socket.create_connection(listener.getsockname()))
            far.append(listener.accept()[0])
    for end in near + far:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    pid = os.fork()
    if not pid:
        try:
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})
            for end in near:
                end.close()
            threads = [threading.Thread(target=serve, args=(end,)) for end in far[1:]]
            for thread in threads:
                thread.start()
            serve(far[0])
            for thread in threads:
                thread.join()
        finally:
            os._exit(0)
    for end in far:
        end.close()
    try:
        yield near
    finally:
        for end in near:
            end.close()
        os.waitpid(pid, 0)


@contextlib.contextmanager
def here(cpu: int | None) -> Iterator[None]:
    """Keep this process on a core for a block."""
    if cpu is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def core(taken: Taken, far: bool = False) -> int | None:
    """Return the core for a side, None where sides cannot be kept on one."""
    cores = taken.options.cores
    if not cores or not hasattr(os, "sched_setaffinity"):
        return None
    return cores[1 if far and len(cores) > 1 else 0]


def step(taken: Taken, near: Callable[[socket.socket, int], int], far: Callable[[socket.socket], None]) -> Any:
    """Time one step of the ladder, both sides on one core."""
    cpu = core(taken)
    with links(1, far, cpu) as (link,), here(cpu), raw_floor(taken.options) as floor:
        return paired(lambda number: near(link, number), floor, taken.options.seconds / 2)


def turns(count: int) -> list[int]:
    """Let threads take turns: each sleeps on a lock until the last one that came wakes all."""
    sleeping: list[Any] = []
    done: list[int] = []

    def work() -> None:
        for _ in range(count // THREADS):
            done.append(len(done) + 2)
            if len(sleeping) == THREADS - 1:
                locks = sleeping[:]
                del sleeping[:]
                for lock in locks:
                    lock.release()
            else:
                lock = allocate_lock()
                lock.acquire()
                sleeping.append(lock)
                # A thread that has done its part may leave one behind that waits for it.
                lock.acquire(timeout=1)

    together = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    return list(range(2, count + 2))


def in_threads(ends: Sequence[socket.socket], near: Sequence[Callable[[socket.socket, int], int]], count: int) -> Any:
    """Call from several threads, each on its own link."""
    found: list[list[int]] = [[] for _ in ends]

    def work(first: int) -> None:
        call, end = near[first], ends[first]
        found[first] = [call(end, number) for number in range(first, count, len(ends))]

    together = [threading.Thread(target=work, args=(first,)) for first in range(len(ends))]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    return [found[number % len(ends)][number // len(ends)] for number in range(count)]


def own(taken: Taken, kinds: Sequence[Step]) -> dict[str, float]:
    """Time threads that have a link each to a thread each of one process, every side on a core of its own."""
    far = kinds[0][1]
    with links(THREADS, far, core(taken, far=True)) as ends, here(core(taken)):
        return rate(functools.partial(in_threads, ends, [near for near, _ in kinds]), taken)


def memory() -> dict[str, float]:
    """Return what a Python has that has only imported, and what a forked one has of its own after a call, in MiB."""
    command = [sys.executable, "-I", "-S", "-c", f"import {IMPORTED}; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as bare:
        assert bare.stdout is not None
        bare.stdout.readline()
        found = {"bare_mib": measured(bare.pid, "Rss")}
        bare.communicate()
    with links(1, pickle_far, None) as (link,):
        pickle_near(link, 1)
        (child,) = below({os.getpid()}, parents()) - {os.getpid()}
        found["parted_mib"] = measured(child, "Private_")
        found["three_mib"] = 3 * found["parted_mib"]
    return found


def measured(pid: int, kind: str) -> float:
    """Return the memory of a process in MiB, all of a kind."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(each.split()[1]) for each in lines if each.startswith(kind)) / 1024


def run(peer: Peer, taken: Taken) -> None:
    """Measure: the steps first, while this process has one thread."""
    ladder: dict[str, Step] = {
        "bytes": (bytes_near, bytes_far),
        "pickle": (pickle_near, pickle_far),
        "tags": tagged(framed=False),
        "frames": tagged(framed=True),
    }
    for name, (near, far) in ladder.items():
        taken.part(name, functools.partial(step, taken, near, far))
    taken.part("memory", memory)
    taken.part("ownpickle", lambda: own(taken, [ladder["pickle"]] * THREADS))
    taken.part("owntags", lambda: own(taken, [tagged(framed=False) for _ in range(THREADS)]))
    with here(core(taken)):
        taken.part("turns", lambda: rate(turns, taken))
    with connected(peer) as session, pinned(session, taken.options, two=False), raw_floor(taken.options) as floor:
        seconds = taken.options.seconds
        taken.part("client", lambda: paired(lambda number: session.add(number, 2), floor, seconds))
