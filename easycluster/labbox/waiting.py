"""Waiting for something with an end."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from easycluster.labbox.errors import LabBoxError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["answers_ssh", "wait_until"]


def wait_until(condition: Callable[[], bool], what: str, timeout: float) -> None:
    """Return when the condition holds.

    Raises:
        LabBoxError: If it does not within ``timeout`` seconds.
    """
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise LabBoxError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(0.01)


def answers_ssh(address: str, timeout: float) -> bool:
    """Whether a server greets whoever connects to port 22, as sshd does."""
    try:
        with socket.create_connection((address, 22), timeout) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
