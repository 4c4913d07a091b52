"""Constants that every part agrees on.  Shipped to the far side."""

from __future__ import annotations

__all__ = ["DEFAULT_PORT", "VERSION"]

VERSION = "1.0.0"

DEFAULT_PORT = 11999
"""TCP port of EasyCluster servers."""
