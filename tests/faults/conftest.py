"""The transports that faults are put to."""

from __future__ import annotations

from support.client_process import run_client
from support.transports import client, connect, shared_client, tcp_server, threaded, transport

__all__ = ["client", "connect", "run_client", "shared_client", "tcp_server", "threaded", "transport"]
