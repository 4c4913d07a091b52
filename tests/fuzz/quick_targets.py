"""The quick way of a plain call as a target: its own reading, tag check and unpickling of one plain frame.

What the decoder makes of the same bytes is the measure.  Every frame has to arrive, by the quick way or by the long
one, once and in order; what the decoder refuses ends the session; and of what has no right tag nothing is unpickled.
"""

from __future__ import annotations

import pickle
from types import SimpleNamespace

from easycluster.client import quick as near_quick
from easycluster.client.session import NearSession
from easycluster.errors import RemoteProtocolError
from easycluster.far import quick as far_quick
from easycluster.far.namespace import Namespace
from easycluster.far.session import FarThread, WorkerSession
from easycluster.link.operations import Op
from easycluster.link.pending import Waiter
from easycluster.link.streams import Stream
from easycluster.objects.registry import Exports, Proxies
from easycluster.wire.frames import NESTED, FrameDecoder, Kind, frame
from easycluster.wire.pickling import required
from easycluster.wire.records import Mac
from easycluster.wire.values import PeerInfo, Values, this_python

from .cutting import Signer, join_payloads, pieces, split_payloads
from .targets import KEY, MAX_FRAME, Target, check

__all__ = ["QUICK"]

# Of the direction that is not fuzzed.
OTHER_KEY = bytes(reversed(KEY))
OPERATION = (Op.CALL, "abs", (-3,), {})

# Who speaks: somebody with the key, one without, and the peer of a link that has none.
HOLDER, STRANGER, TRUSTED = range(3)


class _Stream(Stream):
    """What a peer said, a piece a read, and then the end; takes everything."""

    def __init__(self, said):
        super().__init__(-1, -1)
        self._said = [piece for piece in said if piece]
        self.written = []
        self.read_step = (self._read, (65536,))
        self.write_step = (self._write, ())

    def _read(self, size):
        if not self._said:
            return b""
        piece = self._said[0]
        if len(piece) > size:
            self._said[0] = piece[size:]
            return piece[:size]
        return self._said.pop(0)

    def _write(self, data):
        self.written.append(bytes(data))
        return len(data)

    def _read_into(self, views):
        data = self._read(len(views[0]))
        views[0][: len(data)] = data
        return len(data)

    def readv_map(self, views):
        return map(self._read_into, (views,))

    def shutdown(self):
        pass


class _Values(Values):
    """Unpickles nothing: the quick way's own ``_loads`` and this are one fake."""

    loads = staticmethod(lambda body, _buffers=(): _fake.loads(body))


class _Fake:
    """In place of ``pickle.loads`` in the two modules: notes what it is given."""

    def __init__(self):
        self.seen = []
        self.make = lambda body: body

    def loads(self, body):
        self.seen.append(bytes(body))
        return self.make(body)


_fake = _Fake()


