"""Every byte of iSCSI that we write, and what is refused of what we read."""

from __future__ import annotations

import hashlib
import pickle
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easycluster.devices.iscsi import errors, scsi
from easycluster.devices.iscsi.chap import Chap, check_proof, proof, proof_keys
from easycluster.devices.iscsi.crc32c import crc32c
from easycluster.devices.iscsi.logon import split_portal
from easycluster.devices.iscsi.negotiation import Parameters, Wishes
from easycluster.devices.iscsi.pdu import (
    FINAL,
    Header,
    Op,
    decode_lun,
    encode_header,
    encode_lun,
    parse_header,
    sn_less,
    split_segments,
)
from easycluster.devices.iscsi.sense import Sense, encode_sense, parse_sense, sense_text
from easycluster.devices.iscsi.stream import PduStream, encode_pdu
from easycluster.devices.iscsi.text import decode_binary, decode_text, encode_binary, encode_text

# RFC 3720, appendix B.4; the digests stand there in the order of the wire.
DIGESTS = [
    ("00" * 32, "aa36918a"),
    ("ff" * 32, "43aba862"),
    (bytes(range(32)).hex(), "4e79dd46"),
    (bytes(range(31, -1, -1)).hex(), "5cdb3f11"),
    (
        "01c00000 00000000 00000000 00000000 14000000 00000400 00000014 00000018 28000000 00000000 02000000 00000000",
        "563a96d9",
    ),
]

HEADERS = [
    (
        Header(Op.SCSI_COMMAND, 0xC1, lun=encode_lun(1), itt=7, w20=512, w24=3, w28=9, cdb=scsi.read16(0x1234, 1)),
        "01c10000 00000000 00010000 00000000 00000007 00000200 00000003 00000009 88000000 00000000 12340000 00010000",
    ),
    (
        Header(Op.DATA_OUT, FINAL, lun=encode_lun(300), itt=8, w20=0xAABBCCDD, w28=1, w36=2, w40=8192),
        "05800000 00000000 412c0000 00000000 00000008 aabbccdd 00000000 00000001 00000000 00000002 00002000 00000000",
    ),
    (
        Header(Op.NOP_OUT, immediate=True, w20=0xFFFFFFFF, w24=4),
        "40800000 00000000 00000000 00000000 ffffffff ffffffff 00000004 00000000 00000000 00000000 00000000 00000000",
    ),
    (
        Header(Op.LOGIN_REQUEST, 0x87, lun=bytes.fromhex("80aabbcc00000000"), itt=0, w24=1, immediate=True),
        "43870000 00000000 80aabbcc 00000000 00000000 00000000 00000001 00000000 00000000 00000000 00000000 00000000",
    ),
    (
        Header(Op.SCSI_RESPONSE, FINAL | 2, 0, 2, itt=7, w24=5, w28=6, w32=7, w44=512),
        "21820002 00000000 00000000 00000000 00000007 00000000 00000005 00000006 00000007 00000000 00000000 00000200",
    ),
    (
        Header(Op.R2T, itt=7, w20=1, w24=5, w28=6, w32=7, w36=0, w40=65536, w44=131072),
        "31800000 00000000 00000000 00000000 00000007 00000001 00000005 00000006 00000007 00000000 00010000 00020000",
    ),
]

words = st.integers(0, 0xFFFFFFFF)
headers = st.tuples(
    st.sampled_from([Op.NOP_IN, Op.SCSI_RESPONSE, Op.DATA_IN, Op.R2T, Op.ASYNC_MESSAGE, Op.LOGIN_RESPONSE]),
    *(st.integers(0, 255) for _ in range(3)),
    st.binary(min_size=8, max_size=8),
    *(words for _ in range(8)),
).map(lambda parts: Header(*parts))


@pytest.mark.parametrize(("data", "digest"), DIGESTS)
def test_digest_is_that_of_the_standard(data, digest):
    assert crc32c(bytes.fromhex(data)).to_bytes(4, "little").hex() == digest


