"""Measure what a session costs before its first call, and print one JSON line; ``python -m benchmarks`` starts it.

By hand: ``python connects.py WHAT COUNT '{"ssh_config": ..., "ssh_host": ...}'``, one of the names in WHATS, from a
checkout that is on PYTHONPATH.

Not pinned to a core: a connect is the work of several processes at once.  Beside each figure stands a floor measured
in turn with it: the start of a bare interpreter, or ``ssh host python3 -c pass``.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# What a far side's processes have on their command lines; ssh and sshd show them too, and are not Python.
OURS = ("binascii.unhexlify(", "_signal.alarm(60)", "sock=socket.socket(fileno=")

# Sessions beyond the first by which the cost of a further one is told.
FURTHER = 8

Settings = dict[str, str]
Open = Callable[[], Any]


@contextlib.contextmanager
def over_tcp(settings: Settings) -> Iterator[Open]:
    """Serve in a process of its own; gives what opens a session there."""
    from benchmarks.child import served
    from easycluster import Client, generate_key, write_key_file

    with tempfile.TemporaryDirectory() as folder:
        key = generate_key()
        write_key_file(f"{folder}/key", key)
        with served("-k", f"{folder}/key") as port:
            yield lambda: Client(key, "127.0.0.1", port)


@contextlib.contextmanager
def spawned(settings: Settings) -> Iterator[Open]:
    """Start a far side on this machine."""
    from easycluster.server import spawn_local

    yield spawn_local


@contextlib.contextmanager
def over_ssh(settings: Settings) -> Iterator[Open]:
    """Log in with the user's ssh."""
    from easycluster import Client

    yield lambda: Client(host=settings["ssh_host"], ssh=True, extra_args=("-F", settings["ssh_config"]))


TRANSPORTS = {"tcp": over_tcp, "spawned": spawned, "ssh": over_ssh}


def milliseconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long a function takes, and what it returns."""
    begin = time.perf_counter()
    value = function()
    return (time.perf_counter() - begin) * 1000, value


def interpreter(*words: str) -> Callable[[], Any]:
    """Return what runs this Python with these arguments."""
    return lambda: subprocess.run([sys.executable, *words], check=True)


def connect(transport: str, count: int, settings: Settings) -> dict[str, float]:
    """Connect, make the first call and close, so many times one after the other."""
    floor = interpreter("-c", "pass")
    if transport == "ssh":
        plain = ["ssh", "-F", settings["ssh_config"], settings["ssh_host"], "python3 -c pass"]
        floor = lambda: subprocess.run(plain, check=True)  # noqa: E731
    times, floors = [], []
    with TRANSPORTS[transport](settings) as open_one:
        open_one().close()

        def first_call() -> Any:
            client = open_one()
            if client.eval("3 * 7") != 21:
                raise ValueError("the far side cannot count")
            return client

        for number in range(count):
            if transport != "tcp" or number % 20 == 0:
                floors.append(milliseconds(floor)[0])
            taken, client = milliseconds(first_call)
            client.close()
            times.append(taken)
    times.sort()
    middle, beside = statistics.median(times), statistics.median(floors)
    return {"median_ms": middle, "p90_ms": times[len(times) * 9 // 10], "floor_ms": beside, "more_ms": middle - beside}


def importing(count: int, settings: Settings) -> dict[str, float]:
    """Start Python with ``import easycluster``, and without, in turn."""
    without, imported = [], []
    for _ in range(count + 1):
        without.append(milliseconds(interpreter("-c", "pass"))[0])
        imported.append(milliseconds(interpreter("-c", "import easycluster"))[0])
    beside, middle = statistics.median(without[1:]), statistics.median(imported[1:])
    return {"median_ms": middle, "floor_ms": beside, "more_ms": middle - beside}


def parents() -> dict[int, int]:
    """Return the parent of every process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return found


def far_memory(clients: list[Any]) -> float:
    """Return the proportional set size of the far-side processes of all clients, in MiB."""
    above = parents()
    # Over ssh they hang on sshd, else on us.
    roots = {
        os.getpid(),
        *(above.get((client._endpoint.control.hello or {}).get("keeper", 0), 0) for client in clients),
    } - {0, 1}
    total = 0
    for pid in above:
        line = pid
        while line not in roots and line in above:
            line = above[line]
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
            is_ours = "python" in os.readlink(f"/proc/{pid}/exe") and any(text in words for text in OURS)
            if line in roots and is_ours:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += next(int(each.split()[1]) for each in lines if each.startswith("Pss:"))
    return total / 1024


def memory(transport: str, _count: int, settings: Settings) -> dict[str, float]:
    """Hold one session, then some more, and see what their processes take."""
    clients: list[Any] = []
    with TRANSPORTS[transport](settings) as open_one, contextlib.ExitStack() as stack:

        def used() -> float:
            clients.append(stack.enter_context(open_one()))
            clients[-1].eval("3 * 7")
            return far_memory(clients)

        first = used()
        for _ in range(FURTHER):
            last = used()
        return {"first_mib": first, "further_mib": (last - first) / FURTHER}


WHATS: dict[str, Callable[[int, Settings], dict[str, float]]] = {
    "import": importing,
    **{f"connect {name}": functools.partial(connect, name) for name in TRANSPORTS},
    **{f"memory {name}": functools.partial(memory, name) for name in TRANSPORTS},
}

# How often at most: what takes long is done less often.
MOST = {"import": 20, "connect spawned": 40, "connect ssh": 20}


def main() -> None:
    """Measure what the command line says."""
    what, count, settings = sys.argv[1:4]
    print(json.dumps(WHATS[what](min(int(count), MOST.get(what, int(count))), json.loads(settings))))


if __name__ == "__main__":
    main()
