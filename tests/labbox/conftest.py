"""Fixtures of the tests of the box."""

from __future__ import annotations

from support.labboxes import fresh_labbox, labbox

__all__ = ["fresh_labbox", "labbox"]
