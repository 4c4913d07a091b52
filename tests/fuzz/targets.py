"""What is fuzzed.  A target takes bytes and says whether they made sense; nonsense must be refused, never more.

Each raises :class:`Finding`, or whatever our code raises and does not document, when something is wrong.
"""

from __future__ import annotations

from types import SimpleNamespace

from easycluster.client import monitor
from easycluster.errors import AuthenticationError, ConnectError, RemoteProtocolError
from easycluster.far import keeper as keepers
from easycluster.link.operations import PeerSession
from easycluster.wire.auth import CONTROL, DATA, MAX_HANDSHAKE, ClientHandshake, ServerHandshake, Status, _Secrets
from easycluster.wire.frames import COMPRESSED, MAX_RECORD, FrameDecoder, Kind, decompress
from easycluster.wire.pickling import _ReferenceReader, references_in
from easycluster.wire.records import HEAD_SIZE, Mac

from . import corpus
from .cutting import Signer, join_payloads, pieces, split_payloads
from .tripwires import Tripwires

__all__ = ["TARGETS", "Finding"]

KEY = corpus.KEY
# A little more than a chunk, so that there may be two; all of them are hashed.
MAX_FRAME = 260 << 10
MAX_BODY = 1 << 20


class Finding(Exception):
    """Something that must never be."""


def check(condition, text):
    """Raise a finding unless ``condition`` holds."""
    if not condition:
        raise Finding(text)


def comparable(frames):
    """Return frames as plain values: buffers may be maps."""
    return [(*head, bytes(body), [bytes(each) for each in buffers]) for *head, body, buffers in frames]


class Target:
    """One thing to fuzz.

    Attributes:
        max_len: The longest input, in bytes.
    """

    max_len = 4096

    def __init__(self):
        self.tripwires = Tripwires()

    def seeds(self):
        """Return inputs to begin with."""
        raise NotImplementedError

    def __call__(self, data):
        """Return whether ``data`` made sense to the end."""
        raise NotImplementedError


class Frames(Target):
    """Frames of a trusted link: no keys, any bytes."""

    def seeds(self):
        streams = [b"".join(written) for written in (*corpus.traffic(), *corpus.traffic(compressing=True))]
        streams += [head + bulk for head, bulk in corpus.large_frames() if len(bulk) < 1000]
        return [bytes([how]) + stream for stream in streams for how in (0, 3)]

    def __call__(self, data):
        how, data = data[0] if data else 0, data[1:]
        with self.tripwires.watching():
            whole = self._decode([data])
            cut = self._decode(pieces(data, how or 2))
        check((whole is None) == (cut is None), "a cut stream is refused and the whole one is not, or the reverse")
        if whole is None:
            return False
        check(whole[0] == cut[0], "a cut stream gives other frames than the whole one")
        look_at_bodies(whole[0])
        return not whole[1]

    def _decode(self, parts):
        decoder, frames = FrameDecoder(None, MAX_FRAME), []
        try:
            for part in parts:
                frames += decoder.receive_data(part)
        except RemoteProtocolError:
            return None
        return comparable(frames), decoder.in_the_middle


class Records(Target):
    """Records of a peer that holds the key: past the tag, any bytes."""

    def seeds(self):
        recorded = (*corpus.traffic(), *corpus.traffic(compressing=True))
        seeds = [b"\0" + join_payloads(written) for written in recorded]
        seeds += [b"\3" + join_payloads([head, bulk[:50]]) for head, bulk in corpus.large_frames()]
        return seeds

    def __call__(self, data):
        how, data = data[0] if data else 0, data[1:]
        decoder, frames = FrameDecoder(Mac(KEY), MAX_FRAME), []
        signer = Signer(KEY, decoder, decoder.receive_data)
        refused = False
        # Here too: a frame is taken apart without looking into it.
        with self.tripwires.watching():
            try:
                for payload in split_payloads(data):
                    frames += signer.say(payload)
            except RemoteProtocolError:
                refused = True
            got, expected = [], comparable(frames)
            again = FrameDecoder(Mac(KEY), MAX_FRAME)
            try:
                for piece in pieces(b"".join(signer.wire), how or 2):
                    got += again.receive_data(piece)
            except RemoteProtocolError:
                check(refused, "cut records are refused and whole ones are not")
            else:
                check(not refused, "whole records are refused and cut ones are not")
                check(comparable(got) == expected, "cut records give other frames than whole ones")
        look_at_bodies(expected)
        return not refused and not decoder.in_the_middle


