"""``easycluster check FILE``: look a lab file over without running tests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from easycluster.lab.positions import InventoryError
from easycluster.lab.reader import read_inventory

if TYPE_CHECKING:
    from collections.abc import Sequence


def check(paths: Sequence[str]) -> int:
    """Say of each lab file what is wrong with it, or what it has.

    Returns:
        The exit status: 0 if all are right, else 1.
    """
    status = 0
    for path in paths:
        try:
            inventory = read_inventory(path)
        except InventoryError as exc:
            sys.stderr.write(f"{exc}\n")
            status = 1
        else:
            sys.stdout.write(f"{path}: {inventory.summary()}; nothing was connected\n")
    return status
