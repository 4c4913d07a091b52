"""Sense data: why a command was not done, in numbers and in words (SPC-4, 4.5; the words are those of T10)."""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

__all__ = ["KEYS", "Sense", "encode_sense", "parse_sense", "sense_text"]

KEYS = (
    "no sense",
    "recovered error",
    "not ready",
    "medium error",
    "hardware error",
    "illegal request",
    "unit attention",
    "data protect",
    "blank check",
    "vendor specific",
    "copy aborted",
    "aborted command",
    "reserved",
    "volume overflow",
    "miscompare",
    "completed",
)

# Additional sense code and qualifier, those that a disk is known to send.
ADDITIONAL = {
    0x0000: "no additional sense information",
    0x0200: "no seek complete",
    0x0400: "not ready, cause not reportable",
    0x0401: "becoming ready",
    0x0402: "needs a start command",
    0x0403: "manual intervention required",
    0x0404: "format in progress",
    0x040A: "asymmetric access state transition",
    0x040B: "target port in standby state",
    0x040C: "target port in unavailable state",
    0x0412: "offline",
    0x0800: "logical unit communication failure",
    0x0C00: "write error",
    0x0C02: "write error, auto reallocation failed",
    0x0C0C: "write error, unexpected unsolicited data",
    0x0C0D: "write error, not enough unsolicited data",
    0x1000: "id CRC or ECC error",
    0x1100: "unrecovered read error",
    0x1104: "unrecovered read error, auto reallocation failed",
    0x1A00: "parameter list length error",
    0x1D00: "miscompare during verify operation",
    0x2000: "invalid command operation code",
    0x2002: "access denied, no access rights",
    0x2100: "logical block address out of range",
    0x2400: "invalid field in CDB",
    0x2500: "logical unit not supported",
    0x2600: "invalid field in parameter list",
    0x2601: "parameter not supported",
    0x2602: "parameter value invalid",
    0x2604: "invalid release of persistent reservation",
    0x2700: "write protected",
    0x2707: "space allocation failed, write protect",
    0x2800: "not ready to ready change, medium may have changed",
    0x2900: "power on, reset, or bus device reset occurred",
    0x2901: "power on occurred",
    0x2902: "SCSI bus reset occurred",
    0x2903: "bus device reset occurred",
    0x2904: "device internal reset",
    0x2907: "I_T nexus loss occurred",
    0x2A00: "parameters changed",
    0x2A01: "mode parameters changed",
    0x2A03: "reservations preempted",
    0x2A04: "reservations released",
    0x2A05: "registrations preempted",
    0x2A06: "asymmetric access state changed",
    0x2A09: "capacity data has changed",
    0x2C00: "command sequence error",
    0x2F00: "commands cleared by another initiator",
    0x3100: "medium format corrupted",
    0x3800: "event status notification",
    0x3807: "thin provisioning soft threshold reached",
    0x3900: "saving parameters not supported",
    0x3A00: "medium not present",
    0x3A01: "medium not present, tray closed",
    0x3A02: "medium not present, tray open",
    0x3D00: "invalid bits in identify message",
    0x3F01: "microcode has been changed",
    0x3F03: "inquiry data has changed",
    0x3F0E: "reported LUNs data has changed",
    0x4400: "internal target failure",
    0x4700: "SCSI parity error",
    0x4900: "invalid message error",
    0x4B00: "data phase error",
    0x4E00: "overlapped commands attempted",
    0x5300: "media load or eject failed",
    0x5302: "medium removal prevented",
    0x5500: "system resource failure",
    0x5503: "insufficient resources",
    0x5504: "insufficient registration resources",
}


class Sense(NamedTuple):
    """Sense data.

    Attributes:
        key: Sense key.
        asc: Additional sense code.
        ascq: Its qualifier.
        information: The block it is about, or None.
    """

    key: int
    asc: int
    ascq: int
    information: Optional[int] = None


def sense_text(sense: Sense) -> str:
    """Return sense data in words, with the numbers after them."""
    words = ADDITIONAL.get(sense.asc << 8 | sense.ascq, "")
    where = f", at block {sense.information}" if sense.information is not None else ""
    numbers = f"({sense.key:x}/{sense.asc:02x}/{sense.ascq:02x})"
    return f"{KEYS[sense.key]}: {words} {numbers}{where}" if words else f"{KEYS[sense.key]} {numbers}{where}"


def parse_sense(data: Union[bytes, bytearray, memoryview]) -> Sense:
    """Return what sense data says, in fixed or descriptor format; what is too short says "no sense"."""
    data = bytes(data)
    code = data[0] & 0x7F if data else 0
    if code in (0x72, 0x73) and len(data) >= 8:
        key, asc, ascq = data[1] & 15, data[2], data[3]
        position = 8
        while position + 2 <= len(data):
            if data[position] == 0 and len(data) >= position + 12 and data[position + 2] & 0x80:
                return Sense(key, asc, ascq, int.from_bytes(data[position + 4 : position + 12], "big"))
            position += 2 + data[position + 1]
        return Sense(key, asc, ascq)
    if code in (0x70, 0x71) and len(data) >= 3:
        information = int.from_bytes(data[3:7], "big") if data[0] & 0x80 and len(data) >= 7 else None
        asc, ascq = (data[12], data[13]) if len(data) >= 14 else (0, 0)
        return Sense(data[2] & 15, asc, ascq, information)
    return Sense(0, 0, 0)


def encode_sense(sense: Sense, descriptor: bool = False, specific: bytes = b"") -> bytes:
    """Return sense data as it crosses the wire.

    Args:
        sense: What it says.
        descriptor: Whether in descriptor format, as the D_SENSE bit asks.
        specific: Three bytes of sense key specific data.
    """
    if descriptor:
        more = b""
        if sense.information is not None:
            more = b"\x00\x0a\x80\x00" + sense.information.to_bytes(8, "big")
        if specific:
            more += b"\x02\x06\x00\x00" + specific + b"\x00"
        return bytes([0x72, sense.key, sense.asc, sense.ascq, 0, 0, 0, len(more)]) + more
    valid, information = 0x70, 0
    if sense.information is not None and sense.information < 1 << 32:
        valid, information = 0xF0, sense.information
    head = bytes([valid, 0, sense.key]) + information.to_bytes(4, "big") + bytes([10]) + bytes(4)
    return head + bytes([sense.asc, sense.ascq, 0]) + specific.ljust(3, b"\0")
