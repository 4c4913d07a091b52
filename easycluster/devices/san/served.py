"""The embedded target in its own process: what its parent asks for, done."""

from __future__ import annotations

import os
import shutil
from typing import Any, Dict, List, Optional

from easycluster.devices.iscsi.target.target import Target
from easycluster.devices.san.child import serve

__all__ = ["MODULES", "main"]

_target: Optional[Target] = None

# The directory of the units, if nobody needs it after the parent.
_remove = ""

# What the process needs, in no order; the parent sends their sources.
MODULES = (
    "easycluster.errors",
    "easycluster.devices",
    "easycluster.devices.iscsi",
    *(
        f"easycluster.devices.iscsi.{name}"
        for name in ("chap", "connection", "crc32c", "errors", "logon", "negotiation", "pdu", "scsi", "sense")
    ),
    *(f"easycluster.devices.iscsi.{name}" for name in ("stream", "task", "text", "target")),
    *(
        f"easycluster.devices.iscsi.target.{name}"
        for name in ("blocks", "connection", "identity", "login", "modes", "nexus", "opcodes", "portal")
    ),
    *(f"easycluster.devices.iscsi.target.{name}" for name in ("reservations", "storage", "target", "task", "unit")),
    "easycluster.devices.san",
    "easycluster.devices.san.child",
    "easycluster.devices.san.served",
)


def _now() -> Target:
    if _target is None:
        raise ValueError("the target is not open")
    return _target


def _open(portals: List[str], iqn: str, chap: Optional[List[str]], remove: str) -> List[str]:
    global _target, _remove
    _remove = remove
    _target = Target(portals, iqn, chap)
    return [portal.address for portal in _target.portals]


def _create(lun: Optional[int], path: str, size: Optional[int], block_size: int, thin: bool) -> Dict[str, Any]:
    return _now().create_lun(size, lun, path, block_size, thin).describe()


def _delete(lun: int) -> None:
    _now().delete_lun(lun)


def _resize(lun: int, size: int) -> Dict[str, Any]:
    _now().resize_lun(lun, size)
    return _now().units[lun].describe()


def _snapshot(lun: int, path: str) -> Dict[str, Any]:
    return _now().snapshot(lun, path).describe()


def _sessions() -> List[str]:
    return [initiator for initiator, _ in _now().sessions]


def _fail_path(portal: str, how: str) -> None:
    _now().fail_path(portal, how)


def _restore_path(portal: str) -> None:
    _now().restore_path(portal)


def _fail_blocks(lun: int, lba: int, count: int, access: str) -> None:
    unit = _now().units[lun]
    bad, code = (unit.bad_writes, (3, 0x0C00)) if access == "write" else (unit.bad_reads, (3, 0x1100))
    if not count:
        bad.clear()
    bad.update((block, code) for block in range(lba, lba + count))


def _delay(lun: int, seconds: float) -> None:
    _now().units[lun].delay = seconds


def main() -> None:
    """Run until the parent is gone."""
    serve(
        {
            "open": _open,
            "create": _create,
            "delete": _delete,
            "resize": _resize,
            "snapshot": _snapshot,
            "sessions": _sessions,
            "fail_path": _fail_path,
            "restore_path": _restore_path,
            "fail_blocks": _fail_blocks,
            "delay": _delay,
        }
    )
    if _remove:
        shutil.rmtree(_remove, ignore_errors=True)
    # Threads may be held in a disk or a peer; everything else is the system's to give back.
    os._exit(0)
