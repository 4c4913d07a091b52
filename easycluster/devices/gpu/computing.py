"""What is computed on devices: bandwidth, load, kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Union

from easycluster.devices.gpu.arguments import name_in, packed, unpacked
from easycluster.devices.gpu.errors import GpuBusy, GpuError, GpuFault
from easycluster.devices.gpu.model import Bandwidth, Burn, Device, Health, KernelRun

if TYPE_CHECKING:
    from easycluster.devices.gpu.lease import GpuLease
    from easycluster.devices.gpu.station import Opened

__all__ = ["Computing", "Which"]

# What a test may say of a device: itself, its uuid, or its number.
Which = Union[Device, str, int]

# Seconds that an operation may take beyond what it was told to: a driver wakes up, a compiler runs.
_SLACK = 120.0


class Computing:
    """The part of :class:`easycluster.devices.gpu.Gpus` that has devices compute."""

    _leases: List[GpuLease]
    host: str

    # What the other parts give.

    @property
    def devices(self) -> List[Device]:
        """The devices, as they are now."""
        raise NotImplementedError

    def health(self, since: str = "") -> Health:
        """The state of the hardware."""
        raise NotImplementedError

    def _open(self) -> Opened:
        raise NotImplementedError

    def _do(self, operation: str, *arguments: Any) -> Any:
        raise NotImplementedError

    def bandwidth(self, device: Optional[Which] = None, size: int = 64 << 20, seconds: float = 0.3) -> Bandwidth:
        """Measure how fast data goes to a device, from it and within it; what came back is compared.

        Args:
            device: Which; by default the first one leased, or the first.
            size: Bytes of one copy.
            seconds: How long to copy in all.

        Raises:
            GpuError: If data came back changed.
        """
        uuid = self._uuids(device)[0]
        said = self._compute("bandwidth", [uuid], seconds, {"uuid": uuid, "size": size, "seconds": seconds})
        return Bandwidth(said["to_device"], said["from_device"], said["on_device"], said["size"], uuid)

    def burn(
        self, seconds: float = 5.0, devices: Union[Which, Sequence[Which], None] = None, *, check: bool = True
    ) -> List[Burn]:
        """Compute on several devices at once and compare all results.

        Args:
            seconds: How long.
            devices: Which; by default those leased, or all.
            check: Whether wrong results are an error.

        Raises:
            GpuFault: If results were wrong, or the hardware reported a fault meanwhile.
            GpuError: If a device did not compute.
        """
        uuids = self._uuids(devices)
        opened = self._open()
        before = None if opened.emulated else self.health()
        items = 1 << 14 if opened.emulated else 1 << 20
        found: Dict[str, Any] = self._compute(
            "burn", uuids, seconds, {"uuids": uuids, "seconds": seconds, "items": items}
        )
        # All that a device says first: a fault may explain why another one failed.
        faults = [] if before is None else self.health(before.cursor).faults_since(before)
        burns, failed = [], []
        for uuid in uuids:
            said = found[uuid]
            if "done" in said:
                burns.append(Burn(uuid, **said["done"]))
            else:
                failed.append(f"{uuid}: {said.get('failed') or said}")
        wrong = [str(one) for one in burns if one.errors]
        if check and (faults or wrong):
            raise GpuFault([*wrong, *faults, *failed])
        if failed:
            raise GpuError("; ".join(failed))
        return burns

    def run_kernel(
        self,
        source: Union[str, Mapping[str, str]],
        *arguments: Any,
        size: Union[int, Sequence[int], None] = None,
        group: Union[int, Sequence[int], None] = None,
        name: str = "",
        options: Sequence[str] = (),
        device: Optional[Which] = None,
        timeout: float = 60.0,
    ) -> KernelRun:
        """Build a kernel and run it once.

        Args:
            source: Its text; see :mod:`easycluster.devices.gpu.kernels` for one that runs everywhere.  Or texts by
                language: ``cuda``, ``ptx``, ``hip``, ``opencl``, ``c``.
            arguments: Arrays (``array.array``, bytes, a list of numbers), which come back, and numbers: an int is 32
                bits wide, a float is one of single precision, ``("d", 0.1)`` names another type by its code of
                :mod:`array`.
            size: How many items, in one to three dimensions; by default the length of the first array.
            group: How many of them work together.
            name: Of the kernel, if the source has several.
            options: For the compiler.
            device: Which; by default the first one leased, or the first.
            timeout: Seconds until its process is killed.

        Raises:
            KernelBuildError: If it cannot be built, with what the compiler said.
            GpuTimeout: If it does not end.
            GpuError: If it fails.
            Unsupported: If nothing there builds it.
        """
        passed = [packed(one) for one in arguments]
        arrays = [one for one in passed if "array" in one]
        if size is None:
            if not arrays:
                raise ValueError("without an array a kernel needs size=, the number of its items")
            size = arrays[0]["length"]
        sizes = [size] if isinstance(size, int) else list(size)
        groups = [] if group is None else [group] if isinstance(group, int) else list(group)
        text = source if isinstance(source, str) else dict(source)
        uuid = self._uuids(device)[0]
        job = [text, name or name_in(source), passed, sizes, groups, list(options)]
        said = self._compute("run_kernel", [uuid], 0.0, {"uuid": uuid, "arguments": job}, timeout)
        results = [unpacked(one, data) for one, data in zip(arrays, said["arrays"])]
        return KernelRun(tuple(results), said["seconds"], said["log"], uuid)

    def reset(self, device: Optional[Which] = None) -> None:
        """Reset a device that nobody uses; it needs root.

        Raises:
            GpuBusy: If somebody uses it.
            GpuError: If it is not leased.
            Unsupported: If it, or what drives it, cannot.
        """
        uuid = self._uuids(device)[0]
        if not self._open().emulated and uuid not in [one for lease in self._leases for one in lease.uuids]:
            raise GpuError(f"{uuid} is not leased, so somebody may begin to use it; lease it first")
        try:
            self._do("reset", uuid)
        except GpuBusy as exc:
            raise GpuBusy(exc.reason, exc.processes, self.host) from exc

    def _compute(
        self, job: str, uuids: Sequence[str], seconds: float, arguments: Dict[str, Any], limit: float = _SLACK
    ) -> Any:
        return self._do("compute", job, list(uuids), seconds + limit, arguments)

    def _uuids(self, which: Union[Which, Sequence[Which], None]) -> List[str]:
        """The devices that are meant; those leased, or all, if none is named."""
        if which is None:
            leased = [uuid for lease in self._leases for uuid in lease.uuids]
            return leased or [device.uuid for device in self.devices]
        if isinstance(which, (Device, str, int)):
            which = [which]
        every: List[Device] = []
        found = []
        for one in which:
            if isinstance(one, int):
                every = every or self.devices
                if not 0 <= one < len(every):
                    raise IndexError(f"there is no device {one}; there are {len(every)}, from 0")
                found.append(every[one].uuid)
            else:
                found.append(one if isinstance(one, str) else one.uuid)
        if not found:
            raise ValueError("an empty list of devices is given")
        return found