@given(st.binary(max_size=200), st.integers(0, 200))
def test_digest_of_two_parts_is_the_digest_of_the_whole(data, cut):
    assert crc32c(data[cut:], crc32c(data[:cut])) == crc32c(data)


@pytest.mark.parametrize(("header", "wire"), HEADERS)
def test_header_is_so_on_the_wire(header, wire):
    assert encode_header(header).hex() == wire.replace(" ", "")
    read = parse_header(bytes.fromhex(wire))
    # The words of a command that hold its command block are there twice.
    assert read._replace(w32=0, w36=0, w40=0, w44=0) == header._replace(w32=0, w36=0, w40=0, w44=0)


@given(st.binary(min_size=48, max_size=48))
def test_any_48_bytes_are_a_header_that_says_the_same_again(bhs):
    header = parse_header(bhs)
    again = encode_header(header, header.data_length)
    # Byte 0: the bit that the standard reserves is not kept.
    assert (again[0], again[1:]) == (bhs[0] & 0x7F, bhs[1:])


@given(
    st.lists(st.tuples(headers, st.binary(max_size=70)), max_size=6),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(1, 120), max_size=12),
)
def test_pdus_survive_any_cut_of_the_stream(sent, header_digest, data_digest, cuts):
    wire = b"".join(
        b"".join(bytes(piece) for piece in encode_pdu(header, data, header_digest, data_digest))
        for header, data in sent
    )
    near, far = socket.socketpair()
    with near, far:
        stream = PduStream(near, "peer")
        stream.header_digest, stream.data_digest = header_digest, data_digest
        got = []
        for start, end in zip([0, *cuts_of(cuts, wire)], [*cuts_of(cuts, wire), len(wire)], strict=True):
            far.sendall(wire[start:end])
            while (found := read_now(stream)) is not None:
                got.append(found)
    assert [(header._replace(data_length=0), data) for header, data in got] == sent
    assert not stream.waiting


def cuts_of(steps, wire):
    positions, position = [], 0
    for step in steps:
        position += step
        if position < len(wire):
            positions.append(position)
    return positions


def read_now(stream):
    try:
        header, data = stream.read(time.monotonic())
    except TimeoutError:
        return None
    return header, bytes(data)


@pytest.mark.parametrize("position", [0, 20, 48, 52, 60])
def test_a_wrong_byte_is_seen_where_there_are_digests(position):
    wire = bytearray(b"".join(bytes(p) for p in encode_pdu(Header(Op.NOP_IN, itt=1), b"12345678", True, True)))
    wire[position] ^= 0x10
    near, far = socket.socketpair()
    with near, far:
        stream = PduStream(near, "peer")
        stream.header_digest = stream.data_digest = True
        far.sendall(wire)
        with pytest.raises(errors.ProtocolFault, match=r"^peer: the digest of (a header|data) is wrong$"):
            stream.read(time.monotonic() + 10)


def test_a_pdu_with_more_data_than_agreed_is_refused_before_its_data_comes():
    near, far = socket.socketpair()
    with near, far:
        stream = PduStream(near, "peer")
        stream.max_recv = 8192
        far.sendall(encode_header(Header(Op.NOP_IN), 8193))
        with pytest.raises(errors.ProtocolFault, match=r"^peer: a PDU with 8193 bytes of data, at most 8192$"):
            stream.read(time.monotonic() + 10)


@given(st.integers(0, 0x3FFF))
def test_unit_numbers_come_back(number):
    assert decode_lun(encode_lun(number)) == number


@pytest.mark.parametrize("wire", ["c001000000000000", "0001000000000001", "0101000000000000"])
def test_unit_numbers_of_unknown_forms_are_none(wire):
    assert decode_lun(bytes.fromhex(wire)) == -1


