"""The power of a box's hosts, for the lab file: ``power: {driver: labbox, box: FOLDER}``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from easycluster.errors import Unsupported
from easycluster.labbox.running import RunningBox

if TYPE_CHECKING:
    from easycluster.lab.power import Outlet
    from easycluster.labbox.hosts import BoxHost

__all__ = ["LabBoxDriver"]


class LabBoxDriver:
    """Switches a host of the box in a folder, as :class:`easycluster.lab.power.PowerDriver` has it.

    Args:
        outlet: Names the host and, as ``box``, the folder.
    """

    def __init__(self, outlet: Outlet) -> None:
        folder = outlet.settings.get("box")
        if not folder:
            raise Unsupported("power()", f"power: of {outlet.host} has driver labbox and no box: with its folder")
        self._folder, self._name = str(folder), outlet.host

    def _host(self) -> BoxHost:
        return RunningBox(self._folder)[self._name]

    def on(self) -> None:
        """Start its system."""
        self._host().power_on(wait=False)

    def off(self) -> None:
        """Pull the plug."""
        self._host().kill()

    def cycle(self) -> None:
        """Pull the plug and put it in again."""
        self._host().reset(wait=False)

    def status(self) -> str:
        """``"on"`` or ``"off"``."""
        return self._host().power
