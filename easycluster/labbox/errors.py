"""The one exception of the laboratory in a box."""

from __future__ import annotations

from easycluster.errors import EasyClusterError

__all__ = ["LabBoxError"]


class LabBoxError(EasyClusterError):
    """A box could not be made or one of its hosts did not do what it was asked to."""
