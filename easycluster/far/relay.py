"""A data link inside the control link, for servers that allow one session per connection only.

The worker sees a socket like any other; its bytes travel in frames of the control link, in each
direction as many as the other end has said it has room for.

This module is shipped to the far side.
"""

from __future__ import annotations

import select
from collections import deque
from typing import TYPE_CHECKING, Callable, Deque

from easycluster.wire.frames import Kind, frame

if TYPE_CHECKING:
    import socket

__all__ = ["Relay"]

# Bytes that may be on their way in one direction.
WINDOW = 1 << 20
PIECE = 64 << 10


class Relay:
    """The keeper's end.

    Args:
        sock: The keeper's end of the worker's data socket; owned from now on.
        send: Sends frames on the control link.
        poller: What watches ``sock``; this object says for which events.
    """

    def __init__(self, sock: socket.socket, send: Callable[[bytes], None], poller: select.poll) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.ended = False
        self._send = send
        self._poller = poller
        self._to_worker: Deque[memoryview] = deque()
        self._unacknowledged = 0

    def take(self, data: bytes) -> None:
        """Pass bytes of the near side on to the worker."""
        if data:
            self._to_worker.append(memoryview(data))
            self._write()

    def acknowledge(self, count: int) -> None:
        """The near side has taken ``count`` bytes."""
        self._unacknowledged -= count
        self._watch()

    def ready(self) -> None:
        """The socket can be read or written."""
        if self._to_worker:
            self._write()
        if self._unacknowledged < WINDOW and not self.ended:
            self._read()
            if not self.ended:
                self._watch()

    def finish(self) -> None:
        """The worker has ended: pass on what it left, and the end."""
        while not self.ended:
            if not self._read():
                self.ended = True
                self._send(frame(Kind.DATA, 0, b""))

    def _read(self) -> bool:
        """Pass on what can be read; return False if there is nothing yet."""
        try:
            data = self.sock.recv(PIECE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self._unacknowledged += len(data)
        self.ended = not data
        self._send(frame(Kind.DATA, 0, data))
        return True

    def _write(self) -> None:
        taken = 0
        queue = self._to_worker
        while queue:
            piece = queue[0]
            try:
                sent = self.sock.send(piece)
            except BlockingIOError:
                break
            except OSError:
                # The worker is gone; whoever waits for it hears so otherwise.
                queue.clear()
                break
            taken += sent
            if sent == len(piece):
                queue.popleft()
            else:
                queue[0] = piece[sent:]
        self._watch()
        if taken:
            self._send(frame(Kind.CREDIT, taken))

    def _watch(self) -> None:
        events = select.POLLIN if self._unacknowledged < WINDOW else 0
        self._poller.modify(self.sock.fileno(), events | (select.POLLOUT if self._to_worker else 0))
