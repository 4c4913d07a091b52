"""AMD's devices, by ``amd-smi``, or ``rocm-smi`` where that is all there is."""

from __future__ import annotations

import os
import re
from typing import Any, Dict, List, Optional, Sequence

from easycluster.devices.gpu import amdjson
from easycluster.devices.gpu.errors import GpuError
from easycluster.devices.gpu.model import Device, Process, Sampler, Values
from easycluster.devices.gpu.tools import find_tool, run_tool, user_of
from easycluster.errors import Unsupported

__all__ = ["AmdBackend", "is_present"]

_FAULT = re.compile(
    r"amdgpu.*(?:\*ERROR\*|ring \S+ timeout|GPU reset|uncorrectable|page fault|GPU fault|hang|RAS.*bad page)"
)
_PLACE = re.compile(r"\b([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f])\b")
_ROCM = ("--showproductname", "--showuniqueid", "--showbus", "--showmeminfo", "vram", "--showdriverversion")
_ROCM_NOW = ("--showtemp", "--showpower", "--showuse", "--showclocks", "--showmeminfo", "vram")


def is_present() -> bool:
    """Whether there is anything of AMD's that drives a device for computing, working or not."""
    return os.path.exists("/sys/class/kfd/kfd/topology/nodes/1") or any(map(find_tool, ("amd-smi", "rocm-smi")))


class AmdBackend:
    """See Backend.

    Raises:
        GpuError: If there is no tool.
    """

    name = "amd"
    emulated = False
    paced = False

    def __init__(self) -> None:
        self._amd, self._rocm = find_tool("amd-smi"), find_tool("rocm-smi")
        if self._amd is None and self._rocm is None:
            raise GpuError("the amdgpu driver is loaded, but neither amd-smi nor rocm-smi is installed")
        # By number, since that is how the tools name them.
        self._known: Dict[int, Device] = {}
        # By uuid, what ROCm's runtime knows devices by.
        self._serials: Dict[str, str] = {}

    def devices(self) -> List[Device]:
        """See Backend."""
        if self._amd is not None:
            static = self._ask_amd("static")
            found = amdjson.amd_devices(self._ask_amd("list"), static, self._ask_amd("metric", "--pcie", check=False))
            serials = amdjson.amd_serials(static)
            self._serials = {one.uuid: serials[one.index] for one in found if one.index in serials}
        else:
            found = amdjson.rocm_devices(self._ask_rocm(*_ROCM))
        self._known = {device.index: device for device in found}
        return found

    def processes(self) -> List[Process]:
        """See Backend."""
        if self._amd is None:
            return []  # rocm-smi names processes, but not the device that they are on
        found = []
        for index, records in amdjson.amd_processes(self._ask_amd("process", check=False)).items():
            uuid = self._uuid(index)
            found += [Process(one["pid"], one["name"], user_of(one["pid"]), one["memory"], uuid) for one in records]
        return found

    def counters(self) -> Dict[str, Dict[str, int]]:
        """See Backend."""
        if self._amd is None:
            return {device.uuid: {} for device in self.devices()}
        values = amdjson.amd_values(self._ask_amd("metric", "--ecc"))
        return {self._uuid(index): amdjson.counted(one) for index, one in values.items()}

    def is_fault(self, line: str, devices: Sequence[str]) -> bool:
        """See Backend."""
        if not _FAULT.search(line):
            return False
        place = _PLACE.search(line)
        if place is None or not self._known:
            return True
        there = [device.uuid for device in self._known.values() if device.bus == place.group(1)]
        return bool(there) and (not devices or there[0] in devices)

    def sampler(self, devices: Sequence[str], interval: float) -> Sampler:
        """See Backend."""
        if not self._known:
            self.devices()
        return _Sampler(self, set(devices))

    def environment(self, devices: Sequence[str]) -> Dict[str, str]:
        """See Backend.

        ROCR_VISIBLE_DEVICES takes ``GPU-`` and the unique id in hex, or numbers; HIP numbers what is left anew.
        """
        if not self._known:
            self.devices()
        numbers = {device.uuid: str(index) for index, device in self._known.items()}
        words = []
        for uuid in devices:
            plain = re.fullmatch(r"(?:0x)?([0-9a-fA-F]{16})", self._serials.get(uuid, uuid))
            words.append(f"GPU-{plain.group(1).lower()}" if plain else numbers.get(uuid, uuid))
        return {"ROCR_VISIBLE_DEVICES": ",".join(words)}

    def reset(self, device: str) -> None:
        """See Backend."""
        if os.geteuid() != 0:
            raise Unsupported("reset", "resetting an AMD device needs root")
        numbers = [index for index, known in self._known.items() if known.uuid == device]
        if not numbers:
            raise GpuError(f"{device} is not a device of this host")
        number = str(numbers[0])
        if self._amd is not None:
            words = [self._amd, "reset", "--gpureset", "--gpu", number]
        else:
            words = [str(self._rocm), "--gpureset", "-d", number]
        said = run_tool(words, 120.0)
        if "not supported" in said.text.lower():
            raise Unsupported("reset", f"{os.path.basename(words[0])}: {said.text}")
        if said.status != 0:
            raise GpuError(f"{os.path.basename(words[0])} could not reset device {number}: {said.text}")

    def _uuid(self, index: int) -> str:
        if index not in self._known:
            self.devices()
        device = self._known.get(index)
        return device.uuid if device is not None else f"device {index}"

    def _ask_amd(self, *words: str, check: bool = True) -> Any:
        return self._ask("amd-smi", [str(self._amd), *words, "--json"], check)

    def _ask_rocm(self, *words: str) -> Any:
        return self._ask("rocm-smi", [str(self._rocm), *words, "--json"], True)

    def _ask(self, tool: str, words: List[str], check: bool) -> Any:
        what = f"{tool} {words[1]}"
        said = run_tool(words)
        trouble = (
            "" if said.status == 0 else f"{what} ended with status {said.status}: {said.text or 'it said nothing'}"
        )
        found: Any = []
        try:
            found = amdjson.parse_json(what, said.out)
        except GpuError as exc:
            trouble = trouble or str(exc)
        # A status tells of one thing that one device could not say, too; the others said theirs.
        if trouble and not amdjson.has_devices(found):
            if check:
                raise GpuError(trouble)
            return []
        return found

    def _values(self) -> Dict[int, Values]:
        if self._amd is not None:
            return amdjson.amd_values(self._ask_amd("metric"))
        return amdjson.rocm_values(self._ask_rocm(*_ROCM_NOW))


class _Sampler:
    def __init__(self, backend: AmdBackend, devices: set[str]) -> None:
        self._backend = backend
        self._devices = devices
        self._ended = False

    def sample(self) -> Optional[Dict[str, Values]]:
        """See Sampler."""
        if self._ended:
            return None
        found = {}
        for index, values in self._backend._values().items():
            uuid = self._backend._uuid(index)
            if uuid in self._devices:
                found[uuid] = values
        return found

    def close(self) -> None:
        """See Sampler."""
        self._ended = True
