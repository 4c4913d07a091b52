"""Fixtures of all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faults.outcome import outcome, pytest_itemcollected
from support.sshd import sshd, sshd_factory

if TYPE_CHECKING:
    import pytest

__all__ = ["outcome", "pytest_itemcollected", "sshd", "sshd_factory"]


def pytest_configure(config: pytest.Config) -> None:
    """Show frames of ours in failures: here they are what is tested."""
    if config.pluginmanager.hasplugin("easycluster-tracebacks"):
        config.pluginmanager.unregister(name="easycluster-tracebacks")