@pytest.mark.parametrize(
    ("one", "other", "less"),
    [(1, 2, True), (2, 1, False), (5, 5, False), (0xFFFFFFFF, 0, True), (0, 0xFFFFFFFF, False)],
)
def test_sequence_numbers_go_round(one, other, less):
    assert sn_less(one, other) is less


def test_additional_header_segments_are_split():
    assert split_segments(bytes.fromhex("0005020000000010 00090100 1122334455667788".replace(" ", ""))) == [
        (2, bytes.fromhex("0000000010")),
        (1, bytes.fromhex("001122334455667788")),
    ]
    with pytest.raises(ValueError, match=r"^additional header segment of 99 bytes, only 1 are left$"):
        split_segments(bytes.fromhex("00630100"))


TEXTS = [
    (b"", {}),
    (b"A=1\0", {"A": "1"}),
    (b"A=1\0B=\0", {"A": "1", "B": ""}),
    (b"A=1=2\0\0\0", {"A": "1=2"}),
]


@pytest.mark.parametrize(("wire", "pairs"), TEXTS)
def test_text_is_read(wire, pairs):
    assert decode_text(wire) == pairs


@pytest.mark.parametrize("wire", [b"A=1", b"A\0", b"=1\0", b"A=1\0A=2\0", b"\xff=1\0", b"K" * 64 + b"=1\0"])
def test_text_is_refused(wire):
    with pytest.raises(ValueError, match=r"."):
        decode_text(wire)


keys = st.text("ABCdef12", min_size=1, max_size=20)


@given(st.dictionaries(keys, st.text(st.characters(blacklist_characters="\0", codec="utf-8"), max_size=30)))
def test_text_comes_back(pairs):
    assert decode_text(encode_text(pairs)) == pairs


@given(st.binary(min_size=1, max_size=80))
def test_binary_values_come_back(data):
    assert decode_binary(encode_binary(data)) == data


@pytest.mark.parametrize(("text", "data"), [("0xabc", "0abc"), ("0XFF", "ff"), ("0bAAEC", "000102"), ("0bAAE", "0001")])
def test_binary_values_are_read(text, data):
    assert decode_binary(text).hex() == data


@pytest.mark.parametrize("text", ["", "0x", "12", "0xzz", "0b***"])
def test_binary_values_are_refused(text):
    with pytest.raises(ValueError, match=r"."):
        decode_binary(text)


def test_chap_proof_is_that_of_the_rfc():
    right = hashlib.md5(b"\x01secret\x00\x11\x22\x33", usedforsecurity=False).hexdigest()
    assert proof(5, 1, "secret", bytes.fromhex("00112233")) == "0x" + right


@pytest.mark.parametrize("algorithm", [5, 6, 7])
def test_chap_believes_only_the_right_secret_for_the_right_challenge(algorithm):
    asked = {"CHAP_A": str(algorithm), "CHAP_I": "9", "CHAP_C": "0x0102"}
    answer = proof_keys(asked, "ann", "secret", [algorithm])
    assert check_proof(answer, "ann", "secret", algorithm, 9, b"\x01\x02")
    assert not check_proof(answer, "ann", "Secret", algorithm, 9, b"\x01\x02")
    assert not check_proof(answer, "bob", "secret", algorithm, 9, b"\x01\x02")
    assert not check_proof(answer, "ann", "secret", algorithm, 8, b"\x01\x02")
    assert not check_proof(answer, "ann", "secret", algorithm, 9, b"\x01\x03")
    assert not check_proof({"CHAP_N": "ann", "CHAP_R": "zz"}, "ann", "secret", algorithm, 9, b"\x01\x02")


def test_secrets_are_not_shown():
    assert repr(Chap("ann", "secret1", "tgt", "secret2")) == "<Chap 'ann', mutual with 'tgt'>"


