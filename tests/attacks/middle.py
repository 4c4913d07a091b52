"""A man in the middle on real sockets: sees every message of every connection, and may do anything to it.

What a connection carries is cut into messages: in each direction a hello, a finish, then records
(:mod:`easycluster.wire.auth`, :mod:`easycluster.wire.frames`).  The attack is a function that gets
each message and returns what to pass on.  Bulk has no records: with ``whole=False`` messages are
whatever was read.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from dataclasses import dataclass, field

__all__ = [
    "DOWN",
    "FINISH",
    "FINISH_C",
    "FINISH_S",
    "HELLO",
    "HELLO_S",
    "RECORD",
    "UP",
    "ManInTheMiddle",
    "Message",
    "Wire",
    "message_size",
]

# From client to server, and back.
UP, DOWN = "up", "down"

# What a message is, in the order in which each direction has them; from RECORD on they are numbered on.
HELLO, FINISH, RECORD = 0, 1, 2


# Sizes of what does not vary; a client's hello is as long as the id of its key.
HELLO_S, FINISH_C, FINISH_S = 4 + 1 + 32, 32, 1 + 32
_FIXED = {(UP, FINISH): FINISH_C, (DOWN, HELLO): HELLO_S, (DOWN, FINISH): FINISH_S}


def message_size(way, number, data):
    """Return how long the message is that begins like this, None if that is not known yet."""
    if number >= RECORD:
        return 36 + int.from_bytes(data[:4], "big") if len(data) >= 4 else None
    if (way, number) == (UP, HELLO):
        return 7 + data[6] + 16 + 32 if len(data) > 6 else None
    return _FIXED[way, number]


@dataclass
class Message:
    """One message under way.

    Attributes:
        wire: Its connection.
        way: UP or DOWN.
        number: HELLO, FINISH, or RECORD and more.
        data: Its bytes.
    """

    wire: Wire
    way: str
    number: int
    data: bytes

    @property
    def is_record(self):
        return self.number >= RECORD


@dataclass
class Wire:
    """One connection through the middle.

    Attributes:
        index: Which of the connections it is, from 0.
        seen: Every message so far, as it came, by direction.
        passed: The bytes that were passed on, by direction.
        ended: Whether either end has closed.
    """

    index: int
    near: socket.socket
    far: socket.socket
    seen: dict = field(default_factory=lambda: {UP: [], DOWN: []})
    passed: dict = field(default_factory=lambda: {UP: bytearray(), DOWN: bytearray()})
    ended: bool = False
    _rest: dict = field(default_factory=lambda: {UP: b"", DOWN: b""})

    @property
    def role(self):
        """The role that the client's hello names."""
        return self.seen[UP][0][5]

    def send(self, way, data):
        """Put bytes on the wire; also from the test, whenever it likes."""
        self.passed[way] += data
        with contextlib.suppress(OSError):
            (self.far if way == UP else self.near).sendall(data)

    def cut(self):
        """Close both connections; what is on its way still arrives."""
        self.ended = True
        for sock in (self.near, self.far):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def split(self, way, data):
        """Return the messages that these bytes complete."""
        rest = self._rest[way] + data
        while rest:
            number = len(self.seen[way])
            size = message_size(way, number, rest)
            if size is None or len(rest) < size:
                break
            self.seen[way].append(rest[:size])
            yield Message(self, way, number, rest[:size])
            rest = rest[size:]
        self._rest[way] = rest


class ManInTheMiddle:
    """Forwards connections to a port, through an attack.

    Args:
        port: Where to.
        attack: Gets each Message and returns the bytes to pass on; None passes everything.

    Attributes:
        port: Where clients connect to.
        wires: Every connection so far.
    """

    def __init__(self, port, attack=None, *, whole=True):
        self.attack = attack
        self.whole = whole
        self.wires = []
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._closing = False
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, lambda: None)
        self._thread = threading.Thread(target=self._run, name="man in the middle")
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self._closing = True
        self._wake.send(b"x")
        self._thread.join(10)
        for wire in self.wires:
            wire.near.close()
            wire.far.close()
        for sock in (self._listener, self._wake, self._woken):
            sock.close()
        self._selector.close()

    def wait_for(self, condition, timeout=10.0):
        """Wait until the condition holds."""
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, "what was waited for did not happen"
            time.sleep(0.002)

    def _run(self):
        while not self._closing:
            for key, _ in self._selector.select():
                if self._closing:
                    break
                key.data()

    def _accept(self):
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._target), 10)
        far.settimeout(None)
        wire = Wire(len(self.wires), near, far)
        for sock in (near, far):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.wires.append(wire)
        self._selector.register(near, selectors.EVENT_READ, lambda: self._forward(wire, UP, near))
        self._selector.register(far, selectors.EVENT_READ, lambda: self._forward(wire, DOWN, far))

    def _forward(self, wire, way, source):
        if source.fileno() < 0:
            return  # ended by an earlier event of this round
        try:
            data = source.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            for sock in (wire.near, wire.far):
                with contextlib.suppress(KeyError):
                    self._selector.unregister(sock)
            wire.cut()
            wire.near.close()
            wire.far.close()
            return
        messages = list(wire.split(way, data)) if self.whole else [Message(wire, way, RECORD, data)]
        for message in messages:
            out = message.data if self.attack is None else self.attack(message)
            if out:
                wire.send(way, out)
