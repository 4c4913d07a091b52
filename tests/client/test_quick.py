"""The quick way of a plain call takes what it may take, and leaves the rest as it was."""

from __future__ import annotations

import contextlib
import pickle
import signal
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from support.joined_sessions import KEYS
from support.plain_values import plain_values

from easycluster.client.quick import make_call
from easycluster.client.session import NearSession
from easycluster.errors import LocalProtocolError
from easycluster.far.namespace import Namespace
from easycluster.far.quick import make_serve
from easycluster.far.session import FarThread, WorkerSession
from easycluster.link.operations import Op
from easycluster.objects.registry import Exports, Proxies
from easycluster.transport.memory import memory_pair
from easycluster.wire.frames import MARKED, NESTED, FrameDecoder, FrameEncoder, Kind, frame
from easycluster.wire.records import Mac
from easycluster.wire.values import PeerInfo, Values, this_python

__all__ = ["plain_values"]

OPERATION = (Op.CALL, "abs", (-3,), {})
THREE = pickle.dumps(3, 5)


class Peer:
    """The other end of a session, moved by hand."""

    def __init__(self, stream, keys):
        self.stream = stream
        self.encoder = FrameEncoder(Mac(keys[0]) if keys else None)
        self.decoder = FrameDecoder(Mac(keys[1]) if keys else None)
        self.number = 0

    def encode(self, *parts):
        """Return a frame as it goes over the wire."""
        self.number, data = self.encoder.encode(self.number, frame(*parts))
        return data

    def write(self, data):
        """Send bytes."""
        assert sum(self.stream.write_map(data)) == len(data)

    def frames(self):
        """Return the frames that one read brings."""
        return self.decoder.receive_data(next(self.stream.read_map()))


def values(connection=None):
    return Values(Exports(), Proxies(connection), connection, peer=PeerInfo("the other end", this_python()))


class LongWay:
    """In place of a client: notes what was left to the long way, and goes it."""

    def __init__(self):
        self.left = []
        self.before_waiting = lambda: None

    def _request(self, _operation, origexc):
        self.left.append("request")

    def _request_pickled(self, _session, _operation, _body, _buffers, _thread, _origexc):
        self.left.append("pickled")

    def _finish_call(self, session, pending, answer, _origexc):
        self.left.append("answer")
        self.before_waiting()
        return session.wait_item(pending)[:4] if pending is not None else answer

    def _call_failed(self, _session, _operation, exc, _began):
        self.left.append(type(exc).__name__)

    def _leave(self, session, request):
        session.pending.pop(request, None)


@pytest.fixture(params=[None, KEYS], ids=["trusted", "authenticated"])
def keys(request):
    """Keys of the two directions, or None."""
    return request.param


@pytest.fixture
def near(keys):
    """A near end: its session, its call, the peer, and who goes the long way."""
    stream, other = memory_pair()
    session = NearSession(stream, values(), *(keys or (None, None)), services={})
    client, deadlines = LongWay(), []
    peer = Peer(other, keys and keys[::-1])
    call = make_call(client, session, deadlines, one_thread=True)
    yield SimpleNamespace(session=session, call=call, client=client, peer=peer, deadlines=deadlines)
    session.end(EOFError())
    session.close_stream()
    other.close()


def test_an_answer_is_taken_at_once(near):
    for number in (1, 2, 3):
        near.peer.write(near.peer.encode(Kind.REPLY, number, THREE))
        assert near.call(OPERATION) == 3
        [(kind, flags, request, thread, body, _)] = near.peer.frames()
        assert (kind, flags, request, thread, pickle.loads(body)) == (Kind.CALL, 0, number, 0, OPERATION)
    assert near.client.left == []
    assert not near.session.pending
    assert not near.session._reading._is_owned()


@pytest.mark.parametrize(
    "parts",
    [(Kind.RAISE, 1, b"failure"), (Kind.REPLY, 1, THREE, 7, MARKED)],
    ids=["an exception", "with output before it"],
)
def test_another_answer_is_left(near, parts):
    near.peer.write(near.peer.encode(*parts))
    kind, flags, request, thread = near.call(OPERATION)
    assert (kind, request) == parts[:2]
    assert (thread, flags) == (parts[3:] or (0, 0))
    assert near.client.left == ["answer"]


