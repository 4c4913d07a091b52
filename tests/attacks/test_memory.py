"""What a peer can make the other end hold, inflate or unpickle, with and without the key; measured in that process."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import socket
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from attacks.middle import HELLO_S
from attacks.servers import KEY, SOON, address_number, hear_all, memory, until

from easycluster.link.operations import Op
from easycluster.wire.auth import CONTROL, DATA, TOKEN_SIZE, ClientHandshake
from easycluster.wire.bulk import CHUNK
from easycluster.wire.frames import COMPRESSED, HEADER, LARGE, MAX_BODY, Kind, frame
from easycluster.wire.records import Mac

MIB = 1 << 20

# What one attack may add to the memory of the process that meets it, in MiB.
SLACK = 16


# ---- before the key is proven


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A server whose memory nobody else changes."""
    from attacks.servers import ServerProcess

    with contextlib.closing(ServerProcess(tmp_path_factory.mktemp("alone"), "-v")) as server:
        server.log_in()[0].close()
        server.wait_until_idle()
        yield server


HELLO = ClientHandshake(KEY, CONTROL, bytes(TOKEN_SIZE)).start()

# What a stranger might send first, followed by as much as it likes.
OPENINGS = {
    "a huge key id": HELLO[:6] + b"\xff",
    "a record of 4 GiB": b"\xff\xff\xff\xff",
    "a hello of EasyCluster 0.22": b"\x01\xff\xff\xff\xff",
    "a huge frame": HEADER.pack(0xFFFFFFFF, Kind.HELLO, LARGE, 0, 0, 0),
    "right up to the proof": HELLO,
    "zeros": b"",
}


@pytest.mark.parametrize("what", OPENINGS)
def test_a_stranger_makes_the_server_hold_next_to_nothing(alone, what):
    """Twenty of them send a megabyte each, or what the server takes of it."""
    before = memory(alone.pid), memory(alone.pid, "VmHWM")
    with alone.begins(0):
        for number in range(20):
            with alone.connect(address_number(number)) as sock:
                with contextlib.suppress(OSError):
                    sock.sendall(OPENINGS[what] + bytes(MIB))
                assert len(hear_all(sock)) in (0, HELLO_S)
    assert memory(alone.pid) - before[0] < 2
    assert memory(alone.pid, "VmHWM") - before[1] < 2


TRIPWIRES = """
import sys
def trip(name):
    def tripped(*args, **kwargs):
        sys.stdout.write('TRIPPED ' + name + chr(10)); sys.stdout.flush()
        import os
        os._exit(3)
    return tripped
import pickle, marshal, zlib
from easycluster.server import Server
class Spawner:
    spawn = trip('spawn')
    def close(self):
        pass
server = Server(0, bytes(range(32)), '127.0.0.1', spawner=Spawner(), verbosity=1)
for module, names in (
    (pickle, 'load loads Unpickler _Unpickler _load _loads'), (zlib, 'decompress decompressobj'), (marshal, 'loads'),
):
    for name in names.split():
        setattr(module, name, trip(module.__name__ + '.' + name))
__builtins__.eval = trip('eval')
__builtins__.exec = trip('exec')
print(server.port, flush=True)
server.serve_forever()
"""


class Canary:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def pickles(path):
    """Return first words with pickles in them: bare, framed, deflated, in records with and without a right tag."""
    for protocol in range(6):
        bare = pickle.dumps(Canary(path), protocol)
        yield bare
        framed = frame(Kind.HELLO, 0, bare)
        deflated = zlib.compress(bare)
        yield framed
        yield frame(Kind.CALL, 1, len(bare).to_bytes(8, "big") + deflated, flags=COMPRESSED)
        yield HELLO + bare
        yield HELLO[:7] + bare
        yield b"".join((len(framed).to_bytes(4, "big"), bytes(32), framed))
        yield Mac(bytes(32)).seal(0, framed)
        yield Mac(KEY).seal(0, framed)
        # Of EasyCluster 0.22: a type, a length, a pickle.
        yield b"\x01" + len(bare).to_bytes(4, "big") + bare


