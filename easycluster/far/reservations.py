"""Reservations of resources, as values: for whom something is kept, until when, and what becomes of it over a boot.

One that is made because its host is about to go down is for the run that has it going down.  That run asks again and
again until the host answers.  So once the host is up, whoever else wants it need not wait longer than the run could
need; a run that has died would keep it for as long as the boot might have taken, which is minutes.

This module is shipped to the far side.
"""

from __future__ import annotations

import time
from typing import Any, Dict, Mapping

from easycluster.far.journal import boot_id

__all__ = ["CLAIM_TIME", "hurried", "made", "valid"]

# Seconds for a run to come and take what was kept for it over a boot, from when somebody else wants it there.  An
# attempt to connect that has begun just before the host was up takes 10, and behind that are a login and a start.
CLAIM_TIME = 20.0

Record = Dict[str, Any]


def valid(record: Any) -> Record:
    """A reservation, or nothing if it is none or over."""
    until = record.get("until") if isinstance(record, dict) else None
    return record if isinstance(until, (int, float)) and until > time.time() else {}


def made(info: Mapping[str, Any], seconds: float, before: Record) -> Record:
    """The reservation for somebody, nothing if it is to end.

    Args:
        info: For whom; with ``once``, until he has what it is for.
        seconds: How long; 0 ends it.
        before: What there is so far.
    """
    now = time.time()
    # Somebody's own reservation holds again when the one over his reboot has served.
    earlier: Record = {}
    record = {key: value for key, value in info.items() if key != "force"}
    if info.get("once"):
        earlier = valid(before.get("earlier") if before.get("once") else before)
        record["boot"] = boot_id()
    kept = {"mode": "reserved", **record, "since": now, "until": now + seconds, "earlier": earlier}
    return kept if seconds > 0 else earlier


def hurried(record: Record) -> Record:
    """What becomes of a reservation that is in somebody's way: over a boot it ends soon, else it stays the same."""
    boot = record.get("boot")
    if not boot or boot == boot_id():
        return record
    # Of no boot any more, so that it ends no later for whoever comes next.
    return dict(record, boot="", until=min(record["until"], time.time() + CLAIM_TIME))
