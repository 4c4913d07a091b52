"""Persistent reservations, as an initiator asks for them (SPC-4, 5.12)."""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional

from easycluster.devices.iscsi import scsi

__all__ = ["KINDS", "Reservations", "ReservationsMixin"]

KINDS: Dict[str, int] = {
    "write exclusive": 1,
    "exclusive access": 3,
    "write exclusive, registrants only": 5,
    "exclusive access, registrants only": 6,
    "write exclusive, all registrants": 7,
    "exclusive access, all registrants": 8,
}

_REGISTER, _RESERVE, _RELEASE, _CLEAR, _PREEMPT, _PREEMPT_ABORT, _IGNORE = range(7)


class Reservations(NamedTuple):
    """Who has what.

    Attributes:
        generation: Counts registrations.
        keys: Keys that are registered, one for each nexus.
        holder: Key of the reservation, None if there is none; 0 if all registrants hold it.
        kind: Kind of the reservation, a key of :data:`KINDS`, or ``""``.
    """

    generation: int
    keys: List[int]
    holder: Optional[int]
    kind: str


class ReservationsMixin:
    """The methods of a session that reserve; it remembers its own key."""

    key = 0

    def command(self, cdb: bytes, read: int = 0, write: bytes = b"", lun: Optional[int] = None) -> bytes:
        """Do a SCSI command."""
        raise NotImplementedError

    def register(self, key: int, lun: Optional[int] = None) -> None:
        """Register with a key, whether or not we are registered; 0 ends it.

        Raises:
            CheckCondition: If the unit has no persistent reservations.
        """
        self._out(_IGNORE, 0, key, "", lun)
        self.key = key

    def reserve(self, kind: str = "write exclusive", lun: Optional[int] = None) -> None:
        """Reserve the unit.

        Raises:
            ReservationConflict: If another has it, or we are not registered.
        """
        self._out(_RESERVE, self.key, 0, kind, lun)

    def release(self, kind: str = "", lun: Optional[int] = None) -> None:
        """Give the reservation back; the kind has to be that of the reservation, which is the default."""
        self._out(_RELEASE, self.key, 0, kind or self.reservations(lun).kind or "write exclusive", lun)

    def preempt(
        self, key: int, kind: str = "write exclusive", lun: Optional[int] = None, *, abort: bool = False
    ) -> None:
        """Take the registration of ``key``, and its reservation if it has one, away.

        Args:
            key: The key of whom to preempt.
            kind: Kind of the reservation that we get.
            lun: The unit.
            abort: Whether its commands in flight are aborted as well.
        """
        self._out(_PREEMPT_ABORT if abort else _PREEMPT, self.key, key, kind, lun)

    def clear(self, lun: Optional[int] = None) -> None:
        """End all registrations and the reservation."""
        self._out(_CLEAR, self.key, 0, "", lun)
        self.key = 0

    def reservations(self, lun: Optional[int] = None) -> Reservations:
        """Who is registered, and who has the reservation."""
        data = self.command(scsi.persistent_in(0, 4096), 4096, lun=lun)
        length = int.from_bytes(data[4:8], "big")
        keys = [int.from_bytes(data[start : start + 8], "big") for start in range(8, min(len(data), 8 + length) - 7, 8)]
        held = self.command(scsi.persistent_in(1, 4096), 4096, lun=lun)
        holder, kind = None, ""
        if int.from_bytes(held[4:8], "big") >= 16:
            holder = int.from_bytes(held[8:16], "big")
            kind = next((name for name, number in KINDS.items() if number == held[21] & 15), f"kind {held[21] & 15}")
        return Reservations(int.from_bytes(data[:4], "big"), keys, holder, kind)

    def _out(self, action: int, key: int, new_key: int, kind: str, lun: Optional[int]) -> None:
        if kind and kind not in KINDS:
            raise ValueError(f"{kind!r} is not a kind of reservation; there are {', '.join(map(repr, KINDS))}")
        cdb, data = scsi.persistent_out(action, key, new_key, KINDS.get(kind, 0))
        self.command(cdb, write=data, lun=lun)
