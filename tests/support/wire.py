"""A cable of two TUN devices that delays, drops and reorders packets; run as ``python wire.py NEAR FAR [options]``.

What netem does, for kernels without it.  The same seed loses the same packets.  It prints ``ready`` once both devices
are there; they go with this process.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import heapq
import os
import random
import select
import struct
import time

# linux/if_tun.h
TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x0001 | 0x1000


def open_tun(name: str) -> int:
    """Make a device; it hands out whole packets with their checksums, at most an MTU long."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN_NO_PI))
    return fd


def carry(fds: tuple[int, int], delay: float, jitter: float, loss: float, seed: int) -> None:
    """Pass packets between the devices for ever."""
    chance = random.Random(seed)
    under_way: list[tuple[float, int, int, bytes]] = []
    count = 0
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    while True:
        now = time.monotonic()
        while under_way and under_way[0][0] <= now:
            _, _, target, packet = heapq.heappop(under_way)
            # Fails while its device is down.
            with contextlib.suppress(OSError):
                os.write(target, packet)
        wait = (under_way[0][0] - now) * 1000 if under_way else None
        for fd, _event in poller.poll(wait):
            while True:
                try:
                    packet = os.read(fd, 65536)
                except OSError:
                    break
                if chance.random() >= loss:
                    count += 1
                    due = time.monotonic() + delay + chance.uniform(-jitter, jitter)
                    heapq.heappush(under_way, (due, count, fds[1 - fds.index(fd)], packet))


def main() -> None:
    """Be the cable."""
    parser = argparse.ArgumentParser()
    parser.add_argument("devices", nargs=2)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds in each direction")
    parser.add_argument("--jitter", type=float, default=0.0, help="seconds more or less; reorders packets")
    parser.add_argument("--loss", type=float, default=0.0, help="from 0 to 1, in each direction")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    near, far = (open_tun(name) for name in options.devices)
    print("ready", flush=True)
    carry((near, far), options.delay, options.jitter, options.loss, options.seed)


if __name__ == "__main__":
    main()
