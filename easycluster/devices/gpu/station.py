"""The far side: one station for a worker.  It picks a backend, and does what the near side asks for.

A backend is believed only when a kernel was built and has run there.  Vendors come first; where something of a vendor's
is installed and does not work, that is an error and not a reason to take a processor instead.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from easycluster.devices.gpu.errors import GpuBusy, GpuError, GpuTimeout, KernelBuildError
from easycluster.devices.gpu.model import Backend, Device, Health, Process
from easycluster.devices.gpu.sampling import Sampling
from easycluster.devices.san.child import Child, ChildError
from easycluster.errors import Unsupported

__all__ = ["BACKENDS", "ENGINES", "Opened", "Station", "do"]

BACKENDS = ("nvidia", "amd", "opencl", "cpu")
# What runs kernels for each of them.
ENGINES = {"nvidia": "cuda", "amd": "hip", "opencl": "opencl", "cpu": "cpu"}
# Variables that say which devices a program sees, all that we may set.
PINS = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
# Seconds for a compiler that has never run on this machine: PoCL takes 3, and 30 under load.
_BUILD = 120.0


class Opened(NamedTuple):
    """What drives the devices.

    Attributes:
        backend: Its name.
        emulated: Whether processors stand in for GPUs.
        passed: Why others did not.
    """

    backend: str
    emulated: bool
    passed: Tuple[str, ...]


class Station:
    """The devices of this host, as one process uses them."""

    def __init__(self) -> None:
        self._backend: Optional[Backend] = None
        self._opened: Optional[Opened] = None
        self._child: Optional[Child] = None
        self._child_sees: Tuple[str, ...] = ()
        # Where that process, and compilers that it starts, may write; it is killed rather than asked to clean up.
        self._scratch = ""
        self._samplings: Dict[int, Sampling] = {}
        # Variables as they were before we pinned.
        self._before: Dict[str, Optional[str]] = {}
        self._lock = threading.RLock()

    # Opening ---------------------------------------------------------------------------------------

    def open(self, wanted: str = "", known: bool = False) -> Opened:
        """Pick what drives the devices.

        Args:
            wanted: Its name, ``""`` for the first that works.
            known: Whether a kernel has run there before, in another process.

        Raises:
            GpuError: If nothing does, or something is installed that does not work.
        """
        opened = self._opened
        if opened is not None and wanted in ("", opened.backend):
            return opened  # without waiting for what computes
        with self._lock:
            if self._opened is None or (wanted and self._opened.backend != wanted):
                self._opened = self._pick([wanted] if wanted else list(BACKENDS), known)
            return self._opened

    def _pick(self, names: Sequence[str], known: bool) -> Opened:
        passed: List[str] = []
        for name in names:
            why = _absent(name) if len(names) > 1 else ""
            if why:
                passed.append(f"{name}: {why}")
                continue
            try:
                backend = self._make(name)
                devices = backend.devices()
                if not devices:
                    passed.append(f"{name}: it lists no device")
                    continue
                self._backend = backend
                if not known:
                    self._prove(name, devices[0].uuid)
            except (GpuError, Unsupported) as exc:
                self._backend = None
                if len(names) == 1 or (name in ("nvidia", "amd") and "finds no device" not in str(exc)):
                    raise GpuError(f"{name}: {exc}") from exc
                passed.append(f"{name}: {exc}")
                continue
            return Opened(name, backend.emulated, tuple(passed))
        raise GpuError(f"no GPU works here: {'; '.join(passed)}")

    def _make(self, name: str) -> Backend:
        if name == "nvidia":
            from easycluster.devices.gpu.nvidia import NvidiaBackend

            return NvidiaBackend()
        if name == "amd":
            from easycluster.devices.gpu.amd import AmdBackend

            return AmdBackend()
        if name not in BACKENDS:
            raise GpuError(f"{name!r} is no backend; there are {', '.join(BACKENDS)}")
        from easycluster.devices.gpu.plain import PlainBackend

        return PlainBackend(name, lambda: list(self._compute("listed", (), engine=name, limit=_BUILD)))

    def _prove(self, name: str, uuid: str) -> None:
        self._compute("probe", (uuid,), engine=ENGINES[name], uuid=uuid, limit=_BUILD)

    def _now(self) -> Backend:
        self.open()
        assert self._backend is not None  # open() raises otherwise
        return self._backend

    # What there is -----------------------------------------------------------------------------------

    def devices(self) -> List[Device]:
        """The devices."""
        return self._now().devices()

    def processes(self) -> List[Process]:
        """Who uses them, without this session's own processes."""
        ours = _our_processes()
        return [process for process in self._now().processes() if process.pid not in ours]

    def health(self, since: str, uuids: Sequence[str]) -> Health:
        """Counters, and faults of some devices, or of all, in the kernel's log since a cursor; without one none."""
        from easycluster.devices.gpu.kernel_log import cursor_now, news_since

        backend = self._now()
        counters = backend.counters()
        if not since:
            cursor = cursor_now()
            unread = cursor[5:] if cursor.startswith("none:") else ""
            return Health(counters, (), cursor, cursor, unread)
        news = news_since(since, lambda line: backend.is_fault(line, uuids))
        return Health(counters, tuple(news.lines), since, news.cursor, news.unread)

    # Pinning -----------------------------------------------------------------------------------------

    def pin(self, uuids: Sequence[str]) -> Dict[str, str]:
        """Have programs that start here see these devices only; none at all stands for what was before.

        Returns:
            The variables that were set.
        """
        with self._lock:
            # Of a lease that ends nothing stays behind, and another one has other devices.
            self._end_child()
            for name, value in self._before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            self._before.clear()
            if not uuids:
                return {}
            variables = self._now().environment(uuids)
            for name, value in variables.items():
                self._before[name] = os.environ.get(name)
                os.environ[name] = value
            return variables

    # Samples -----------------------------------------------------------------------------------------

    def sample_start(self, interval: float, uuids: Sequence[str]) -> int:
        """Begin to take samples; return the number to stop them by."""
        backend = self._now()
        sampler = backend.sampler(uuids, interval)
        number = max(self._samplings, default=0) + 1
        self._samplings[number] = Sampling(sampler, interval, backend.paced)
        return number

    def sample_stop(self, number: int) -> Tuple[List[Any], str]:
        """End them; see :meth:`Sampling.stop`."""
        return self._samplings.pop(number).stop()

    # Computing ---------------------------------------------------------------------------------------

    def compute(self, job: str, uuids: Sequence[str], limit: float, arguments: Dict[str, Any]) -> Any:
        """Have the process that runs kernels do something with some devices.

        Raises:
            GpuTimeout: If it takes longer than ``limit`` seconds; the process is killed.
            GpuError: If the device, its driver or the process fails.
        """
        engine = ENGINES[self.open().backend]
        if job == "burn" and len(uuids) > 1 and any(uuid.startswith("MIG-") for uuid in uuids):
            # A process sees one part of a divided device: one after the other then.
            found: Dict[str, Any] = {}
            for uuid in uuids:
                one = {**arguments, "uuids": [uuid]}
                found.update(self._compute(job, (uuid,), engine=engine, limit=limit, **one))
            return found
        return self._compute(job, uuids, engine=engine, limit=limit, **arguments)

    def _compute(self, job: str, shown: Sequence[str], *, limit: float, **arguments: Any) -> Any:
        with self._lock:
            child = self._child_for(tuple(shown))
            child.limit = limit
            try:
                answer = child.call(job, **arguments)
            except ChildError as exc:
                self._end_child()
                if "did not answer" in str(exc):
                    raise GpuTimeout(f"{job} did not end within {limit:g} s; its process was killed") from exc
                raise GpuError(str(exc)) from exc
            except ValueError:
                raise
            except BaseException:
                # Cancelled: what it would say comes too late.
                self._end_child()
                raise
        return _unpacked(answer)

    def _child_for(self, uuids: Tuple[str, ...]) -> Child:
        """The process that runs kernels; vendors' devices are shown to it by variables, which it reads once."""
        backend = self._backend
        plain = backend is None or backend.name in ("opencl", "cpu")
        if self._child is not None and (plain or self._child_sees == uuids):
            return self._child
        self._end_child()
        from easycluster.devices.gpu.bench import MODULES

        self._scratch = tempfile.mkdtemp(prefix="easycluster-gpu-")
        environment = dict(os.environ, TMPDIR=self._scratch)
        if backend is not None and not plain:
            environment.update(backend.environment(uuids), EASYCLUSTER_DEVICES=",".join(uuids))
        try:
            self._child = Child("easycluster.devices.gpu.bench", MODULES, 30.0, "the device", environment)
        except ChildError as exc:
            self._end_child()
            raise GpuError(str(exc)) from exc
        self._child_sees = uuids
        return self._child

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()
        scratch, self._scratch = self._scratch, ""
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)

    # Ending --------------------------------------------------------------------------------------------

    def reset(self, uuid: str) -> None:
        """Reset a device that nobody uses.

        Raises:
            GpuBusy: If somebody does.
            Unsupported: If that cannot be done.
        """
        with self._lock:
            self._end_child()
            on_it = [process for process in self._now().processes() if process.device == uuid]
            if on_it:
                raise GpuBusy(f"{uuid} cannot be reset: {', '.join(map(str, on_it))} uses it", on_it)
            self._now().reset(uuid)

    def close(self) -> None:
        """End what was started here, and set back what was set."""
        with self._lock:
            self._end_child()
            for number in list(self._samplings):
                self.sample_stop(number)
            if self._before:
                self.pin(())


