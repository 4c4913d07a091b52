"""Two joined streams in one process: a session without a network, for tests and examples."""

from __future__ import annotations

import socket

from easycluster.link.streams import SocketStream

__all__ = ["memory_pair"]


def memory_pair() -> tuple[SocketStream, SocketStream]:
    """Return two streams; what is written to one can be read from the other.

    They are a real socket pair: they fill up, and each shows the end of the other.
    """
    near, far = socket.socketpair()
    return SocketStream(near), SocketStream(far)
