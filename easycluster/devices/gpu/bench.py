"""A process that runs kernels: if one hangs it is killed, and if a driver crashes nobody else falls with it."""

from __future__ import annotations

import os
import sys
import threading
from importlib import import_module
from typing import Any, Callable, Dict, List, Sequence

from easycluster.devices.gpu import jobs
from easycluster.devices.gpu.errors import GpuError, KernelBuildError
from easycluster.devices.san.child import serve
from easycluster.errors import Unsupported

__all__ = ["MODULES", "main"]

# What the process needs, in no order; the parent sends their sources.
MODULES = (
    "easycluster.errors",
    "easycluster.devices",
    "easycluster.devices.san",
    "easycluster.devices.san.child",
    "easycluster.devices.gpu",
    *(f"easycluster.devices.gpu.{name}" for name in ("bench", "cpu", "cuda", "errors", "jobs", "kernels")),
    *(f"easycluster.devices.gpu.{name}" for name in ("opencl", "tools")),
)

_contexts: Dict[str, Any] = {}


def _context(engine: str, uuid: str) -> Any:
    if uuid not in _contexts:
        module = {"hip": "cuda"}.get(engine, engine)
        _contexts[uuid] = import_module(f"easycluster.devices.gpu.{module}").CONTEXTS[engine](uuid)
    return _contexts[uuid]


def _told(function: Callable[..., Any], *arguments: Any) -> Dict[str, Any]:
    """What came of a call; failures that the other side knows how to raise are told as such."""
    try:
        return {"done": function(*arguments)}
    except Unsupported as exc:
        return {"unsupported": [exc.operation, exc.why]}
    except KernelBuildError as exc:
        return {"build": [exc.message, exc.log]}
    except GpuError as exc:
        return {"failed": str(exc)}


def listed(engine: str) -> Dict[str, Any]:
    """The devices of an engine that lists them itself."""
    return _told(import_module(f"easycluster.devices.gpu.{engine}").list_devices)


def probe(engine: str, uuid: str) -> Dict[str, Any]:
    """Prove that a device computes."""
    return _told(lambda: jobs.probe(_context(engine, uuid)))


def bandwidth(engine: str, uuid: str, size: int, seconds: float) -> Dict[str, Any]:
    """Measure copies."""
    return _told(lambda: jobs.bandwidth(_context(engine, uuid), size, seconds))


def run_kernel(engine: str, uuid: str, arguments: List[Any]) -> Dict[str, Any]:
    """Run a kernel."""
    return _told(lambda: jobs.run_kernel(_context(engine, uuid), *arguments))


def burn(engine: str, uuids: Sequence[str], seconds: float, items: int) -> Dict[str, Any]:
    """Compute on several devices at once, with a thread for each."""
    found: Dict[str, Any] = {}

    def work(uuid: str) -> None:
        try:
            found[uuid] = _told(lambda: jobs.burn(_context(engine, uuid), seconds, items))
        except Exception as exc:  # noqa: BLE001  # the other threads go on
            found[uuid] = {"failed": f"{type(exc).__name__}: {exc}"}

    threads = [threading.Thread(target=work, args=(uuid,)) for uuid in uuids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"done": found}


def main() -> None:
    """Answer requests until the parent is gone."""
    # Drivers print; answers go where only we write.
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve({"listed": listed, "probe": probe, "bandwidth": bandwidth, "run_kernel": run_kernel, "burn": burn})
