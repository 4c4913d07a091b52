"""A stage for each worker of a run, on the box that all its tests share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from support.labboxes import labbox

from .stage import Stage

if TYPE_CHECKING:
    from pathlib import Path

    from easycluster.labbox import LabBox

__all__ = ["labbox", "stage"]

# A test may take this many times what is promised, because a busy machine is no fault.  The command allows no more.
SLACK = float(os.environ.get("EASYCLUSTER_WRONG_SLACK", "6"))


@pytest.fixture
def stage(labbox: LabBox, tmp_path: Path) -> Stage:
    """Where a row is played."""
    return Stage(labbox, tmp_path, SLACK)
