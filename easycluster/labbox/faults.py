"""Faults of a box's hosts, for the lab file: ``faults: {driver: labbox, box: FOLDER}``; and for boxes themselves.

All of them are held by a connection to the box, so they end with this process, however that ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from easycluster.errors import Unsupported
from easycluster.lab.faults import timed
from easycluster.labbox.control import hold
from easycluster.labbox.errors import LabBoxError
from easycluster.labbox.layout import Folder
from easycluster.labbox.running import RunningBox

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["BoxFaults"]


class BoxFaults:
    """Breaks a host of the box in a folder, as :class:`easycluster.lab.faults.FaultDriver` has it.

    Args:
        host: The host, or its name.
        settings: Have the folder, as ``box``.
    """

    def __init__(self, host: Any, settings: Mapping[str, Any]) -> None:
        self._name = host if isinstance(host, str) else str(host.name)
        folder = settings.get("box")
        if not folder:
            raise Unsupported("faults", f"faults: of {self._name} has driver labbox and no box: with its folder")
        self._folder = Folder(folder)

    def _hold(self, **fault: object) -> Callable[[], None]:
        return hold(self._folder, [{"host": self._name, **fault}])

    def cut(self, what: str, seconds: float | None) -> Callable[[], None]:
        """Pull its cable."""
        end = self._hold(down=True)
        return end if seconds is None else timed(end, seconds)

    def spoil(self, what: str, delay: float, jitter: float, loss: float, rate: float) -> Callable[[], None]:
        """Give it a bad cable."""
        return self._hold(quality={"delay": delay, "jitter": jitter, "loss": loss, "rate": rate})

    def part(self, what: str, others: Sequence[tuple[str, str]]) -> Callable[[], None]:
        """Have its cable carry nothing from and to others."""
        names = [name for name, _ in others]
        hosts = RunningBox(self._folder.path).hosts
        strangers = [name for name in names if name not in hosts]
        if strangers:
            raise Unsupported(what, f"{', '.join(strangers)} is not in the box of {self._name}")
        return self._hold(quality={"without": names})

    def freeze(self, what: str) -> Callable[[], None]:
        """Stop its processes."""
        if RunningBox(self._folder.path)[self._name].power == "off":
            raise LabBoxError(f"{self._name} is off: there is nothing to freeze")
        return self._hold(frozen=True)

    def kill(self, what: str) -> Callable[[], None]:
        """Pull its plug."""
        end = self._hold(off=True)
        try:
            RunningBox(self._folder.path)[self._name].wait_for_power("off")
        except BaseException:
            end()
            raise
        return end

    def fill(self, what: str, path: str, room: int) -> Callable[[], None]:
        """Make its disk smaller."""
        memory = ("/tmp", "/run", "/dev")
        if any(path == one or path.startswith(one + "/") for one in memory):
            raise Unsupported(
                what, f"{path} of {self._name} is in memory; its disk is what lies outside {', '.join(memory)}"
            )
        return self._hold(room=room)
