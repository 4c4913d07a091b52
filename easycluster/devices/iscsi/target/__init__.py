"""An iSCSI target in plain Python: portals, logical units in memory and in files, and faults on demand.

::

    storage        bytes of a unit: memory or a sparse file
    unit           a logical unit: commands in, answers out
    identity, modes, blocks, reservations, opcodes    what the commands do
    login, connection, nexus                          one session
    target         portals, units, sessions, faults
"""

from __future__ import annotations

from easycluster.devices.iscsi.target.storage import FileStorage, MemoryStorage
from easycluster.devices.iscsi.target.target import Target

__all__ = ["FileStorage", "MemoryStorage", "Target"]
