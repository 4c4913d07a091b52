"""The client side of the HMAC TCP server: one authenticated connection for control, one for data."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from typing import TYPE_CHECKING

from easycluster.errors import AuthenticationError, ConnectError, ConnectTimeout, HostNotFound
from easycluster.link.streams import DataLink, SocketStream
from easycluster.wire.auth import CONTROL, DATA, TOKEN_SIZE, ClientHandshake, Role, SessionKeys, key_id

if TYPE_CHECKING:
    from easycluster.client.monitor import Control

__all__ = ["TcpCarrier"]

# Seconds that a control message may wait for a peer that takes nothing.
SEND_TIMEOUT = 5


class TcpCarrier:
    """Reaches a session of an EasyCluster server.

    Args:
        host: Name or address.
        port: TCP port.
        key: 32 bytes.
        label: The host as messages name it.
    """

    needs_socket = False
    compresses_frames = True
    is_local = False

    def __init__(self, host: str, port: int, key: bytes, label: str) -> None:
        self._host = host
        self._port = port
        self._key = key
        self._label = label
        self._token = os.urandom(TOKEN_SIZE)
        self._control: _Port | None = None
        self._sockets: list[socket.socket] = []

    def open_control(self, control: Control, timeout: float) -> None:
        """Connect, prove the key both ways, and use the connection for control."""
        sock, keys = self._dial(CONTROL, timeout)
        port = self._control = _Port(sock)
        control.use(port, keys.send, keys.receive)

    def open_data(self, control: Control, marker: bytes, timeout: float) -> DataLink:
        """Connect a second time, bound to the same session."""
        sock, keys = self._dial(DATA, timeout)
        self._sockets.append(sock)
        control.watch_data(sock)
        return DataLink(SocketStream(sock), keys.send, keys.receive)

    def words(self) -> str:
        """Return nothing: TCP has no words of its own."""
        return ""

    def kill(self) -> None:
        """End both connections, so that blocked reads return."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        if self._control is not None:
            self._control.shutdown()

    def close(self, timeout: float) -> None:
        """Give the control connection back."""
        if self._control is not None:
            self._control.close()

    def _dial(self, role: Role, timeout: float) -> tuple[socket.socket, SessionKeys]:
        where = self._label
        end = time.monotonic() + timeout
        try:
            sock = socket.create_connection((self._host, self._port), timeout)
        except socket.gaierror as exc:
            raise HostNotFound(f"{where}: the name does not resolve: {exc.strerror}", self._host) from exc
        except UnicodeError as exc:
            # Python makes a name ASCII before it asks for it, and refuses parts of 0 or of more than 63 bytes.
            raise HostNotFound(f"{where}: this is no host name: a part of it is empty or too long", self._host) from exc
        except TimeoutError as exc:
            raise ConnectTimeout(f"{where}: no answer within {_shown(timeout)}", self._host) from exc
        except ConnectionRefusedError as exc:
            raise ConnectError(
                f"{where}: connection refused; is 'easycluster -S' running there on this port and address?", self._host
            ) from exc
        except OSError as exc:
            raise ConnectError(f"{where}: {exc.strerror or exc}", self._host) from exc
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keys = self._shake_hands(sock, role, end)
        except TimeoutError as exc:
            sock.close()
            raise ConnectTimeout(
                f"{where}: connected, but no EasyCluster server answered within {_shown(timeout)}", self._host
            ) from exc
        except (ConnectionError, BrokenPipeError) as exc:
            sock.close()
            raise AuthenticationError(_closed_silently(where), self._host) from exc
        except BaseException:
            sock.close()
            raise
        sock.settimeout(None)
        return sock, keys

    def _shake_hands(self, sock: socket.socket, role: Role, end: float) -> SessionKeys:
        handshake = ClientHandshake(self._key, role, self._token, key_id(self._key), host=self._label)
        sock.sendall(handshake.start())
        while not handshake.done:
            remaining = end - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            sock.settimeout(remaining)
            data = sock.recv(handshake.needed)
            if not data:
                raise AuthenticationError(_closed_silently(self._label), self._host)
            answer = handshake.receive(data)
            if answer:
                sock.sendall(answer)
        assert handshake.keys is not None  # done
        return handshake.keys


def _shown(timeout: float) -> str:
    """Return a time limit without the moment that a first connection has taken of it."""
    return f"{round(timeout, 1) or timeout:g} s"


def _closed_silently(where: str) -> str:
    return (
        f"{where}: the server closed the connection during the handshake; it has another key than ours "
        "(or has withdrawn it), does not allow this address, or is no EasyCluster server"
    )


class _Port:
    """A control link's TCP connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        with contextlib.suppress(OSError, struct.error):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT, 0))

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def fileno(self) -> int:
        return self._sock.fileno()

    def read(self) -> bytes:
        return self._sock.recv(65536, getattr(socket, "MSG_DONTWAIT", 0))

    def shutdown(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._sock.close()
