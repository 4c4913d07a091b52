"""Message authentication of records: HMAC-SHA256 with a counter that is never sent.

A record is what one write carries; see :mod:`easycluster.wire.frames` for where the tag stands.
The tag of record number ``n`` (from 0, each direction on its own) is::

    HMAC-SHA256(key, n as 8 bytes big-endian || what the tag covers)        RFC 2104

so a record that is dropped, repeated, moved or altered does not verify.  The two keyed SHA-256
states are prepared once and copied: 0.6 us for 100 bytes, where ``hmac.digest`` takes 1.4.

This module is shipped to the far side.
"""

from __future__ import annotations

import struct
from _operator import _compare_digest  # hmac's, without hashlib: a link without a key needs neither
from typing import Any, Callable, Optional, Tuple, Union

__all__ = ["HEAD_SIZE", "TAG_SIZE", "Mac", "pack_head", "pack_number", "same"]

TAG_SIZE = 32

# 2**48 records take 800 years at 10,000 a second; a counter that reaches it is a fault.
MAX_RECORDS = 1 << 48

# Length and tag in front of a record's frames.
HEAD_SIZE = 36

_BLOCK = 64
pack_number = struct.Struct(">Q").pack
pack_head = struct.Struct(">I32s").pack
same = _compare_digest
Buffer = Union[bytes, bytearray, memoryview]


class Mac:
    """Makes and checks the tags of one direction of one connection.  Stateless but for its key.

    Attributes:
        seal: ``seal(number, frames)`` returns record ``number`` with these frames in it.
        open: ``open(number, data)`` returns the frames if ``data`` is exactly record ``number``,
            else None.
        prepared: Return copies of the two keyed states, for those who hash in their own lines.
    """

    __slots__ = ("_inner", "_outer", "open", "prepared", "seal")

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError(f"a record key has 32 bytes, not {len(key)}")
        import hashlib  # OpenSSL takes a while to load, and most far sides are reached over ssh

        padded = key.ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))
        self.prepared = self._inner.copy, self._outer.copy
        self.seal, self.open = _make_seal_and_open(*self.prepared)

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
        return same(self.tag(number, data), tag)


def _make_seal_and_open(
    copy_inner: Callable[[], Any], copy_outer: Callable[[], Any]
) -> Tuple[Callable[[int, bytes], bytes], Callable[[int, bytes], Optional[bytes]]]:
    """Return the two functions every small record goes through, with all they need in their reach.

    Both do what :meth:`Mac.tag` does; a call of it, its attributes and a second ``update`` would
    take as long as the hashing itself.
    """

    def seal(number: int, frames: bytes) -> bytes:
        inner = copy_inner()
        inner.update(pack_number(number) + frames)
        outer = copy_outer()
        outer.update(inner.digest())
        result: bytes = pack_head(len(frames), outer.digest()) + frames
        return result

    def unseal(number: int, data: bytes) -> Optional[bytes]:
        frames = data[HEAD_SIZE:]
        inner = copy_inner()
        inner.update(pack_number(number) + frames)
        outer = copy_outer()
        outer.update(inner.digest())
        return frames if same(pack_head(len(frames), outer.digest()), data[:HEAD_SIZE]) else None

    return seal, unseal
