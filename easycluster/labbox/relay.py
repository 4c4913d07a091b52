"""A worse cable: delays, drops and throttles what passes between two devices.

What netem does, by a small program: many kernels have no netem, and a test must not mean something else there.  The
same for every packet in both directions; order is kept, whatever the jitter.  A packet carries the kernel's notes about
its checksum and segments with it (``PACKET_VNET_HDR``), so large ones need not be cut on the way.
"""

from __future__ import annotations

import contextlib
import heapq
import random
import select
import socket
import time
from dataclasses import dataclass
from typing import Final, NoReturn

__all__ = ["Quality", "relay"]

# <linux/if_packet.h>, <linux/if_ether.h>
_PACKET_LEVEL: Final = 263
_VNET_HEADER: Final = 15
_OUTGOING: Final = 4
_ALL: Final = 0x0003
# Of struct virtio_net_hdr.
_NOTES: Final = 10
# Largest segment offload, frame header and notes.
_LARGEST: Final = (64 << 10) + 512
# As netem's queue: with more under way, packets are dropped.
_MOST: Final = 1000
# Where a frame has its two hardware addresses, behind the notes.
_TARGET: Final = slice(_NOTES, _NOTES + 6)
_SOURCE: Final = slice(_NOTES + 6, _NOTES + 12)


@dataclass(frozen=True)
class Quality:
    """What a cable does to packets.

    Attributes:
        delay: Seconds that each takes, in either direction.
        loss: The share of them that is lost, from 0 to 1.
        rate: Bits in a second, 0 for no limit.
        jitter: Seconds by which the delay of each is at most shorter or longer, by chance.
        without: Hardware addresses from and to which nothing passes.
    """

    delay: float = 0.0
    loss: float = 0.0
    rate: float = 0.0
    jitter: float = 0.0
    without: tuple[str, ...] = ()

    @property
    def perfect(self) -> bool:
        """Whether it is a cable like any other."""
        return not (self.delay or self.loss or self.rate or self.jitter or self.without)

    def and_then(self, other: Quality) -> Quality:
        """Of two such cables, one behind the other."""
        return Quality(
            delay=self.delay + other.delay,
            loss=1 - (1 - self.loss) * (1 - other.loss),
            rate=min(self.rate or other.rate, other.rate or self.rate),
            jitter=self.jitter + other.jitter,
            without=(*self.without, *other.without),
        )


def relay(devices: tuple[str, str], quality: Quality) -> NoReturn:
    """Pass frames between two devices for ever."""
    ends = [_open(device) for device in devices]
    chance = random.Random(0)
    # When it is due, a number that keeps order, where to, what.
    under_way: list[tuple[float, int, int, bytes]] = []
    free, last = [0.0, 0.0], [0.0, 0.0]
    strangers = {bytes.fromhex(address.replace(":", "")) for address in quality.without}
    count = 0
    while True:
        now = time.monotonic()
        while under_way and under_way[0][0] <= now:
            _, _, target, frame = heapq.heappop(under_way)
            # Fails while its device is down.
            with contextlib.suppress(OSError):
                ends[target].send(frame)
        wait = max(0.0, under_way[0][0] - now) if under_way else None
        for end in select.select(ends, (), (), wait)[0]:
            source = ends.index(end)
            for frame in _waiting(end):
                if len(under_way) >= _MOST or chance.random() < quality.loss:
                    continue
                if strangers and (frame[_TARGET] in strangers or frame[_SOURCE] in strangers):
                    continue
                start = time.monotonic()
                if quality.rate:
                    start = max(start, free[source]) + (len(frame) - _NOTES) * 8 / quality.rate
                    free[source] = start
                due = start + quality.delay + quality.jitter * chance.uniform(-1, 1)
                last[source] = due = max(due, last[source])
                count += 1
                heapq.heappush(under_way, (due, count, 1 - source, frame))


def _open(device: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    end.setsockopt(_PACKET_LEVEL, _VNET_HEADER, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    end.setblocking(False)
    end.bind((device, _ALL))
    return end


def _waiting(end: socket.socket) -> list[bytes]:
    """What has come in; what this machine itself sends through the device is shown, too, and is not meant."""
    found: list[bytes] = []
    while True:
        try:
            frame, address = end.recvfrom(_LARGEST)
        except OSError:
            return found
        if address[2] != _OUTGOING:
            found.append(frame)
