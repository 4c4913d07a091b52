"""Clients that only shake hands, and keepers that are sockets in the test's hands."""

from __future__ import annotations

import contextlib
import queue
import socket

from easycluster.far import fdpass
from easycluster.wire.auth import CONTROL, ClientHandshake

KEY = bytes(range(32))
TOKEN = b"t" * 16

# How long anything that must happen may take, in seconds.
SOON = 10.0


class Keepers:
    """A spawner whose keepers are sockets in the test's hands."""

    def __init__(self):
        self.spawned = queue.Queue()
        self.trouble = None

    def spawn(self):
        if self.trouble:
            raise self.trouble
        ours, keepers = socket.socketpair()
        self.spawned.put(Keeper(keepers))
        return ours

    def close(self):
        while not self.spawned.empty():
            self.spawned.get().close()


class Keeper:
    """The keeper's end: what it was given."""

    def __init__(self, sock):
        sock.settimeout(SOON)
        self.sock = sock

    def take(self):
        """Return the next packet and the connection that came with it."""
        packet, (fd,) = fdpass.recv_packet(self.sock)
        connection = socket.socket(fileno=fd)
        connection.settimeout(SOON)
        return packet, connection

    def send(self, packet):
        fdpass.send_packet(self.sock, packet)

    def close(self):
        self.sock.close()


def shake_hands(sock, role=CONTROL, token=TOKEN, key=KEY, key_id=b""):
    """Prove the key on a connection and return its session keys."""
    handshake = ClientHandshake(key, role, token, key_id, host="lab1")
    sock.sendall(handshake.start())
    while not handshake.done:
        data = sock.recv(handshake.needed)
        if not data:
            handshake.receive_eof()
        sock.sendall(handshake.receive(data))
    return handshake.keys


def is_closed(sock):
    """Wait until the peer closes and tell whether it said nothing before."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def drain(sock):
    """Read until the peer closes."""
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(1 << 16):
            pass
