"""A lab without hosts: whatever is asked is for observers to answer, such as those of a recording."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from easycluster.client.client import BaseClient
from easycluster.lab.lab import Lab
from easycluster.lab.target import RECORDED, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from easycluster.lab.dial import Client, TakeOutput
    from easycluster.lab.inventory import HostEntry, Inventory

__all__ = ["offline_lab"]


class _NoClient(BaseClient):
    """Stands in for the client of a host.

    Args:
        name: Of the host.
    """

    # There is no keeper, so nothing is locked.
    _ask_keeper = None  # type: ignore[assignment]  # see easycluster.lab.leases

    def __init__(self, name: str) -> None:
        super().__init__()
        self._peername = name

    @property
    def connected(self) -> bool:
        """It cannot be lost."""
        return True


def offline_lab(inventory: Inventory, *, live: Callable[[str, str, str], None] | None = None) -> Lab:
    """A lab with the names, variables and capabilities of an inventory, and nobody behind them.

    Args:
        inventory: The lab file, read.
        live: As for a Lab.
    """

    def dial(entry: HostEntry, definitions: Sequence[str], take_output: TakeOutput) -> Client:
        client: Any = _NoClient(entry.name)
        found: Client = client
        return found

    hosts = {
        name: replace(entry, target=Target(RECORDED, entry.target.address)) for name, entry in inventory.hosts.items()
    }
    # What probes found out is in the recording, and not known here.
    roles = {name: replace(role, probe="") for name, role in inventory.roles.items()}
    return Lab(replace(inventory, hosts=hosts, roles=roles), dialer=dial, live=live)
