"""What crosses the wire, whole and broken: it arrives as it was, or is refused by name."""

from __future__ import annotations

import contextlib
import gc
import pickle

import pytest
from fuzz.cutting import pieces
from fuzz.targets import comparable
from hypothesis import given, settings
from hypothesis import strategies as st
from support.joined_values import joined

from easycluster.client.monitor import Control
from easycluster.errors import EasyClusterError, ProtocolError, RemoteError, RemoteProtocolError, SerializationError
from easycluster.far import keeper as keepers
from easycluster.objects.exports import ServerObject
from easycluster.wire import failures
from easycluster.wire.frames import COMPRESSED, FrameDecoder, Kind, compress, decompress, frame
from easycluster.wire.records import Mac

KEY = bytes(range(32))
NUMBERS = st.integers(0, 2**32 - 1)
SMALL = st.tuples(st.integers(1, 22), NUMBERS, st.binary(max_size=50), NUMBERS, st.sampled_from([0, 2, 4, 8]))
PAYLOADS = st.lists(st.lists(SMALL, max_size=3), min_size=1, max_size=5)


def sealed(payloads):
    mac = Mac(KEY)
    return [mac.seal(number, b"".join(frame(*fields) for fields in payload)) for number, payload in enumerate(payloads)]


# Records -------------------------------------------------------------------------------------------


