"""``easycluster check FILE...``: look lab files over without running tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from easycluster.lab.check import check

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(opts: argparse.Namespace) -> int:
    """Check the files."""
    return check(opts.files)
