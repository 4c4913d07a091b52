"""Boxes of hosts for tests that need real machines; name the fixtures in a ``conftest.py`` to have them.

``labbox`` is shared by a whole run (by each worker of xdist): leave its hosts on, with their links up, and without
files of yours.  ``fresh_labbox`` is a new one for one test, ready in half a second.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import easycluster
from easycluster.labbox import LabBox, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ACCOUNTS", "CHECKOUT", "HOSTS", "fresh_labbox", "labbox", "require_labbox", "require_parts"]

HOSTS = ("gpu[01:02]", "san1", "bench")
# Accounts of users on them, besides root's.
ACCOUNTS = ("ann", "bob")

# Where easycluster is imported from, which may lie in a home or in /tmp.
CHECKOUT = Path(easycluster.__file__).parents[1]


def require_labbox() -> None:
    """Skip the test where no box can be made; in CI it fails instead."""
    text = missing()
    if text and os.environ.get("CI") == "true":
        pytest.fail(text, pytrace=False)
    if text:
        pytest.skip(text)


def require_parts(*programs: str) -> None:
    """Skip the test where one of these programs is not installed; in CI it fails instead."""
    lacking = [one for one in programs if not shutil.which(one, path=os.environ["PATH"] + ":/usr/sbin:/sbin")]
    if lacking and os.environ.get("CI") == "true":
        pytest.fail(f"{', '.join(lacking)} not installed", pytrace=False)
    if lacking:
        pytest.skip(f"{', '.join(lacking)} not installed")


@pytest.fixture(scope="session")
def labbox() -> Iterator[LabBox]:
    """Hosts gpu01, gpu02, san1 and bench, for all tests of this process; leave them as they are."""
    require_labbox()
    with LabBox(HOSTS, users=ACCOUNTS, share=[CHECKOUT]) as box:
        yield box


@pytest.fixture
def fresh_labbox() -> Iterator[LabBox]:
    """The same hosts for this test alone, which may do with them what it wants."""
    require_labbox()
    with LabBox(HOSTS, share=[CHECKOUT]) as box:
        yield box
