"""The target: portals, units and sessions, and faults on demand."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Dict, Iterable, List, Optional, Sequence, Set, Tuple, Union

from easycluster.devices.iscsi.chap import Chap
from easycluster.devices.iscsi.errors import IscsiError
from easycluster.devices.iscsi.logon import split_portal
from easycluster.devices.iscsi.negotiation import Wishes
from easycluster.devices.iscsi.pdu import encode_lun
from easycluster.devices.iscsi.stream import PduStream
from easycluster.devices.iscsi.target.connection import Session
from easycluster.devices.iscsi.target.login import Login, Refused
from easycluster.devices.iscsi.target.nexus import Nexus
from easycluster.devices.iscsi.target.portal import Portal
from easycluster.devices.iscsi.target.reservations import Registry
from easycluster.devices.iscsi.target.storage import FileStorage, MemoryStorage, Storage
from easycluster.devices.iscsi.target.unit import LUNS_CHANGED, Unit

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Type

__all__ = ["IQN", "Target"]

IQN = "iqn.2026-11.org.easycluster:target"

# Who connects and does not log in gives the place back.
LOGIN_LIMIT = 15.0


class _Gone(Exception):
    """The connection of this thread was closed while it was held back."""


class Target:
    """A target with its portals; a thread for each portal and each session.

    Args:
        portals: Addresses to listen on, ``host:port``; port 0 takes a free one.
        iqn: Its name.
        chap: The secret that initiators must know, and maybe the target's own.
        initiators: Names of who may log in; by default all.
        wishes: What to agree on.

    Attributes:
        units: Logical units by number.
        portals: The portals.
    """

    def __init__(
        self,
        portals: Sequence[str] = ("127.0.0.1:0",),
        iqn: str = IQN,
        chap: Union[Chap, Sequence[str], None] = None,
        initiators: Optional[Iterable[str]] = None,
        wishes: Optional[Wishes] = None,
    ) -> None:
        self.iqn, self.chap = iqn, Chap.of(chap)
        self.initiators = set(initiators) if initiators is not None else None
        self.wishes = wishes or Wishes("None,CRC32C", "None,CRC32C", max_recv=1 << 20, max_burst=4 << 20)
        self.units: Dict[int, Unit] = {}
        self._lock = threading.RLock()
        self._change = threading.Condition(self._lock)
        self._sessions: Dict[Session, Portal] = {}
        self._streams: Dict[PduStream, Portal] = {}
        self._threads: Set[threading.Thread] = set()
        self._last_tsih = 0
        self._hung = False
        self._closed = False
        self.portals: List[Portal] = []
        try:
            for text in portals:
                host, port = split_portal(text if ":" in text else text + ":0")
                self.portals.append(Portal(host, 0 if text.endswith(":0") else port, 1))
        except BaseException:
            self.close()
            raise
        for portal in self.portals:
            self._start(self._accept, portal, portal.listener)

    def __enter__(self) -> Target:  # noqa: PYI034  # Self is too new for the far side
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], exc: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    # ------------------------------------------------------------ units

    def create_lun(
        self,
        size: Optional[int] = None,
        lun: Optional[int] = None,
        path: str = "",
        block_size: int = 512,
        thin: bool = True,
        readonly: bool = False,
    ) -> Unit:
        """Add a logical unit; every initiator is told.

        Args:
            size: Bytes; may be left out for a file that is there.
            lun: Its number; by default the first free one from 1 on.
            path: A file to keep it in; by default memory.
            block_size: Bytes in a block.
            thin: Whether blocks can be given back.
            readonly: Whether writes are refused.

        Raises:
            ValueError: If the number is taken, or the size is not whole blocks.
        """
        with self._lock:
            number = lun if lun is not None else next(n for n in range(1, 16384) if n not in self.units)
            if number in self.units:
                raise ValueError(f"logical unit {number} is there already")
            if (size is None and not path) or (size is not None and (size <= 0 or size % block_size)):
                raise ValueError(f"a size of {size} bytes is not whole blocks of {block_size}")
            storage: Storage = FileStorage(path, size) if path else MemoryStorage(size or 0)
            return self.add_unit(Unit(number, storage, block_size, thin, self.iqn, readonly=readonly))

    def add_unit(self, unit: Unit) -> Unit:
        """Add a unit that was made elsewhere."""
        with self._lock:
            for session in self._sessions:
                unit.attend(session.nexus)
            self.units[unit.number] = unit
            self._luns_changed(unit)
        return unit

    def delete_lun(self, lun: int) -> None:
        """Take a unit away; what is in flight for it is not answered."""
        with self._lock:
            unit = self._unit(lun)
            del self.units[lun]
            self.abort(lun, None)
            self._luns_changed(unit)
            unit.storage.close()

    def resize_lun(self, lun: int, size: int) -> None:
        """Make a unit larger or smaller; every initiator is told."""
        unit = self._unit(lun)
        if size <= 0 or size % unit.block_size:
            raise ValueError(f"a size of {size} bytes is not whole blocks of {unit.block_size}")
        unit.resize(size // unit.block_size)

    def snapshot(self, lun: int, path: str = "", new_lun: Optional[int] = None) -> Unit:
        """Add a unit with what another one has now; both go their own ways from here."""
        unit = self._unit(lun)
        with unit.lock:
            copy = self.create_lun(unit.storage.size, new_lun, path, unit.block_size, unit.thin)
            unit.storage.copy_to(copy.storage)
        return copy

    def _unit(self, lun: int) -> Unit:
        unit = self.units.get(lun)
        if unit is None:
            raise ValueError(f"there is no logical unit {lun}; there are {sorted(self.units)}")
        return unit

    def _luns_changed(self, besides: Unit) -> None:
        for other in self.units.values():
            if other is not besides:
                other.announce(LUNS_CHANGED)

    def encoded_luns(self) -> bytes:
        """Numbers of all units, as REPORT LUNS has them."""
        return b"".join(encode_lun(number) for number in sorted(self.units))

    # ------------------------------------------------------------ sessions

    def found(self, wanted: str) -> List[Tuple[str, str]]:
        """What SendTargets is told: our name and our addresses."""
        addresses = [
            ("TargetAddress", f"{portal.address},{portal.group}") for portal in self.portals if not portal.failed
        ]
        return [("TargetName", self.iqn), *addresses]

    @property
    def sessions(self) -> List[Tuple[str, str]]:
        """Who is logged in: initiator and portal."""
        with self._lock:
            return [(session.nexus.initiator, portal.address) for session, portal in self._sessions.items()]

    def abort(self, lun: Optional[int], only: Optional[Session]) -> None:
        """Forget commands in flight, of one session or all."""
        with self._lock:
            for session in [only] if only is not None else list(self._sessions):
                session.abort(lun)

    def reset(self, cold: bool, by: Optional[Session] = None) -> None:
        """Reset the target; a cold reset also ends every session."""
        self.abort(None, None)
        for unit in list(self.units.values()):
            unit.reset()
        if cold:
            self.drop_sessions()

    def drop_sessions(self, portal: Optional[str] = None) -> None:
        """Close connections, with a reset, as a target does that dies."""
        with self._lock:
            streams = [stream for stream, at in self._streams.items() if portal in (None, at.address)]
        for stream in streams:
            stream.abort()

    def ask_logout(self, seconds: int = 5) -> None:
        """Ask every initiator to log out."""
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.tell(1, seconds)

    # ------------------------------------------------------------ faults

    def hang(self) -> None:
        """Stop answering; connections stay open."""
        with self._lock:
            self._hung = True

    def resume(self) -> None:
        """Answer again, also what came meanwhile."""
        with self._change:
            self._hung = False
            self._change.notify_all()

    def fail_path(self, portal: str, how: str = "silent") -> None:
        """Make a portal fail.

        Args:
            portal: Its address.
            how: ``"silent"``: nothing is answered any more, as if a cable were cut; ``"refuse"``: connections are
                reset and new ones refused, as if the port were switched off.
        """
        if how not in ("silent", "refuse"):
            raise ValueError(f"{how!r} is neither 'silent' nor 'refuse'")
        with self._lock:
            at = self._portal(portal)
            at.failed = how
            if how == "refuse":
                at.close()
        if how == "refuse":
            self.drop_sessions(at.address)

    def restore_path(self, portal: str) -> None:
        """Make a portal work again; what came to a silent one meanwhile is answered."""
        with self._change:
            at = self._portal(portal)
            at.failed = ""
            if at.listener is None and not self._closed:
                at.open()
                self._start(self._accept, at, at.listener)
            self._change.notify_all()

    def crash(self) -> None:
        """Be gone at once: every connection is reset, no portal answers; units keep what they have."""
        with self._change:
            for portal in self.portals:
                portal.close()
            self._change.notify_all()
        self.drop_sessions()
        self._join()

    def restart(self) -> None:
        """Come back after a crash: reservations are gone."""
        with self._change:
            self._hung = False
            for unit in self.units.values():
                unit.reset()
                unit.registry = Registry(unit)
            for portal in self.portals:
                if portal.listener is None and not portal.failed:
                    portal.open()
                    self._start(self._accept, portal, portal.listener)
            self._change.notify_all()

    def _portal(self, address: str) -> Portal:
        for portal in self.portals:
            if portal.address == address:
                return portal
        raise ValueError(f"there is no portal {address!r}; there are {[portal.address for portal in self.portals]}")

    def gate(self, session: Session) -> None:
        """Hold a session's thread back while the target hangs or its path is silent."""
        portal = self._sessions.get(session)
        if self._hung or (portal is not None and portal.failed == "silent"):
            self._hold(portal, session.stream)

    def _hold(self, portal: Optional[Portal], stream: PduStream) -> None:
        with self._change:
            while (self._hung or (portal is not None and portal.failed == "silent")) and not self._closed:
                # Every now and then, in case the connection was closed meanwhile.
                self._change.wait(0.2)
                if stream.aborted:
                    raise _Gone
            if self._closed:
                raise _Gone

    # ------------------------------------------------------------ threads

    def close(self) -> None:
        """End everything."""
        with self._change:
            self._closed = True
            for portal in self.portals:
                portal.close()
            self._change.notify_all()
        self.drop_sessions()
        self._join()
        for unit in self.units.values():
            unit.storage.close()
        self.units.clear()

    def _join(self) -> None:
        me = threading.current_thread()
        with self._lock:
            threads = [thread for thread in self._threads if thread is not me]
        for thread in threads:
            thread.join(10.0)

    def _start(self, run: object, *args: object) -> None:
        def body() -> None:
            try:
                run(*args)  # type: ignore[operator]  # a bound method of ours
            finally:
                with self._lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=body, name="easycluster-target", daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def _accept(self, portal: Portal, listener: socket.socket) -> None:
        while True:
            try:
                sock, peer = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = PduStream(sock, f"{peer[0]}:{peer[1]}")
            with self._lock:
                if portal.listener is not listener:
                    stream.abort()
                    stream.close()
                    return
                self._streams[stream] = portal
            self._start(self._serve, portal, stream)

    def _serve(self, portal: Portal, stream: PduStream) -> None:
        entered: List[Session] = []

        def enter() -> None:
            nexus = Nexus(login.initiator, login.isid, portal.group)
            # One number is for the answer that ends the login.
            numbers = login.exp_cmd_sn, login.stat_sn + 1
            entered.append(Session(self, stream, nexus, login.parameters, login.discovery, *numbers))
            self._join_in(entered[0], portal, login.discovery)

        try:
            if self._hung or portal.failed:
                self._hold(portal, stream)
            with self._lock:
                tsih = self._last_tsih = self._last_tsih % 65535 + 1
            login = Login(self, portal, stream, self.wishes, tsih)
            login.run(time.monotonic() + LOGIN_LIMIT, enter)
            agreed = login.parameters
            stream.header_digest, stream.data_digest = agreed.header_digest, agreed.data_digest
            stream.max_recv = agreed.max_recv
            entered[0].serve()
        except (IscsiError, TimeoutError, Refused, _Gone):
            pass
        finally:
            self._leave(entered[0] if entered else None, stream)

    def _join_in(self, session: Session, portal: Portal, discovery: bool) -> None:
        with self._lock:
            if not discovery:
                # The same nexus again: the old session is dead, and its initiator knows (RFC 7143, 6.3.5).
                for other in list(self._sessions):
                    if other.nexus == session.nexus:
                        other.close()
                for unit in self.units.values():
                    unit.forget(session.nexus)
                    unit.attend(session.nexus)
                self._sessions[session] = portal

    def _leave(self, session: Optional[Session], stream: PduStream) -> None:
        with self._lock:
            self._streams.pop(stream, None)
            if session is not None and self._sessions.pop(session, None) is not None:
                nexus = session.nexus
                for unit in self.units.values() if all(other.nexus != nexus for other in self._sessions) else ():
                    unit.forget(nexus)
        stream.close()
