"""Sizes as people write them."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["read_size"]

_SIZE: Final = re.compile(r"(\d{1,18})([KMGT]?)")
_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def read_size(text: str) -> int | None:
    """The bytes of ``64M``, ``1G`` or ``4096``; None if it is no size, or nothing."""
    match = _SIZE.fullmatch(text)
    return (int(match[1]) << _UNITS[match[2]] or None) if match else None
