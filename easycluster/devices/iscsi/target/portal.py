"""An address of the target."""

from __future__ import annotations

import socket
from typing import Optional

__all__ = ["Portal"]


class Portal:
    """An address of the target.

    Attributes:
        address: ``host:port``, with the real port.
        group: Portal group tag.
        failed: ``""``, ``"silent"`` or ``"refuse"``.
    """

    def __init__(self, host: str, port: int, group: int) -> None:
        self.host, self.port, self.group = host, port, group
        self.failed = ""
        self.listener: Optional[socket.socket] = None
        self.open()

    @property
    def address(self) -> str:
        """``host:port``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def open(self) -> None:
        """Listen."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, self.port))
            listener.listen(64)
        except OSError:
            listener.close()
            raise
        self.port = listener.getsockname()[1]
        self.listener = listener

    def close(self) -> None:
        """Listen no more."""
        listener, self.listener = self.listener, None
        if listener is not None:
            try:
                # Wakes the thread that accepts; close() alone does not.
                listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            listener.close()