def test_no_pickle_of_a_stranger_is_looked_at(tmp_path):
    canary = str(tmp_path / "canary")
    with subprocess.Popen([sys.executable, "-c", TRIPWIRES], stdout=subprocess.PIPE, text=True) as process:
        try:
            address = ("127.0.0.1", int(process.stdout.readline()))
            for words in pickles(canary):
                with socket.create_connection(address, SOON) as sock:
                    with contextlib.suppress(OSError):
                        sock.sendall(words)
                        sock.shutdown(socket.SHUT_WR)
                    hear_all(sock)
            # Right up to the proof, which is wrong, with a pickle behind it.
            for words in pickles(canary):
                with socket.create_connection(address, SOON) as sock:
                    shake = ClientHandshake(bytes(32), CONTROL, os.urandom(TOKEN_SIZE))
                    sock.sendall(shake.start())
                    sock.sendall(shake.receive(sock.recv(HELLO_S, socket.MSG_WAITALL)) + words)
                    assert hear_all(sock) == b""
            assert process.poll() is None
        finally:
            process.terminate()
        assert "TRIPPED" not in process.stdout.read()
    assert not os.path.exists(canary)


# ---- with the key


class FarProcess:
    """A session that the test speaks itself, with all that the key allows.

    Args:
        server: The server.
        settings: What the near side says first.
    """

    def __init__(self, server, **settings):
        token = os.urandom(TOKEN_SIZE)
        self.control, self.control_keys = server.log_in(token)
        settings = {"lease": 60.0, "definitions": [], "label": "attacker", **settings}
        self.control.sendall(Mac(self.control_keys.send).seal(0, frame(Kind.HELLO, 0, pickle.dumps(settings, 4))))
        self.data, self.keys = server.log_in(token, role=DATA)
        self._mac, self._open = Mac(self.keys.send), Mac(self.keys.receive)
        self._sent = self._received = 0
        kind, _, body = self.receive()
        assert kind == Kind.HELLO
        self.pid = pickle.loads(body)["pid"]

    def seal(self, frames):
        """Return a record with these frames."""
        record = self._mac.seal(self._sent, frames)
        self._sent += 1
        return record

    def seal_chunk(self, chunk):
        """Return a chunk of a buffer with its tag."""
        tag = self._mac.tag(self._sent, chunk)
        self._sent += 1
        return chunk + tag

    def receive(self):
        """Return kind, flags and body of the next frame."""
        head = self.data.recv(36, socket.MSG_WAITALL)
        assert len(head) == 36, "the session has ended"
        body = self.data.recv(int.from_bytes(head[:4], "big"), socket.MSG_WAITALL)
        frames = self._open.open(self._received, head + body)
        assert frames is not None
        self._received += 1
        _length, kind, flags, _zero, _request, _thread = HEADER.unpack_from(frames)
        return kind, flags, frames[16:]

    def call(self, text, flags=0, body=None):
        """Have an expression evaluated; return kind and body of the answer."""
        body = pickle.dumps((Op.EVAL, text, None, None)[:2], 5) if body is None else body
        self.data.sendall(self.seal(HEADER.pack(len(body), Kind.CALL, flags, 0, 1, 0) + body))
        kind, _, answer = self.receive()
        return kind, answer

    def close(self):
        self.data.close()
        self.control.close()


@pytest.fixture
def far(server):
    """A session with a limit of 8 MiB a message."""
    with contextlib.closing(FarProcess(server, max_frame=8 * MIB)) as far:
        assert far.call("6 * 7") == (Kind.REPLY, pickle.dumps(42, 5))
        yield far


