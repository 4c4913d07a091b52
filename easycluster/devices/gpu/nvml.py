"""NVML by ctypes, for samples: a call takes microseconds, ``nvidia-smi`` 50 ms.  Names are those of nvml.h."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, Tuple

from easycluster.devices.gpu.errors import GpuError

if TYPE_CHECKING:
    from easycluster.devices.gpu.model import Values

__all__ = ["NvmlSampler", "load"]

_LIBRARY = "libnvidia-ml.so.1"
_SUCCESS = 0
_uint, _ulonglong = ctypes.c_uint, ctypes.c_ulonglong

# What a function that takes a device and returns one number is called, what it takes besides, and a factor.
_NUMBERS: Tuple[Tuple[str, str, Tuple[int, ...], Any, float], ...] = (
    ("temperature", "nvmlDeviceGetTemperature", (0,), _uint, 1.0),
    ("power", "nvmlDeviceGetPowerUsage", (), _uint, 1e-3),
    ("clock", "nvmlDeviceGetClockInfo", (1,), _uint, 1.0),
    ("memory_clock", "nvmlDeviceGetClockInfo", (2,), _uint, 1.0),
    ("throttle", "nvmlDeviceGetCurrentClocksThrottleReasons", (), _ulonglong, 1.0),
    ("ecc_corrected", "nvmlDeviceGetTotalEccErrors", (0, 0), _ulonglong, 1.0),
    ("ecc_uncorrected", "nvmlDeviceGetTotalEccErrors", (1, 0), _ulonglong, 1.0),
)


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", _uint), ("memory", _uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", _ulonglong), ("free", _ulonglong), ("used", _ulonglong))


def load() -> Optional[Any]:
    """Return the library, initialised; None if it is not here or does not work."""
    try:
        library = ctypes.CDLL(_LIBRARY)
        return library if library.nvmlInit_v2() == _SUCCESS else None
    except (OSError, AttributeError):
        return None


class NvmlSampler:
    """Samples devices.

    Args:
        library: From :func:`load`.
        devices: Their uuids.

    Raises:
        GpuError: If the library does not know one.
    """

    def __init__(self, library: Any, devices: Sequence[str]) -> None:
        self._library = library
        self._handles: Dict[str, Any] = {}
        for uuid in devices:
            handle = ctypes.c_void_p()
            status = library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle))
            if status != _SUCCESS:
                raise GpuError(f"NVML does not know {uuid}: error {status}")
            self._handles[uuid] = handle
        self._reads: List[Callable[[Any, Values], None]] = [self._number(*row) for row in _NUMBERS]
        self._reads.append(self._utilization)
        self._reads.append(self._memory)

    def sample(self) -> Dict[str, Values]:
        """See Sampler."""
        found: Dict[str, Values] = {}
        for uuid, handle in self._handles.items():
            values: Values = {}
            for read in self._reads:
                read(handle, values)
            found[uuid] = values
        return found

    def close(self) -> None:
        """See Sampler.  The library stays: another sampler may use it."""

    def _number(
        self, name: str, function: str, more: Tuple[int, ...], kind: Any, factor: float
    ) -> Callable[[Any, Values], None]:
        call = getattr(self._library, function, None)

        def read(handle: Any, values: Values) -> None:
            value = kind()
            if call is not None and call(handle, *map(_uint, more), ctypes.byref(value)) == _SUCCESS:
                values[name] = value.value * factor

        return read

    def _utilization(self, handle: Any, values: Values) -> None:
        value = _Utilization()
        if self._library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(value)) == _SUCCESS:
            values["utilization"], values["memory_utilization"] = float(value.gpu), float(value.memory)

    def _memory(self, handle: Any, values: Values) -> None:
        value = _Memory()
        if self._library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(value)) == _SUCCESS:
            values["memory_used"] = float(value.used)