@pytest.mark.parametrize("end", [1, 3, 15, 17, -1])
def test_a_part_of_an_answer_is_left(near, end):
    data = near.peer.encode(Kind.REPLY, 1, THREE)
    near.peer.write(data[:end])
    near.client.before_waiting = lambda: near.peer.write(data[end:])
    assert near.call(OPERATION) == (Kind.REPLY, 0, 1, 0)
    near.peer.write(near.peer.encode(Kind.REPLY, 2, THREE))
    assert near.call(OPERATION) == 3


def test_an_answer_with_more_behind_it_is_left(near):
    near.peer.write(near.peer.encode(Kind.REPLY, 1, THREE) + near.peer.encode(Kind.REPLY, 2, THREE))
    assert near.call(OPERATION) == (Kind.REPLY, 0, 1, 0)


def test_an_answer_to_something_else_is_left(near):
    near.peer.write(near.peer.encode(Kind.REPLY, 77, THREE))
    near.client.before_waiting = lambda: near.peer.write(near.peer.encode(Kind.REPLY, 1, THREE))
    assert near.call(OPERATION) == (Kind.REPLY, 0, 1, 0)


@pytest.mark.parametrize("reason", ["deadline", "callback", "special"])
def test_a_call_that_is_not_plain_is_left_whole(near, reason):
    if reason == "deadline":
        near.deadlines.append(1.0)
    elif reason == "callback":
        near.session.inside[1] = 1
    else:
        near.session.compress = True
    near.call(OPERATION)
    assert near.client.left == ["request"]


def test_large_arguments_are_left(near):
    near.call((Op.CALL, "len", (bytes(100_000),), {}))
    assert near.client.left == ["pickled"]


@pytest.mark.parametrize("keys", [KEYS], ids=["authenticated"], indirect=True)
def test_a_wrong_record_ends_the_session(near):
    data = bytearray(near.peer.encode(Kind.REPLY, 1, THREE))
    data[-1] ^= 1
    near.peer.write(bytes(data))
    with pytest.raises(ConnectionAbortedError):
        near.call(OPERATION)
    assert near.session.ended is not None


def test_the_end_of_the_stream_ends_the_session(near):
    near.peer.stream.socket.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError, match="closed by the far side"):
        near.call(OPERATION)
    assert near.session.ended is not None
    near.client.left.clear()
    near.call(OPERATION)
    assert near.client.left == ["request"]


def test_an_error_of_a_signal_handler_is_not_one_of_the_link(near):
    def expire(*_):
        raise TimeoutError("this took too long")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(TimeoutError, match="too long") as caught:
            near.call(OPERATION)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caught.value.easycluster_request == 1
    assert near.client.left == ["TimeoutError"]
    assert near.session.ended is None
    near.client.before_waiting = lambda: near.peer.write(near.peer.encode(Kind.REPLY, 2, THREE))
    # What comes too late does not become the answer to something else.
    near.peer.write(near.peer.encode(Kind.REPLY, 1, pickle.dumps(1, 5)))
    assert near.call(OPERATION) == (Kind.REPLY, 0, 2, 0)


# The far side ----------------------------------------------------------------------------------------


@pytest.fixture
def far(keys):
    """A far end: its session, its serve, and the peer."""
    stream, other = memory_pair()
    thread = FarThread(0)
    worker = SimpleNamespace(
        settings={},
        report_calls=False,
        namespace=Namespace(["tests_of_quick"]),
        service=None,
        main_thread=thread,
        threads_by_ident={0: thread},
        cancelled=set(),
    )
    session = WorkerSession(worker, stream, values(), *(keys or (None, None)))
    peer = Peer(other, keys and keys[::-1])
    yield SimpleNamespace(session=session, serve=make_serve(worker, session, thread), thread=thread, peer=peer)
    session.end(EOFError())
    session.close_stream()
    other.close()


@contextlib.contextmanager
def serving(far):
    """Have a thread serve; a ping makes it leave."""
    thread = threading.Thread(target=far.serve)
    thread.start()
    try:
        yield
    finally:
        far.peer.write(far.peer.encode(Kind.PING))
        thread.join(10)
        assert not thread.is_alive()


