"""Mode pages: what initiators may look at and set (SPC-4, 7.5), and locks of the medium."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict

from easycluster.devices.iscsi.target.nexus import Check, Conflict, Nexus, bad_cdb, bad_parameter
from easycluster.devices.iscsi.target.opcodes import command

if TYPE_CHECKING:
    from easycluster.devices.iscsi.target.unit import Unit

__all__ = ["Modes"]

_RECOVERY, _CACHING, _CONTROL, _EXCEPTIONS = 0x01, 0x08, 0x0A, 0x1C


class Modes:
    """What is set; as new, all is as after power on.

    Attributes:
        write_protect: SWP of the control page.
        descriptor_sense: D_SENSE of the control page: sense data in descriptor format.
        write_cache: WCE of the caching page.
    """

    def __init__(self) -> None:
        self.write_protect = self.descriptor_sense = False
        self.write_cache = True

    def pages(self, changeable: bool = False) -> Dict[int, bytearray]:
        """Return the pages as they are, or with ones where they can be changed."""
        recovery = bytearray(b"\x01\x0a" + bytes(10))
        caching = bytearray(b"\x08\x12" + bytes(18))
        control = bytearray(b"\x0a\x0a" + bytes(10))
        exceptions = bytearray(b"\x1c\x0a" + bytes(10))
        if changeable:
            caching[2], control[2], control[4] = 0x04, 0x04, 0x08
        else:
            caching[2] = 0x04 if self.write_cache else 0
            control[2] = 0x04 if self.descriptor_sense else 0
            # Simple queueing, in any order.
            control[3] = 0x10
            control[4] = 0x08 if self.write_protect else 0
            control[8:10] = b"\xff\xff"
        return {_RECOVERY: recovery, _CACHING: caching, _CONTROL: control, _EXCEPTIONS: exceptions}

    def set_page(self, page: bytes, offset: int) -> None:
        """Take a page from MODE SELECT.

        Args:
            page: With its two bytes of head.
            offset: Where it is in the parameter list.

        Raises:
            Check: If it changes what cannot be changed.
        """
        number = page[0] & 0x3F
        have, mask = self.pages().get(number), self.pages(True).get(number)
        if have is None or mask is None or len(page) != len(have):
            raise bad_parameter(offset)
        for position in range(2, len(page)):
            if (page[position] ^ have[position]) & ~mask[position] & 0xFF:
                raise bad_parameter(offset + position)
        if number == _CONTROL:
            self.descriptor_sense, self.write_protect = bool(page[2] & 0x04), bool(page[4] & 0x08)
        elif number == _CACHING:
            self.write_cache = bool(page[2] & 0x04)


@command(0x1A, "08ffffff00")
@command(0x5A, "18ffff000000ffff00")
def mode_sense(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """MODE SENSE."""
    short = cdb[0] == 0x1A
    which, page, subpage = cdb[2] >> 6, cdb[2] & 0x3F, cdb[3]
    length = cdb[4] if short else int.from_bytes(cdb[7:9], "big")
    if which == 3:
        raise Check(5, 0x3900)
    pages = Modes().pages() if which == 2 else unit.modes.pages(changeable=which == 1)
    if subpage not in (0, 0xFF) or (page != 0x3F and page not in pages):
        raise bad_cdb(3 if subpage not in (0, 0xFF) else 2)
    body = b"".join(bytes(content) for number, content in sorted(pages.items()) if page in (0x3F, number))
    # WP, and DPOFUA: both bits may be set in commands.
    device = (0x80 if unit.readonly or unit.modes.write_protect else 0) | 0x10
    blocks = b""
    if not cdb[1] & 0x08:
        blocks = min(unit.blocks, 0xFFFFFFFF).to_bytes(4, "big") + unit.block_size.to_bytes(4, "big")
    if short:
        head = bytes([3 + len(blocks) + len(body), 0, device, len(blocks)])
    else:
        head = (6 + len(blocks) + len(body)).to_bytes(2, "big") + bytes([0, device, 0, 0, 0, len(blocks)])
    return (head + blocks + body)[:length]


@command(0x15, "110000ff00")
@command(0x55, "110000000000ffff00")
def mode_select(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """MODE SELECT; saves nothing."""
    if cdb[1] & 1:
        raise bad_cdb(1, 0)
    if not cdb[1] & 0x10:
        raise bad_cdb(1, 4)
    short = cdb[0] == 0x15
    length = cdb[4] if short else int.from_bytes(cdb[7:9], "big")
    head = 4 if short else 8
    text = bytes(data[:length])
    if not length:
        return b""
    if len(text) < head:
        raise Check(5, 0x1A00)
    offset = head + (text[3] if short else int.from_bytes(text[6:8], "big"))
    with unit.lock:
        while offset < len(text):
            end = offset + 2 + (text[offset + 1] if offset + 1 < len(text) else 0)
            if end > len(text):
                raise Check(5, 0x1A00)
            unit.modes.set_page(text[offset:end], offset)
            offset = end
        unit.announce(0x2A01, besides=nexus)
    return b""


@command(0x1E, "0000000300")
def prevent_allow(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """PREVENT ALLOW MEDIUM REMOVAL."""
    if cdb[4] & 3:
        unit.prevented.add(nexus)
    else:
        unit.prevented.discard(nexus)
    return b""


@command(0x16, "0000000000", "own")
def reserve6(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """RESERVE(6), of SPC-2."""
    with unit.lock:
        if unit.registry.keys or unit.reserved not in (None, nexus):
            raise Conflict
        unit.reserved = nexus
    return b""


@command(0x17, "0000000000", "own", past_reserve=True)
def release6(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """RELEASE(6): of another's reservation, nothing happens."""
    with unit.lock:
        if unit.registry.keys:
            raise Conflict
        if unit.reserved == nexus:
            unit.reserved = None
    return b""
