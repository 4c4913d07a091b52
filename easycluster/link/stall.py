"""Notices data that never gets through, although the peer is there.

A link may pass small packets and lose large ones: somewhere on the way the MTU is smaller than the
ends believe, and the message that would tell them is filtered.  Heartbeats are small and have a
connection of their own, so both sides look well while a large value is sent again and again, for
more than 15 minutes with Linux' defaults.

``TCP_INFO`` (tcp(7), Linux) tells how often in a row the oldest bytes were sent again without any
answer.  A peer that only does not read, because its interpreter is held or a debugger has stopped
it, is no such case: its system acknowledges what it got and closes the window, then nothing is in
flight, and what the kernel sends to ask again is counted apart.  ``TCP_USER_TIMEOUT`` makes no such
difference: with 1.5 s, Linux 6.18 ended the connection to a peer that merely did not read.

This module is shipped to the far side.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Optional, Tuple

__all__ = ["StallWatch"]

# struct tcp_info of include/uapi/linux/tcp.h: the retransmissions at 2, bytes acknowledged at 120 since Linux 4.2.
_INFO = struct.Struct("=2xB117xQ")
_TCP_INFO = getattr(socket, "TCP_INFO", None) if sys.platform.startswith("linux") else None

# Looks in the time after which a stall is one.
LOOKS = 10
# Retransmissions that must fail while the peer is heard.  After a while of silence the next may be far away.
ATTEMPTS = 2


class StallWatch:
    """Looks at a data connection from time to time.

    Args:
        sock: The connection, TCP or not; the caller closes it.
        limit: Seconds without an acknowledgement after which the link counts as broken.
        heartbeat: Seconds between signs of life on the control link.

    Attributes:
        next_look: When to look again, by the monotonic clock.
    """

    def __init__(self, sock: socket.socket, limit: float, heartbeat: float) -> None:
        self.next_look = 0.0
        self._sock = sock
        self._limit = limit
        # After a longer silence it was the link as a whole that failed, and it may be well again.
        self._patience = max(limit / 2, heartbeat * 1.5)
        self._acknowledged = -1
        self._since = 0.0
        self._attempts = 0

    def look(self, now: float, last_heard: float) -> str:
        """Return what is wrong, "" if nothing is known to be.

        Args:
            now: The time, by the monotonic clock.
            last_heard: When the control link last showed that the peer is there.
        """
        if now < self.next_look:
            return ""
        self.next_look = now + self._limit / LOOKS
        info = self._info()
        if info is None:
            return ""
        attempts, acknowledged = info
        if not attempts or acknowledged != self._acknowledged or now - last_heard > self._patience:
            self._acknowledged, self._since, self._attempts = acknowledged, now, attempts
            return ""
        span = now - self._since
        if span <= self._limit or attempts - self._attempts < ATTEMPTS:
            return ""
        return (
            f"data sent for {span:.3g} s is not acknowledged while heartbeats get through; "
            "is an MTU too large on the way?"
        )

    def _info(self) -> Optional[Tuple[int, int]]:
        """Return how often the oldest bytes were sent again, and how many bytes have arrived."""
        if _TCP_INFO is None:
            return None
        try:
            attempts, acknowledged = _INFO.unpack(self._sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO.size))
        except (OSError, struct.error):
            # Closed, not TCP, or an older kernel.
            return None
        return attempts, acknowledged
