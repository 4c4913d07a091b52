"""Frames and records: every byte on the wire, any cut of the stream, and what is refused."""

from __future__ import annotations

import hashlib
import hmac
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easycluster.errors import LocalProtocolError, RemoteProtocolError
from easycluster.wire.frames import (
    CHUNK,
    COMPRESSED,
    LARGE,
    MARKED,
    NESTED,
    SINGLE_THREAD,
    FrameDecoder,
    FrameEncoder,
    Kind,
    compress,
    decompress,
    frame,
)
from easycluster.wire.records import Mac

KEY = bytes(range(32))

# What is sent, and the bytes of it; the numbers of the kinds stand here for good.
FRAMES = [
    ((Kind.HELLO, 0, b"\x80", 0, 0), "00000001 01 00 0000 00000000 00000000 80"),
    ((Kind.CALL, 1, b"xyz", 0, 0), "00000003 02 00 0000 00000001 00000000 78797a"),
    ((Kind.CALL, 2, b"", SINGLE_THREAD, 0), "00000000 02 00 0000 00000002 ffffffff"),
    ((Kind.CALL, 3, b"", 7, NESTED), "00000000 02 02 0000 00000003 00000007"),
    ((Kind.REPLY, 0xDEADBEEF, b"r", 9, MARKED), "00000001 04 04 0000 deadbeef 00000009 72"),
    ((Kind.RAISE, 4, b"", 0, COMPRESSED), "00000000 05 08 0000 00000004 00000000"),
    ((Kind.RELEASE, 0, b"1 2 ", 0, 0), "00000004 06 00 0000 00000000 00000000 31203220"),
    ((Kind.CANCEL, 5, b"", 0, 0), "00000000 07 00 0000 00000005 00000000"),
    ((Kind.OUTPUT, 1, b"hi", 0, 0), "00000002 08 00 0000 00000001 00000000 6869"),
    ((Kind.LOG, 0, b"", 0, 0), "00000000 09 00 0000 00000000 00000000"),
    ((Kind.PING, 0, b"", 0, 0), "00000000 0a 00 0000 00000000 00000000"),
    ((Kind.PONG, 0, b"", 0, 0), "00000000 0b 00 0000 00000000 00000000"),
    ((Kind.ITEM, 0, b"", 0, 0), "00000000 0c 00 0000 00000000 00000000"),
    ((Kind.CREDIT, 65536, b"", 1, 0), "00000000 0d 00 0000 00010000 00000001"),
    ((Kind.GOODBYE, 0, b"", 0, 0), "00000000 0e 00 0000 00000000 00000000"),
    ((Kind.SYNC, 0, b"", 0, 0), "00000000 0f 00 0000 00000000 00000000"),
    ((Kind.SYNCED, 6, b"", 1, 0), "00000000 10 00 0000 00000006 00000001"),
    ((Kind.SPAWN, 0, b"", 0, 0), "00000000 11 00 0000 00000000 00000000"),
    ((Kind.SPAWNED, 300, b"", 0, 0), "00000000 12 00 0000 0000012c 00000000"),
    ((Kind.DIED, 300, b"", 0, 0), "00000000 13 00 0000 0000012c 00000000"),
    ((Kind.DATA, 0, b"d", 0, 0), "00000001 14 00 0000 00000000 00000000 64"),
    ((Kind.KILL, 0, b"", 0, 0), "00000000 15 00 0000 00000000 00000000"),
    ((Kind.STOP_THREAD, 0, b"", 3, 0), "00000000 16 00 0000 00000000 00000003"),
    ((Kind.ASK, 7, b"q", 0, 0), "00000001 17 00 0000 00000007 00000000 71"),
    ((Kind.ANSWER, 7, b"a", 0, 0), "00000001 18 00 0000 00000007 00000000 61"),
]


def tag(number, data):
    """The tag of a record as the standard library makes it."""
    return hmac.new(KEY, number.to_bytes(8, "big") + data, hashlib.sha256).digest()


def record(number, data):
    return len(data).to_bytes(4, "big") + tag(number, data) + data


