"""What can go wrong between an initiator and a target, by what the caller can do about it.

The tree::

    IscsiError (EasyClusterError, OSError)
     +- LoginRefused                        the target does not want this login
     |   +- ChapRefused                     who we are was not believed, or the target could not prove who it is
     +- TargetGone (ConnectionError)        the connection broke or was closed; log in again
     +- CommandTimeout (TimeoutError)       no answer in time; the session lives on and takes a late answer
     +- ProtocolFault                       the peer broke RFC 7143; the connection is closed
     +- TaskRefused                         the target did not do a task management request
     +- ScsiError                           a command ended with another status than GOOD
         +- CheckCondition                  sense data says why
         |   +- UnitAttention               something happened to the unit since the last command: try again
         +- ReservationConflict             another initiator holds a reservation
         +- TargetBusy                      BUSY or TASK SET FULL: try again later
"""

from __future__ import annotations

from typing import Any, Optional, Tuple

from easycluster.errors import EasyClusterError

__all__ = [
    "ChapRefused",
    "CheckCondition",
    "CommandTimeout",
    "IscsiError",
    "LoginRefused",
    "ProtocolFault",
    "ReservationConflict",
    "ScsiError",
    "TargetBusy",
    "TargetGone",
    "TaskRefused",
    "UnitAttention",
]

# RFC 7143, 11.13.5.
LOGIN_STATUS = {
    0x0101: "target moved temporarily",
    0x0102: "target moved permanently",
    0x0200: "initiator error",
    0x0201: "authentication failure",
    0x0202: "this initiator may not use the target",
    0x0203: "target not found",
    0x0204: "target removed",
    0x0205: "unsupported version",
    0x0206: "too many connections",
    0x0207: "missing parameter",
    0x0208: "cannot include this connection in the session",
    0x0209: "session type not supported",
    0x020A: "session does not exist",
    0x020B: "invalid request during login",
    0x0300: "target error",
    0x0301: "service unavailable",
    0x0302: "out of resources",
}


class IscsiError(EasyClusterError, OSError):
    """Base class of what an iSCSI session raises."""


class LoginRefused(IscsiError):
    """The target does not want this login.

    Attributes:
        portal: Where we asked, ``host:port``.
        status: Status class and detail, as in RFC 7143, 11.13.5, such as 0x0203; 0 if we ended it.
    """

    def __init__(self, portal: str, status: int, detail: str = "") -> None:
        said = LOGIN_STATUS.get(status, f"status 0x{status:04x}") if status else ""
        super().__init__(f"{portal}: login refused: " + "; ".join(part for part in (said, detail) if part))
        self.portal, self.status, self.detail = portal, status, detail

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (self.portal, self.status, self.detail)


class ChapRefused(LoginRefused):
    """Who we are was not believed, or the target could not prove who it is."""


class TargetGone(IscsiError, ConnectionError):
    """The connection broke or was closed; a new login may work."""


class CommandTimeout(IscsiError, TimeoutError):
    """No answer came in time; the session lives on, and a late answer does no harm."""


class ProtocolFault(IscsiError):
    """The peer broke RFC 7143; the connection is of no further use."""


class TaskRefused(IscsiError):
    """The target did not do a task management request.

    Attributes:
        response: The response code of RFC 7143, 11.6.1.
    """

    def __init__(self, message: str, response: int = 255) -> None:
        super().__init__(message)
        self.response = response

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (str(self), self.response)


class ScsiError(IscsiError):
    """A command ended with another status than GOOD.

    Attributes:
        status: The SCSI status byte.
        command: Name of the command.
    """

    def __init__(self, message: str, command: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.command, self.status = command, status

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (str(self), self.command, self.status)


class CheckCondition(ScsiError):
    """The target says by sense data why it did not do a command.

    Attributes:
        key: Sense key, 0 to 15.
        asc: Additional sense code.
        ascq: Its qualifier.
        information: The block it is about, or None.
    """

    def __init__(
        self, message: str, command: str, key: int, asc: int, ascq: int, information: Optional[int] = None
    ) -> None:
        super().__init__(message, command, 2)
        self.key, self.asc, self.ascq, self.information = key, asc, ascq, information

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (str(self), self.command, self.key, self.asc, self.ascq, self.information)


class UnitAttention(CheckCondition):
    """Something happened to the unit since the last command; the command was not done."""


class ReservationConflict(ScsiError):
    """Another initiator holds a reservation that forbids the command."""


class TargetBusy(ScsiError):
    """BUSY or TASK SET FULL: the same command may be taken later."""
