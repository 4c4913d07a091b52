"""Many at once, and many one after the other."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

from easycluster import Client, generate_key
from easycluster.server import Server, spawn_local

from .ledger import DEFINITIONS
from .resources import grown, in_use, quiet, settled

__all__ = ["MEMORY", "connects", "crowd", "references", "server"]

# KiB that a process may have more than when it was warm: what allocators do with fragments.
MEMORY = 12 * 1024

# What the first sessions of a process make for good.
WARM = 5


@contextlib.contextmanager
def server():
    """Serve in a thread of this process; the value opens a session of ours."""
    key = generate_key()
    with Server(0, key, bind="127.0.0.1", max_sessions=128) as served:
        served.start()
        yield lambda clientclass=Client: clientclass(key, "127.0.0.1", served.port, definitions=DEFINITIONS)


def opener(transport, over_tcp):
    """Return what opens a session over a transport."""
    return over_tcp if transport == "tcp" else lambda: spawn_local(Client, definitions=DEFINITIONS)


def crowd(open_one, count=64):
    """Open so many sessions at once, use them all at once, and close them.

    Returns:
        What was measured, and what is wrong.
    """
    open_one().close()
    before = quiet()
    with ThreadPoolExecutor(count) as pool:
        begin = time.monotonic()
        clients = list(pool.map(lambda _: open_one(), range(count)))
        opened = time.monotonic() - begin
        try:
            begin = time.monotonic()
            pids = list(pool.map(lambda client: client.os.getpid(), clients))
            answered = time.monotonic() - begin
        finally:
            begin = time.monotonic()
            list(pool.map(Client.close, clients))
            closed = time.monotonic() - begin
    different = len(set(pids))
    del clients
    wrong = [] if different == count else [f"{different} workers instead of {count}"]
    wrong += left(before)
    return {"opened_s": opened, "answered_s": answered, "closed_s": closed}, wrong


def connects(open_one, count):
    """Connect, call and close so many times, one after the other."""

    def once(number):
        with open_one() as client:
            assert client.eval("3 * 7") == 21, number

    for number in range(WARM):
        once(number)
    before = quiet()
    begin = time.monotonic()
    for number in range(count):
        once(number)
    each = (time.monotonic() - begin) / count
    return {"each_ms": each * 1000}, left(before, memory=True)


def references(open_one, count):
    """Make and drop so many references, one by one and in heaps, while calls go on."""
    with open_one() as client:
        client.note_in("/dev/null")

        def make(number):
            for index in range(number // 2):
                assert client.Thing(index).token == index
            heap = client.eval(f"[Thing(index) for index in range({number - number // 2})]")
            assert len({thing._oid for thing in heap}) == len(heap)
            del heap[:]
            client.note(0)

        make(2000)
        before = in_use([client])
        begin = time.monotonic()
        for _ in range(max(1, count // 2000)):
            make(2000)
        each = (time.monotonic() - begin) / count
        wrong = left(before, [client], memory=True)
    return {"each_us": each * 1e6}, wrong


def left(before, clients=(), memory=False):
    """Return what is used more than before."""
    now = settled(before, clients)
    wrong = [f"{count} more {name} than before" for name, count in grown(before, now).items()]
    if wrong:
        wrong.append(f"more of: {dict(now.kinds - before.kinds)}")
    if memory:
        wrong += memory_grown(before, now)
    return wrong


def memory_grown(before, now, far=1):
    """Return which memory has grown beyond what allocators do."""
    wrong = []
    if now.rss > before.rss + MEMORY:
        wrong.append(f"this process grew from {before.rss} to {now.rss} KiB")
    if now.pss > before.pss + MEMORY * far:
        wrong.append(f"the far processes grew from {before.pss} to {now.pss} KiB")
    return wrong
