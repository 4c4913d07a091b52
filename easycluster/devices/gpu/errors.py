"""What can go wrong with GPUs, by what the caller can do about it.

::

    GpuError                       a tool, a driver or a device did not do what it should
     +- GpuBusy                    somebody else's processes are on it: wait, or take another
     +- GpuTimeout (TimeoutError)  it did not answer in time
     +- GpuFault                   the hardware has reported a fault: the test that caused it fails
     +- KernelBuildError           a kernel's source is wrong; has what the compiler said
"""

from __future__ import annotations

from typing import Any, Sequence, Tuple

from easycluster.errors import EasyClusterError

__all__ = ["GpuBusy", "GpuError", "GpuFault", "GpuTimeout", "KernelBuildError"]


class GpuError(EasyClusterError):
    """A tool, a driver or a device did not do what it should; says which and what it said."""


class GpuBusy(GpuError):
    """There are not enough devices that nobody uses.

    Attributes:
        processes: Who is on them: a sequence of :class:`easycluster.devices.gpu.Process`.
        host: Whose devices they are, ``""`` on the host itself.
        reason: The message without the host.
    """

    def __init__(self, message: str, processes: Sequence[Any] = (), host: str = "") -> None:
        super().__init__(f"{host}: {message}" if host else message)
        self.reason = message
        self.processes = tuple(processes)
        self.host = host

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (self.reason, self.processes, self.host)


class GpuTimeout(GpuError, TimeoutError):
    """A tool or a device did not answer in time; what waited for it was ended."""


class GpuFault(GpuError):
    """The hardware has reported faults.

    Attributes:
        faults: One line for each.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (self.faults,)


class KernelBuildError(GpuError):
    """A kernel cannot be built from its source.

    Attributes:
        log: What the compiler said.
    """

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(f"{message}\n{log}" if log else message)
        self.message = message
        self.log = log

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (self.message, self.log)
