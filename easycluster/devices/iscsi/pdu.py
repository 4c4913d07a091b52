"""PDUs: the unit that crosses the wire.  Values in, bytes out, and back.

A PDU is a basic header segment of 48 bytes, then, each padded to four bytes, additional header
segments and a data segment; a digest may follow headers and data (RFC 7143, 11.2)::

    0x00   B    1   opcode; 0x40: immediate delivery
    0x01   B    1   flags; 0x80: final
    0x02   BB   2   what the opcode makes of it
    0x04   B    1   length of additional header segments, in words of four bytes
    0x05   -    3   length of the data segment in bytes, big-endian, without its padding
    0x08   8s   8   logical unit, or what the opcode makes of it
    0x10   I    4   initiator task tag
    0x14   7I  28   what the opcode makes of it; of a command, 0x20 to 0x2F are the CDB
"""

from __future__ import annotations

from struct import Struct
from typing import Dict, List, NamedTuple, Tuple, Union

__all__ = [
    "BHS_LENGTH",
    "FINAL",
    "IMMEDIATE",
    "NO_TAG",
    "RESERVED",
    "Header",
    "Op",
    "decode_lun",
    "encode_header",
    "encode_lun",
    "names",
    "padding",
    "parse_header",
    "sn_less",
]

Buffer = Union[bytes, bytearray, memoryview]

BHS_LENGTH = 48
NO_TAG = 0xFFFFFFFF
RESERVED = bytes(8)
FINAL = 0x80
IMMEDIATE = 0x40

# opcode, flags, byte 2, byte 3, both lengths, lun, task tag, words 0x14 to 0x2C
_BHS = Struct(">BBBBI8s8I")


class Op:
    """Opcodes, the low six bits of byte 0; those of the target begin at 0x20."""

    NOP_OUT = 0x00
    SCSI_COMMAND = 0x01
    TASK_REQUEST = 0x02
    LOGIN_REQUEST = 0x03
    TEXT_REQUEST = 0x04
    DATA_OUT = 0x05
    LOGOUT_REQUEST = 0x06
    SNACK = 0x10
    NOP_IN = 0x20
    SCSI_RESPONSE = 0x21
    TASK_RESPONSE = 0x22
    LOGIN_RESPONSE = 0x23
    TEXT_RESPONSE = 0x24
    DATA_IN = 0x25
    LOGOUT_RESPONSE = 0x26
    R2T = 0x31
    ASYNC_MESSAGE = 0x32
    REJECT = 0x3F


class Header(NamedTuple):
    """A basic header segment.

    Attributes:
        opcode: One of :class:`Op`.
        flags: Byte 1.
        byte2: Byte 2; of a login, the highest version; of a response, the response.
        byte3: Byte 3; of a response, the SCSI status.
        lun: Bytes 8 to 15.
        itt: Initiator task tag.
        w20: The word at 0x14, and so on: what they are is the opcode's matter.
        cdb: Bytes 32 to 47, for commands.
        immediate: Whether it goes before those that wait for their turn.
        ahs_length: Length of additional header segments in bytes.
        data_length: Length of the data segment in bytes, without padding.
    """

    opcode: int
    flags: int = FINAL
    byte2: int = 0
    byte3: int = 0
    lun: bytes = RESERVED
    itt: int = NO_TAG
    w20: int = 0
    w24: int = 0
    w28: int = 0
    w32: int = 0
    w36: int = 0
    w40: int = 0
    w44: int = 0
    cdb: bytes = b""
    immediate: bool = False
    ahs_length: int = 0
    data_length: int = 0


def encode_header(header: Header, data_length: int = 0) -> bytes:
    """Return the 48 bytes of a header whose data segment has ``data_length`` bytes."""
    bhs = _BHS.pack(
        header.opcode | (IMMEDIATE if header.immediate else 0),
        header.flags,
        header.byte2,
        header.byte3,
        header.ahs_length // 4 << 24 | data_length,
        header.lun,
        header.itt,
        header.w20,
        header.w24,
        header.w28,
        header.w32,
        header.w36,
        header.w40,
        header.w44,
    )
    return bhs[:32] + header.cdb.ljust(16, b"\0") if header.cdb else bhs


def parse_header(bhs: Buffer) -> Header:
    """Return what 48 bytes say; every value is possible, so nothing is refused here."""
    first, flags, byte2, byte3, lengths, lun, itt, w20, w24, w28, w32, w36, w40, w44 = _BHS.unpack(bhs)
    return Header(
        first & 0x3F,
        flags,
        byte2,
        byte3,
        lun,
        itt,
        w20,
        w24,
        w28,
        w32,
        w36,
        w40,
        w44,
        bytes(bhs[32:48]) if first & 0x3F == Op.SCSI_COMMAND else b"",
        bool(first & IMMEDIATE),
        (lengths >> 24) * 4,
        lengths & 0xFFFFFF,
    )


def padding(length: int) -> int:
    """Return how many bytes bring ``length`` to a multiple of four."""
    return -length % 4


def encode_lun(lun: int) -> bytes:
    """Return the eight bytes of a logical unit number: peripheral addressing below 256, flat above (SAM-5, 4.7)."""
    if not 0 <= lun < 0x4000:
        raise ValueError(f"logical unit {lun} is not between 0 and {0x3FFF}")
    return (lun if lun < 256 else 0x4000 | lun).to_bytes(2, "big") + bytes(6)


def decode_lun(data: Buffer) -> int:
    """Return the logical unit number that eight bytes name, -1 for a form we do not know."""
    first = data[0] << 8 | data[1]
    if any(data[2:8]) or first >> 14 > 1:
        return -1
    return first & 0x3FFF if first >> 14 else first & 0xFF if first < 256 else -1


def sn_less(one: int, other: int) -> bool:
    """Whether sequence number ``one`` comes before ``other``, in serial arithmetic (RFC 1982)."""
    return 0 < (other - one) & 0xFFFFFFFF < 0x80000000


names: Dict[int, str] = {
    value: name.replace("_", "-").title() for name, value in vars(Op).items() if not name.startswith("_")
}


def split_segments(data: Buffer) -> List[Tuple[int, bytes]]:
    """Return the additional header segments in ``data``: type and content.

    Raises:
        ValueError: If one is longer than what there is.
    """
    found = []
    position = 0
    while position + 4 <= len(data):
        length = data[position] << 8 | data[position + 1]
        end = position + 3 + length
        if end > len(data):
            raise ValueError(f"additional header segment of {length} bytes, only {len(data) - position - 3} are left")
        found.append((data[position + 2], bytes(data[position + 3 : end])))
        position = end + padding(end - position)
    return found