def received(parts):
    """A frame as the decoder returns it."""
    kind, request, body, thread, flags = parts
    return kind, flags, request, thread, body, ()


def plain(frames):
    """Frames with their buffers as bytes, to be compared."""
    return [(*head, bytes(body), [bytes(buffer) for buffer in buffers]) for *head, body, buffers in frames]


def joined(pieces):
    return b"".join(bytes(piece) for piece in pieces)


@pytest.fixture(params=["trusted", "authenticated"])
def mac(request):
    """A link of each kind."""
    return None if request.param == "trusted" else Mac(KEY)


# Bytes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("parts", "wire"), FRAMES)
def test_a_frame_has_these_bytes(parts, wire):
    assert frame(*parts) == bytes.fromhex(wire)


@pytest.mark.parametrize(("parts", "wire"), FRAMES)
def test_these_bytes_are_read_one_by_one(parts, wire):
    decoder, data = FrameDecoder(), bytes.fromhex(wire)
    for i in range(len(data) - 1):
        assert decoder.receive_data(data[i : i + 1]) == []
    assert decoder.receive_data(data[-1:]) == [received(parts)]


def test_a_record_has_its_length_and_its_tag_in_front():
    data = frame(Kind.PING) + frame(Kind.PONG)
    number, wire = FrameEncoder(Mac(KEY)).encode(5, data)
    assert (number, wire) == (6, bytes.fromhex("00000020") + tag(5, data) + data)


def test_a_trusted_link_has_no_records():
    assert FrameEncoder().encode(5, b"frames") == (5, b"frames")


def test_a_large_frame_announces_its_buffers_and_they_follow():
    buffers = [memoryview(b"first"), memoryview(b""), memoryview(b"third!")]
    number, pieces = FrameEncoder().encode_large(0, (Kind.REPLY, 0, 7, 0), b"pickle", buffers)
    announced = "0003 8000000000000005 8000000000000000 8000000000000006"
    assert number == 0
    assert joined(pieces) == bytes.fromhex(f"00000020 04 01 0000 00000007 00000000 {announced}") + b"picklefirstthird!"


def test_a_large_pickle_is_the_first_buffer():
    body = b"p" * 70_000
    _, pieces = FrameEncoder().encode_large(0, (Kind.CALL, 0, 1, 0), body, [memoryview(b"b")])
    announced = bytes.fromhex("00000012 02 01 0000 00000001 00000000 0002 8000000000011170 8000000000000001")
    assert joined(pieces) == announced + body + b"b"


def test_each_chunk_of_an_authenticated_buffer_has_its_tag():
    buffer = bytes(CHUNK) + b"rest"
    number, pieces = FrameEncoder(Mac(KEY)).encode_large(3, (Kind.CALL, 0, 1, 0), b"p", [memoryview(buffer)])
    head = bytes.fromhex("0000000b 02 01 0000 00000001 00000000 0001 8000000000040004") + b"p"
    assert number == 6
    assert joined(pieces) == record(3, head) + bytes(CHUNK) + tag(4, bytes(CHUNK)) + b"rest" + tag(5, b"rest")


def test_a_compressed_body_is_its_size_and_deflated_bytes():
    body = b"abc" * 1000
    flags, packed = compress(NESTED, body)
    assert flags == NESTED | COMPRESSED
    assert packed[:8] == bytes.fromhex("0000000000000bb8")
    assert zlib.decompress(packed[8:]) == body


def test_a_body_that_does_not_shrink_is_left_as_it_is():
    body = hashlib.sha512(b"noise").digest()
    assert compress(0, body) == (0, body)


# Streams -------------------------------------------------------------------------------------------

messages = st.one_of(
    st.tuples(
        st.integers(1, 22),
        st.sampled_from([0, NESTED, MARKED, COMPRESSED]),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.binary(max_size=60),
        st.just(()),
    ),
    st.tuples(
        st.integers(1, 22),
        st.sampled_from([0, NESTED]),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.one_of(st.binary(min_size=1, max_size=60), st.just(bytes(70_000))),
        st.lists(st.one_of(st.binary(max_size=60), st.just(bytes(CHUNK + 5))), min_size=1, max_size=4),
    ),
)


