"""Tags of records: HMAC-SHA256 over a counter that is never sent."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easycluster.wire.records import TAG_SIZE, Mac

KEY = bytes(range(32))


@pytest.mark.parametrize(
    ("number", "data", "tag"),
    [
        (0, b"", "9f0cd9b94097fe4929918d2b8942b34439574261a35dc50163f06c67d4e48899"),
        (1, b"", "c432e059c378eef7fe2f1181a4050836f51e0856fd74937be81784fa0efa7a1c"),
        (2**40, b"what the tag covers", "0918ffb8e467ca971e8109a47a0c7bd9748f2e5778dc3b8f82c6043b3a2d2a80"),
    ],
)
def test_a_tag_has_these_bytes(number, data, tag):
    assert Mac(KEY).tag(number, data).hex() == tag


@given(key=st.binary(min_size=32, max_size=32), number=st.integers(0, 2**48), data=st.binary(max_size=300))
def test_a_tag_is_the_one_of_the_standard_library(key, number, data):
    expected = hmac.new(key, number.to_bytes(8, "big") + data, hashlib.sha256).digest()
    assert Mac(key).tag(number, data) == expected
    assert len(expected) == TAG_SIZE


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_tagged(kind):
    assert Mac(KEY).tag(1, kind(b"data")) == Mac(KEY).tag(1, b"data")


def test_a_tag_is_verified_for_its_number_data_and_key_only():
    mac = Mac(KEY)
    tag = mac.tag(5, b"data")
    assert mac.verify(5, b"data", tag)
    assert mac.verify(5, bytearray(b"data"), bytearray(tag))
    assert not mac.verify(4, b"data", tag)
    assert not mac.verify(5, b"Data", tag)
    assert not mac.verify(5, b"data", bytes(32))
    assert not mac.verify(5, b"data", tag[:-1])
    assert not Mac(bytes(32)).verify(5, b"data", tag)


def test_making_a_tag_changes_nothing():
    mac = Mac(KEY)
    assert mac.tag(0, b"a") == mac.tag(0, b"a")


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_size_is_refused(size):
    with pytest.raises(ValueError, match=f"^a record key has 32 bytes, not {size}$"):
        Mac(bytes(size))


def test_a_mac_never_shows_its_key():
    assert repr(Mac(KEY)) == "<Mac>"
