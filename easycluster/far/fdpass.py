"""Messages with descriptors between processes of one machine, over a unix socket.

A packet is a pickled dictionary behind its length; the descriptors ride on its first byte
(``SCM_RIGHTS``, unix(7)).  Both ends are ours: what is unpickled comes from our own processes.

This module is shipped to the far side.
"""

from __future__ import annotations

import array
import os
import pickle
import socket
import struct
from typing import Any, Dict, List, Optional, Sequence, Tuple

__all__ = ["recv_packet", "send_packet"]

_LENGTH = struct.Struct(">I")
MAX_PACKET = 1 << 20
MAX_FDS = 8
# Commands that user code runs must not hold our links open.  In one step with receiving, where that exists.
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def send_packet(sock: socket.socket, packet: Dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send a dictionary and duplicates of descriptors; the caller keeps its own.

    Raises:
        OSError: If the other process is gone.
    """
    body = pickle.dumps(packet, 4)
    data = _LENGTH.pack(len(body)) + body
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([data], rights)
    if sent < len(data):
        sock.sendall(data[sent:])


def recv_packet(sock: socket.socket) -> Optional[Tuple[Dict[str, Any], List[int]]]:
    """Receive what :func:`send_packet` sent; the caller owns the descriptors.

    Returns:
        The dictionary and the descriptors, which commands do not inherit; None at the end of the stream.
    """
    fds = array.array("i")
    size = fds.itemsize
    head, ancillary, _flags, _address = sock.recvmsg(_LENGTH.size, socket.CMSG_SPACE(MAX_FDS * size), _CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % size])
    packet = None
    try:
        for fd in fds:
            os.set_inheritable(fd, False)
        packet = _read_packet(sock, head)
    finally:
        if packet is None:
            for fd in fds:
                os.close(fd)
    return None if packet is None else (packet, list(fds))


def _read_packet(sock: socket.socket, head: bytes) -> Optional[Dict[str, Any]]:
    head += _recv_exactly(sock, _LENGTH.size - len(head)) if head else b""
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MAX_PACKET:
        raise OSError(f"a packet of {length} bytes is longer than allowed")
    body = _recv_exactly(sock, length)
    if len(body) < length:
        return None
    packet: Dict[str, Any] = pickle.loads(body)
    return packet


def _recv_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            break
        data += more
    return data
