"""A stretch of network between a client and a server: counts bytes, can be cut, can fall silent."""

from __future__ import annotations

import contextlib
import socket
import threading

__all__ = ["Middle"]


class Middle:
    """Forwards TCP connections to a port of this machine.

    Args:
        port: Where to.

    Attributes:
        port: Where clients connect to.
        sent: Bytes that clients have sent.
    """

    def __init__(self, port):
        self.sent = 0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._closed = False
        self._sockets = []
        self._threads = []
        self._start(self._accept)

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self._closed = True
        self._open.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join(5)
        for sock in (self._listener, *self._sockets):
            sock.close()

    def cut(self):
        """Close every connection."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def fall_silent(self):
        """Forward nothing from now on, and tell nobody."""
        self._open.clear()

    def _start(self, target, *args):
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while not self._closed:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [near, far]
                self._start(self._forward, near, far, True)
                self._start(self._forward, far, near, False)

    def _forward(self, source, target, counts):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                if counts:
                    self.sent += len(data)
                target.sendall(data)
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
