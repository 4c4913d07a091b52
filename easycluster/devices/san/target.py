"""A storage target as a test uses it, whatever stands behind it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from easycluster.devices.iscsi.chap import Chap
from easycluster.devices.iscsi.errors import IscsiError
from easycluster.devices.iscsi.logon import discover
from easycluster.devices.iscsi.session import login
from easycluster.devices.san.conformance import Conformance, run_conformance
from easycluster.devices.san.driver import IQN, Driver, Lun, Options
from easycluster.errors import EasyClusterError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Type

    from easycluster.devices.iscsi.session import Session

__all__ = ["DRIVERS", "SanTarget", "open_driver", "open_san"]

# Where each driver is; loaded when it is asked for, here or on the host that runs it.
DRIVERS: Dict[str, Tuple[str, str]] = {
    "embedded": ("easycluster.devices.san.embedded", "EmbeddedDriver"),
    "tgt": ("easycluster.devices.san.tgt", "TgtDriver"),
    "external": ("easycluster.devices.san.external", "ExternalDriver"),
}

# For a look whether a portal answers: an idle one takes a few milliseconds, a machine with too much to do a second.
LOOK = 5.0

_SAME: Any = object()


class SanTarget:
    """An iSCSI target: its units, its portals, and what can go wrong with them.

    Args:
        driver: What stands behind it, here or on another host.
        chap: The secret that a login needs.
        initiators: Hosts of the lab, or clients, that do the I/O; of several the first, if a login says nothing.

    Attributes:
        chap: As given.
        initiators: As given; none means that this process does the I/O.
    """

    def __init__(
        self, driver: Driver, chap: Union[Chap, Sequence[str], None] = None, initiators: Sequence[Any] = ()
    ) -> None:
        self._driver = driver
        self.chap = Chap.of(chap)
        self.initiators = tuple(initiators)
        self._sessions: List[Any] = []

    def __repr__(self) -> str:
        return f"<SanTarget {self.iqn} at {', '.join(self.portals)}>"

    def __enter__(self) -> SanTarget:  # noqa: PYI034  # Self is too new for the far side
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], exc: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    # ------------------------------------------------------------ what there is

    @property
    def iqn(self) -> str:
        """Name of the target."""
        return self._driver.iqn

    @property
    def portals(self) -> List[str]:
        """Addresses, ``host:port``."""
        return self._driver.portals()

    @property
    def luns(self) -> Dict[int, Lun]:
        """Units by number."""
        return self._driver.luns()

    @property
    def sessions(self) -> List[str]:
        """Names of initiators that are logged in, one for each session."""
        return self._driver.sessions()

    @property
    def reachable(self) -> List[str]:
        """The portals that answer now."""
        # One that hangs has the whole limit, so all are asked at once.
        from concurrent.futures import ThreadPoolExecutor

        portals = self.portals
        with ThreadPoolExecutor(max(1, len(portals))) as looks:
            return [portal for portal, answers in zip(portals, looks.map(self._answers, portals)) if answers]

    def _answers(self, portal: str) -> bool:
        try:
            discover(portal, limit=LOOK)
        except IscsiError:
            return False
        return True

    # ------------------------------------------------------------ I/O

    def login(
        self,
        portal: Union[int, str] = 0,
        chap: Union[Chap, Sequence[str], None] = _SAME,
        host: Any = _SAME,
        **options: Any,
    ) -> Session:
        """Log in and return the session, one I_T nexus; it is closed with the target.

        Args:
            portal: An address, or the index of one of :attr:`portals`.
            chap: Another secret than the target's, None for none.
            host: A host of the lab, or a client, that does the I/O; it needs Python only.  None for this process; by
                default the first of :attr:`initiators`, if there is one.
            options: Further arguments of :func:`easycluster.devices.iscsi.login`.

        Raises:
            LoginRefused: If the target does not want us; ChapRefused if it does not believe us.
            TargetGone: If nothing answers there.
            CommandTimeout: If it did not answer in time.
        """
        address = self._address(portal)
        secret = self.chap if chap is _SAME else Chap.of(chap)
        if host is _SAME:
            host = self.initiators[0] if self.initiators else None
        session: Session
        if host is None:
            session = login(address, self.iqn, secret, **options)
        else:
            session = _on(host, "easycluster.devices.iscsi.session", "login", address, self.iqn, secret, **options)
        self._sessions.append(session)
        return session

    def conformance(
        self, tests: Optional[str] = None, size: int = 64 << 20, limit: float = 300.0, host: Any = None
    ) -> Conformance:
        """Have ``iscsi-test-cu`` judge the target, with a unit that is made for it.

        Args:
            tests: Such as ``"SCSI.Write16"``; by default all.
            size: Bytes of the unit.
            limit: Seconds for each suite.
            host: A host of the lab, or a client, that runs it; by default this machine.

        Raises:
            Unsupported: If ``iscsi-test-cu`` is not there, or the target makes no units.
            ValueError: If it has no such tests.
        """
        lun = self.create_lun(size)
        judged: Optional[Conformance] = None
        try:
            who = f"{self.chap.user}%{self.chap.password}@" if self.chap is not None else ""
            urls = [f"iscsi://{who}{portal}/{self.iqn}/{lun.number}" for portal in self.portals[:2]]
            if host is None:
                judged = run_conformance(urls, tests, limit)
            else:
                judged = _on(host, run_conformance.__module__, "run_conformance", urls, tests, limit)
        finally:
            # A target that died under its judge has a verdict; the unit goes with it.
            died = judged is None or not judged.complete
            with contextlib.suppress(*((ValueError, EasyClusterError) if died else ())):
                self.delete_lun(lun.number)
        return judged

    # ------------------------------------------------------------ units

    def create_lun(self, size: int, *, block_size: int = 512, thin: bool = True) -> Lun:
        """Add a unit of ``size`` bytes."""
        return self._driver.create_lun(size, block_size, thin)

    def resize_lun(self, lun: Union[int, Lun], size: int) -> Lun:
        """Make a unit ``size`` bytes large; every initiator is told."""
        return self._driver.resize_lun(_number(lun), size)

    def delete_lun(self, lun: Union[int, Lun]) -> None:
        """Take a unit away."""
        self._driver.delete_lun(_number(lun))

    def snapshot(self, lun: Union[int, Lun]) -> Lun:
        """Add a unit with what another has now."""
        return self._driver.snapshot(_number(lun))

    # ------------------------------------------------------------ faults

    def fail_path(self, portal: Union[int, str], how: str = "silent") -> None:
        """Make a portal fail: ``"silent"`` as by a cut cable, ``"refuse"`` as by a port that was switched off."""
        self._driver.fail_path(self._address(portal), how)

    def restore_path(self, portal: Union[int, str]) -> None:
        """Make a portal work again."""
        self._driver.restore_path(self._address(portal))

    @contextlib.contextmanager
    def path_failed(self, portal: Union[int, str], how: str = "silent") -> Iterator[None]:
        """Fail a portal for a ``with`` block."""
        self.fail_path(portal, how)
        try:
            yield
        finally:
            self.restore_path(portal)

    def fail_blocks(self, lun: Union[int, Lun], lba: int, count: int, access: str = "read") -> None:
        """Make reads or writes (``access``) of blocks fail with MEDIUM ERROR; a count of 0 heals all."""
        self._driver.fail_blocks(_number(lun), lba, count, access)

    def delay(self, lun: Union[int, Lun], seconds: float) -> None:
        """Make every command of a unit take ``seconds`` longer."""
        self._driver.delay(_number(lun), seconds)

    def hang(self) -> None:
        """Stop answering; connections stay open."""
        self._driver.hang()

    def resume(self) -> None:
        """Answer again, also what came meanwhile."""
        self._driver.resume()

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """Stop answering for a ``with`` block."""
        self.hang()
        try:
            yield
        finally:
            self.resume()

    def crash(self) -> None:
        """Be gone at once; what was acknowledged and flushed is still there after :meth:`restart`."""
        self._driver.crash()

    def restart(self) -> None:
        """Come back with the same name, addresses and units."""
        self._driver.restart()

    def close(self) -> None:
        """End every session of ours, and the target."""
        sessions, self._sessions = self._sessions, []
        for session in sessions:
            with contextlib.suppress(IscsiError, OSError):
                session.abandon()
        self._driver.close()

    def _address(self, portal: Union[int, str]) -> str:
        if isinstance(portal, str):
            return portal
        portals = self.portals
        try:
            return portals[portal]
        except IndexError:
            count = f"there are {len(portals)}, from 0" if portals else "it has none"
            raise IndexError(f"{self.iqn} has no portal {portal}; {count}: {', '.join(portals)}") from None


def open_san(
    driver: str = "embedded",
    *,
    iqn: str = IQN,
    portals: Sequence[str] = ("127.0.0.1:0", "127.0.0.1:0"),
    chap: Union[Chap, Sequence[str], None] = None,
    directory: str = "",
    host: Any = None,
) -> SanTarget:
    """Return a target.

    Args:
        driver: ``"embedded"``, ``"tgt"`` or ``"external"``.
        iqn: Its name.
        portals: Its addresses, ``host:port``; port 0 takes a free one.
        chap: The secret that a login needs: ``(user, password)``, and maybe the target's own.
        directory: Where units are kept; by default in memory, or a directory that goes with the target.
        host: A host of the lab, or a client, that runs it; by default this machine.

    Raises:
        ValueError: If there is no such driver.
        Unsupported: If what the driver needs is not installed there.
    """
    options = Options(iqn, tuple(portals), Chap.of(chap), directory)
    return SanTarget(open_driver(driver, options, host), chap)


def open_driver(name: str, options: Options, host: Any = None) -> Driver:
    """Return what stands behind a target, here or at a host of the lab or a client.

    Raises:
        ValueError: If there is no such driver.
        Unsupported: If what it needs is not installed there.
    """
    if name not in DRIVERS:
        raise ValueError(f"{name!r} is not a driver; there are {', '.join(map(repr, DRIVERS))}")
    module, kind = DRIVERS[name]
    if host is not None:
        found: Driver = _on(host, module, kind, options)
        return found
    from importlib import import_module

    made: Driver = getattr(import_module(module), kind)(options)
    return made


def _on(host: Any, module: str, name: str, *args: Any, **kwargs: Any) -> Any:
    """Call a function of ours on a host of the lab or at a client; its modules go there as they are imported."""
    client = (getattr(type(host), "remote", None) and host.remote) or host
    client.import_module(module)
    return client.call(f"{module}.{name}", *args, **kwargs)


def _number(lun: Union[int, Lun]) -> int:
    return lun.number if isinstance(lun, Lun) else lun
