"""What runs on hosts that talk to each other: servers, probes and changes of the network, with their undo.

A boot sets the network back by itself, so what undoes these changes is forgotten with it.
"""

import hashlib
import socket
import subprocess
import threading
import time

import easycluster
from easycluster import ServerObject

CHUNK = 1 << 16


class Service(ServerObject):
    """A TCP server on this host; a context manager, so that its port is free again whatever the test does.

    Args:
        serve: Called with each connection, in a thread.
    """

    def __init__(self, serve):
        self._listener = socket.create_server(("0.0.0.0", 0))
        self._serve = serve
        self.results = []
        self._came = threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        # Wakes the thread that accepts; a close alone would not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def port(self):
        return self._listener.getsockname()[1]

    def result(self, timeout=20.0):
        """Wait for what serving one connection came to."""
        with self._came:
            if not self._came.wait_for(lambda: self.results, timeout):
                raise TimeoutError("nobody has come")
            return self.results.pop(0)

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                result = self._serve(connection)
            with self._came:
                self.results.append(result)
                self._came.notify_all()


def echo():
    """Serve everybody who connects with what they send."""
    return Service(_echo)


def sink():
    """Take all that comes; the result is its size and checksum."""
    return Service(_sink)


def _echo(connection):
    while True:
        data = connection.recv(CHUNK)
        if not data:
            return None
        connection.sendall(data)


def _sink(connection):
    count, checksum = 0, hashlib.sha256()
    while True:
        data = connection.recv(CHUNK)
        if not data:
            return count, checksum.hexdigest()
        count += len(data)
        checksum.update(data)


def round_trips(address, port, count=20):
    """Send small messages there and back; return the milliseconds that each took."""
    found = []
    with socket.create_connection((address, port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(count):
            begin = time.monotonic()
            connection.sendall(b"%08d" % number)
            assert connection.recv(8, socket.MSG_WAITALL) == b"%08d" % number
            found.append((time.monotonic() - begin) * 1000)
    return found


def pour(address, port, size):
    """Send so many bytes; return the seconds it took and their checksum."""
    chunk, checksum = bytes(range(256)) * (CHUNK // 256), hashlib.sha256()
    begin = time.monotonic()
    with socket.create_connection((address, port), timeout=10) as connection:
        for _ in range(size // CHUNK):
            connection.sendall(chunk)
            checksum.update(chunk)
    return time.monotonic() - begin, checksum.hexdigest()


def hello(address, port):
    """Connect once."""
    socket.create_connection((address, port), timeout=2).close()


def ip(*words):
    """Let iproute2 do something; what it complains of is in the exception."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip())
    return done.stdout


def add_address(address):
    """Give this host another address until the lease ends, whoever dies."""
    easycluster.undo(["ip", "addr", "del", address + "/24", "dev", "eth0"], boot="forget")
    ip("addr", "add", address + "/24", "dev", "eth0")


def mtu():
    with open("/sys/class/net/eth0/mtu") as file:
        return int(file.read())


def set_mtu(size):
    """Change the largest packet until the lease ends."""
    easycluster.undo(["ip", "link", "set", "eth0", "mtu", str(mtu())], boot="forget")
    ip("link", "set", "eth0", "mtu", str(size))


def refuse(address):
    """Let nothing go to an address until the lease ends."""
    easycluster.undo(["ip", "route", "del", "prohibit", address], boot="forget")
    ip("route", "add", "prohibit", address)