def _unpacked(answer: Dict[str, Any]) -> Any:
    """What the process that runs kernels said, or the error that it met."""
    if "unsupported" in answer:
        raise Unsupported(*answer["unsupported"])
    if "build" in answer:
        raise KernelBuildError(*answer["build"])
    if "failed" in answer:
        raise GpuError(answer["failed"])
    return answer["done"]


def _absent(name: str) -> str:
    """Why a vendor need not be tried, ``""`` if it has to be."""
    if name == "nvidia":
        from easycluster.devices.gpu.nvidia import is_present

        return "" if is_present() else "neither nvidia-smi nor its driver is here"
    if name == "amd":
        from easycluster.devices.gpu.amd import is_present as amd_is_present

        return "" if amd_is_present() else "neither amd-smi nor rocm-smi is here"
    return ""


def _our_processes() -> set[int]:
    """This process and all below it."""
    parents: Dict[int, int] = {}
    try:
        entries = os.listdir("/proc")
    except OSError:
        return {os.getpid()}
    for entry in entries:
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    parents[int(entry)] = int(file.read().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
    found, size = {os.getpid()}, 0
    while size != len(found):
        size = len(found)
        found.update([pid for pid, parent in parents.items() if parent in found])
    return found


_station = Station()


def do(backend: str, operation: str, *arguments: Any) -> Tuple[Opened, Any]:
    """Do something at the station of this process.

    Args:
        backend: What is known to drive the devices, ``""`` if nobody knows; ``=`` before it if a kernel has run there.
        operation: A method of :class:`Station`.
        arguments: Its arguments.

    Returns:
        What drives the devices, and what the method returned.
    """
    if operation == "close":
        _station.close()
        return Opened("", False, ()), None
    opened = _station.open(backend.lstrip("="), backend.startswith("="))
    return opened, None if operation == "open" else getattr(_station, operation)(*arguments)
