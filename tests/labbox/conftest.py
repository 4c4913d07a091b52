"""Fixtures of the tests of the box."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.labboxes import fresh_labbox, labbox, require_labbox

from easycluster.labbox import LabBox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from easycluster.labbox import BoxHost

__all__ = ["fresh_labbox", "host", "labbox"]


@pytest.fixture
def host() -> Iterator[BoxHost]:
    """The only host of a new box."""
    require_labbox()
    with LabBox(["gpu01"]) as box:
        yield box["gpu01"]