def encode(sent, mac):
    """Put messages on the wire, the small ones each in a record of its own."""
    encoder, number, stream = FrameEncoder(mac), 0, b""
    for kind, flags, request, thread, body, buffers in sent:
        if buffers:
            views = [memoryview(buffer) for buffer in buffers]
            number, pieces = encoder.encode_large(number, (kind, flags, request, thread), body, views)
            stream += joined(pieces)
        else:
            number, data = encoder.encode(number, frame(kind, request, body, thread, flags))
            stream += data
    return stream


@pytest.mark.parametrize("key", [None, KEY], ids=["trusted", "authenticated"])
@given(sent=st.lists(messages, max_size=6), data=st.data())
def test_any_frames_survive_any_cut(key, sent, data):
    mac = Mac(key) if key else None
    stream = encode(sent, mac)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    decoder, got = FrameDecoder(mac), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += decoder.receive_data(stream[start:end])
    assert plain(got) == plain(sent)
    assert not decoder.in_the_middle


@pytest.mark.parametrize("key", [None, KEY], ids=["trusted", "authenticated"])
@given(sent=st.lists(messages, min_size=1, max_size=6), data=st.data())
def test_any_frames_survive_being_read_into_place(key, sent, data):
    mac = Mac(key) if key else None
    stream = memoryview(encode(sent, mac))
    decoder, got = FrameDecoder(mac), []
    while stream:
        if decoder.in_bulk:
            views, counts = decoder.targets()
            room = sum(view.nbytes for view in views)
            size = data.draw(st.integers(1, min(room, len(stream))))
            for view in views:
                piece, stream = stream[: min(view.nbytes, size)], stream[min(view.nbytes, size) :]
                view[: piece.nbytes] = piece
                size -= piece.nbytes
                counts.append(piece.nbytes)
            decoder.digest_bulk()
        else:
            size = data.draw(st.integers(1, len(stream)))
            decoder.chunks.append(bytes(stream[:size]))
            stream = stream[size:]
            decoder.digest()
        got += list(decoder.ready)
        decoder.ready.clear()
    assert plain(got) == plain(sent)


def test_several_frames_of_one_record_come_out_in_order(mac):
    data = b"".join(frame(Kind.CALL, request) for request in range(1, 6))
    _, stream = FrameEncoder(mac).encode(0, data)
    assert [message[2] for message in FrameDecoder(mac).receive_data(stream)] == [1, 2, 3, 4, 5]


def test_a_stream_that_stops_inside_a_frame_is_in_the_middle(mac):
    _, stream = FrameEncoder(mac).encode(0, frame(Kind.CALL, 1, b"body"))
    decoder = FrameDecoder(mac)
    assert not decoder.in_the_middle
    decoder.receive_data(stream[:-1])
    assert decoder.in_the_middle


def test_a_stream_that_stops_inside_bulk_is_in_the_middle(mac):
    stream = encode([(Kind.CALL, 0, 1, 0, b"p", [b"buffer"])], mac)
    decoder = FrameDecoder(mac)
    decoder.receive_data(stream[:-1])
    assert decoder.in_bulk
    assert decoder.in_the_middle


def test_a_decoder_that_is_interrupted_before_it_looks_loses_nothing(mac):
    _, stream = FrameEncoder(mac).encode(0, frame(Kind.CALL, 1, b"body"))
    decoder = FrameDecoder(mac)
    decoder.chunks.append(stream)  # and a signal comes before digest()
    assert decoder.receive_data(b"") == [received((Kind.CALL, 1, b"body", 0, 0))]


# What is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 3, 4, 20, 35, 36, 40, 55])
def test_a_record_with_one_wrong_bit_is_refused(index):
    wire = bytearray(record(0, frame(Kind.CALL, 1, b"body")))
    wire[index] ^= 1
    decoder = FrameDecoder(Mac(KEY))
    with pytest.raises(RemoteProtocolError):
        # A longer length waits for bytes that belong to the next record, and is refused then.
        decoder.receive_data(bytes(wire) + bytes(300 << 10))


