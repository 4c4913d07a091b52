"""NVIDIA's devices, by ``nvidia-smi``, which comes with the driver; samples by NVML where its library loads."""

from __future__ import annotations

import os
import re
from typing import Dict, List, Optional, Sequence, Set

from easycluster.devices.gpu import nvml, smi
from easycluster.devices.gpu.errors import GpuError
from easycluster.devices.gpu.model import Device, Link, Process, Sampler, Values
from easycluster.devices.gpu.tools import LIMIT, Talk, find_tool, host_memory, run_tool, user_of
from easycluster.errors import Unsupported

__all__ = ["NvidiaBackend", "SmiSampler", "is_present", "read_sample"]

# Column and name of what is sampled.  Drivers from 535 on say "event" where older ones say "throttle", and know both.
SAMPLED = {
    "temperature.gpu": "temperature",
    "power.draw": "power",
    "utilization.gpu": "utilization",
    "utilization.memory": "memory_utilization",
    "memory.used": "memory_used",
    "clocks.sm": "clock",
    "clocks.mem": "memory_clock",
    "clocks_throttle_reasons.active": "throttle",
    "ecc.errors.corrected.volatile.total": "ecc_corrected",
    "ecc.errors.uncorrected.volatile.total": "ecc_uncorrected",
}
_COUNTED = {
    "ecc.errors.corrected.volatile.total": "ecc_corrected",
    "ecc.errors.uncorrected.volatile.total": "ecc_uncorrected",
    "retired_pages.pending": "retirement_pending",
}
_PAGES = ("retired_pages.single_bit_ecc.count", "retired_pages.double_bit.count")
_ROWS = {
    "remapped_rows.correctable": "remapped_rows",
    "remapped_rows.uncorrectable": "remapped_rows_uncorrectable",
    "remapped_rows.pending": "remap_pending",
    "remapped_rows.failure": "remap_failed",
}
_FAULT = re.compile(r"NVRM: .*(?:Xid|SXid|[Ff]allen off the bus)")
_PCI = re.compile(r"PCI:([0-9A-Fa-f]+:[0-9A-Fa-f]+:[0-9A-Fa-f]+)|\b([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2})\b")


def is_present() -> bool:
    """Whether there is anything of NVIDIA's that could drive a device, working or not."""
    return find_tool("nvidia-smi") is not None or os.path.exists("/proc/driver/nvidia/version")


