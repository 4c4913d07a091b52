"""Hooks that suites and other plugins may implement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from easycluster.lab import Lab


@pytest.hookspec
def pytest_easycluster_lab(config: pytest.Config, lab: Lab) -> None:
    """Called once the lab file has been read and found right; nothing is connected yet."""