def test_calls_are_answered_until_something_else_comes(far):
    with serving(far):
        for number in (1, 2, 3):
            far.peer.write(far.peer.encode(Kind.CALL, number, pickle.dumps(OPERATION, 5)))
            [(kind, flags, request, thread, body, _)] = far.peer.frames()
            assert (kind, flags, request, thread, body) == (Kind.REPLY, 0, number, 0, THREE)
    far.session._decoder.digest()
    assert far.session._decoder.ready.popleft()[0] == Kind.PING
    assert not far.session.inside
    assert not far.thread.running
    assert far.session._reading.acquire(blocking=False)


@pytest.mark.parametrize(
    ("parts", "cut"),
    [
        ((Kind.CALL, 5, b"call", 1, 0), None),
        ((Kind.CALL, 5, b"call", 0, NESTED), None),
        ((Kind.RELEASE, 0, b"1 1", 0, 0), None),
        ((Kind.CALL, 5, b"call", 0, 0), -1),
        ((Kind.CALL, 5, b"call", 0, 0), 2),
    ],
)
def test_what_is_no_plain_call_is_left(far, parts, cut):
    data = far.peer.encode(*parts)
    far.peer.write(data[:cut])
    far.serve()
    decoder = far.session._decoder
    decoder.digest()
    if cut is not None:
        assert not decoder.ready
        far.peer.write(data[cut:])
        decoder.chunks.extend(far.session.stream.read_map())
        decoder.digest()
    [(kind, flags, request, thread, body, _)] = decoder.ready
    assert (kind, request, body, thread, flags) == parts


def test_nothing_is_read_while_something_waits(far):
    far.thread.inbox.items.append("a message")
    far.peer.write(far.peer.encode(Kind.CALL, 1, pickle.dumps(OPERATION, 5)))
    far.serve()
    assert far.thread.inbox.items.pop() == "a message"
    assert far.session.stream.wait(write=False, timeout=0)[0]


def test_a_result_does_not_outlive_its_answer(far):
    namespace = far.session.worker.namespace
    namespace.execblock(
        "import weakref\n"
        "class Thing: pass\n"
        "made = []\n"
        "def make():\n"
        "    thing = Thing()\n"
        "    made.append(weakref.ref(thing))\n"
        "    return thing\n"
    )
    with serving(far):
        far.peer.write(far.peer.encode(Kind.CALL, 1, pickle.dumps((Op.CALL, "make", (), {}), 5)))
        assert far.peer.frames()[0][0] == Kind.REPLY
        end = time.monotonic() + 10
        while namespace.eval("made[0]()") is not None:
            assert time.monotonic() < end, "the result is still there"
            time.sleep(0.001)


# Interruptions ---------------------------------------------------------------------------------------


def test_what_an_interruption_left_unsent_is_sent_first(near):
    near.peer.write(near.peer.encode(Kind.REPLY, 1, THREE))
    assert near.call(OPERATION) == 3
    near.peer.frames()
    # As if a signal had come after the record was made, and before it was written.
    number, data = near.session._encoder.encode(near.session._number, frame(Kind.CALL, 77, b"unsent"))
    near.session.sending = (data, [], number)
    near.peer.write(near.peer.encode(Kind.REPLY, 2, THREE))
    assert near.call(OPERATION) == 3
    assert [message[2] for message in near.peer.frames()] == [77, 2]


@pytest.mark.parametrize("part", [0, 10, None])
def test_others_finish_what_an_interruption_left(near, part):
    _, data = near.session._encoder.encode(0, frame(Kind.CALL, 77, b"left"))
    ours = near.session.stream
    counts = [sum(ours.write_map(data[:part]))] if part != 0 else []
    near.session.sending = (data, counts, 1 if near.session.macs else 0)
    near.session.send(Kind.PING, 5, b"")
    seen = []
    while len(seen) < 2:
        seen += [(message[0], message[2]) for message in near.peer.frames()]
    assert seen == [(Kind.CALL, 77), (Kind.PING, 5)]


def test_a_call_in_the_middle_of_another_is_refused(near):
    def meddle(data, *flags):
        with pytest.raises(LocalProtocolError, match="in the middle of another message"):
            near.session.send(Kind.PING, 5, b"")
        return write(data, *flags)

    write, options = near.session.stream.write_step
    near.session.stream.write_step = (meddle, options)
    call = make_call(near.client, near.session, near.deadlines, one_thread=True)
    near.peer.write(near.peer.encode(Kind.REPLY, 1, THREE))
    assert call(OPERATION) == 3
    assert [message[0] for message in near.peer.frames()] == [Kind.CALL]