class NvidiaBackend:
    """See Backend.

    Raises:
        GpuError: If the driver is there without its tool.
    """

    name = "nvidia"
    emulated = False

    def __init__(self) -> None:
        program = find_tool("nvidia-smi")
        if program is None:
            raise GpuError("the NVIDIA driver is loaded, but nvidia-smi is not installed; it comes with the driver")
        self._program = program
        self._library = nvml.load()
        self.paced = self._library is None
        # What was where on the bus when it was last seen: one that is lost makes the tool fail.
        self._places: Dict[str, Set[str]] = {}
        # Parts to what they are parts of, which is what the tools measure.
        self._parents: Dict[str, str] = {}

    def devices(self) -> List[Device]:
        """See Backend; of a device that is divided (MIG), its parts."""
        rows = smi.query(self._program, smi.DEVICE_FIELDS)
        for row in rows:
            self._places.setdefault(_short(row["pci.bus_id"] or ""), set()).add(row["uuid"] or "")
        divided = {row["uuid"] for row in rows if (row["mig.mode.current"] or "").lower() == "enabled"}
        parts = smi.parse_parts(run_tool([self._program, "-L"]).out) if divided else []
        found: List[Device] = []
        for row in rows:
            device = _device(row)
            if device.uuid in divided:
                found += [
                    device._replace(
                        uuid=part.uuid, name=f"{device.name} MIG {part.profile}", memory=part.memory
                    )._replace(part_of=device.uuid)
                    for part in parts
                    if part.parent == device.uuid
                ]
            else:
                found.append(device)
        self._parents = {device.uuid: device.part_of for device in found if device.part_of}
        for device in found:
            self._places.setdefault(_short(device.bus), set()).add(device.uuid)
        return [device._replace(index=index) for index, device in enumerate(found)]

    def processes(self) -> List[Process]:
        """See Backend."""
        fields = ("gpu_uuid", "pid", "used_memory", "process_name")
        found = []
        for row in smi.query(self._program, fields, "compute-apps"):
            pid, memory = smi.whole(row["pid"]), smi.number(row["used_memory"])
            if pid is not None:
                size = None if memory is None else int(memory) << 20
                name = os.path.basename(row["process_name"] or "?")
                found.append(Process(pid, name, user_of(pid), size, row["gpu_uuid"] or ""))
        return found

    def counters(self) -> Dict[str, Dict[str, int]]:
        """See Backend."""
        found: Dict[str, Dict[str, int]] = {}
        for row in smi.query(self._program, ("uuid", *_COUNTED, *_PAGES)):
            pages = [smi.whole(row[name]) for name in _PAGES]
            counters = _counted(row, _COUNTED)
            if any(count is not None for count in pages):
                counters["retired_pages"] = sum(count or 0 for count in pages)
            found[row["uuid"] or "?"] = counters
        try:
            rows = smi.query(self._program, ("gpu_uuid", *_ROWS), "remapped-rows")
        except GpuError:
            rows = []  # devices before Ampere retire pages instead, and older drivers do not know the question
        for row in rows:
            found.setdefault(row["gpu_uuid"] or "?", {}).update(_counted(row, _ROWS))
        return found

    def is_fault(self, line: str, devices: Sequence[str]) -> bool:
        """See Backend: Xid lines of these devices, and those that name none."""
        if not _FAULT.search(line):
            return False
        match = _PCI.search(line)
        if match is None:
            return True
        there = self._places.get(_short(match.group(1) or match.group(2)))
        return not self._places or (there is not None and (not devices or not there.isdisjoint(devices)))

    def sampler(self, devices: Sequence[str], interval: float) -> Sampler:
        """See Backend."""
        if any(uuid.startswith("MIG-") for uuid in devices):
            self.devices()
        devices = list(dict.fromkeys(self._parents.get(uuid, uuid) for uuid in devices))
        if self._library is not None:
            return nvml.NvmlSampler(self._library, devices)
        return SmiSampler(self._program, devices, interval)

    def environment(self, devices: Sequence[str]) -> Dict[str, str]:
        """See Backend."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(devices)}

    def reset(self, device: str) -> None:
        """See Backend."""
        if device in self._parents:
            raise Unsupported("reset", f"{device} is a part of {self._parents[device]}, which can only be reset whole")
        if os.geteuid() != 0:
            raise Unsupported("reset", "nvidia-smi --gpu-reset needs root")
        said = run_tool([self._program, "--gpu-reset", f"--id={device}"], 120.0)
        if "not supported" in said.text.lower():
            raise Unsupported("reset", f"nvidia-smi: {said.text}")
        if said.status != 0:
            raise smi.failure(said.status, said.text)


def _device(row: smi.Row) -> Device:
    for name in ("index", "uuid", "name"):
        if row[name] is None or smi.is_wrong(row[name]):
            where = row["pci.bus_id"] or row["index"] or "?"
            text = f"nvidia-smi says {row[name] or 'nothing'!r} for {name!r} of the device at {where}"
            raise GpuError(f"{text}; it may have fallen off the bus: see its Xid in 'dmesg'")
    ecc = row["ecc.mode.current"]
    names = ("pcie.link.gen.current", "pcie.link.width.current", "pcie.link.gen.max", "pcie.link.width.max")
    capability = row["compute_cap"]
    return Device(
        index=smi.whole(row["index"]) or 0,
        uuid=str(row["uuid"]),
        name=str(row["name"]),
        vendor="NVIDIA",
        backend="nvidia",
        memory=_memory(row["memory.total"]),
        driver=row["driver_version"] or "",
        compute_capability="" if capability is None or smi.is_wrong(capability) else capability,
        ecc=None if ecc is None or smi.is_wrong(ecc) else ecc.lower() == "enabled",
        pcie=Link(*(smi.whole(row[name]) for name in names)),
        bus=(row["pci.bus_id"] or "").lower()[-12:],
    )


def _memory(text: Optional[str]) -> int:
    """Bytes; a device without memory of its own (GB10, Jetson) has no answer, and uses that of the host."""
    if text is None:
        return host_memory()
    return (smi.whole(text) or 0) << 20


def _counted(row: smi.Row, names: Dict[str, str]) -> Dict[str, int]:
    found: Dict[str, int] = {}
    for column, name in names.items():
        text = row[column]
        value = {"yes": 1, "no": 0}.get((text or "").lower(), smi.whole(text))
        if value is not None:
            found[name] = value
    return found


def _short(place: str) -> str:
    """``0000:3b:00`` of a PCI address in any of its forms: domains have 4 or 8 digits, the function may lack."""
    domain, bus, device = ([*place.lower().split(".")[0].split(":"), "", ""])[:3]
    return f"{domain[-4:].rjust(4, '0')}:{bus}:{device}"


def read_sample(cells: smi.Row) -> Values:
    """One line of samples."""
    values: Values = {}
    for column, name in SAMPLED.items():
        text = cells.get(column)
        value = smi.mask(text) if text and text.lower().startswith("0x") else smi.number(text)
        if value is not None:
            values[name] = value * 2**20 if name == "memory_used" else value
    return values


class SmiSampler:
    """Samples by one ``nvidia-smi`` that prints a line for each device, again and again.

    Args:
        program: Its path.
        devices: Their uuids.
        interval: Seconds from sample to sample; it takes whole milliseconds.
        limit: Seconds that it may say nothing, beyond the interval.
    """

    def __init__(self, program: str, devices: Sequence[str], interval: float, limit: float = LIMIT) -> None:
        # Ask once first: an older driver does not know all columns, and would only say so.
        first = smi.query(program, ("uuid", *SAMPLED), devices=devices)
        self._fields = [name for name in ("uuid", *SAMPLED) if any(row[name] is not None for row in first)]
        self._count = len(first)
        self._limit = limit + interval
        words = [program, f"--query-gpu={','.join(self._fields)}", "--format=csv,noheader,nounits"]
        words += [f"--loop-ms={max(1, round(interval * 1000))}"]
        words += [f"--id={','.join(devices)}"] if devices else []
        self._talk = Talk(words)

    def sample(self) -> Optional[Dict[str, Values]]:
        """See Sampler; waits for the next lines.

        Raises:
            GpuTimeout: If none come.
        """
        found: Dict[str, Values] = {}
        for _ in range(self._count):
            line = self._talk.line(self._limit)
            if line is None:
                return None
            try:
                (row,) = smi.parse_rows(line, self._fields)
            except (GpuError, ValueError):
                continue  # a device that is lost; the others go on
            found[row["uuid"] or "?"] = read_sample(row)
        return found

    def close(self) -> None:
        """See Sampler."""
        self._talk.end()
