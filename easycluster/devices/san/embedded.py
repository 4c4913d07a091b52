"""The embedded target: ours, in a process of its own.  No root, no packages; hangs and crashes are real."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any, Dict, List, Optional, Tuple

from easycluster.devices.san.child import Child
from easycluster.devices.san.driver import Lun, Options, adopted, new_file
from easycluster.devices.san.served import MODULES
from easycluster.objects.exports import ServerObject

__all__ = ["EmbeddedDriver", "storage_directory"]


def storage_directory(wanted: str) -> Tuple[str, bool]:
    """Return where units are kept, and whether it goes with the target: memory, if the system has files there."""
    if wanted:
        return wanted, False
    shared = "/dev/shm"
    parent = shared if os.path.isdir(shared) and os.access(shared, os.W_OK) else None
    return tempfile.mkdtemp(prefix="easycluster-san-", dir=parent), True


class EmbeddedDriver(ServerObject):
    """Our target in a child process; units are sparse files, so they outlive a crash.

    Args:
        options: What to set up.

    Raises:
        ChildError: If it does not come up, such as for an address that is not ours.
    """

    def __init__(self, options: Options) -> None:
        self.iqn = options.iqn
        self._options = options
        self._directory, self._temporary = storage_directory(options.directory)
        self._luns: Dict[int, Lun] = {}
        self._paths: Dict[int, str] = {}
        self._failed: Dict[str, str] = {}
        self._child: Optional[Child] = None
        self._hangs = False
        try:
            self._luns, self._paths = adopted(options)
            self._start(list(options.portals))
        except BaseException:
            # Files that were there before stay.
            self._paths = {}
            self.close()
            raise

    def _start(self, portals: List[str]) -> None:
        self._portals = self._open(portals)
        for number, lun in self._luns.items():
            self._now().call(
                "create",
                lun=number,
                path=self._paths[number],
                size=lun.size,
                block_size=lun.block_size,
                thin=lun.thin,
            )

    def _open(self, portals: List[str]) -> List[str]:
        self._child = Child("easycluster.devices.san.served", MODULES)
        chap = list(self._options.chap) if self._options.chap is not None else None
        # Only if we die: when we close we remove it ourselves, and a crash leaves it.
        remove = self._directory if self._temporary else ""
        found: List[str] = self._child.call("open", portals=portals, iqn=self.iqn, chap=chap, remove=remove)
        return found

    def _there(self) -> Child:
        if self._child is None:
            raise ValueError("the target has crashed or is closed; restart() brings it back after a crash")
        return self._child

    def _now(self) -> Child:
        if self._hangs:
            raise ValueError("the target hangs, so it can be told nothing; resume() lets it go on")
        return self._there()

    def portals(self) -> List[str]:
        """Addresses."""
        return list(self._portals)

    def luns(self) -> Dict[int, Lun]:
        """Units by number."""
        return dict(self._luns)

    def units(self) -> List[Tuple[Lun, str]]:
        """Units, each with its file."""
        return [(lun, self._paths[number]) for number, lun in self._luns.items()]

    def sessions(self) -> List[str]:
        """Names of initiators, one for each session."""
        found: List[str] = self._now().call("sessions")
        return found

    def create_lun(self, size: int, block_size: int, thin: bool) -> Lun:
        """Add a unit."""
        path = new_file(self._directory)
        said = self._now().call("create", lun=None, path=path, size=size, block_size=block_size, thin=thin)
        return self._keep(said, path)

    def _keep(self, said: Dict[str, Any], path: str) -> Lun:
        lun = Lun(said["lun"], said["blocks"] * said["block_size"], said["block_size"], said["thin"])
        self._luns[lun.number], self._paths[lun.number] = lun, path
        return lun

    def resize_lun(self, lun: int, size: int) -> Lun:
        """Make a unit larger or smaller."""
        return self._keep(self._now().call("resize", lun=lun, size=size), self._paths.get(lun, ""))

    def delete_lun(self, lun: int) -> None:
        """Take a unit away."""
        self._now().call("delete", lun=lun)
        del self._luns[lun]
        os.unlink(self._paths.pop(lun))

    def snapshot(self, lun: int) -> Lun:
        """Add a unit with what another has now."""
        path = new_file(self._directory)
        return self._keep(self._now().call("snapshot", lun=lun, path=path), path)

    def fail_path(self, portal: str, how: str) -> None:
        """Make a portal fail."""
        self._now().call("fail_path", portal=portal, how=how)
        self._failed[portal] = how

    def restore_path(self, portal: str) -> None:
        """Make it work again."""
        self._now().call("restore_path", portal=portal)
        self._failed.pop(portal, None)

    def fail_blocks(self, lun: int, lba: int, count: int, access: str) -> None:
        """Make reads or writes of blocks fail; no blocks heal all."""
        self._now().call("fail_blocks", lun=lun, lba=lba, count=count, access=access)

    def delay(self, lun: int, seconds: float) -> None:
        """Make every command of a unit take longer."""
        self._now().call("delay", lun=lun, seconds=seconds)

    def hang(self) -> None:
        """Stop the process."""
        self._there().stop()
        self._hangs = True

    def resume(self) -> None:
        """Let it go on."""
        self._there().resume()
        self._hangs = False

    def crash(self) -> None:
        """Kill the process."""
        child, self._child = self._there(), None
        self._hangs = False
        child.close()

    def restart(self) -> None:
        """Start it again, with the same addresses and units; what was reserved is not any more."""
        if self._child is not None:
            self.crash()
        self._start(self._portals)
        for portal, how in self._failed.items():
            self._now().call("fail_path", portal=portal, how=how)

    def close(self) -> None:
        """End the process and remove what it left."""
        child, self._child = self._child, None
        if child is not None:
            child.close()
        for path in self._paths.values():
            if os.path.exists(path):
                os.unlink(path)
        self._paths.clear()
        self._luns.clear()
        if self._temporary:
            shutil.rmtree(self._directory, ignore_errors=True)