class Strangers(Target):
    """Records of somebody without the key, who may have heard some that are genuine."""

    def __init__(self):
        super().__init__()
        self.genuine = set()
        for heard in self._heard():
            number, at = 0, 0
            while at < len(heard):
                size = int.from_bytes(heard[at : at + 4], "big")
                self.genuine.add((number, heard[at + HEAD_SIZE : at + HEAD_SIZE + size]))
                number, at = number + 1, at + HEAD_SIZE + size

    def _heard(self):
        return [b"".join(written) for written in corpus.traffic((KEY, KEY))]

    def seeds(self):
        heard = self._heard()
        return [
            bytes([how]) + stream for stream in (*heard, heard[0][:400], b"\0\0\0\x10" + bytes(48)) for how in (0, 3)
        ]

    def __call__(self, data):
        how, data = data[0] if data else 0, data[1:]
        mac = Mac(KEY)
        watched = SimpleNamespace(open=mac.open, verify=self._verify(mac))
        decoder = FrameDecoder(watched, MAX_FRAME)
        with self.tripwires.watching():
            try:
                for piece in pieces(data, how):
                    decoder.receive_data(piece)
                    check(len((decoder._state[0] or [b""])[0]) <= MAX_RECORD + HEAD_SIZE, "more than a record is kept")
                    check(not decoder.in_bulk, "a stranger announced buffers")
            except RemoteProtocolError:
                return False
        return not decoder.in_the_middle

    def _verify(self, mac):
        def verify(number, body, tag):
            holds = mac.verify(number, body, tag)
            check(not holds or (number, bytes(body)) in self.genuine, "a record was forged")
            return holds

        return verify


class Server(Target):
    """The server's end of the handshake, against a client that may prove the key and may not."""

    max_len = 700

    def seeds(self):
        # The first byte says how it is cut, and whether the proof is made right: a fuzzer has no key.
        return [bytes([how]) + said[0] + said[2] for said in corpus.handshakes() for how in (0, 2, 128, 131)]

    def __call__(self, data):
        how, data = data[0] if data else 0, data[1:]
        # There is a key of any name but those of one letter.
        far = ServerHandshake(lambda key_id: KEY if len(key_id) != 1 else None, random=lambda size: b"s" * size)
        said = b""
        with self.tripwires.watching():
            for piece in pieces(data, how):
                try:
                    answer = far.receive(piece)
                except RemoteProtocolError:
                    check(not far.proven and far.keys is None, "a client was refused and has keys")
                    check(not far.farewell or len(data) > 4, "a farewell to nobody")
                    return False
                said += piece
                if far.proven:
                    # Nothing but the right proof of this very conversation.
                    hello = said[: 7 + said[6] + 48]
                    check(said[len(hello) :][:32] == _proof(hello), "a wrong proof was taken")
                    break
                check(len(far._buffer) <= MAX_HANDSHAKE, "more is kept than a handshake needs")
                check(far.needed > 0, "nothing more is awaited of a client that has not proven anything")
                if answer and how & 128:
                    # What is behind the hello would be a part of the proof.
                    hello = said[: 7 + said[6] + 48]
                    proof = bytearray(_proof(hello))
                    if how & 64:
                        proof[how % 32] ^= 1 + how % 7
                    return self._prove(far, bytes(proof), how)
        return far.proven and self._finish(far)

    def _prove(self, far, proof, how):
        leftover = len(far._buffer)
        try:
            far.receive(proof)
        except RemoteProtocolError:
            check(how & 64 or leftover or len(far.key_id) == 1, "the right proof was refused")
            return False
        check(far.proven and len(far.key_id) != 1 and not (how & 64 and not leftover), "a wrong proof was taken")
        return self._finish(far)

    def _finish(self, far):
        check(far.keys is not None and far.role in (CONTROL, DATA) and len(far.token) == 16, "proven, but not whole")
        check(len(far.finish()) == 33 and far.done, "the last message is not whole")
        return True


