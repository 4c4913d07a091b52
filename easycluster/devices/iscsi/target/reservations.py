"""Persistent reservations (SPC-4, 5.12): who is registered, who holds the unit, who may do what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Optional

from easycluster.devices.iscsi.target.nexus import Check, Conflict, Nexus, bad_cdb, bad_parameter
from easycluster.devices.iscsi.target.opcodes import Entry, command

if TYPE_CHECKING:
    from easycluster.devices.iscsi.target.unit import Unit

__all__ = ["Registry"]

WRITE_EXCLUSIVE, EXCLUSIVE_ACCESS = 1, 3
_REGISTRANTS = (5, 6)
_ALL_REGISTRANTS = (7, 8)
_KINDS = (1, 3, 5, 6, 7, 8)

# Said to who loses something: reservations released or preempted, registrations preempted.
RESERVATIONS_PREEMPTED, RESERVATIONS_RELEASED, REGISTRATIONS_PREEMPTED = 0x2A03, 0x2A04, 0x2A05


class Registry:
    """Registrations of a unit, and its reservation.

    Attributes:
        keys: Each registered nexus' key.
        holder: Who holds the reservation; of the kinds of all registrants, who made it.
        kind: Its kind, 0 if there is none.
        generation: PRGENERATION.
    """

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self.keys: Dict[Nexus, int] = {}
        self.holder: Optional[Nexus] = None
        self.kind = 0
        self.generation = 0

    def holds(self, nexus: Nexus) -> bool:
        """Whether a nexus holds the reservation."""
        return nexus in self.keys if self.kind in _ALL_REGISTRANTS else self.kind != 0 and nexus == self.holder

    def allows(self, nexus: Nexus, entry: Entry) -> bool:
        """Whether a nexus may do a command now."""
        if not self.kind or entry.access in ("any", "own") or self.holds(nexus):
            return True
        if self.kind in _REGISTRANTS and nexus in self.keys:
            return True
        return entry.access == "read" and self.kind in (1, 5, 7)

    # ------------------------------------------------------------ PERSISTENT RESERVE OUT

    def register(self, nexus: Nexus, key: int, new: int, ignore: bool) -> None:
        """Register a key, change it, or with 0 end the registration."""
        have = self.keys.get(nexus, 0)
        if not ignore and key != have:
            raise Conflict
        if new:
            self.keys[nexus] = new
        elif nexus in self.keys:
            self._leave(nexus)
        self.generation += 1

    def _leave(self, nexus: Nexus) -> None:
        held = self.holds(nexus)
        del self.keys[nexus]
        if held and (self.kind not in _ALL_REGISTRANTS or not self.keys):
            kind, self.kind, self.holder = self.kind, 0, None
            if kind in _REGISTRANTS:
                for other in self.keys:
                    self._unit.announce(RESERVATIONS_RELEASED, only=other)

    def reserve(self, nexus: Nexus, kind: int) -> None:
        """Take the reservation."""
        if self.kind:
            if not self.holds(nexus) or kind != self.kind:
                raise Conflict
            return
        self.kind, self.holder = kind, nexus

    def release(self, nexus: Nexus, kind: int) -> None:
        """Give it back; who does not hold it gives nothing back."""
        if not self.kind or not self.holds(nexus):
            return
        if kind != self.kind:
            raise Check(5, 0x2604)
        self.kind, self.holder = 0, None
        if kind not in (WRITE_EXCLUSIVE, EXCLUSIVE_ACCESS):
            for other in self.keys:
                if other != nexus:
                    self._unit.announce(RESERVATIONS_RELEASED, only=other)

    def clear(self, nexus: Nexus) -> None:
        """End everything."""
        others = [other for other in self.keys if other != nexus]
        self.keys.clear()
        self.kind, self.holder = 0, None
        self.generation += 1
        for other in others:
            self._unit.announce(RESERVATIONS_PREEMPTED, only=other)

    def preempt(self, nexus: Nexus, victim: int, kind: int) -> None:
        """Take registrations of a key away, and the reservation if they hold it."""
        victims = [other for other, key in self.keys.items() if key == victim]
        of_all = self.kind in _ALL_REGISTRANTS
        takes = self.kind and (victim == 0 if of_all else self.holder in victims)
        if takes and of_all:
            victims = [other for other in self.keys if other != nexus]
        elif not victim and not takes:
            raise bad_parameter(8)
        elif not victims:
            raise Conflict
        old = self.kind
        for other in victims:
            if other != nexus:
                self.keys.pop(other, None)
                self._unit.announce(REGISTRATIONS_PREEMPTED, only=other)
        if takes:
            self.kind, self.holder = kind, nexus
            if old != kind:
                for other in self.keys:
                    if other != nexus:
                        self._unit.announce(RESERVATIONS_RELEASED, only=other)
        elif of_all and not self.keys:
            self.kind, self.holder = 0, None
        self.generation += 1


@command(0x5F, "1fff0000ffffffff00", "own")
def reserve_out(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """PERSISTENT RESERVE OUT."""
    action, scope, kind = cdb[1] & 0x1F, cdb[2] >> 4, cdb[2] & 15
    if action > 6:
        raise bad_cdb(1, 4)
    if int.from_bytes(cdb[5:9], "big") != 24 or len(data) < 24:
        raise Check(5, 0x1A00)
    key, new, flags = int.from_bytes(data[:8], "big"), int.from_bytes(data[8:16], "big"), data[20]
    if action in (0, 6) and flags & 0x0D:
        # SPEC_I_PT, ALL_TG_PT and APTPL: capabilities say that we have none of them.
        raise bad_parameter(20)
    with unit.lock:
        registry = unit.registry
        if unit.reserved is not None:
            raise Conflict
        if action in (0, 6):
            registry.register(nexus, key, new, action == 6)
            return b""
        if registry.keys.get(nexus) != key or not key:
            raise Conflict
        if action in (1, 2, 4, 5) and (scope or kind not in _KINDS) and (action != 4 or registry.kind):
            raise bad_cdb(2, 3)
        if action == 1:
            registry.reserve(nexus, kind)
        elif action == 2:
            registry.release(nexus, kind)
        elif action == 3:
            registry.clear(nexus)
        else:
            registry.preempt(nexus, new, kind)
    return b""


@command(0x5E, "1f0000000000ffff00", "own")
def reserve_in(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """PERSISTENT RESERVE IN."""
    action, length = cdb[1] & 0x1F, int.from_bytes(cdb[7:9], "big")
    registry = unit.registry
    with unit.lock:
        if unit.reserved not in (None, nexus):
            raise Conflict
        if action == 2:
            # CRH not, persistence not; TMV; all six kinds, all commands of table 51 of SPC-4 allowed.
            return (b"\x00\x08\x00\x80\xea\x01\x00\x00")[:length]
        if action == 0:
            rows = b"".join(key.to_bytes(8, "big") for key in registry.keys.values())
        elif action == 1:
            rows = b""
            if registry.kind:
                assert registry.holder is not None
                key = 0 if registry.kind in _ALL_REGISTRANTS else registry.keys[registry.holder]
                rows = key.to_bytes(8, "big") + bytes(5) + bytes([registry.kind]) + bytes(2)
        elif action == 3:
            rows = b"".join(_full(registry, other) for other in registry.keys)
        else:
            raise bad_cdb(1, 4)
        return (registry.generation.to_bytes(4, "big") + len(rows).to_bytes(4, "big") + rows)[:length]


def _full(registry: Registry, nexus: Nexus) -> bytes:
    held = registry.holds(nexus)
    name = nexus.port_name.encode() + b"\0"
    name += bytes(-len(name) % 4)
    transport = b"\x45\x00" + len(name).to_bytes(2, "big") + name
    head = registry.keys[nexus].to_bytes(8, "big") + bytes(4) + bytes([held, registry.kind if held else 0]) + bytes(4)
    return head + nexus.group.to_bytes(2, "big") + len(transport).to_bytes(4, "big") + transport
