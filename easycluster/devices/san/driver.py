"""What stands behind a storage target in a test: the interface of a driver."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Dict, List, NamedTuple, Optional, Protocol, Tuple

from easycluster.errors import EasyClusterError

if TYPE_CHECKING:
    from easycluster.devices.iscsi.chap import Chap

__all__ = ["IQN", "Driver", "Lun", "Options", "UnitsLost", "adopted", "new_file"]

IQN = "iqn.2026-11.org.easycluster:san"


class UnitsLost(EasyClusterError, OSError):
    """The units of a target are gone with the memory that they were in."""


class Lun(NamedTuple):
    """A logical unit.

    Attributes:
        number: Its number.
        size: Bytes.
        block_size: Bytes in a block.
        thin: Whether blocks can be given back.
    """

    number: int
    size: int
    block_size: int
    thin: bool


class Options(NamedTuple):
    """What a driver is to set up.

    Attributes:
        iqn: Name of the target.
        portals: Addresses, ``host:port``; port 0 takes a free one.
        chap: The secret that initiators must know.
        directory: Where units are kept, ``""`` for a directory that goes with the target.
        units: Units that are there already, each with its file: of a target that was on this host before.
    """

    iqn: str = IQN
    portals: Tuple[str, ...] = ("127.0.0.1:0", "127.0.0.1:0")
    chap: Optional[Chap] = None
    directory: str = ""
    units: Tuple[Tuple[Lun, str], ...] = ()


def adopted(options: Options) -> Tuple[Dict[int, Lun], Dict[int, str]]:
    """Return units that are there already, and their files, by number.

    Raises:
        UnitsLost: If a file is gone.
    """
    for lun, path in options.units:
        if not os.path.exists(path):
            raise UnitsLost(
                f"unit {lun.number} was in {path}, which is gone; what has to survive a reboot "
                "is kept on a disk: name a directory there"
            )
    return {lun.number: lun for lun, _ in options.units}, {lun.number: path for lun, path in options.units}


def new_file(directory: str) -> str:
    """Return the path of a file for another unit."""
    paths = (os.path.join(directory, f"unit{number}.img") for number in itertools.count(1))
    return next(path for path in paths if not os.path.exists(path))


class Driver(Protocol):
    """What a driver does; all raise :class:`~easycluster.errors.Unsupported` for what they cannot do."""

    @property
    def iqn(self) -> str:
        """Name of the target."""

    def portals(self) -> List[str]:
        """Addresses, the real ones."""

    def luns(self) -> Dict[int, Lun]:
        """Units by number."""

    def units(self) -> List[Tuple[Lun, str]]:
        """Units, each with its file, as :class:`Options` takes them."""

    def sessions(self) -> List[str]:
        """Names of initiators that are logged in, one for each session."""

    def create_lun(self, size: int, block_size: int, thin: bool) -> Lun:
        """Add a unit."""

    def resize_lun(self, lun: int, size: int) -> Lun:
        """Make a unit larger or smaller."""

    def delete_lun(self, lun: int) -> None:
        """Take a unit away."""

    def snapshot(self, lun: int) -> Lun:
        """Add a unit with what another has now."""

    def fail_path(self, portal: str, how: str) -> None:
        """Make a portal fail."""

    def restore_path(self, portal: str) -> None:
        """Make it work again."""

    def fail_blocks(self, lun: int, lba: int, count: int, access: str) -> None:
        """Make reads or writes of blocks fail; no blocks heal all."""

    def delay(self, lun: int, seconds: float) -> None:
        """Make every command of a unit take longer."""

    def hang(self) -> None:
        """Stop answering."""

    def resume(self) -> None:
        """Answer again."""

    def crash(self) -> None:
        """Be gone at once."""

    def restart(self) -> None:
        """Come back after a crash."""

    def close(self) -> None:
        """End the target and remove what it left."""
