"""A request in flight, and what the numbers in answers to it are called."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Optional, Union

from easycluster.devices.iscsi.scsi import command_name

if TYPE_CHECKING:
    from easycluster.devices.iscsi.errors import IscsiError

__all__ = ["EVENTS", "REJECTS", "RESPONSES", "TASK_FUNCTIONS", "Task"]

# RFC 7143, 11.5.1.
TASK_FUNCTIONS = {
    "abort task": 1,
    "abort task set": 2,
    "clear task set": 4,
    "lun reset": 5,
    "target warm reset": 6,
    "target cold reset": 7,
}

# RFC 7143, 11.6.1.
RESPONSES = {
    1: "there is no such task",
    2: "there is no such logical unit",
    3: "the task is still allegiant to another connection",
    5: "not supported",
    6: "not authorized",
    255: "rejected",
}

# RFC 7143, 11.17.1.
REJECTS = {
    0x02: "data digest error",
    0x03: "SNACK rejected",
    0x04: "protocol error",
    0x05: "command not supported",
    0x06: "too many immediate commands",
    0x07: "task in progress",
    0x08: "invalid data acknowledgement",
    0x09: "invalid PDU field",
    0x0A: "long operation, out of resources",
    0x0C: "waiting for logout",
}

EVENTS = {
    0: "SCSI event",
    1: "the target asks for a logout",
    2: "the target drops this connection",
    3: "the target drops all connections of the session",
    4: "the target asks for new parameters",
}


class Task:
    """A request in flight.

    Attributes:
        itt: Its tag.
        begun: When it was sent, as ``time.monotonic()`` says it.
        ended: When its answer came, None before that.
        status: SCSI status byte, or the response code of what is not a command.
        sense: Sense data, b"" if none.
        data: What came with an answer that is not a command's.
        residual: Bytes fewer (below zero: more) than what was asked for; of what is not a command, the word at 0x14.
        failure: Why there will be no answer.
    """

    __slots__ = (
        "begun", "data", "ended", "failure", "itt", "lun", "read", "residual", "sense", "status", "what", "write",
    )  # fmt: skip

    def __init__(
        self,
        itt: int,
        what: Union[str, bytes],
        lun: bytes,
        read: Optional[memoryview],
        write: Optional[memoryview],
    ) -> None:
        # A sentence, or the command block.
        self.what = what
        self.itt, self.lun, self.read, self.write = itt, lun, read, write
        self.begun = time.monotonic()
        self.ended: Optional[float] = None
        self.status = self.residual = 0
        self.sense = self.data = b""
        self.failure: Optional[IscsiError] = None

    @property
    def name(self) -> str:
        """What it is."""
        return self.what if isinstance(self.what, str) else command_name(self.what)
