"""OpenCL's devices and plain processors: no tool of a vendor speaks for them, so the system does.

A processor in the place of a GPU is labelled ``emulated``: what it computes is real, how fast it does says nothing.
"""

from __future__ import annotations

import glob
import os
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from easycluster.devices.gpu.model import Device, Process, Sampler, Values
from easycluster.errors import Unsupported

__all__ = ["PlainBackend", "SystemSampler"]


class PlainBackend:
    """See Backend.

    Args:
        name: ``"opencl"`` or ``"cpu"``.
        listed: Gives the devices as plain values.
    """

    paced = False

    def __init__(self, name: str, listed: Callable[[], List[Dict[str, Any]]]) -> None:
        self.name = name
        self._listed = listed
        self._devices: List[Device] = []

    @property
    def emulated(self) -> bool:
        """Whether all devices are processors."""
        return all(device.emulated for device in self._devices or self.devices())

    def devices(self) -> List[Device]:
        """See Backend: of OpenCL's, GPUs alone if there are any."""
        found = [Device(backend=self.name, **one) for one in self._listed()]
        self._devices = [device for device in found if not device.emulated] or found
        return self._devices

    def processes(self) -> List[Process]:
        """See Backend.  Nobody says; a processor is never anybody's alone."""
        return []

    def counters(self) -> Dict[str, Dict[str, int]]:
        """See Backend.  Nobody counts."""
        return {device.uuid: {} for device in self._devices or self.devices()}

    def is_fault(self, line: str, devices: Sequence[str]) -> bool:
        """See Backend.  Faults of other devices are not ours."""
        return False

    def sampler(self, devices: Sequence[str], interval: float) -> Sampler:
        """See Backend.

        Raises:
            Unsupported: If it is not a processor.
        """
        if not self.emulated:
            raise Unsupported("telemetry", "OpenCL does not say how warm or busy a GPU is; its vendor's tool would")
        return SystemSampler(devices)

    def environment(self, devices: Sequence[str]) -> Dict[str, str]:
        """See Backend: Level Zero numbers its devices as OpenCL does on the same driver, Intel's."""
        numbers = [str(device.index) for device in self._devices or self.devices() if device.uuid in devices]
        return {} if self.emulated else {"ZE_AFFINITY_MASK": ",".join(numbers)}

    def reset(self, device: str) -> None:
        """See Backend."""
        what = "an emulated device is a processor" if self.emulated else "OpenCL resets no device"
        raise Unsupported("reset", f"{what}; NVIDIA's and AMD's tools can")


class SystemSampler:
    """Samples the processors and the memory of the host, from ``/proc`` and ``/sys``.

    Args:
        devices: Under whose uuids to say it.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self._devices = list(devices)
        self._before = _processor_times()
        self._utilization = 0.0
        self._zones = [
            path for path in sorted(glob.glob("/sys/class/thermal/thermal_zone*/temp")) if os.access(path, os.R_OK)
        ]
        self._clocks = sorted(glob.glob("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._ended = False

    def sample(self) -> Optional[Dict[str, Values]]:
        """See Sampler."""
        if self._ended:
            return None
        values: Values = {}
        busy, every = _processor_times()
        # The kernel counts in hundredths: of two looks within one there is nothing new.
        if every > self._before[1]:
            self._utilization = 100.0 * (busy - self._before[0]) / (every - self._before[1])
            self._before = (busy, every)
        values["utilization"] = min(100.0, max(0.0, self._utilization))
        used = _memory_used()
        if used is not None:
            values["memory_used"] = used
        temperatures = [value / 1000.0 for value in map(_number_in, self._zones) if value is not None]
        if temperatures:
            values["temperature"] = max(temperatures)
        clocks = [value / 1000.0 for value in map(_number_in, self._clocks) if value is not None]
        if clocks:
            values["clock"] = sum(clocks) / len(clocks)
        return {device: dict(values) for device in self._devices}

    def close(self) -> None:
        """See Sampler."""
        self._ended = True


def _processor_times() -> Tuple[float, float]:
    """Busy and all time of all processors, in hundredths of seconds (proc(5), /proc/stat)."""
    try:
        with open("/proc/stat") as file:
            times = [float(word) for word in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return 0.0, 0.0
    return sum(times) - sum(times[3:5]), sum(times)


def _memory_used() -> Optional[float]:
    found = {}
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                name, _, rest = line.partition(":")
                if name in ("MemTotal", "MemAvailable"):
                    found[name] = float(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return found["MemTotal"] - found["MemAvailable"] if len(found) == 2 else None


def _number_in(path: str) -> Optional[float]:
    try:
        with open(path) as file:
            return float(file.read())
    except (OSError, ValueError):
        return None
