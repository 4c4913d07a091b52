"""A command of the target that is not answered yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Tuple

from easycluster.devices.iscsi.pdu import NO_TAG

if TYPE_CHECKING:
    from easycluster.devices.iscsi.pdu import Header
    from easycluster.devices.iscsi.target.nexus import Reply

__all__ = ["READ", "WRITE", "Task"]

# Flags of a command: which way its data goes.
READ, WRITE = 0x40, 0x20


class Task:
    """A command, and how much of its data is here.

    Args:
        header: As it came.
        lun: The logical unit, -1 if its number has a form that we do not know.
        cdb: Command block.
        data: A place for all of its data.
    """

    __slots__ = ("cdb", "data", "due", "expected", "got", "header", "lun", "next_sn", "requested", "ttt")

    def __init__(self, header: Header, lun: int, cdb: bytes, data: memoryview) -> None:
        self.header, self.lun, self.cdb, self.data = header, lun, cdb, data
        self.got = 0
        # Up to where data is on its way, the tag it comes with, and the number of its next PDU.
        self.expected = 0
        self.ttt = NO_TAG
        self.next_sn = 0
        self.requested = 0
        self.due = 0.0

    def residual(self, reply: Reply) -> Tuple[int, int]:
        """How much the data differs from what was expected: the count, and the flag for "less" or "more"."""
        flags, expected = self.header.flags, self.header.w20
        if reply.status:
            # Of a write, the data has come, and nobody says how much of it was used.
            count = 0 if flags & WRITE else expected
        elif flags & READ:
            count = expected - len(reply.data)
        elif flags & WRITE:
            count = expected - (len(self.data) if reply.taken is None else reply.taken)
        else:
            count = -len(reply.data)
        return abs(count), 0x02 if count > 0 else 0x04 if count < 0 else 0
