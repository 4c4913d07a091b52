"""``easycluster check FILE``: look a lab file over without running tests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from easycluster.lab.positions import InventoryError
from easycluster.lab.reader import read_inventory

if TYPE_CHECKING:
    from collections.abc import Sequence

# What pytest ends with for the same lab file (``ExitCode.USAGE_ERROR``).
WRONG: Final = 4


def check(paths: Sequence[str]) -> int:
    """Say of each lab file what is wrong with it, or what it has.

    Returns:
        The exit status: 0 if all are right, else :data:`WRONG`.
    """
    status = 0
    for path in paths:
        try:
            inventory = read_inventory(path)
        except InventoryError as exc:
            sys.stderr.write(f"{exc}\n")
            status = WRONG
        else:
            sys.stdout.write(f"{path}: {inventory.summary()}; nothing was connected\n")
    return status
