"""Seeds: what our own code says, recorded here and now, so that a fuzzer begins where the format is right."""

from __future__ import annotations

import array
import contextlib
import io
import pickle
import sys
import threading

from support.joined_sessions import End, ask, ask_for
from support.joined_values import joined

from easycluster.client.monitor import Control
from easycluster.link.operations import Op
from easycluster.link.streams import SocketStream
from easycluster.objects.exports import ServerObject, callback
from easycluster.transport.memory import memory_pair
from easycluster.wire.auth import CONTROL, DATA, ClientHandshake, ServerHandshake, Status
from easycluster.wire.frames import COMPRESSED, FrameEncoder, Kind, compress, frame
from easycluster.wire.pickling import Dump, PersistentPickler

__all__ = ["KEY", "TOKEN", "control_frames", "handshakes", "large_frames", "pickles", "traffic"]

KEY = bytes(range(32))
TOKEN = b"t" * 16


class Thing(ServerObject):
    """Goes by reference."""

    def __init__(self, value):
        self.value = value

    def add(self, more):
        return self.value + more


class Recorded(SocketStream):
    """A stream that keeps what was written to it, write by write."""

    def __init__(self, sock):
        super().__init__(sock)
        self.written = []
        _send, *rest = self.write_step
        self.write_step = (self.send, *rest)

    def send(self, data, flags):
        count = self.socket.send(data, flags)
        self.written.append(bytes(data[:count]))
        return count


class _Tools:
    def echo(self, *values):
        return values

    def thing(self, value):
        return Thing(value)

    def fail(self):
        raise LookupError("not here")

    def ask_back(self, name, *args):
        return ask(self.far, name, *args)


def _talk(near):
    ask(near, "echo", 1, "two", 3.0, None, [True], {"k": b"v"}, (1, 2), {3})
    thing = ask(near, "thing", 1)
    ask_for(near, (Op.METHOD, thing._oid, "add", (2,), {}))
    ask_for(near, (Op.GET, thing._oid, "value"))
    ask(near, "echo", [thing, thing])
    del thing
    ask(near, "ask_back", "echo", "nested")
    with contextlib.suppress(LookupError):
        ask(near, "fail")
    ask(near, "echo", "the same again " * 40)


def traffic(keys=(None, None), compressing=False):
    """Return what two sessions wrote, each direction as a list of writes."""
    streams = [Recorded(stream.socket) for stream in memory_pair()]
    tools = _Tools(), _Tools()
    near = End("far", streams[0], tools[0], keys[0], keys[1])
    far = End("near", streams[1], tools[1], keys[1], keys[0])
    tools[0].far, tools[1].far = near, far
    near.compress = far.compress = compressing
    thread = threading.Thread(target=far.serve)
    thread.start()
    try:
        _talk(near)
    finally:
        near.end(EOFError())
        thread.join()
        for end in (near, far):
            end.close_stream()
    return [stream.written for stream in streams]


def large_frames():
    """Return frames with buffers, as heads and what follows them; smaller than a session would make them."""
    encoder = FrameEncoder()
    made = []
    for body, sizes in [(b"N.", [3]), (b"N.", [0, 5, 0]), (b"", [40]), (b"body", [1] * 9), (b"p", [70_000])]:
        views = [memoryview(bytes(range(256)) * (size // 256 + 1))[:size] for size in sizes]
        _number, pieces = encoder.encode_large(0, (Kind.REPLY, 0, 1, 0), body, views)
        made.append((bytes(pieces[0]), b"".join(bytes(piece) for piece in pieces[1:])))
    flags, body = compress(0, b"again and " * 100)
    made.append((frame(Kind.REPLY, 1, body, 0, flags), b""))
    made.append((frame(Kind.REPLY, 1, bytes(8) + b"x\x9c\x03\x00\x00\x00\x00\x01", 0, COMPRESSED), b""))
    return made


def handshakes():
    """Return transcripts: what each side said, in order."""
    made = []
    for role, key_id, status in [
        (CONTROL, b"", Status.ACCEPTED),
        (DATA, b"lab", Status.ACCEPTED),
        (CONTROL, b"k" * 32, Status.TOO_MANY_SESSIONS),
    ]:
        near = ClientHandshake(KEY, role, TOKEN, key_id, random=lambda size: b"c" * size)
        far = ServerHandshake(lambda _key_id: KEY, random=lambda size: b"s" * size)
        said = [near.start()]
        said.append(far.receive(said[0]))
        said.append(near.receive(said[1]))
        far.receive(said[2])
        said.append(far.finish(status))
        made.append(said)
    return made


class _Port:
    def __init__(self):
        self.sent = []

    def send(self, data):
        self.sent.append(data)

    def shutdown(self):
        pass


def control_frames():
    """Return what the near side and what the keeper say on a control link."""
    control, port = Control("lab", lambda _stream, _data: None, lambda _reason: None), _Port()
    control.use(port)
    settings = {"lease": 15.0, "label": "lab", "socket": False, "near": tuple(sys.version_info[:2]), "version": "1"}
    for kind, request, body, thread in [
        (Kind.HELLO, 0, pickle.dumps(settings, 4), 0),
        (Kind.PING, 7, b"", 0),
        (Kind.CANCEL, 3, pickle.dumps(2.0, 4), 0),
        (Kind.SYNC, 1, b"", 0),
        (Kind.DATA, 0, b"", 0),
        (Kind.DATA, 0, b"relayed", 0),
        (Kind.CREDIT, 100, b"", 0),
        (Kind.CREDIT, 100, b"", 1),
        (Kind.KILL, 0, b"", 0),
        (Kind.ASK, 1, pickle.dumps({"op": "holders"}, 4), 0),
        (Kind.SPAWN, 0, b"", 0),
        (Kind.GOODBYE, 0, b"", 0),
    ]:
        control._outgoing.append((kind, request, body, thread))
    control.flush()
    died = {"signal": 11, "exit_code": None, "killed": False, "last_output": "x", "stack": "Thread 1\n  File x\n"}
    keepers = [
        frame(Kind.HELLO, 0, pickle.dumps({"keeper": 1, "path": "", "python": (3, 11, 7)}, 4)),
        frame(Kind.SPAWNED, 77),
        frame(Kind.OUTPUT, 1, b"printed\n"),
        frame(Kind.SYNCED, 1, thread=1),
        frame(Kind.DATA, 0, b"relayed"),
        frame(Kind.CREDIT, 7),
        frame(Kind.DIED, 77, pickle.dumps(died, 4)),
        frame(Kind.PONG),
        frame(Kind.ANSWER, 1, pickle.dumps({"holders": []}, 4)),
        frame(Kind.GOODBYE),
    ]
    return port.sent, keepers


def pickles():
    """Return pickles with references, by every way that makes them."""
    near, far = joined()
    thing, proxy = Thing(1), near.give(callback(len))
    values = [
        [thing, Thing(2), thing],
        {"key": (thing, proxy), "numbers": array.array("i", range(9))},
        (LookupError("x"), [None] * 3, {1.5: b"bytes"}, {"text"}, frozenset((1,)), bytearray(b"ab")),
        memoryview(b"view"),
    ]
    made = [far.values.dumps(value)[0] for value in values]
    made += [pickle.dumps([1, "a", {"b": (2, None)}], protocol) for protocol in range(6)]
    exports = far.values.exports
    exports.is_native_singleton, exports.type_data = (lambda obj: type(obj) is list), lambda _obj: "append||"
    stream = io.BytesIO()
    PersistentPickler(stream, Dump(far.values)).dump({"native": [1], "twice": ([2], [3])})
    return [*made, stream.getvalue() + b"\x93"]
