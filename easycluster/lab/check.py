"""``easycluster check FILE``: look a lab file over without running tests."""

from __future__ import annotations

import datetime
import sys
from typing import TYPE_CHECKING, Final

from easycluster.lab.positions import InventoryError
from easycluster.lab.reader import read_inventory

if TYPE_CHECKING:
    from collections.abc import Sequence

# What pytest ends with for the same lab file (``ExitCode.USAGE_ERROR``).
WRONG: Final = 4


def check(sources: Sequence[str], *, overlay: bool = False, changes: Sequence[str] = ()) -> int:
    """Say of each lab file what is wrong with it, or what it has.

    Args:
        sources: The files, as ``--ec-inventory`` takes them.
        overlay: Whether they are one lab together, instead of one each.
        changes: ``host.key=value``, laid over everything.

    Returns:
        The exit status: 0 if all are right, else :data:`WRONG`.
    """
    status = 0
    for lab in [list(sources)] if overlay else [[one] for one in sources]:
        try:
            inventory = read_inventory(lab, changes=changes)
        except InventoryError as exc:
            sys.stderr.write(f"{exc}\n")
            status = WRONG
        else:
            sys.stdout.write(f"{' '.join(lab)}: {inventory.summary()}; nothing was connected\n")
            today = datetime.date.today()
            for entry in inventory.quarantine:
                if entry.until is not None and entry.until < today:
                    sys.stdout.write(f'quarantine "{entry.reason}" ended on {entry.until}; take it out\n')
    return status
