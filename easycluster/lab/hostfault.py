"""What errors about one host of a lab have in common."""

from __future__ import annotations

from easycluster.errors import EasyClusterError

__all__ = ["HostFault"]


class HostFault(EasyClusterError):
    """Something is wrong with a host, or with what it was asked for.

    Attributes:
        host: Its name.
    """

    def __init__(self, message: str, host: str = "") -> None:
        super().__init__(message)
        self.host = host

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.host)
