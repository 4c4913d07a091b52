"""An I_T nexus as the target's units see it, and how a command ends."""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

from easycluster.devices.iscsi.scsi import Status
from easycluster.devices.iscsi.sense import Sense

__all__ = ["Check", "Conflict", "Nexus", "Reply", "bad_cdb", "bad_parameter"]


class Nexus(NamedTuple):
    """Who speaks to whom: what a reservation belongs to, over logouts and resets.

    Attributes:
        initiator: Name of the initiator.
        isid: Its session identifier.
        group: Portal group tag of the target.
    """

    initiator: str
    isid: bytes
    group: int

    @property
    def port_name(self) -> str:
        """Name of the initiator port (RFC 7143, 4.4.3)."""
        return f"{self.initiator},i,0x{self.isid.hex()}"


class Reply(NamedTuple):
    """How a command ended.

    Attributes:
        status: SCSI status.
        data: What it brings.
        sense: Sense data, for CHECK CONDITION.
        taken: How many bytes of its data the command was about, None for all.
    """

    status: int = Status.GOOD
    data: Union[bytes, memoryview] = b""
    sense: bytes = b""
    taken: Optional[int] = None


class Check(Exception):
    """Ends a command with CHECK CONDITION.

    Args:
        key: Sense key.
        code: Additional sense code and qualifier, such as 0x2400.
        information: The block it is about.
        specific: Three bytes of sense key specific data.
    """

    def __init__(self, key: int, code: int, information: Optional[int] = None, specific: bytes = b"") -> None:
        super().__init__(key, code)
        self.sense = Sense(key, code >> 8, code & 0xFF, information)
        self.specific = specific


class Conflict(Exception):
    """Ends a command with RESERVATION CONFLICT."""


def bad_cdb(byte: int, bit: int = -1) -> Check:
    """Return "invalid field in CDB", pointing at a byte, and a bit if one is given."""
    flags = 0xC0 | (0x08 | bit if bit >= 0 else 0)
    return Check(5, 0x2400, specific=bytes([flags]) + byte.to_bytes(2, "big"))


def bad_parameter(byte: int) -> Check:
    """Return "invalid field in parameter list", pointing at a byte."""
    return Check(5, 0x2600, specific=b"\x80" + byte.to_bytes(2, "big"))
