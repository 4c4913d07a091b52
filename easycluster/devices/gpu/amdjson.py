"""What AMD's tools say in JSON, as values.

``amd-smi`` gives a list of devices, from version 26 on under ``gpu_data``; a number is bare or
``{"value": 42, "unit": "W"}``, what is not known is ``"N/A"``.  The older ``rocm-smi`` gives
``{"card0": {...}, "system": {...}}`` with numbers as texts, under names that changed from release to release.  Either
may print warnings before the JSON.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, Optional, Sequence

from easycluster.devices.gpu.errors import GpuError
from easycluster.devices.gpu.model import Device, Link, Values

__all__ = [
    "amd_devices",
    "amd_processes",
    "amd_serials",
    "amd_values",
    "counted",
    "find",
    "has_devices",
    "parse_json",
    "quantity",
    "rocm_devices",
    "rocm_values",
]

_UNITS = {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "b": 1}
# What the releases of amd-smi call this count, the newest first.
_CORRECTED = ("total_correctable_count", "total_correctable", "correctable")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
# Gigatransfers a second to generations of PCIe.
_GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}


def parse_json(tool: str, text: str) -> Any:
    """Read the JSON in what a tool printed.

    Raises:
        GpuError: If there is none.
    """
    begin = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    while begin >= 0:
        try:
            return json.JSONDecoder().raw_decode(text, begin)[0]
        except ValueError:
            # A warning may have brackets of its own.
            found = re.compile(r"^[\[{]", re.MULTILINE).search(text, begin + 1)
            begin = found.start() if found else -1
    raise GpuError(f"{tool} printed no JSON: {text.strip()[:300] or 'nothing'!r}")


def find(data: Any, *path: str) -> Any:
    """The value at a path of keys, None if there is none or it is not known."""
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return None if data in ("N/A", "", [], {}) else data


def _first(data: Any, *paths: Sequence[str]) -> Any:
    """What is at the first of some paths that has something: releases differ in names."""
    return next((value for value in (find(data, *path) for path in paths) if value is not None), None)


def quantity(value: Any, unit: str = "") -> Optional[float]:
    """A number, with its unit or without; sizes are bytes."""
    if isinstance(value, dict):
        return quantity(value.get("value"), str(value.get("unit") or unit))
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float)):
        return float(value) * _UNITS.get(unit.lower(), 1)
    match = _NUMBER.search(str(value))
    if match is None:
        return None
    rest = str(value)[match.end() :].strip()
    return float(match.group()) * _UNITS.get((rest or unit).lower(), 1)


def _listed(data: Any) -> List[Dict[str, Any]]:
    found = data.get("gpu_data", []) if isinstance(data, dict) else data
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def has_devices(data: Any) -> bool:
    """Whether a tool has spoken of a device at all."""
    return any("gpu" in one for one in _listed(data)) or bool(_cards(data))


def _index(one: Dict[str, Any]) -> int:
    found = one.get("gpu")
    return found if isinstance(found, int) else 0


def _whole(value: Any) -> Optional[int]:
    found = quantity(value)
    return None if found is None else int(found)


def _generation(value: Any) -> Optional[int]:
    speed = quantity(value)
    return None if speed is None else _GENERATIONS.get(speed)


def amd_devices(listed: Any, static: Any, metric: Any = None) -> List[Device]:
    """The devices that ``amd-smi list``, ``static`` and ``metric`` speak of."""
    more = {_index(one): one for one in _listed(static)}
    now = {_index(one): one for one in _listed(metric)}
    found = []
    for one in _listed(listed):
        index = _index(one)
        said, measured = more.get(index, {}), now.get(index, {})
        bus = str(find(one, "bdf") or find(said, "bus", "bdf") or "").lower()
        link = Link(
            _generation(_first(measured, *(("pcie", name) for name in ("speed", "current_speed", "pcie_speed")))),
            _whole(_first(measured, *(("pcie", name) for name in ("width", "current_lanes", "pcie_lanes")))),
            _generation(find(said, "bus", "max_pcie_speed")),
            _whole(_first(said, ("bus", "max_pcie_width"), ("bus", "max_pcie_lanes"))),
        )
        schemas = [find(said, "ras", name) for name in ("single_bit_schema", "double_bit_schema", "poison_schema")]
        known = [str(schema).upper() for schema in schemas if schema is not None]
        found.append(
            Device(
                index=index,
                uuid=str(find(one, "uuid") or find(said, "asic", "asic_serial") or bus),
                name=str(find(said, "asic", "market_name") or find(said, "board", "product_name") or "AMD"),
                vendor="AMD",
                backend="amd",
                memory=int(quantity(_first(said, ("vram", "size"), ("vram", "vram_size_mb")), "MB") or 0),
                driver=str(_first(said, ("driver", "version"), ("driver", "driver_version")) or ""),
                compute_capability=str(find(said, "asic", "target_graphics_version") or ""),
                ecc="ENABLED" in known if known else None,
                pcie=link if any(part is not None for part in link) else None,
                bus=bus,
            )
        )
    return found


def amd_serials(static: Any) -> Dict[int, str]:
    """The serial numbers of devices, by their numbers."""
    found = {_index(one): find(one, "asic", "asic_serial") for one in _listed(static)}
    return {index: str(serial) for index, serial in found.items() if serial is not None}


def amd_values(metric: Any) -> Dict[int, Values]:
    """What ``amd-smi metric`` says of each device, by its number."""
    paths = {
        "temperature": (("temperature", "hotspot"), ("temperature", "edge")),
        "power": (("power", "socket_power"), ("power", "average_socket_power"), ("power", "current_power")),
        "utilization": (("usage", "gfx_activity"),),
        "memory_utilization": (("usage", "umc_activity"),),
        "memory_used": (("mem_usage", "used_vram"),),
        "clock": (("clock", "gfx_0", "clk"), ("clock", "gfx", "cur_clk")),
        "memory_clock": (("clock", "mem_0", "clk"), ("clock", "mem", "cur_clk"), ("clock", "MEM", "cur_clk")),
        "ecc_corrected": tuple(("ecc", name) for name in _CORRECTED),
        "ecc_uncorrected": tuple(("ecc", name.replace("correctable", "uncorrectable")) for name in _CORRECTED),
    }
    found: Dict[int, Values] = {}
    for one in _listed(metric):
        values: Values = {}
        for name, places in paths.items():
            for place in places:
                value = quantity(find(one, *place), "MB" if name == "memory_used" else "")
                if value is not None:
                    values[name] = value
                    break
        found[_index(one)] = values
    return found


def counted(values: Values) -> Dict[str, int]:
    """What of a sample is counted."""
    return {name: int(values[name]) for name in ("ecc_corrected", "ecc_uncorrected") if name in values}


def amd_processes(data: Any) -> Dict[int, List[Dict[str, Any]]]:
    """Processes by the number of the device: each ``name``, ``pid`` and ``memory`` or None."""
    found: Dict[int, List[Dict[str, Any]]] = {}
    for one in _listed(data):
        listed = one.get("process_list")
        for entry in listed if isinstance(listed, list) else []:
            info = entry.get("process_info", entry) if isinstance(entry, dict) else None
            pid = _whole(find(info, "pid"))
            if pid:
                memory = quantity(find(info, "memory_usage", "vram_mem") or find(info, "mem_usage"), "B")
                name = str(find(info, "name") or "?")
                record = {"name": name, "pid": pid, "memory": None if memory is None else int(memory)}
                found.setdefault(_index(one), []).append(record)
    return found


def _any_of(card: Dict[str, Any], names: Sequence[str]) -> Any:
    """What stands under one of several names, however their letters are written."""
    lowered = {key.lower(): value for key, value in card.items()}
    for name in names:
        if find(lowered, name.lower()) is not None:
            return lowered[name.lower()]
    return None


def _cards(data: Any) -> Dict[int, Dict[str, Any]]:
    found = {}
    for key, card in data.items() if isinstance(data, dict) else ():
        match = re.fullmatch(r"card(\d+)", key)
        if match and isinstance(card, dict):
            found[int(match.group(1))] = card
    return found


def rocm_devices(data: Any) -> List[Device]:
    """The devices that ``rocm-smi`` speaks of."""
    driver = find(data, "system", "Driver version") or ""
    found = []
    for index, card in _cards(data).items():
        bus = str(_any_of(card, ("PCI Bus",)) or "").lower()
        found.append(
            Device(
                index=index,
                uuid=str(_any_of(card, ("Unique ID",)) or bus or f"card{index}"),
                name=str(_any_of(card, ("Card Series", "Device Name", "Card model")) or "AMD"),
                vendor="AMD",
                backend="amd",
                memory=int(quantity(_any_of(card, ("VRAM Total Memory (B)",))) or 0),
                driver=str(driver),
                compute_capability=str(_any_of(card, ("GFX Version",)) or ""),
                bus=bus,
            )
        )
    return found


def rocm_values(data: Any) -> Dict[int, Values]:
    """What ``rocm-smi`` says of each device, by its number."""
    names = {
        "temperature": ("Temperature (Sensor junction) (C)", "Temperature (Sensor edge) (C)"),
        "power": ("Current Socket Graphics Package Power (W)", "Average Graphics Package Power (W)"),
        "utilization": ("GPU use (%)",),
        "memory_used": ("VRAM Total Used Memory (B)",),
        "clock": ("sclk clock speed:",),
        "memory_clock": ("mclk clock speed:",),
    }
    found: Dict[int, Values] = {}
    for index, card in _cards(data).items():
        values: Values = {}
        for name, texts in names.items():
            value = _any_of(card, texts)
            # "(800Mhz)" would be no unit of ours.
            value = quantity(str(value).strip("()").lower().replace("mhz", "")) if value is not None else None
            if value is not None:
                values[name] = value
        found[index] = values
    return found