def test_a_record_of_another_key_is_refused():
    _, wire = FrameEncoder(Mac(bytes(32))).encode(0, frame(Kind.PING))
    with pytest.raises(RemoteProtocolError, match=r"^a record does not verify$"):
        FrameDecoder(Mac(KEY)).receive_data(wire)


@pytest.mark.parametrize("numbers", [[1], [0, 0], [0, 2], [1, 0]], ids=["late", "repeated", "dropped", "swapped"])
def test_a_record_out_of_order_is_refused(numbers):
    wire = b"".join(record(number, frame(Kind.PING)) for number in numbers)
    with pytest.raises(RemoteProtocolError, match=r"^a record does not verify$"):
        FrameDecoder(Mac(KEY)).receive_data(wire)


def test_a_record_sent_back_to_its_sender_is_refused():
    _, wire = FrameEncoder(Mac(KEY)).encode(0, frame(Kind.PING))
    with pytest.raises(RemoteProtocolError):
        FrameDecoder(Mac(bytes(reversed(KEY)))).receive_data(wire)


def test_a_length_that_is_too_long_is_refused_before_its_body_arrives():
    with pytest.raises(RemoteProtocolError, match=r"^a record is longer than allowed$"):
        FrameDecoder(Mac(KEY)).receive_data((262_145).to_bytes(4, "big") + bytes(32))


def test_a_record_that_ends_inside_a_frame_is_refused():
    with pytest.raises(RemoteProtocolError, match=r"^a record ends inside a frame$"):
        FrameDecoder(Mac(KEY)).receive_data(record(0, frame(Kind.CALL, 1, b"body")[:-1]))


@pytest.mark.parametrize(
    ("index", "size"),
    [(0, 10), (9, 10), (CHUNK, CHUNK + 3), (CHUNK + 34, CHUNK + 3)],
    ids=["first", "last", "tag", "2nd"],
)
def test_a_chunk_with_one_wrong_bit_is_refused(index, size):
    wire = bytearray(encode([(Kind.CALL, 0, 1, 0, b"p", [bytes(size)])], Mac(KEY)))
    wire[36 + 16 + 2 + 8 + 1 + index] ^= 1
    with pytest.raises(RemoteProtocolError, match=r"^a chunk does not verify$"):
        FrameDecoder(Mac(KEY)).receive_data(bytes(wire))


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        ("00000000 00 00 0000 00000000 00000000", "a frame of kind 0 with 0 bytes is not allowed"),
        ("00000000 1a 00 0000 00000000 00000000", "a frame of kind 26 with 0 bytes is not allowed"),
        ("00030001 02 00 0000 00000000 00000000", "a frame of kind 2 with 196609 bytes is not allowed"),
        ("00000000 02 01 0000 00000000 00000000", "a frame cannot announce 0 buffers in 0 bytes"),
        ("00000002 02 01 0000 00000000 00000000 0000", "a frame cannot announce 0 buffers in 2 bytes"),
        ("00000002 02 01 0000 00000000 00000000 0001", "a frame cannot announce 1 buffers in 2 bytes"),
        ("00000002 02 01 0000 00000000 00000000 1001", "a frame cannot announce 4097 buffers in 2 bytes"),
        (
            "0000000a 02 01 0000 00000000 00000000 0001 0000000000000401",
            "a frame of 1025 bytes is above the limit of 1024",
        ),
        (
            "00000012 02 01 0000 00000000 00000000 0002 0000000000000400 0000000000000001",
            "a frame of 1025 bytes is above the limit of 1024",
        ),
        (
            "0000000a 02 01 0000 00000000 00000000 0001 ffffffffffffffff",
            "a frame of 9223372036854775807 bytes is above the limit of 1024",
        ),
    ],
)
def test_a_frame_that_breaks_the_rules_is_refused_before_more_arrives(wire, message):
    with pytest.raises(RemoteProtocolError) as caught:
        FrameDecoder(max_frame=1024).receive_data(bytes.fromhex(wire))
    assert str(caught.value) == message


