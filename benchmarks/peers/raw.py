"""No library at all: bytes that are echoed, and pickles over a socket.  The floors of all others."""

from __future__ import annotations

import os
import pickle
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import FAR, Peer, Session, Unsupported, python_server

if TYPE_CHECKING:
    from collections.abc import Sequence

MESSAGE = b"x" * 100

# Echoes; and for a message that begins with "S" or "F" takes or gives as many bytes as follow in eight, for one with
# "P" says which process it is.
ECHO = f"""
import os, sys
read, write = int(sys.argv[1]), int(sys.argv[2])
block = os.urandom(1 << 20)
while True:
    data = os.read(read, {len(MESSAGE)})
    if not data:
        break
    while len(data) < {len(MESSAGE)}:
        data += os.read(read, {len(MESSAGE)} - len(data))
    if data[0] == 120:
        os.write(write, data)
        continue
    size = int.from_bytes(data[1:9], "big")
    if data[0] == 80:
        os.write(write, data[:1] + os.getpid().to_bytes(8, "big") + data[9:])
    elif data[0] == 83:
        view = memoryview(bytearray(size))
        while view:
            view = view[os.readv(read, [view]):]
        os.write(write, data)
    else:
        left = size
        while left:
            left -= os.write(write, memoryview(block)[:left])
"""


def header(kind: bytes, size: int) -> bytes:
    """Return a message of 100 bytes that asks for bulk."""
    return (kind + size.to_bytes(8, "big")).ljust(len(MESSAGE), b"-")


class RawSession(Session):
    """Bytes to one descriptor and from another; ``add`` is a ping-pong of 100 bytes that adds here."""

    def __init__(self, read: int, write: int, process: subprocess.Popen[Any]) -> None:
        self.read = read
        self.write = write
        self.process = process
        self.wanted: dict[str, int] = {}

    def add(self, a: int, b: int) -> int:
        os.write(self.write, MESSAGE)
        data = os.read(self.read, len(MESSAGE))
        while len(data) < len(MESSAGE):
            data += os.read(self.read, len(MESSAGE) - len(data))
        return a + b if data == MESSAGE else -1

    def call(self, name: str, *args: Any) -> Any:
        if name == "process_id":
            os.write(self.write, header(b"P", 0))
            return int.from_bytes(self.take(len(MESSAGE))[1:9], "big")
        if name == "keep" and args[0] == "make_bytes":
            self.wanted["make_bytes"] = args[1]
            return args[1]
        raise Unsupported("bytes only")

    def send(self, value: Any) -> int:
        if not isinstance(value, bytes):
            raise Unsupported("bytes only")
        os.write(self.write, header(b"S", len(value)))
        view = memoryview(value)
        while view:
            view = view[os.write(self.write, view) :]
        answer = self.take(len(MESSAGE))
        return int.from_bytes(answer[1:9], "big")

    def fetch(self, maker: str) -> Any:
        if maker not in self.wanted:
            raise Unsupported("bytes only")
        os.write(self.write, header(b"F", self.wanted[maker]))
        return self.take(self.wanted[maker])

    def take(self, size: int) -> bytearray:
        """Read so many bytes into one buffer."""
        data = bytearray(size)
        view = memoryview(data)
        while view:
            view = view[os.readv(self.read, [view]) :]
        return data

    def close(self) -> None:
        os.close(self.write)
        if self.read != self.write:
            os.close(self.read)
        self.process.wait(10)


def echo_process(command: list[str]) -> RawSession:
    """Return a session with a command that echoes from its standard input to its output."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdin is not None
    assert process.stdout is not None
    read, write = os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno())
    process.stdin.close()
    process.stdout.close()
    return RawSession(read, write, process)


class RawTcp(Peer):
    """A loopback TCP connection."""

    def open(self) -> RawSession:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = socket.create_connection(listener.getsockname())
            far, _ = listener.accept()
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = far.fileno()
        echo = [sys.executable, "-S", "-E", "-c", ECHO, str(number), str(number)]
        process = subprocess.Popen(echo, pass_fds=[number], stdin=subprocess.DEVNULL)
        far.close()
        descriptor = near.detach()
        return RawSession(descriptor, descriptor, process)


class RawPipes(Peer):
    """A pair of pipes to a child."""

    def open(self) -> RawSession:
        return echo_process([sys.executable, "-S", "-E", "-c", ECHO, "0", "1"])


class RawSsh(Peer):
    """Through the user's ssh."""

    def open(self) -> RawSession:
        session = echo_process([*self.ssh, f"exec python3 -S -E -c '{ECHO}' 0 1"])
        session.add(0, 0)
        return session


# ---------------------------------------------------------------- pickle over a socket


SERVER = """
import os, pickle, socket, struct, bench_far
listener = socket.create_server(("127.0.0.1", 0))
print("READY", listener.getsockname()[1], flush=True)
while True:
    link, _ = listener.accept()
    if os.fork():
        link.close()
        continue
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    def take(size):
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = link.recv_into(view)
            if not count:
                os._exit(0)
            view = view[count:]
        return data
    while True:
        name, args = pickle.loads(take(struct.unpack(">Q", take(8))[0]))
        result = pickle.dumps(getattr(bench_far, name)(*args), 5)
        if len(result) < 65536:
            link.sendall(struct.pack(">Q", len(result)) + result)
        else:
            link.sendall(struct.pack(">Q", len(result)))
            link.sendall(result)
"""


class PlainSession(Session):
    """A call is a pickle with its length before it, and so is the answer: what anybody writes in an hour."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link

    def push(self, value: Any) -> None:
        """Send a value."""
        data = pickle.dumps(value, 5)
        if len(data) < 65536:
            self.link.sendall(struct.pack(">Q", len(data)) + data)
        else:
            self.link.sendall(struct.pack(">Q", len(data)))
            self.link.sendall(data)

    def take(self, size: int) -> bytearray:
        """Read so many bytes."""
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = self.link.recv_into(view)
            if not count:
                raise EOFError("the far side is gone")
            view = view[count:]
        return data

    def call(self, name: str, *args: Any) -> Any:
        self.push((name, args))
        return pickle.loads(self.take(struct.unpack(">Q", self.take(8))[0]))

    def start(self, name: str, *args: Any) -> Any:
        self.push((name, args))

    def gather(self, started: Sequence[Any]) -> list[Any]:
        return [pickle.loads(self.take(struct.unpack(">Q", self.take(8))[0])) for _ in started]

    def close(self) -> None:
        self.link.close()


class Plain(Peer):
    """Plain pickle and a socket, a forked process for each connection; no authentication."""

    shared = False

    def serve(self) -> None:
        sys.path.insert(0, str(FAR))
        self.port = int(self.stack.enter_context(python_server(SERVER)))

    def open(self) -> PlainSession:
        link = socket.create_connection(("127.0.0.1", self.port))
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return PlainSession(link)
