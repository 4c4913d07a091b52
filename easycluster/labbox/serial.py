"""The serial line of a host, at the supervisor's end.

Whatever the host's system says arrives here and goes to a file and to everybody who has connected to the line; what
those type goes to the host.  The line outlives boots, as a terminal server does: a client hears a machine go down and
come up again.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Serial"]

_CHUNK: Final = 1 << 16
# Bytes that a client may be behind; then it is dropped, because a box waits for nobody.
_BACKLOG: Final = 1 << 20
_ALONE: Final = re.compile(rb"(?<!\r)\n")


class Serial:
    """A serial line.

    Args:
        file: Where all that the host says is appended.
        selector: Of the supervisor; what it watches for us has a function that takes no argument.
    """

    def __init__(self, file: Path, selector: selectors.BaseSelector) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._selector = selector
        self._line: socket.socket | None = None
        # With what each has still to get.
        self._clients: dict[socket.socket, bytearray] = {}
        self._last = b""

    def open(self) -> socket.socket:
        """A new line for a boot; returns the host's end."""
        self._hang_up()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._line = ours
        self._selector.register(ours, selectors.EVENT_READ, self._hear)
        return theirs

    def attach(self, client: socket.socket) -> None:
        """Let somebody hear and type."""
        client.setblocking(False)
        self._clients[client] = bytearray()
        self._selector.register(client, selectors.EVENT_READ, lambda: self._serve(client))

    def _hear(self) -> None:
        if self._line is None:
            return
        try:
            data = self._line.recv(_CHUNK)
        except BlockingIOError:
            # Already another line than the one that had something.
            return
        except OSError:
            data = b""
        if not data:
            self._hang_up()
            return
        with contextlib.suppress(OSError):
            os.write(self._file, data.replace(b"\r\n", b"\n"))
        # What is no terminal ends its lines without going back to their begin.
        shown = _ALONE.sub(b"\r\n", self._last + data)[len(self._last) :]
        self._last = b"\r" if data.endswith(b"\r") else b""
        for client in list(self._clients):
            self._clients[client] += shown
            self._serve(client)

    def _hang_up(self) -> None:
        """The host has ended; what it said before has been heard."""
        line, self._line = self._line, None
        if line is not None:
            self._selector.unregister(line)
            line.close()

    def _serve(self, client: socket.socket) -> None:
        """Give a client what it is to get, and take what it has typed."""
        waiting = self._clients.get(client)
        if waiting is None:
            return
        try:
            with contextlib.suppress(BlockingIOError):
                while waiting:
                    del waiting[: client.send(waiting)]
            with contextlib.suppress(BlockingIOError):
                typed = client.recv(_CHUNK)
                if not typed:
                    raise EOFError
                if self._line is not None:
                    # A machine that does not listen loses what is typed.
                    with contextlib.suppress(OSError):
                        self._line.send(typed)
        except (OSError, EOFError):
            self._drop(client)
            return
        if len(waiting) > _BACKLOG:
            self._drop(client)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if waiting else 0)
        self._selector.modify(client, events, lambda: self._serve(client))

    def _drop(self, client: socket.socket) -> None:
        del self._clients[client]
        self._selector.unregister(client)
        client.close()
