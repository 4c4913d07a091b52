"""Clients and the life of their process: its forks, and its end."""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

from easycluster.client.monitor import close_monitor

if TYPE_CHECKING:
    from easycluster.client.client import BaseClient

__all__ = ["Forked", "close_all", "live"]

live: weakref.WeakSet[BaseClient] = weakref.WeakSet()
"""All clients of this process."""


class Forked:
    """Stands in a client for the endpoint that belongs to the parent process."""

    hello: ClassVar[dict[str, Any]] = {}
    keeper_lives = False


def _after_fork_in_child() -> None:
    """Leave the parent's sessions alone: they are not ours to use or to end."""
    for client in list(live):
        if client._endpoint is not None:
            # The descriptors stay open as long as this process does not exec; nothing is sent on them.
            client._session = None
            client._endpoint = Forked()  # type: ignore[assignment]
            client._lock = threading.RLock()
            client._arrivals.forget()
    live.clear()


def close_all(timeout: float = 2.0) -> None:
    """Close every connection of this process; run at its end."""
    clients = [client for client in list(live) if client._endpoint is not None]
    threads = [
        threading.Thread(target=client.close, args=("the process is ending",), daemon=True) for client in clients
    ]
    started = []
    for thread, client in zip(threads, clients, strict=True):
        try:
            thread.start()
            started.append(thread)
        except RuntimeError:
            # No new threads at the very end of the interpreter.
            client.close("the process is ending")
    end = time.monotonic() + timeout
    for thread in started:
        thread.join(max(0.0, end - time.monotonic()))
    close_monitor()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
