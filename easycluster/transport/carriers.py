"""Gateways as carriers of a session: control on the channel, data on raw pipes where they can be had."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from easycluster.errors import ConnectError, ConnectionLost, ConnectTimeout
from easycluster.link.streams import DataLink, SocketStream, stream_from_fds
from easycluster.transport.bundle import bundle_source
from easycluster.transport.gateway import Gateway, GatewayTarget, open_gateway
from easycluster.wire.frames import Kind

if TYPE_CHECKING:
    from easycluster.client.monitor import Control

__all__ = ["GatewayCarrier"]

# Before the processes of the session part, so that they share it.
LOAD = """\
import easycluster.far.channel, easycluster.far.control, easycluster.far.template, easycluster.far.worker
settle()
"""

# Seconds that the better data link over ssh gets before data goes over the channel.
DATA_TIMEOUT = 5.0


class GatewayCarrier:
    """Reaches a local Python or one behind ssh, through execnet.

    Args:
        target: Where to.
        use_pipes: Whether to try raw pipes for data; without them data shares the channel.
    """

    needs_socket = True
    compresses_frames = False

    def __init__(self, target: GatewayTarget, use_pipes: bool = True) -> None:
        self._target = target
        self._use_pipes = use_pipes
        self._gateway: Gateway | None = None
        self._relay: _Relay | None = None

    @property
    def is_local(self) -> bool:
        """Whether the far side's processes are on this machine."""
        return self._target.kind == "local"

    def open_control(self, control: Control, timeout: float) -> None:
        """Start the far side's Python and its keeper."""
        end = time.monotonic() + timeout
        gateway = self._gateway = open_gateway(self._target, timeout=timeout, meanwhile=self._bundle)
        control.use(_Port(gateway))
        # Compiling the bundle over there takes longer than sending it compiled.
        bundle = self._bundle(gateway.python_version[:2] == sys.version_info[:2])
        try:
            gateway.start(bundle, control.enqueue, control.enqueue_end, timeout=max(0.1, end - time.monotonic()))
        except ConnectionLost as exc:
            text = f"{self._target}: the session did not come up: {exc.reason}"
            raise ConnectError(text, self._target.host, gateway.words()) from exc
        if self._use_pipes:
            gateway.prepare_data()

    def _bundle(self, with_code: bool = True) -> bytes:
        """What the far side runs; the first time, that takes a while to make."""
        return bundle_source(with_code, compress=not self.is_local, then=LOAD)

    def open_data(self, control: Control, marker: bytes, timeout: float) -> DataLink:
        """Hand pipes to the worker; over ssh by a second session, else inside the control link."""
        gateway = self._gateway
        assert gateway is not None  # open_control came first
        assert control.hello is not None  # the endpoint has waited for it
        # The socket of a local far side that is root's own is out of our reach.
        if self._use_pipes and not (self.is_local and self._target.sudo):
            try:
                pipes = gateway.open_data(
                    control.hello["path"], marker, timeout=timeout if self.is_local else min(timeout, DATA_TIMEOUT)
                )
            except ConnectError as exc:
                if self.is_local:
                    raise
                if isinstance(exc, ConnectTimeout):
                    self._replace_worker(control, timeout)
            else:
                return DataLink(stream_from_fds(os.dup(pipes.read_fd), os.dup(pipes.write_fd)), close=pipes.close)
        relay = self._relay = _Relay(control)
        return DataLink(relay.stream, close=relay.close)

    def _replace_worker(self, control: Control, timeout: float) -> None:
        """Have another worker: this one may have been handed the pipes since, and would take no other link."""
        control.send(Kind.KILL)
        control.wait_for(lambda: control.died is not None, timeout)
        control.worker_replaced()
        control.send(Kind.SPAWN)

    def words(self) -> str:
        """Return what ssh wrote to its standard error."""
        return self._gateway.words() if self._gateway is not None else ""

    def kill(self) -> None:
        """Kill the local process of the gateway."""
        if self._relay is not None:
            self._relay.shutdown()
        if self._gateway is not None:
            self._gateway.kill()

    def close(self, timeout: float) -> None:
        """Close the gateway."""
        if self._relay is not None:
            self._relay.shutdown()
        if self._gateway is not None:
            self._gateway.close(timeout)


class _Port:
    """A control link over an execnet channel; what arrives comes from execnet's own thread."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def send(self, data: bytes) -> None:
        self._gateway.send(data)

    def fileno(self) -> int:
        return -1

    def read(self) -> bytes:
        return b""

    def shutdown(self) -> None:
        """Nothing: the gateway is closed as a whole."""


class _Relay:
    """A data link inside the control link: a socket pair on this side, frames on the wire.

    For servers that allow one session per connection only.  Bytes under way are bounded by a
    window in each direction.
    """

    WINDOW = 1 << 20
    PIECE = 64 << 10

    def __init__(self, control: Control) -> None:
        near, self._inner = socket.socketpair()
        self.stream = SocketStream(near)
        self._control = control
        self._changed = threading.Condition()
        self._incoming: deque[bytes] = deque()
        self._unacknowledged = 0
        self._closed = False
        control.on_data = self._take
        control.on_data_credit = self._credit
        try:
            control.send(Kind.DATA, 0, b"")
        except OSError:
            # Closed meanwhile: this is why there is no better link.
            near.close()
            self._inner.close()
            raise
        self._threads = [
            threading.Thread(target=target, name="easycluster-relay", daemon=True)
            for target in (self._outwards, self._inwards)
        ]
        for thread in self._threads:
            thread.start()

    def _take(self, data: bytes) -> None:
        with self._changed:
            self._incoming.append(data)
            self._changed.notify_all()

    def _credit(self, taken: int) -> None:
        with self._changed:
            self._unacknowledged -= taken
            self._changed.notify_all()

    def _outwards(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._inner.recv(self.PIECE):
                with self._changed:
                    self._changed.wait_for(lambda: self._unacknowledged < self.WINDOW or self._closed)
                    if self._closed:
                        break
                    self._unacknowledged += len(data)
                self._control.send(Kind.DATA, 0, data)
        self.shutdown()

    def _inwards(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: bool(self._incoming) or self._closed)
                    if not self._incoming:
                        break
                    data = self._incoming.popleft()
                if not data:
                    break
                self._inner.sendall(data)
                self._control.send(Kind.CREDIT, len(data), thread=1)
        self.shutdown()

    def shutdown(self) -> None:
        """End it; both threads leave."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._inner.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it and give the descriptor back."""
        self.shutdown()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(1.0)
        self._inner.close()
