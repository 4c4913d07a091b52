"""Values as most processes know them: nothing was met that plain pickle would copy, and no large bytes a moment ago."""

from __future__ import annotations

import pytest

from easycluster.wire.pickling import required

__all__ = ["plain_values"]


@pytest.fixture(autouse=True)
def plain_values():
    """Have the quick ways taken, whatever the tests before have made and sent."""
    before = set(required)
    required.clear()
    yield
    required.clear()
    required.update(before)
