"""What runs on the video hosts: a sender of numbered frames and a receiver that counts them."""

import socket
import struct
import time

from easycluster import ServerObject

HEADER = struct.Struct("!Id")


class Receiver(ServerObject):
    """Takes frames until as many have come as were announced."""

    export_attrs_cache = ("port",)

    def __init__(self, size):
        self._listener = socket.create_server(("0.0.0.0", 0))
        self.port = self._listener.getsockname()[1]
        self._size = size

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._listener.close()

    def frames(self):
        """Number and delay in seconds of each frame, as it comes."""
        self._listener.settimeout(20)
        connection, _ = self._listener.accept()
        with connection:
            while True:
                head = connection.recv(HEADER.size, socket.MSG_WAITALL)
                if not head:
                    return
                number, sent = HEADER.unpack(head)
                frame = connection.recv(self._size, socket.MSG_WAITALL)
                assert len(frame) == self._size, f"frame {number} is short"
                yield number, time.time() - sent


def receiver(size):
    return Receiver(size)


def send(address, port, count, size, at=0.0):
    """Send frames, the first at a moment of the wall clock; return when it really was."""
    frame = b"\x10" * size
    with socket.create_connection((address, port), timeout=10) as connection:
        time.sleep(max(0.0, at - time.time()))
        began = time.time()
        for number in range(count):
            connection.sendall(HEADER.pack(number, time.time()) + frame)
    return began