class _Quick(Target):
    """What both ends share: who speaks, and what the decoder makes of it."""

    def __init__(self):
        for module in (near_quick, far_quick):
            # Before the tripwires look for names: this one is watched by itself.
            module._loads = _fake.loads
        required.clear()
        super().__init__()

    def seeds(self):
        plain = self.plain()
        seeds = [bytes([TRUSTED + cut]) + b"".join(payloads) for payloads in plain for cut in (0, 9)]
        seeds += [bytes([HOLDER + cut]) + join_payloads(payloads) for payloads in plain for cut in (0, 9)]
        mac = Mac(OTHER_KEY)
        heard = [b"".join(mac.seal(at, payload) for at, payload in enumerate(payloads)) for payloads in plain]
        return [*seeds, *(bytes([STRANGER + cut]) + stream for stream in heard for cut in (0, 9))]

    def __call__(self, data):
        how, data = data[0] if data else 0, data[1:]
        who, cut = how % 3, how // 3
        _fake.seen.clear()
        with self.tripwires.watching():
            if who == HOLDER:
                said, frames, refused = self._signed(data)
            elif who == TRUSTED:
                said, frames, refused = _at_borders(data, 16), *self._decoded(data)
            else:
                said, frames, refused = _at_borders(data, 36), [], None
            if cut % 2:
                said = pieces(b"".join(said), cut // 2)
            # Else a message a read, which is what the quick way is for.
            arrived, ended = self.run(_Stream(said), None if who == TRUSTED else KEY)
        if who == STRANGER:
            check(not _fake.seen, "what a stranger says was unpickled")
        check(arrived == frames[: len(arrived)], "the quick way makes something else of it than the decoder")
        check(len(arrived) == len(frames) or refused, "a frame was lost")
        check(isinstance(ended, OSError), "the end of the link was not noticed")
        if refused is not None:
            # What came in one piece with it is gone, too.
            check(isinstance(ended.__cause__, RemoteProtocolError) == refused, f"the session ended with {ended!r}")
        return bool(frames) and not refused

    def _signed(self, data):
        decoder = FrameDecoder(Mac(KEY), MAX_FRAME)
        frames = []

        def take(wire):
            frames.extend(decoder.receive_data(wire))

        signer = Signer(KEY, decoder, take)
        try:
            for payload in split_payloads(data):
                signer.say(payload)
        except RemoteProtocolError:
            return signer.wire, self.wanted(frames), True
        return signer.wire, self.wanted(frames), False

    def _decoded(self, data):
        decoder, frames = FrameDecoder(None, MAX_FRAME), []
        try:
            # Byte by byte: frames before a wrong one may arrive.
            for at in range(len(data)):
                frames += decoder.receive_data(data[at : at + 1])
        except RemoteProtocolError:
            return self.wanted(frames), True
        return self.wanted(frames), False


class Call(_Quick):
    """The near end: one call, and any answer."""

    def plain(self):
        body = pickle.dumps(3, 5)
        answers = [
            frame(Kind.REPLY, 1, body),
            frame(Kind.RAISE, 1, body),
            frame(Kind.REPLY, 1, body, 7, 1),
            frame(Kind.REPLY, 2, body),
            frame(Kind.CALL, 9, body, 1, NESTED),
            frame(Kind.PING, 0, b""),
        ]
        return [[answer] for answer in answers] + [[answers[5], answers[0]], [b"".join(answers[3:5] + answers[:1])]]

    def wanted(self, frames):
        """Return the answer, or what the far side asks meanwhile; nothing else is waited for."""
        for each in frames:
            kind, flags, request, thread, _body, _buffers = each
            answers = kind in (Kind.REPLY, Kind.RAISE) and request == 1
            if answers or (kind == Kind.CALL and flags & NESTED and thread == 1):
                return [_plain(each)]
        return []

    def run(self, stream, key):
        session = _Near(stream, _values(), key and OTHER_KEY, key, MAX_FRAME, services={})
        owner = _Owner()
        call = near_quick.make_call(owner, session, [], one_thread=True)
        arrived, ended = [], None
        try:
            found = call(OPERATION)
            if owner.message is not None:
                arrived = [_plain(owner.message)]
            else:
                check(_fake.seen == [found], "a value was returned that was not unpickled")
                arrived = [(Kind.REPLY, 0, 1, 0, found, ())]
            session._pump_to_the_end()
        except OSError:
            pass
        ended = session.ended
        check(not session._reading._is_owned(), "the reading role was kept")
        check(len(stream.written) == 1, "a call was sent again")
        # What comes behind an answer was not what the call waited for: only a session that ended with it counts.
        return arrived, ended


class _Owner:
    """In place of a client: goes the long way."""

    message = None

    def _finish_call(self, session, pending, _answer, _origexc):
        self.message = session.wait_item(pending)

    def _call_failed(self, *_arguments):
        pass

    def _leave(self, session, request):
        session.pending.pop(request, None)


class _Near(NearSession):
    """A near end that starts no thread and looks into no late answer."""

    def route(self, message):
        return Waiter()

    def late(self, message):
        pass

    def _pump_to_the_end(self):
        while self.ended is None:
            self._pump()


class Serve(_Quick):
    """The far end: any number of calls."""

    def plain(self):
        calls = [frame(Kind.CALL, at, pickle.dumps(OPERATION, 5)) for at in (1, 2, 3)]
        others = [
            frame(Kind.CALL, 4, b"thread", 5),
            frame(Kind.CALL, 5, b"nested", 1, NESTED),
            frame(Kind.RELEASE, 0, b"1 1 "),
            frame(Kind.STOP_THREAD, 0, b"", 0),
        ]
        return [
            calls[:1],
            calls,
            [b"".join(calls)],
            [calls[0], *others, calls[1]],
            [calls[0], b"".join(others)],
            [calls[2][:-1]],
        ]

    def __init__(self):
        super().__init__()
        self._namespace = Namespace(["fuzzed"])
        self._namespace.execblock("def take(body): return len(body)")

    def wanted(self, frames):
        """Return what the main thread gets; answers to nothing are dropped."""
        return [_plain(each) for each in frames if each[0] not in (Kind.REPLY, Kind.RAISE)]

    def run(self, stream, key):
        thread = FarThread(0)
        worker = SimpleNamespace(
            settings={},
            report_calls=False,
            namespace=self._namespace,
            service=None,
            main_thread=thread,
            threads_by_ident={0: thread},
            cancelled=set(),
        )
        session = _Far(worker, stream, _values(), key and OTHER_KEY, key, MAX_FRAME)
        serve = far_quick.make_serve(worker, session, thread)
        arrived = []
        _fake.make = lambda body: (Op.CALL, "take", (bytes(body),), {})
        try:
            while True:
                before = len(_fake.seen)
                numbers = len(stream.written)
                serve()
                answered = stream.written[numbers:]
                check(len(answered) == len(_fake.seen) - before, "a call was answered twice, or not at all")
                for body, answer in zip(_fake.seen[before:], answered, strict=True):
                    request = int.from_bytes(answer[-len(_answer(body)) - 8 :][:4], "big")
                    arrived.append((Kind.CALL, 0, request, 0, body, ()))
                    check(answer.endswith(frame(Kind.REPLY, request, _answer(body))), "another answer than its own")
                arrived.append(_plain(session.wait_item(thread.inbox)))
        except OSError:
            pass
        finally:
            _fake.make = lambda body: body
        check(not session._reading._is_owned(), "the reading role was kept")
        check(not thread.running, "a call is still running")
        return arrived, session.ended


def _at_borders(data, head):
    """Cut behind each message, as far as the lengths say where that is."""
    said, at = [], 0
    while at < len(data):
        size = head + int.from_bytes(data[at : at + 4], "big")
        said.append(data[at : at + size])
        at += size
    return said


def _answer(body):
    return pickle.dumps(len(body), 5)


class _Far(WorkerSession):
    """A worker's end that has one thread and looks into no late answer."""

    def route(self, message):
        return self.worker.main_thread.inbox

    def late(self, message):
        pass


def _values():
    return _Values(Exports(), Proxies(None), None, peer=PeerInfo("the other end", this_python()))


def _plain(message):
    """Return a frame as values that can be compared."""
    kind, flags, request, thread, body, buffers = message
    return int(kind), flags, request, thread, bytes(body), tuple(bytes(each) for each in buffers)


QUICK = {"call": Call, "serve": Serve}