@functools.cache
def deflated_zeros(size):
    deflater = zlib.compressobj(9)
    return b"".join(deflater.compress(bytes(MIB)) for _ in range(size // MIB)) + deflater.flush()


def bomb(size, declared):
    """Return a compressed body of zeros that says it has ``declared`` bytes."""
    return declared.to_bytes(8, "big") + deflated_zeros(size)


@pytest.mark.parametrize(
    ("size", "declared", "message"),
    [
        (160 * MIB, 160 * MIB, "is above the limit of 8388608"),
        (160 * MIB, 1 << 63, "is above the limit of 8388608"),
        (160 * MIB, MIB, "does not have the size it declares"),
        (160 * MIB, 0, "does not have the size it declares"),
    ],
)
def test_a_bomb_is_inflated_to_its_declared_size_at_most(far, size, declared, message):
    """160 MiB in 159 KiB, what one record holds: 1030 to 1."""
    body = bomb(size, declared)
    assert len(body) < MAX_BODY
    before = memory(far.pid, "VmHWM"), memory(far.pid)
    kind, answer = far.call("", COMPRESSED, body)
    assert kind == Kind.RAISE
    assert message in pickle.loads(answer)["text"][-1]
    assert memory(far.pid, "VmHWM") - before[0] < SLACK
    assert memory(far.pid) - before[1] < SLACK
    # The session goes on.
    assert far.call("6 * 7")[0] == Kind.REPLY


def large(*sizes):
    """Return the frame that announces buffers of these sizes."""
    body = len(sizes).to_bytes(2, "big") + b"".join(size.to_bytes(8, "big") for size in sizes)
    return HEADER.pack(len(body), Kind.CALL, LARGE, 0, 1, 0) + body


# The head of a record, or the frames in a right one; each breaks a limit.
TOO_MUCH = {
    "a buffer of 8 EiB": large((1 << 63) - 1),
    "a buffer of 8 EiB to become bytes": large((1 << 64) - 1),
    "a buffer above the limit": large(8 * MIB + 1),
    "buffers above the limit": large(4 * MIB, 4 * MIB, 1),
    "no buffers": large(),
    "a frame of 4 GiB": HEADER.pack(0xFFFFFFFF, Kind.CALL, 0, 0, 1, 0),
    "a frame longer than its record": HEADER.pack(100, Kind.CALL, 0, 0, 1, 0) + bytes(99),
    "a frame of no kind": HEADER.pack(0, 0, 0, 0, 1, 0),
    "a frame of an unknown kind": HEADER.pack(0, 255, 0, 0, 1, 0),
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_a_length_above_its_limit_ends_the_session_and_takes_no_memory(far, what):
    """VmPeak is read while the worker still is there: it looks before it leaves."""
    before = memory(far.pid)
    far.data.sendall(far.seal(TOO_MUCH[what]))
    with contextlib.suppress(OSError, ValueError):
        while True:
            assert memory(far.pid) - before < SLACK
    assert hear_all(far.data) == b""


def test_a_record_longer_than_allowed_ends_the_session_before_it_arrives(far):
    far.data.sendall(b"\xff\xff\xff\xff" + bytes(32))
    assert hear_all(far.data) == b""


def test_memory_grows_with_what_arrives_and_not_with_what_is_announced(far):
    space, real = memory(far.pid, "VmSize"), memory(far.pid, "VmHWM")
    far.data.sendall(far.seal(large(8 * MIB)))
    for _ in range(6):
        far.data.sendall(far.seal_chunk(bytes(CHUNK)))
    # It has taken them, 1.5 MiB, and made room for no more than comes next.
    until(lambda: memory(far.pid, "VmHWM") - real >= 1)
    assert memory(far.pid, "VmHWM") - real < 4
    assert memory(far.pid, "VmSize") - space < 6


def test_a_control_link_takes_no_bulk(server):
    """What a keeper is told is short; it holds no more than a record."""
    sock, keys = server.log_in()
    with sock:
        sock.sendall(Mac(keys.send).seal(0, large(MIB)))
        heard = hear_all(sock)
    assert Mac(keys.receive).open(0, heard) == frame(
        Kind.GOODBYE, 0, b"a frame of 1048576 bytes is above the limit of 0"
    )
    server.wait_until_idle()


# ---- the near side


EXPLODING = """
import gc
def explode(body):
    (session,) = (each for each in gc.get_objects() if type(each).__name__ == "WorkerSession")
    (request,) = session.inside.values()
    # The answer of this very call; the right one comes too late.
    session.send(4, request, body, (), 0, 8)
"""

NEAR = """
import os, sys
sys.path.insert(0, TESTS)
from easycluster.server import spawn_local
from attacks.servers import memory
from attacks.test_memory import EXPLODING, MIB, SLACK, bomb
client = spawn_local()
client.execblock(EXPLODING)
client._session._decoder.max_frame = 8 * MIB
bombs = [bomb(160 * MIB, declared) for declared in (160 * MIB, MIB)]
client.eval('6 * 7')
before = memory(os.getpid(), 'VmHWM')
for body in bombs:
    try:
        print('got', client.explode(body))
    except Exception as exc:
        print(type(exc).__name__, exc)
print(client.eval('6 * 7'))
print(memory(os.getpid(), 'VmHWM') - before < SLACK)
client.close()
"""


def test_a_client_inflates_no_bomb_either():
    """A far side that went bad, against a client in a process of its own."""
    program = NEAR.replace("TESTS", repr(str(Path(__file__).parents[1])))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "RemoteProtocolError a compressed body of 167772160 bytes is above the limit of 8388608",
        "RemoteProtocolError a compressed body does not have the size it declares",
        "42",
        "True",
    ]