SENSES = [
    (
        Sense(5, 0x21, 0, 77),
        "f000050000004d0a00000000210000000000",
        "illegal request: logical block address out of range",
    ),
    (Sense(6, 0x2A, 9), "700006000000000a000000002a0900000000", "unit attention: capacity data has changed (6/2a/09)"),
]


@pytest.mark.parametrize(("sense", "wire", "text"), SENSES)
def test_sense_data_is_so_on_the_wire_and_in_words(sense, wire, text):
    assert encode_sense(sense).hex() == wire
    assert parse_sense(bytes.fromhex(wire)) == sense
    assert sense_text(sense).startswith(text)


@given(st.integers(0, 15), st.integers(0, 255), st.integers(0, 255), st.none() | st.integers(0, (1 << 64) - 1))
def test_sense_data_comes_back_in_descriptor_format(key, asc, ascq, information):
    sense = Sense(key, asc, ascq, information)
    assert parse_sense(encode_sense(sense, descriptor=True)) == sense


@given(st.binary(max_size=60))
def test_any_sense_data_says_something(data):
    assert sense_text(parse_sense(data))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("san01", ("san01", 3260)),
        ("10.0.0.1:3261", ("10.0.0.1", 3261)),
        ("[fe80::1]:3261,1", ("fe80::1", 3261)),
        ("[::1]", ("::1", 3260)),
    ],
)
def test_portals_are_read(text, found):
    assert split_portal(text) == found


@pytest.mark.parametrize("text", ["", ":1", "host:port"])
def test_portals_are_refused(text):
    with pytest.raises(ValueError, match="is not host:port"):
        split_portal(text)


ANSWERS = [
    ("HeaderDigest", "CRC32C,None", "CRC32C"),
    ("HeaderDigest", "None,CRC32C", "None"),
    ("DataDigest", "X-OTHER", "Reject"),
    ("MaxBurstLength", "16777215", "65536"),
    ("FirstBurstLength", "4096", "4096"),
    ("InitialR2T", "No", "Yes"),
    ("ImmediateData", "Yes", "Yes"),
    ("MaxOutstandingR2T", "99", "2"),
    ("MaxConnections", "8", "1"),
    ("ErrorRecoveryLevel", "2", "0"),
    ("IFMarker", "Yes", "No"),
    ("X-com.example.key", "1", "NotUnderstood"),
    ("MaxRecvDataSegmentLength", "1024", None),
    ("InitiatorAlias", "me", None),
]


@pytest.mark.parametrize(("key", "offer", "answer"), ANSWERS)
def test_target_answers_an_offer(key, offer, answer):
    wishes = Wishes("None,CRC32C", "None", max_burst=65536, first_burst=65536, initial_r2t=True, max_r2t=2)
    assert Parameters().answer(key, offer, wishes) == answer


@pytest.mark.parametrize(
    ("key", "value"),
    [("MaxBurstLength", "12"), ("InitialR2T", "Maybe"), ("MaxRecvDataSegmentLength", "x"), ("DataDigest", "MD5")],
)
def test_an_outcome_that_cannot_be_is_refused(key, value):
    with pytest.raises(ValueError, match=r"."):
        Parameters().settle(key, value)


FAILURES = [
    errors.LoginRefused("h:1", 0x0203, "target iqn.x"),
    errors.ChapRefused("h:1", 0x0201),
    errors.TargetGone("gone"),
    errors.CommandTimeout("late"),
    errors.TaskRefused("no", 5),
    errors.CheckCondition("m", "READ(16)", 5, 0x21, 0, 4),
    errors.UnitAttention("m", "READ(16)", 6, 0x29, 0),
    errors.ReservationConflict("m", "WRITE(16)", 0x18),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_errors_cross_to_another_process_whole(error):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_messages_of_refused_logins():
    assert str(FAILURES[0]) == "h:1: login refused: target not found; target iqn.x"
    assert str(FAILURES[1]) == "h:1: login refused: authentication failure"
