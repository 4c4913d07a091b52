"""A real ``easycluster -S``, and what it costs: processes, descriptors, memory."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from support.owners import sockets_of

from easycluster.wire.auth import CONTROL, ClientHandshake

__all__ = ["KEY", "SOON", "ServerProcess", "address_number", "children", "hear_all", "memory", "until"]

KEY = bytes(range(32))

# How long anything that must happen may take, in seconds.
SOON = 20.0


def until(condition, timeout=SOON):
    """Wait until ``condition()`` holds and return what it gave."""
    end = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.005)
    return found


def memory(pid, what="VmPeak"):
    """Return a figure of /proc/PID/status in MiB: VmPeak is address space, VmHWM real memory, at most so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(what)


def children(pid):
    """Return the processes that a process has started and that are not dead."""
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            found += Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    return [int(child) for child in found if _is_alive(int(child))]


def tcp_sockets():
    """Return every TCP socket of this machine, as /proc calls them in the descriptors of processes."""
    tables = [Path("/proc/net") / name for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows}


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def address_number(number):
    """Return one of the 16 million addresses of the loopback."""
    return f"127.{1 + number // 65025}.{1 + number // 255 % 255}.{1 + number % 255}"


def hear_all(sock):
    """Return all that comes until the peer closes; how it closes does not matter."""
    heard = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(1 << 16):
            heard += data
    return heard


class ServerProcess:
    """``easycluster -S`` as its users start it.

    Args:
        folder: Where key and log go.
        words: Further arguments.
        bind: Address to listen on.
        hears_us: Whether a client of 127.0.0.1 may connect.

    Attributes:
        port: Where it listens.
        key: Its key.
    """

    def __init__(self, folder, *words, bind="127.0.0.1", key=KEY, hears_us=True):
        self.key = key
        self.key_file = folder / "lab.key"
        self.key_file.write_text(key.hex())
        self.key_file.chmod(0o600)
        self._log = folder / "server.log"
        command = [sys.executable, "-m", "easycluster", "-S", "-k", str(self.key_file), "-p", "0", "-b", bind, *words]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            self._await(hears_us)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def _await(self, hears_us):
        until(lambda: "listening on" in self.log or self._process.poll() is not None)
        assert self._process.poll() is None, self.log
        line = next(line for line in self.log.splitlines() if "listening on" in line)
        self.port = int(line.rsplit(":", 1)[1])
        self.address = ("127.0.0.1", self.port)
        # The one process that forks keepers; it is there before the port is announced, or soon after.
        (self.helper,) = until(lambda: children(self.pid))
        if hears_us:
            with self._greeted():
                self.idle_files = self.files() - 1

    @property
    def log(self):
        """What it has printed."""
        return self._log.read_text()

    @property
    def pid(self):
        """Its process id."""
        return self._process.pid

    def processes(self):
        """Return the keepers of sessions.

        A server without sessions has none, but for one that waits for the next session and never had
        a connection: it is there once somebody came who had the key.
        """
        keepers, connected = children(self.helper), tcp_sockets()
        waiting = [keeper for keeper in keepers if not sockets_of(keeper) & connected]
        return [keeper for keeper in keepers if [keeper] != waiting]

    def files(self):
        """Return how many files it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def connections(self):
        """Return how many connections and sessions it holds, by the files it has open."""
        return self.files() - self.idle_files

    def sessions_begun(self):
        """Return how many sessions it has ever begun, all those counted whose handshake is over; needs -v."""
        # What it did before it answers somebody else it has done, in its one thread.
        with self._greeted():
            return len(re.findall(r": connected\b", self.log))

    @contextlib.contextmanager
    def _greeted(self):
        """Say hello and be answered; the server's loop is where it was before."""
        with self.connect() as sock:
            sock.sendall(ClientHandshake(self.key, CONTROL, os.urandom(16)).start())
            assert sock.recv(4, socket.MSG_WAITALL) == b"EC2S"
            yield

    @contextlib.contextmanager
    def begins(self, count):
        """See that exactly so many sessions begin."""
        before = self.sessions_begun()
        yield
        begun = self.sessions_begun() - before
        assert begun == count
        self.wait_until_idle()

    def wait_for_room(self):
        """Wait while it has many sessions; it refuses the 65th."""
        until(lambda: self.connections() < 20)

    def connect(self, source=None):
        """Return a connection to it, from an address of the loopback."""
        sock = socket.create_connection(self.address, SOON, source_address=(source, 0) if source else None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def log_in(self, token=None, source=None, role=CONTROL, key=None):
        """Do a right handshake, or whatever follows from another key; return connection and session keys."""
        sock = self.connect(source)
        try:
            handshake = ClientHandshake(key or self.key, role, token or os.urandom(16))
            sock.sendall(handshake.start())
            while not handshake.done:
                data = sock.recv(handshake.needed)
                if not data:
                    handshake.receive_eof()
                sock.sendall(handshake.receive(data))
        except BaseException:
            sock.close()
            raise
        return sock, handshake.keys

    def wait_until_idle(self):
        """Wait until no session and no connection is left."""
        until(lambda: not self.processes() and self.files() == self.idle_files)

    def close(self):
        """End it, and see that it is well until then."""
        alive = self._process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(SOON)
        finally:
            self._process.kill()
        assert alive, f"the server ended: {self.log}"
        assert code == 0, self.log
        assert "Traceback" not in self.log, self.log
