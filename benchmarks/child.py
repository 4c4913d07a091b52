"""Measure one peer in this interpreter and print one JSON line; ``python -m benchmarks`` starts it.

By hand: ``python child.py PEER SECONDS '{"ssh_config": ..., "ssh_host": ...}'``.  This file is run as a script, by
the interpreter of the peer: EasyCluster 0.22.3 and we have the same import name and must never meet.  So it imports
the standard library only, and a peer's library inside its own function.

How it measures: batches of calls alternate with batches of a blocking TCP ping-pong of 100-byte messages between two
plain Pythons.  A batch's ratio is its median call by the median ping-pong just before it; ``ratio`` is the median of
those.  Every answer is checked.  The whole process tree is pinned to one core by the parent: waking another
virtual core costs more than a call and comes and goes by chance.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MESSAGE = b"x" * 100
BATCH = 100
WARM_UP = 200

# What the far side defines for every peer that can define anything.
DEFINITIONS = "def add(a, b):\n    return a + b\n"

Call = Callable[[int], int]
"""One round trip: takes n and gives n + 2, computed on the far side."""

ECHO = f"""
import os, sys
read, write = int(sys.argv[1]), int(sys.argv[2])
while True:
    data = os.read(read, {len(MESSAGE)})
    if not data:
        break
    while len(data) < {len(MESSAGE)}:
        data += os.read(read, {len(MESSAGE)} - len(data))
    os.write(write, data)
"""


# ---------------------------------------------------------------- raw bytes: the floors


def echo_through(read: int, write: int) -> Call:
    """Return a call that sends 100 bytes to ``write`` and waits until as many came from ``read``."""

    def call(number: int) -> int:
        os.write(write, MESSAGE)
        data = os.read(read, len(MESSAGE))
        while len(data) < len(MESSAGE):
            data += os.read(read, len(MESSAGE) - len(data))
        return number + 2 if data == MESSAGE else -1

    return call


@contextlib.contextmanager
def raw_tcp(settings: dict[str, str]) -> Iterator[Call]:
    """100 bytes there and back over a loopback TCP connection, no library at all."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    number = far.fileno()
    echo = [sys.executable, "-S", "-E", "-c", ECHO, str(number), str(number)]
    with subprocess.Popen(echo, pass_fds=[number], stdin=subprocess.DEVNULL), near:
        far.close()
        yield echo_through(near.fileno(), near.fileno())
        near.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def echo_process(command: list[str]) -> Iterator[Call]:
    """The same over the standard input and output of a command that echoes."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as echo:
        assert echo.stdin is not None
        assert echo.stdout is not None
        yield echo_through(echo.stdout.fileno(), echo.stdin.fileno())
        echo.stdin.close()


@contextlib.contextmanager
def raw_pipes(settings: dict[str, str]) -> Iterator[Call]:
    """100 bytes there and back over a pair of pipes to a child: the floor of a spawned session."""
    with echo_process([sys.executable, "-S", "-E", "-c", ECHO, "0", "1"]) as call:
        yield call


@contextlib.contextmanager
def raw_ssh(settings: dict[str, str]) -> Iterator[Call]:
    """100 bytes there and back through the user's ssh: the floor of every ssh session."""
    far = f"exec python3 -S -E -c '{ECHO}' 0 1"
    with echo_process(["ssh", "-F", settings["ssh_config"], settings["ssh_host"], far]) as call:
        yield call


# ---------------------------------------------------------------- EasyCluster, theirs and ours


