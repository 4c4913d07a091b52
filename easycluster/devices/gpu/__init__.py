"""The GPUs of a host in a test: one live object, whatever drives them.

::

    gpus, computing        what a test uses, on the near side
    lease, series          what it gets
    arguments              of kernels, as they cross
    model, errors          values and failures, the same on both sides
    station                the far side: picks a backend, pins, samples, watches
    backends               which there are
    nvidia, smi, nvml      NVIDIA: what its tools say
    amd, amdjson           AMD: what its tools say
    plain                  OpenCL and plain processors: what the system says
    kernel_log, tools      the kernel's log; programs under a time limit
    bench, jobs            a process that runs kernels, and what it does with them
    cuda, opencl, cpu      how kernels are built and run there
    kernels                the source of ours

All but the first three lines are shipped to far sides: standard library of Python 3.8 only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from easycluster.devices.gpu.errors import GpuBusy, GpuError, GpuFault, GpuTimeout, KernelBuildError
    from easycluster.devices.gpu.gpus import Gpus, open_gpus
    from easycluster.devices.gpu.model import Device, Health, Process
    from easycluster.devices.gpu.series import Series

__all__ = [
    "Device",
    "GpuBusy",
    "GpuError",
    "GpuFault",
    "GpuTimeout",
    "Gpus",
    "Health",
    "KernelBuildError",
    "Process",
    "Series",
    "open_gpus",
]

# Loaded on first use: a far side fetches every module over the wire.
_HOMES = {
    **dict.fromkeys(("GpuBusy", "GpuError", "GpuFault", "GpuTimeout", "KernelBuildError"), "errors"),
    **dict.fromkeys(("Gpus", "open_gpus"), "gpus"),
    **dict.fromkeys(("Device", "Health", "Process"), "model"),
    "Series": "series",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)
