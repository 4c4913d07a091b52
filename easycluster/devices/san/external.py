"""An array that we only log in to."""

from __future__ import annotations

from typing import Dict, List, NoReturn, Tuple

from easycluster.devices.iscsi.errors import IscsiError
from easycluster.devices.iscsi.session import login
from easycluster.devices.san.driver import Lun, Options
from easycluster.errors import Unsupported
from easycluster.objects.exports import ServerObject

__all__ = ["ExternalDriver"]

_WHY = "this target is somebody else's and is only logged in to"


class ExternalDriver(ServerObject):
    """A target that is there already.

    Args:
        options: Its name, its portals and our secret.
    """

    def __init__(self, options: Options) -> None:
        self.iqn = options.iqn
        self._options = options

    def portals(self) -> List[str]:
        """Addresses."""
        return list(self._options.portals)

    def luns(self) -> Dict[int, Lun]:
        """Disks by number, by asking."""
        failure = IscsiError(f"{self.iqn} has no portal")
        for portal in self._options.portals:
            try:
                with login(portal, self.iqn, self._options.chap, timeout=10.0) as session:
                    found = {}
                    for number in session.luns():
                        if session.inquiry(number).type == 0:
                            size = session.capacity(number)
                            found[number] = Lun(number, size.size, size.block_size, size.thin)
                    return found
            except IscsiError as exc:
                failure = exc
        raise failure

    def units(self) -> List[Tuple[Lun, str]]:
        """None that we would have to bring back."""
        return []

    def sessions(self) -> List[str]:
        """Not known."""
        self._refuse("sessions")

    def create_lun(self, size: int, block_size: int, thin: bool) -> Lun:
        """Not possible."""
        self._refuse("create_lun")

    def resize_lun(self, lun: int, size: int) -> Lun:
        """Not possible."""
        self._refuse("resize_lun")

    def delete_lun(self, lun: int) -> None:
        """Not possible."""
        self._refuse("delete_lun")

    def snapshot(self, lun: int) -> Lun:
        """Not possible."""
        self._refuse("snapshot")

    def fail_path(self, portal: str, how: str) -> None:
        """Not possible."""
        self._refuse("fail_path")

    def restore_path(self, portal: str) -> None:
        """Not possible."""
        self._refuse("restore_path")

    def fail_blocks(self, lun: int, lba: int, count: int, access: str) -> None:
        """Not possible."""
        self._refuse("fail_blocks")

    def delay(self, lun: int, seconds: float) -> None:
        """Not possible."""
        self._refuse("delay")

    def hang(self) -> None:
        """Not possible."""
        self._refuse("hang")

    def resume(self) -> None:
        """Not possible."""
        self._refuse("resume")

    def crash(self) -> None:
        """Not possible."""
        self._refuse("crash")

    def restart(self) -> None:
        """Not possible."""
        self._refuse("restart")

    def close(self) -> None:
        """Nothing to end."""

    def _refuse(self, operation: str) -> NoReturn:
        raise Unsupported(operation, _WHY)