@contextlib.contextmanager
def served(*key_option: str) -> Iterator[int]:
    """Run ``python -m easycluster --serve`` of this interpreter on loopback; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    command = [sys.executable, "-m", "easycluster", "-S", *key_option, "-p", str(port), "-b", "127.0.0.1", "-N"]
    # Away from the checkout: `-m` looks into the current directory first, and there ours is.
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, cwd="/") as server:
        try:
            deadline = time.monotonic() + 10
            while server.poll() is None and time.monotonic() < deadline:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.02)
            yield port
        finally:
            server.terminate()


@contextlib.contextmanager
def used(client: Any) -> Iterator[Call]:
    """Send the definitions over a connected client and call ``add`` the way a user writes it."""
    with contextlib.closing(client):
        client.update_definitions()
        yield lambda number: int(client.add(number, 2))


@contextlib.contextmanager
def original_tcp(settings: dict[str, str]) -> Iterator[Call]:
    """EasyCluster 0.22.3, its TCP server with HMAC-MD5."""
    import easycluster

    easycluster.define_common(DEFINITIONS)
    key = "00" * 16
    with served("-K", key) as port, used(easycluster.Client(easycluster.decode_key(key), "127.0.0.1", port)) as call:
        yield call


@contextlib.contextmanager
def spawned(settings: dict[str, str]) -> Iterator[Call]:
    """A local process of either EasyCluster: 0.22.3 forks the caller, ours starts a fresh interpreter."""
    import easycluster
    import easycluster.server

    easycluster.define_common(DEFINITIONS)
    with used(easycluster.server.spawn_local()) as call:
        yield call


@contextlib.contextmanager
def original_ssh(settings: dict[str, str]) -> Iterator[Call]:
    """EasyCluster 0.22.3 over ssh, through a wrapper: it puts extra arguments after the host, too late for ssh."""
    import easycluster

    easycluster.define_common(DEFINITIONS)
    with tempfile.TemporaryDirectory() as folder:
        wrapper = Path(folder) / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec ssh -F "{settings["ssh_config"]}" "$@"\n')
        wrapper.chmod(0o700)
        # Its port option is always given, so the one in the configuration must be repeated.
        config = Path(settings["ssh_config"]).read_text().split()
        port = int(config[config.index("Port") + 1])
        client = easycluster.Client(None, settings["ssh_host"], port, ssh=str(wrapper))
        with used(client) as call:
            yield call


@contextlib.contextmanager
def our_tcp(settings: dict[str, str]) -> Iterator[Call]:
    """Ours, the TCP server with HMAC-SHA256 on every record."""
    import easycluster

    easycluster.define_common(DEFINITIONS)
    with tempfile.TemporaryDirectory() as folder:
        key = easycluster.generate_key()
        key_file = str(Path(folder) / "key")
        easycluster.write_key_file(key_file, key)
        with served("-k", key_file) as port, used(easycluster.Client(key, "127.0.0.1", port)) as call:
            yield call


@contextlib.contextmanager
def our_ssh(settings: dict[str, str]) -> Iterator[Call]:
    """Ours over ssh."""
    import easycluster

    easycluster.define_common(DEFINITIONS)
    extra = ["-F", settings["ssh_config"]]
    with used(easycluster.Client(host=settings["ssh_host"], ssh=True, extra_args=extra)) as call:
        yield call


# ---------------------------------------------------------------- execnet


@contextlib.contextmanager
def execnet_loop(spec: str) -> Iterator[Call]:
    """A raw execnet channel to a loop that adds: the fastest that execnet's public interface allows."""
    import execnet

    loop = DEFINITIONS + "for a, b in channel:\n    channel.send(add(a, b))\n"
    group = execnet.Group()
    try:
        channel = group.makegateway(spec).remote_exec(loop)

        def call(number: int) -> int:
            channel.send((number, 2))
            return int(channel.receive(30))

        yield call
        channel.close()
    finally:
        group.terminate(timeout=2.0)


def execnet_popen(settings: dict[str, str]) -> contextlib.AbstractContextManager[Call]:
    """Run an execnet child process."""
    return execnet_loop(f"popen//python={sys.executable}//execmodel=thread")


def execnet_ssh(settings: dict[str, str]) -> contextlib.AbstractContextManager[Call]:
    """Run execnet over the same ssh."""
    return execnet_loop(f"ssh=-F {settings['ssh_config']} {settings['ssh_host']}//python=python3//execmodel=thread")


PEERS: dict[str, Callable[[dict[str, str]], contextlib.AbstractContextManager[Call]]] = {
    "raw tcp": raw_tcp,
    "raw pipes": raw_pipes,
    "raw ssh": raw_ssh,
    "original tcp": original_tcp,
    "original spawned": spawned,
    "original ssh": original_ssh,
    "execnet popen": execnet_popen,
    "execnet ssh": execnet_ssh,
    "ours tcp": our_tcp,
    "ours spawned": spawned,
    "ours ssh": our_ssh,
}


# ---------------------------------------------------------------- measuring


def timed(call: Call, count: int) -> list[float]:
    """Return the time of each of ``count`` calls in microseconds.

    Raises:
        ValueError: If an answer is wrong.
    """
    clock = time.perf_counter_ns
    times = []
    for number in range(count):
        start = clock()
        answer = call(number)
        times.append((clock() - start) / 1000)
        if answer != number + 2:
            raise ValueError(f"the far side answered {answer!r} to add({number}, 2)")
    return times


def paired(call: Call, floor: Call, seconds: float) -> dict[str, float]:
    """Time calls beside the floor for so many seconds; microseconds, and the ratio of one to the other."""
    timed(floor, WARM_UP)
    timed(call, WARM_UP)
    floors: list[float] = []
    times: list[float] = []
    ratios: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or not ratios:
        before = timed(floor, BATCH)
        batch = timed(call, BATCH)
        floors += before
        times += batch
        ratios.append(statistics.median(batch) / statistics.median(before))
    return {
        "median_us": statistics.median(times),
        "p99_us": sorted(times)[int(len(times) * 0.99)],
        "raw_us": statistics.median(floors),
        "ratio": statistics.median(ratios),
        "calls": len(times),
    }


def main(peer: str, seconds: float, settings: dict[str, str]) -> None:
    """Measure one peer and print the result on the real standard output; what a peer prints goes to stderr."""
    with os.fdopen(os.dup(1), "w") as result:
        os.dup2(2, 1)
        start = time.perf_counter()
        with PEERS[peer](settings) as call, raw_tcp(settings) as floor:
            timed(call, 1)
            connect_ms = (time.perf_counter() - start) * 1000
            measured = paired(call, floor, seconds)
        result.write(json.dumps({**measured, "connect_ms": connect_ms}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), json.loads(sys.argv[3]))
