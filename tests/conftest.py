"""Fixtures of all tests."""

from __future__ import annotations

from support.sshd import sshd, sshd_factory

__all__ = ["sshd", "sshd_factory"]