@given(payloads=PAYLOADS, data=st.data())
def test_whatever_is_done_to_records_only_what_was_sent_before_it_arrives(payloads, data):
    records = sealed(payloads)
    sent = FrameDecoder(Mac(KEY)).receive_data(b"".join(records))
    at = data.draw(st.integers(0, len(records) - 1))
    how = data.draw(st.sampled_from(["flip", "drop", "repeat", "swap", "insert", "cut"]))
    spoiled = bytearray(records[at])
    if how == "flip":
        bit = data.draw(st.integers(0, 8 * len(spoiled) - 1))
        spoiled[bit // 8] ^= 1 << bit % 8
        records[at] = bytes(spoiled)
    elif how == "drop":
        del records[at]
    elif how == "repeat":
        records.insert(at, records[at])
    elif how == "swap":
        other = data.draw(st.integers(0, len(records) - 1))
        records[at], records[other] = records[other], records[at]
    elif how == "insert":
        place = data.draw(st.integers(0, len(spoiled)))
        spoiled[place:place] = data.draw(st.binary(min_size=1, max_size=40))
        records[at] = bytes(spoiled)
    else:
        del spoiled[data.draw(st.integers(0, len(spoiled) - 1)) :]
        records[at] = bytes(spoiled)
    decoder, got = FrameDecoder(Mac(KEY)), []
    with contextlib.suppress(RemoteProtocolError):
        for record in records:
            got += decoder.receive_data(record)
    assert comparable(got) == comparable(sent)[: len(got)]


@given(stream=st.binary(max_size=300), how=st.integers(1, 255))
def test_any_bytes_are_frames_or_refused_wherever_they_are_cut(stream, how):
    outcomes = []
    for parts in ([stream], pieces(stream, how)):
        decoder, got = FrameDecoder(None, 1 << 20), []
        try:
            for part in parts:
                got += decoder.receive_data(part)
        except RemoteProtocolError:
            outcomes.append("refused")
        else:
            outcomes.append((comparable(got), decoder.in_the_middle))
    assert outcomes[0] == outcomes[1]


@given(body=st.binary(max_size=200), declared=st.integers(0, 300), limit=st.integers(0, 300))
def test_any_compressed_body_has_the_size_it_declares_or_is_refused(body, declared, limit):
    flags, packed = compress(0, body * 30)
    for candidate in (declared.to_bytes(8, "big") + body, packed if flags & COMPRESSED else body):
        with contextlib.suppress(RemoteProtocolError):
            inflated = decompress(candidate, limit)
            assert len(inflated) == int.from_bytes(candidate[:8], "big") <= limit


# Values --------------------------------------------------------------------------------------------


class Thing(ServerObject):
    pass


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(value=PLAIN, shared=PLAIN, size=st.sampled_from([0, 10, 70_000]))
def test_any_value_arrives_as_it_was_with_what_is_shared_in_it(value, shared, size):
    near, far = joined()
    thing, large = Thing(), bytearray(size)
    got = far.give([value, shared, {"again": shared}, thing, (thing, large)])
    assert got[0] == value
    assert got[1] is got[2]["again"] or not isinstance(got[1], (list, dict))
    assert got[3] is got[4][0]
    assert got[4][1] == large
    assert near.give(got[3]) is thing


@given(value=PLAIN, data=st.data())
def test_a_value_that_is_cut_off_is_refused_and_gives_its_references_back(value, data):
    near, far = joined()
    things = [Thing(), Thing()]
    whole, _ = far.values.dumps([things[0], value, things[1], things[0]])
    cut = whole[: data.draw(st.integers(1, len(whole) - 1))]
    with pytest.raises(SerializationError):
        near.values.loads(cut)
    near.settle()
    counted = {oid: export.count for oid, export in far.exports._by_oid.items()}
    # What lies behind the cut cannot be known; what lies before it is given back, once.
    near.values.discard(whole)
    for oid, count in near.proxies.take_dropped():
        assert counted.get(oid, 0) <= count
    assert not len(near.proxies)
    gc.collect(0)


# Failures ------------------------------------------------------------------------------------------

JUNK = st.recursive(
    st.none()
    | st.integers(-2, 40)
    | st.text(max_size=4)
    | st.binary(max_size=4)
    | st.sampled_from(["=", "node", "lost"]),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
VALUES = (
    st.tuples(st.just("="), st.integers() | st.text(max_size=4))
    | st.tuples(st.just("node"), st.integers(-1, 4))
    | st.tuples(st.just("lost"), st.text(max_size=3), st.text(max_size=3))
    | st.tuples(st.just("pickle"), st.sampled_from([b"N.", b"", b"no pickle"]), st.just("T"))
    | JUNK
)
TYPES = st.sampled_from(
    [
        *(
            ("builtins", name)
            for name in ("ValueError", "OSError", "KeyError", "ExceptionGroup", "SystemExit", "int", "")
        ),
        *(
            ("subprocess", "CalledProcessError"),
            ("no.such.module", "Error"),
            ("", ""),
            ("builtins", "UnicodeDecodeError"),
        ),
    ]
)
FRAMES = st.lists(
    st.tuples(
        *(st.sampled_from(["a.py", "<x>", "the near side:a.py", ""]), st.integers(-1, 2**40), st.text(max_size=4)),
        *(st.integers(-1, 2**40), st.lists(st.text(max_size=4), max_size=3).map(tuple), st.none() | st.integers(-1, 9)),
        *(st.none() | st.integers(-1, 9), st.none() | st.integers(-1, 9), st.text(max_size=3), st.booleans()),
    ),
    max_size=3,
)
LINKS = st.none() | st.integers(-1, 4)
NODES = st.fixed_dictionaries(
    {
        "type": TYPES,
        "message": st.text(max_size=5),
        "notes": st.lists(st.text(max_size=3)),
        "args_repr": st.text(max_size=4),
        "frames": FRAMES,
    },
    optional={
        "args": st.lists(VALUES, max_size=3),
        "members": st.lists(
            st.tuples(st.sampled_from(["errno", "name", "object", "x", "__dict__"]), VALUES), max_size=2
        ),
        "dict": st.lists(st.tuples(st.text(max_size=3), VALUES), max_size=2),
        "group": st.tuples(st.text(max_size=3), st.lists(st.integers(-1, 4), max_size=3)) | JUNK,
        "cause": LINKS | JUNK,
        "context": LINKS,
        "suppress": st.booleans() | JUNK,
        "left_out": st.integers(0, 3) | JUNK,
        "reduced": st.sampled_from([None, b"N.", b"bad"]),
        "no_users_frames": st.booleans(),
    },
)
FAILURES = st.fixed_dictionaries(
    {
        "nodes": st.lists(NODES, min_size=1, max_size=4),
        "text": st.lists(st.text(max_size=5)),
        "host": st.text(max_size=3),
    }
)


@given(failure=FAILURES | JUNK | st.dictionaries(st.sampled_from(["nodes", "text", "host"]), JUNK))
@settings(max_examples=200)
def test_any_description_is_rebuilt_as_some_exception(failure):
    exc = failures.rebuild(failure, host="gpu01")
    assert isinstance(exc, Exception)
    assert not isinstance(exc, EasyClusterError) or isinstance(exc, RemoteError)
    for text in (str(exc), repr(exc)):
        assert isinstance(text, str)
    with pytest.raises(type(exc)):
        raise exc


@given(st.lists(PLAIN, max_size=3), st.lists(st.text(max_size=5), max_size=2))
def test_any_arguments_and_notes_come_through(args, notes):
    exc = KeyError(*args)
    exc.__dict__["__notes__"] = notes
    got = failures.rebuild(pickle.loads(pickle.dumps(failures.describe(exc))), host="gpu01")
    assert type(got) is KeyError
    assert got.args == tuple(args)
    assert got.__dict__.get("__notes__", []) == notes


# The control link ----------------------------------------------------------------------------------

BODIES = st.one_of(
    st.binary(max_size=20),
    (PLAIN | st.sampled_from([{"lease": 5}, {"lease": None}, 2.0])).map(lambda value: pickle.dumps(value, 4)),
    st.sampled_from(["signal", "exit_code", "killed", "last_output", "stack"]).map(
        lambda key: pickle.dumps({key: "x"}, 4)
    ),
)
PACKETS = st.lists(st.tuples(st.integers(0, 24), NUMBERS, BODIES, st.integers(0, 3), st.sampled_from([0, 0, 1, 8])))


class Port:
    def __init__(self):
        self.sent = []

    def send(self, data):
        self.sent.append(data)

    def shutdown(self):
        pass


@given(packets=PACKETS, keyed=st.booleans(), how=st.integers(0, 9))
def test_the_near_end_of_a_control_link_hears_anything_or_ends(packets, keyed, how):
    ended = []
    control = Control("gpu01", lambda _stream, _data: None, ended.append)
    control.use(Port(), *((KEY, KEY) if keyed else ()))
    for number, packet in enumerate(packets):
        data = frame(*packet)
        for piece in pieces(Mac(KEY).seal(number, data) if keyed else data, how):
            if not ended:
                control.hear(piece)
    assert ended == [control.ended] * bool(ended)
    assert len(ended) <= 1
    if not ended:
        control.flush()


class Quiet(keepers.Keeper):
    """A keeper that starts no process."""

    def __init__(self, send, template):
        super().__init__(send, template, 0)
        self.spawned = 0

    def _spawn(self):
        self.spawned += 1

    def _listen(self):
        pass

    def _relay_in(self, body):
        pass


class Template:
    def fileno(self):
        return 0

    def sendmsg(self, parts, _rights):
        return sum(map(len, parts))


@given(packets=PACKETS, keyed=st.booleans())
def test_a_keeper_obeys_or_refuses(packets, keyed):
    sent = []
    keeper = Quiet(sent.append, Template())
    if keyed:
        keeper.use_keys(KEY, KEY)
    heard = []
    try:
        for number, packet in enumerate(packets):
            data = frame(*packet)
            keeper.hear(Mac(KEY).seal(number, data) if keyed else data)
            heard.append(packet[0])
    except ProtocolError:
        pass
    assert keeper.lease > 0
    answers = FrameDecoder(Mac(KEY) if keyed else None).receive_data(b"".join(sent))
    assert [kind for kind, *_ in answers if kind == Kind.PONG] == [Kind.PONG] * heard.count(Kind.PING)


@given(packets=PACKETS.filter(bool))
def test_a_keeper_hears_nobody_without_the_key(packets):
    sent = []
    keeper = Quiet(sent.append, Template())
    keeper.use_keys(KEY, KEY)
    stranger = Mac(bytes(32))
    with contextlib.suppress(ProtocolError):
        for number, packet in enumerate(packets):
            keeper.hear(stranger.seal(number, frame(*packet)))
    assert (sent, keeper.spawned) == ([], 0)
