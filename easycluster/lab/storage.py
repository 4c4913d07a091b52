"""The storage target of a host, as ``san:`` of the lab file has it: opened when first used, gone with the lease."""

from __future__ import annotations

import contextlib
import uuid
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from easycluster.client.requests import deadline
from easycluster.devices.iscsi.chap import Chap
from easycluster.devices.san.driver import IQN, Lun, Options
from easycluster.devices.san.target import SanTarget as Target
from easycluster.devices.san.target import open_driver, open_san
from easycluster.errors import SessionError, Unsupported
from easycluster.lab.host import Host
from easycluster.lab.sizes import read_size
from easycluster.lab.variables import Secret

if TYPE_CHECKING:
    from easycluster.devices.iscsi.session import Session
    from easycluster.devices.san.driver import Driver

__all__ = ["LabTarget", "PendingTarget", "target_names"]

# Units of a target are set back in less; what is behind a dead host is not waited for.
_CLOSE_TIME: Final = 20.0
_INITIATOR: Final = "iqn.2026-11.org.easycluster"

_Answer = TypeVar("_Answer")


@lru_cache(maxsize=1)
def target_names() -> frozenset[str]:
    """What a target can be asked for, and ``san_target`` too."""
    names = {name for name in dir(LabTarget) if not name.startswith("_")} | {"chap", "initiators"}
    # It ends with the lease.
    return frozenset(names - {"close"})


class PendingTarget:
    """``host.san``: the target of the lab file, not opened before something of it is used; or called, another one.

    Args:
        host: The host.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._open: LabTarget | None = None

    def __repr__(self) -> str:
        settings = self._host._entry.settings.get("san")
        what = settings.get("driver", "embedded") if settings is not None else "none in the lab file"
        return f"<san of {self._host.name}: {what}{', open' if self._open is not None else ''}>"

    def __call__(self, driver: str = "embedded", **options: Any) -> Target:
        """Run a storage target on the host: ``with host.san("tgt") as san:``.

        Args:
            driver: ``"embedded"``, our own target, or ``"tgt"``, a tgtd that is installed there.
            options: Further arguments of :func:`easycluster.devices.san.open_san`.  Without ``portals`` it has two, at
                the address that the host is connected to.

        Raises:
            Unsupported: If what the driver needs is not installed there; a test is skipped then.
        """
        options.setdefault("portals", _portals_of(self._host))
        return open_san(driver, host=self._host, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"the target of host {self._host.name!r} has no attribute {name!r}")
        return getattr(self.live(), name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *target_names()})

    def live(self) -> LabTarget:
        """The target itself.

        Raises:
            Unsupported: If the lab file has none for the host.
        """
        if self._open is None:
            if "san" not in self._host._entry.settings:
                raise Unsupported("san", f"the lab file has no san: for host {self._host.name}")
            self._open = LabTarget(self._host)
            self._host._connection.at_release.append(self._close)
        return self._open

    def _close(self) -> None:
        target, self._open = self._open, None
        if target is not None:
            with deadline(_CLOSE_TIME):
                target.close()


class LabTarget(Target):
    """The target that the lab file describes; logins are done by the hosts that it names as initiators.

    Args:
        host: Its host.
    """

    def __init__(self, host: Host) -> None:
        settings = host._entry.settings["san"]
        self._host, self._settings = host, settings
        chap = settings.get("chap")
        secret = Chap(**{key: _plain(value) for key, value in chap.items()}) if chap else None
        portals = tuple(settings.get("portals") or _portals_of(host))
        self._options = Options(settings.get("iqn", IQN), portals, secret, self._make_directory())
        initiators = [host._lab._every[name] for name in settings.get("initiators", ())]
        super().__init__(self._start(), secret, initiators)
        # Units that tests may use on an array of somebody else; none stands for all.
        self._only = frozenset(int(one) for one in settings.get("luns", ()) if self.driver == "external")
        try:
            for one in settings.get("luns", ()) if self.driver != "external" else ():
                self._create(one if isinstance(one, dict) else {"size": one})
        except BaseException:
            self.close()
            raise

    @property
    def driver(self) -> str:
        """Name of the driver: ``"embedded"``, ``"tgt"`` or ``"external"``."""
        return str(self._settings.get("driver", "embedded"))

    def _make_directory(self) -> str:
        """A directory of our own on the host's disk, if the lab file names one; it goes with the lease."""
        parent = self._settings.get("directory")
        if not parent or self.driver == "external":
            return ""
        path = f"{str(parent).rstrip('/')}/easycluster-san-{uuid.uuid4().hex[:12]}"
        self._host.undo(["rm", "-rf", path])
        self._host.remote.os.makedirs(path)
        return path

    def _start(self) -> Driver:
        driver = open_driver(self.driver, self._options, self._host)
        # The same addresses after a boot, too.
        self._options = self._options._replace(portals=tuple(driver.portals()))
        return driver

    def _create(self, wanted: dict[str, Any]) -> None:
        size = read_size(str(wanted["size"]))
        assert size is not None  # checked when the file was read
        self.create_lun(size, block_size=wanted.get("block_size", 512), thin=wanted.get("thin", True))

    def _note(self, lun: _Answer) -> _Answer:
        """Remember which units there are: a host that has lost power cannot say it."""
        self._options = self._options._replace(units=tuple(self._driver.units()))
        return lun

    @property
    def luns(self) -> dict[int, Lun]:
        """Units by number; of an array of somebody else those that the lab file lists, if it lists any."""
        return {number: lun for number, lun in super().luns.items() if not self._only or number in self._only}

    def login(self, portal: int | str = 0, *args: Any, **options: Any) -> Session:
        """Log in, see :meth:`easycluster.devices.san.SanTarget.login`; initiators have names of their own."""
        host = options.setdefault("host", self.initiators[0] if self.initiators else None)
        if isinstance(host, Host):
            options.setdefault("initiator", f"{_INITIATOR}:{host.name.replace('_', '-').lower()}")
        if self._only:
            options.setdefault("lun", min(self._only))
        return super().login(portal, *args, **options)

    def create_lun(self, size: int, *, block_size: int = 512, thin: bool = True) -> Lun:
        """Add a unit of ``size`` bytes."""
        return self._note(super().create_lun(size, block_size=block_size, thin=thin))

    def resize_lun(self, lun: int | Lun, size: int) -> Lun:
        """Make a unit ``size`` bytes large; every initiator is told."""
        return self._note(super().resize_lun(lun, size))

    def delete_lun(self, lun: int | Lun) -> None:
        """Take a unit away."""
        self._note(super().delete_lun(lun))

    def snapshot(self, lun: int | Lun) -> Lun:
        """Add a unit with what another has now."""
        return self._note(super().snapshot(lun))

    def restart(self) -> None:
        """Come back with the same name, addresses and units; also after another boot of the host.

        Raises:
            UnitsLost: If the units were in memory, and are gone with the boot.
        """
        try:
            super().restart()
        except SessionError:
            # What ran there is gone with the host's boot, or its worker.
            self._driver = self._start()

    def close(self) -> None:
        """End every session of ours, and the target."""
        with contextlib.suppress(SessionError, TimeoutError):
            super().close()


def _plain(value: Any) -> str:
    return value.reveal() if isinstance(value, Secret) else str(value)


def _portals_of(host: Host) -> tuple[str, str]:
    """Two portals at the address that the host is connected to, each at a free port."""
    target = host._entry.target
    address = "127.0.0.1" if target.is_here else target.address
    portal = f"[{address}]:0" if ":" in address else f"{address}:0"
    return portal, portal
