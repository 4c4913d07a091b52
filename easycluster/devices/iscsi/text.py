"""Text of login and text PDUs: ``key=value`` pairs that end with a NUL (RFC 7143, section 6)."""

from __future__ import annotations

import base64
import binascii
from typing import Dict, Iterable, Tuple, Union

__all__ = ["MAX_TEXT", "decode_binary", "decode_text", "encode_binary", "encode_text"]

# 64 KiB.  Who is not logged in yet decides how much we gather, so there is an end to it.
MAX_TEXT = 65536


def encode_text(pairs: Union[Dict[str, str], Iterable[Tuple[str, str]]]) -> bytes:
    """Return pairs as a data segment has them."""
    items = pairs.items() if isinstance(pairs, dict) else pairs
    return b"".join(f"{key}={value}\0".encode() for key, value in items)


def decode_text(data: Union[bytes, bytearray, memoryview]) -> Dict[str, str]:
    """Return the pairs of a data segment.

    Raises:
        ValueError: If it is not UTF-8, lacks a ``=`` or an end, or has a key twice.
    """
    pairs: Dict[str, str] = {}
    if not len(data):
        return pairs
    parts = bytes(data).decode("utf-8").split("\0")
    if parts.pop():
        raise ValueError("text without a NUL at its end")
    for part in parts:
        # Some targets pad the text itself with NULs.
        if not part:
            continue
        key, equals, value = part.partition("=")
        if not equals or not key or len(key) > 63:
            raise ValueError(f"{part[:80]!r} is not key=value")
        if key in pairs:
            raise ValueError(f"{key!r} is there twice")
        pairs[key] = value
    return pairs


def encode_binary(data: bytes) -> str:
    """Return bytes as a text value, in hexadecimal."""
    return "0x" + data.hex()


def decode_binary(text: str) -> bytes:
    """Return the bytes of a text value, hexadecimal or base 64.

    Raises:
        ValueError: If it is neither.
    """
    prefix, digits = text[:2].lower(), text[2:]
    if prefix == "0x" and digits:
        return bytes.fromhex("0" * (len(digits) % 2) + digits)
    if prefix == "0b" and digits:
        try:
            return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
        except binascii.Error as exc:
            raise ValueError(f"not base 64: {exc}") from None
    raise ValueError("a binary value begins with 0x or 0b")
