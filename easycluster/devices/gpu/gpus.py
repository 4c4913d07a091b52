"""The GPUs of a host as a test uses them, whatever drives them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from easycluster.devices.gpu.computing import Computing, Which
from easycluster.devices.gpu.errors import GpuBusy, GpuError, GpuFault
from easycluster.devices.gpu.lease import GpuLease, lacking, size_of, wanted
from easycluster.devices.gpu.series import Series
from easycluster.errors import SessionError, Unsupported

if TYPE_CHECKING:
    from easycluster.devices.gpu.model import Device, Health, Process
    from easycluster.devices.gpu.station import Opened

__all__ = ["GpuLease", "Gpus", "open_gpus"]

STATION = "easycluster.devices.gpu.station"

# Locks some of several devices, by uuid, and gives those and how to let go.
Locker = Callable[[Sequence[str], int, str, Optional[float]], Tuple[List[str], Callable[[], object]]]


class Gpus(Computing):
    """The devices of one host.

    Args:
        do: Has the host's station do something: what drives the devices, the operation and its arguments; see
            :func:`easycluster.devices.gpu.station.do`.
        host: The host's name, for reports.
        backend: What is to drive the devices, ``""`` for the first that works.
        accepts_emulated: Whether a processor may stand in for a GPU.
        locker: Locks devices on the host; without one there are no leases.
    """

    def __init__(
        self,
        do: Callable[..., Tuple[Opened, Any]],
        host: str = "",
        *,
        backend: str = "",
        accepts_emulated: bool = True,
        locker: Optional[Locker] = None,
    ) -> None:
        self._station = do
        self._wanted = backend
        self._opened: Optional[Opened] = None
        self._locker = locker
        self._leases: List[GpuLease] = []
        self._recorded: List[Series] = []
        # The state of the hardware that faults are counted from.
        self._before: Optional[Health] = None
        self.host = host
        self.accepts_emulated = accepts_emulated

    def __repr__(self) -> str:
        what = self._opened.backend if self._opened is not None else "not looked at yet"
        return f"<Gpus of {self.host or 'this machine'}: {what}>"

    def __enter__(self) -> Gpus:  # noqa: PYI034  # Self is too new for the far side
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # ------------------------------------------------------------ what there is

    @property
    def backend(self) -> str:
        """What drives them: ``"nvidia"``, ``"amd"``, ``"opencl"`` or ``"cpu"``.

        Raises:
            GpuError: If nothing works, or something of a vendor's is installed that does not.
            Unsupported: If there is a processor only, and that is not accepted.
        """
        return self._open().backend

    @property
    def emulated(self) -> bool:
        """Whether a processor stands in for a GPU."""
        return self._open().emulated

    @property
    def devices(self) -> List[Device]:
        """The devices, as they are now."""
        found: List[Device] = self._do("devices")
        return found

    @property
    def processes(self) -> List[Process]:
        """Who uses them, without processes of this session."""
        found: List[Process] = self._do("processes")
        return found

    # ------------------------------------------------------------ leases

    def lease(
        self,
        count: int = 1,
        *,
        memory: Union[int, str] = 0,
        name: str = "",
        label: str = "",
        wait: Optional[float] = None,
    ) -> GpuLease:
        """Have devices for oneself, and have what starts on the host see only them.

        Args:
            count: How many.
            memory: At least so many bytes, or a text such as ``"40 GiB"``.
            name: A part of the product's name.
            label: What for, for others who wait.
            wait: Seconds to wait for devices that others have locked; the lab's rule by default.

        Raises:
            GpuBusy: If processes of somebody else are on too many of them.
            easycluster.lab.HostBusy: If others have locked them for longer than that.
            GpuError: If the host has no such devices.
        """
        if self._locker is None:
            raise Unsupported("lease", "the locks of devices are a lab's: lease them through one of its hosts")
        least = size_of(memory)
        every = self.devices
        fitting = [one for one in every if one.memory >= least and name.lower() in one.name.lower()]
        ours = {uuid for lease in self._leases for uuid in lease.uuids}
        left = [device for device in fitting if device.uuid not in ours]
        if len(left) < count:
            raise GpuError(f"{wanted(count, least, name)}, and {lacking(every, fitting, ours)}")
        free = self._unused(left)
        if len(free) < count:
            there = [one for one in self.processes if any(one.device in (gpu.uuid, gpu.part_of) for gpu in left)]
            said = "; ".join(f"{one.device} has {one}" for one in there)
            raise GpuBusy(
                f"{wanted(count, least, name)}, and {len(free)} of {len(left)} is free: {said}", there, self.host
            )
        uuids, let_go = self._locker([device.uuid for device in free], count, label, wait)
        lease = GpuLease(self, [device for device in free if device.uuid in uuids], let_go)
        self._leases.append(lease)
        try:
            # Somebody without our locks may have begun while we waited for them.
            if len(self._unused(lease.devices)) < len(lease.devices):
                there = [one for one in self.processes if one.device in uuids]
                raise GpuBusy(f"taken meanwhile: {'; '.join(map(str, there))}", there, self.host)
            self._pin()
        except BaseException:
            lease.release()
            raise
        return lease

    def _unused(self, devices: Sequence[Device]) -> List[Device]:
        """Those of some devices that nobody has processes on."""
        used = {process.device for process in self.processes}
        return [device for device in devices if device.uuid not in used and device.part_of not in used]

    def _pin(self) -> None:
        uuids = [uuid for lease in self._leases for uuid in lease.uuids]
        variables: Dict[str, str] = self._do("pin", uuids)
        for lease in self._leases:
            lease.variables = variables

    def _forget(self, lease: GpuLease) -> None:
        if lease in self._leases:
            self._leases.remove(lease)
            # With the session, or its worker, the variables are gone, too.
            with contextlib.suppress(SessionError):
                self._pin()

    # ------------------------------------------------------------ watching

    @contextlib.contextmanager
    def telemetry(self, interval: float = 0.1, devices: Union[Which, Sequence[Which], None] = None) -> Iterator[Series]:
        """Sample temperature, power, load, memory and clocks while a block runs.

        It happens on the host; the samples come here at the end, and stand in the report.

        Args:
            interval: Seconds from one sample to the next.
            devices: Of which; by default those leased, or all.
        """
        if interval <= 0:
            raise ValueError(f"interval is {interval!r}; seconds are wanted, such as 0.1")
        series = Series(self.host, interval)
        number = self._do("sample_start", interval, self._uuids(devices))
        try:
            yield series
        except BaseException:
            with contextlib.suppress(SessionError, GpuError):
                series.fill(*self._do("sample_stop", number))
                self._recorded.append(series)
            raise
        series.fill(*self._do("sample_stop", number))
        self._recorded.append(series)

    def take_series(self) -> List[Series]:
        """What was sampled since the last time this was asked for, for a report."""
        taken, self._recorded = self._recorded, []
        return taken

    def health(self, since: str = "", devices: Union[Which, Sequence[Which], None] = ()) -> Health:
        """The state of the hardware.

        Args:
            since: The ``cursor`` of an earlier one: faults in the kernel's log from there on are listed.
            devices: Of which; by default all.
        """
        found: Health = self._do("health", since, self._uuids(devices) if devices else [])
        return found

    def begin_watch(self) -> None:
        """Count faults from here on."""
        opened = self._open()
        self._before = None if opened.emulated else self.health()

    @property
    def is_watched(self) -> bool:
        """Whether faults are counted."""
        return self._before is not None

    def end_watch(self, devices: Sequence[str] = ()) -> List[str]:
        """Faults since :meth:`begin_watch`, or since the last time this was asked for; a line each.

        Args:
            devices: Of which, by uuid; of all if there are none, or none of them is a device of the host.
        """
        before = self._before
        if before is None:
            return []
        mine = [uuid for uuid in devices if uuid in before.counters]
        self._before = now = self.health(before.cursor, mine)
        return list(now.faults_since(before, mine))

    @contextlib.contextmanager
    def expect_faults(self) -> Iterator[List[str]]:
        """Faults of the hardware inside a block are what it is for; gives the list that they come into."""
        self._open()
        earlier = self.end_watch()
        found: List[str] = []
        try:
            yield found
        finally:
            found += self.end_watch()
        if earlier:
            raise GpuFault(earlier)

    def close(self) -> None:
        """Give devices back, and end what was started on the host."""
        leases, self._leases = self._leases, []
        for lease in leases:
            lease.release()
        if self._opened is not None:
            self._before = None
            with contextlib.suppress(SessionError):
                self._station("", "close")

    # ------------------------------------------------------------ the host's side

    def _open(self) -> Opened:
        if self._opened is None:
            self._opened, _ = self._station(self._wanted, "open")
            if not self._opened.emulated and self._before is None:
                # Whoever looks at faults wants those from here on.
                self._before = self._station(f"={self._opened.backend}", "health", "", [])[1]
        opened = self._opened
        if opened.emulated and not self.accepts_emulated:
            passed = f" ({'; '.join(opened.passed)})" if opened.passed else ""
            advice = "a lab file accepts it with  gpu: {emulated: true}, a test with ec_emulated"
            raise Unsupported("gpu", f"{self.host or 'this machine'} has an emulated device only{passed}; {advice}")
        return opened

    def _do(self, operation: str, *arguments: Any) -> Any:
        # A kernel has run there before: another worker of the same host need not try again.
        return self._station(f"={self._open().backend}", operation, *arguments)[1]


def open_gpus(host: Any = None, *, backend: str = "", accepts_emulated: bool = True) -> Gpus:
    """The GPUs of this machine, or of a client's; those of a lab's host are ``host.gpu``.

    Args:
        host: A client; by default this machine.
        backend: What is to drive them, ``""`` for the first that works.
        accepts_emulated: Whether a processor may stand in for a GPU.
    """
    if host is None:
        from easycluster.devices.gpu.station import do

        return Gpus(do, backend=backend, accepts_emulated=accepts_emulated)
    name = str(getattr(host, "peername", "") or "")
    return Gpus(station_of(lambda: host), name, backend=backend, accepts_emulated=accepts_emulated)


def station_of(client: Callable[[], Any]) -> Callable[..., Tuple[Opened, Any]]:
    """What has the station of a far side do something; its modules go there as they are imported."""

    def do(backend: str, operation: str, *arguments: Any) -> Any:
        now = client()
        now.import_module(STATION)
        return now.call(f"{STATION}.do", backend, operation, *arguments)

    return do
