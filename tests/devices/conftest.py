"""Targets to try an initiator on, ours and one that is not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.parts import require

from easycluster.devices.iscsi.target import Target
from easycluster.devices.san import open_san

if TYPE_CHECKING:
    from collections.abc import Iterator

    from easycluster.devices.san import SanTarget

MIB = 1 << 20


@pytest.fixture
def target() -> Iterator[Target]:
    """Our target in this process, with two portals and a unit of 8 MiB."""
    with Target(["127.0.0.1:0", "127.0.0.1:0"]) as found:
        found.create_lun(8 * MIB)
        yield found


@pytest.fixture(scope="module", params=["embedded", "tgt"])
def san(request: pytest.FixtureRequest) -> Iterator[SanTarget]:
    """A target of each driver, for all tests of a module; units are made by the tests."""
    if request.param == "tgt":
        require("tgtd", "tgt")
    with open_san(request.param) as found:
        yield found