def _hello_s():
    return b"EC2S\x01" + b"s" * 32


def _proof(hello):
    return _Secrets(KEY, hello, _hello_s()).client_proof()


class Client(Target):
    """The client's end of the handshake, against a server that may prove the key and may not."""

    max_len = 300

    def seeds(self):
        return [bytes([how]) + said[1] + said[3] for said in corpus.handshakes() for how in (0, 1, 3, 128, 131)]

    def __call__(self, data):
        how, data = data[0] if data else 0, data[1:]
        near = ClientHandshake(KEY, CONTROL, corpus.TOKEN, random=lambda size: b"c" * size)
        hello = near.start()
        if how & 128 and len(data) > 37:
            # The right proof for the status that stands there.
            secrets = _Secrets(KEY, hello, data[:37])
            data = data[:38] + secrets.server_proof(secrets.client_proof(), data[37]) + data[38:]
        with self.tripwires.watching():
            try:
                for piece in pieces(data, how):
                    near.receive(piece)
            except AuthenticationError:
                check(not (how & 128 and len(data) > 70), "the right proof was refused")
                return False
            except ConnectError:
                check(not near.done and near.keys is None, "a server was refused and has keys")
                return False
            if near.done:
                secrets = _Secrets(KEY, hello, data[:37])
                right = secrets.server_proof(secrets.client_proof(), Status.ACCEPTED)
                check(data[37:70] == bytes([Status.ACCEPTED]) + right, "a wrong proof was taken")
            check(near.done == (near.keys is not None) == (near.needed == 0), "done, but not whole")
        return near.done


class References(Target):
    """The search of a pickle for references: it must import, make and call nothing."""

    def seeds(self):
        return corpus.pickles()

    def __call__(self, data):
        reader = _ReferenceReader(data)
        whole = True
        # The reader is an Unpickler itself, so only events are watched: an import, a class that is looked up.
        with self.tripwires.watching_events():
            try:
                reader.load()
            except Exception:  # noqa: BLE001 - references_in() drops it, too
                whole = False
            found = references_in(data)
        check(found == reader.oids, "a search finds something else the second time")
        check(all(type(oid) is int and 0 < oid < 1 << 63 for oid in found), "something else than numbers was found")
        return whole


class _FakePickle:
    """Stands for pickle where a control link's messages are read: any small value, or the errors pickle raises."""

    _VALUES = (
        *(None, 0, -1, 2.5, float("nan"), 1 << 70, "text", b"bytes", [], (), {}, object()),
        {"lease": 5.0, "socket": False},
        {"lease": "long"},
        {"lease": -1},
        {"keeper": 1, "path": "", "python": (3, 8, 0)},
        {"signal": 9, "exit_code": None, "killed": True, "last_output": "", "stack": "Thread\n  File x, line 1 in y"},
        {"signal": 9, "exit_code": None, "killed": True, "last_output": "", "stack": None},
    )
    _ERRORS = (EOFError, ValueError, KeyError, AttributeError, MemoryError, RecursionError, ImportError)

    @classmethod
    def loads(cls, body):
        at = sum(body[:2]) % (len(cls._VALUES) + len(cls._ERRORS))
        if at < len(cls._VALUES):
            return cls._VALUES[at]
        raise cls._ERRORS[at - len(cls._VALUES)]

    @staticmethod
    def dumps(_value, _protocol=0):
        return b"pickled"


class _Socket:
    """A socket that takes everything and is never heard of again."""

    def fileno(self):
        return 0

    def sendmsg(self, parts, _rights=()):
        return sum(map(len, parts))

    def sendall(self, _data):
        pass


class _Poller:
    """Watches nothing."""

    def register(self, *_arguments):
        pass

    modify = unregister = register


class _Relay:
    """The keeper's end of a data link inside the control link, without the link."""

    ended = False

    def take(self, data):
        check(type(data) is bytes, "a relay takes bytes")

    def acknowledge(self, count):
        check(0 <= count <= 0xFFFFFFFF, "a relay counts")