@pytest.mark.parametrize("sizes", [[1 << 30] * 4, [(1 << 20) - 1] * 4096, [1 << 16] * 4096])
def test_memory_grows_with_what_arrives_not_with_what_is_announced(sizes):
    announced = len(sizes).to_bytes(2, "big") + b"".join(size.to_bytes(8, "big") for size in sizes)
    decoder = FrameDecoder()
    tracemalloc.start()
    decoder.receive_data(frame(Kind.CALL, 1, announced + b"p", 0, LARGE))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert decoder.in_bulk
    assert peak < 20 << 20


def test_a_frame_that_is_too_long_is_not_made():
    with pytest.raises(LocalProtocolError, match=r"^a frame body of 196609 bytes is above the limit of 196608$"):
        frame(Kind.CALL, 1, bytes((192 << 10) + 1))


def test_a_record_that_is_too_long_is_not_made():
    with pytest.raises(LocalProtocolError, match=r"^a record of 262145 bytes is above the limit of 262144$"):
        FrameEncoder(Mac(KEY)).encode(0, bytes((256 << 10) + 1))


@pytest.mark.parametrize("count", [0, 4097])
def test_a_large_frame_has_buffers_but_not_too_many(count):
    with pytest.raises(LocalProtocolError, match=f"^a frame carries 1 to 4096 buffers, not {count}$"):
        FrameEncoder().encode_large(0, (Kind.CALL, 0, 1, 0), b"p", [memoryview(b"")] * count)


# Compression ---------------------------------------------------------------------------------------


@given(st.binary(max_size=4000).map(lambda data: data * 20))
def test_any_body_survives_compression(body):
    flags, packed = compress(0, body)
    assert (decompress(packed, len(body)) if flags else packed) == body


def test_a_body_that_declares_too_much_is_refused_before_it_is_inflated():
    packed = (1025).to_bytes(8, "big") + zlib.compress(bytes(1025))
    with pytest.raises(RemoteProtocolError, match=r"^a compressed body of 1025 bytes is above the limit of 1024$"):
        decompress(packed, 1024)


@pytest.mark.parametrize("declared", [0, 1, 999, 1001])
def test_a_body_that_is_not_as_long_as_it_declares_is_refused(declared):
    packed = declared.to_bytes(8, "big") + zlib.compress(bytes(1000))
    with pytest.raises(RemoteProtocolError, match=r"^a compressed body does not have the size it declares$"):
        decompress(packed, 1 << 20)


@pytest.mark.parametrize("declared", [0, 1])
def test_a_body_that_declares_little_is_not_inflated_further(declared):
    packed = declared.to_bytes(8, "big") + zlib.compress(bytes(64 << 20))
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError):
        decompress(packed, 1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("rest", [b"", b"not deflated", zlib.compress(bytes(100))[:-5]])
def test_a_body_that_cannot_be_inflated_is_refused(rest):
    with pytest.raises(RemoteProtocolError, match=r"^a compressed body "):
        decompress((100).to_bytes(8, "big") + rest, 1 << 20)


def test_a_frame_for_which_there_is_no_memory_is_refused(monkeypatch):
    def no_memory(*_args):
        raise MemoryError

    monkeypatch.setattr("easycluster.wire.bulk._Place.view", no_memory)
    sizes = (1).to_bytes(2, "big") + (5 << 20).to_bytes(8, "big")
    decoder = FrameDecoder()
    decoder.receive_data(frame(Kind.CALL, 1, sizes, flags=LARGE))
    with pytest.raises(RemoteProtocolError, match=r"^there is no memory for a frame of 5242880 bytes$"):
        decoder.receive_data(bytes(CHUNK))


def test_buffers_arrive_as_what_they_become():
    _, pieces = FrameEncoder().encode_large(
        0, (Kind.REPLY, 0, 7, 0), b"pickle", [memoryview(b"fixed"), memoryview(bytearray(b"open"))]
    )
    [(_, _, _, _, body, buffers)] = FrameDecoder().receive_data(joined(pieces))
    assert (body, buffers) == (b"pickle", [b"fixed", bytearray(b"open")])
    assert [type(buffer) for buffer in buffers] == [bytes, bytearray]
    # Rebuilding the value copies nothing.
    assert bytes(buffers[0]) is buffers[0]