class _Keeper(keepers.Keeper):
    """A keeper that starts and ends no process."""

    def __init__(self, send):
        keepers.select = SimpleNamespace(poll=_Poller, POLLIN=1, POLLOUT=4)
        super().__init__(send, _Socket(), 0)
        self._relay = _Relay()

    def _spawn(self):
        self._worker = keepers._Worker(_Socket(), -1, -2, -3)
        self._worker.pipes = {}

    def _listen(self):
        pass


class _Port:
    def send(self, data):
        check(type(data) is bytes, "a transport takes bytes")

    def shutdown(self):
        pass


class Control(Target):
    """Both ends of the control link, against a peer that holds the key, and one that does not."""

    def __init__(self):
        super().__init__()
        for module in (monitor, keepers):
            for name, fake in (("pickle", _FakePickle), ("load_plain", _FakePickle.loads)):
                if hasattr(module, name):
                    setattr(module, name, fake)
        monitor.monitor()  # opens what it wakes its thread with

    def seeds(self):
        near, far = corpus.control_frames()
        seeds = []
        # Bits: 1 the near end listens, not the keeper; 2 the peer has no key; the rest how it is cut.
        for role, said in ((0, near), (1, far)):
            seeds.append(bytes([role]) + join_payloads(said))
            seeds.append(bytes([role]) + join_payloads([b"".join(said)]))
            seeds.append(bytes([role | 2]) + join_payloads(said))
        return seeds

    def __call__(self, data):
        how, data = data[0] if data else 0, data[1:]
        with self.tripwires.watching():
            return (self._near if how & 1 else self._keeper)(data, how & 2, how >> 2)

    def _near(self, data, stranger, how):
        ended, heard = [], []
        control = monitor.Control("lab", lambda stream, data: heard.append((stream, data)), ended.append)
        control.use(_Port(), KEY, KEY)
        self._say(data, control, control.hear, stranger, how, lambda: bool(ended))
        check(len(ended) <= 1, "a link ended twice")
        check(not stranger or not (heard or control.hello or control.died or control._outgoing), "a stranger was heard")
        if not control.ended:
            control.flush()
        return not ended

    def _keeper(self, data, stranger, how):
        sent = []
        keeper = _Keeper(sent.append)
        keeper.use_keys(KEY, KEY)
        try:
            self._say(data, keeper, keeper.hear, stranger, how, lambda: keeper._ending)
        except RemoteProtocolError:
            return False
        finally:
            check(not stranger or not (sent or keeper._worker or keeper._settings), "a stranger was obeyed")
            check(keeper.lease > 0, "a lease that has ended before it begins")
        return True

    def _say(self, data, end, hear, stranger, how, is_over):
        if stranger:
            for piece in pieces(data, how):
                hear(piece)
            return
        signer = Signer(KEY, end._decoder, lambda wire: [hear(piece) for piece in pieces(wire, how)])
        for payload in split_payloads(data):
            if is_over():
                return
            signer.say(payload)


def look_at_bodies(frames):
    """Do with frames what a session does, short of unpickling: inflate, and give references back."""
    for kind, flags, _request, _thread, body, _buffers in frames:
        if flags & COMPRESSED:
            try:
                inflated = decompress(body, MAX_BODY)
            except RemoteProtocolError:
                continue
            check(len(inflated) <= MAX_BODY, "more was inflated than allowed")
        elif kind == Kind.RELEASE:
            released, ended = [], []
            exports = SimpleNamespace(release=lambda oid, count, to=released: to.append((oid, count)))
            session = SimpleNamespace(values=SimpleNamespace(exports=exports), end=ended.append)
            PeerSession.release(session, body)
            check(all(oid >= 0 and count >= 0 for oid, count in released), "references came back that never went")
            check(not (released and ended), "nonsense was obeyed in part")


TARGETS = {
    "frames": Frames,
    "records": Records,
    "strangers": Strangers,
    "server": Server,
    "client": Client,
    "control": Control,
    "references": References,
}
