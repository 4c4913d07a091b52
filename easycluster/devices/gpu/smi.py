"""What ``nvidia-smi`` says, as values.  Its columns are asked for by name, so their order is ours.

A cell may also say that there is no answer, in brackets or not: ``[N/A]``, ``[Not Supported]``, ``N/A``,
``[Insufficient Permissions]``, since 590 ``[Requested functionality has been deprecated]``; or that something is wrong:
``ERR!``, ``[Unknown Error]``, ``[GPU is lost]``, ``[GPU requires reset]``.  The first are None, the second a
:class:`GpuError` where we need the cell, and None in a sample.  Nothing is quoted, whatever is in a cell.

Its exit status (nvidia-smi(1), "RETURN VALUE")::

    2   an argument is wrong: a column that this driver does not know
    6   no device found         9   the driver is not loaded
    8   external power cables   10  an interrupt problem
    12  NVML is missing         13  NVML lacks a function
    14  the infoROM is broken   15  a GPU has fallen off the bus
    18  since 5xx: library and driver differ (NVML_ERROR_LIB_RM_VERSION_MISMATCH)   255 something else
"""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from easycluster.devices.gpu.errors import GpuError
from easycluster.devices.gpu.tools import LIMIT, run_tool

__all__ = [
    "DEVICE_FIELDS",
    "Part",
    "Row",
    "failure",
    "mask",
    "number",
    "parse_parts",
    "parse_rows",
    "query",
    "whole",
]

Row = Dict[str, Optional[str]]

DEVICE_FIELDS = (
    *("index", "uuid", "name", "pci.bus_id", "memory.total", "driver_version", "compute_cap", "ecc.mode.current"),
    *("pcie.link.gen.current", "pcie.link.width.current", "pcie.link.gen.max", "pcie.link.width.max"),
    "mig.mode.current",
)

_NOTHING = frozenset(
    (
        *("", "-", "n/a", "not supported", "not available", "not found", "function not found", "unknown"),
        *("disabled by driver", "insufficient permissions", "requested functionality has been deprecated"),
    )
)
_WRONG = ("err!", "unknown error", "gpu is lost", "requires reset", "gpu requires reset", "fault")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_UNKNOWN_FIELD = re.compile(r'Field "([^"]+)" is not a valid field to query')

# What the exit status means, and what to do.
_MEANING = {
    6: "it finds no device",
    8: "a device lacks power: check its power cables",
    9: "the NVIDIA driver is not loaded: look at 'dmesg' and 'modinfo nvidia'",
    10: "the kernel sees an interrupt problem of a device",
    12: "libnvidia-ml.so is missing",
    14: "the infoROM of a device is broken",
    15: "a device has fallen off the bus: it needs a reset or a power cycle",
}
# Words that say it more exactly than the status, which changed between drivers.
_WORDS: Tuple[Tuple[str, str], ...] = (
    ("version mismatch", "driver and library differ: the driver was updated; reload it or reboot"),
    ("couldn't communicate with the nvidia driver", _MEANING[9]),
    ("gpu is lost", _MEANING[15]),
    ("unable to determine the device handle", _MEANING[15]),
    ("no devices were found", _MEANING[6]),
    ("insufficient permissions", "this account may not use the device files /dev/nvidia*"),
)


class Part(NamedTuple):
    """A part of a device (MIG), as ``nvidia-smi -L`` lists it.

    Attributes:
        uuid: Of the part.
        profile: Such as ``"1g.10gb"``.
        parent: The uuid of the device.
    """

    uuid: str
    profile: str
    parent: str

    @property
    def memory(self) -> int:
        """Bytes that its profile names."""
        found = re.search(r"(\d+)gb", self.profile)
        return int(found.group(1)) << 30 if found else 0


def failure(status: int, text: str) -> GpuError:
    """The error for a call of ``nvidia-smi`` that did not work."""
    lowered = text.lower()
    for words, meaning in _WORDS:
        if words in lowered:
            return GpuError(f"nvidia-smi: {meaning} (exit status {status}; it said: {text})")
    meaning = _MEANING.get(status, f"exit status {status}")
    return GpuError(f"nvidia-smi: {meaning} (exit status {status}; it said: {text or 'nothing'})")


def cell(text: str) -> Optional[str]:
    """A cell, None if it says that there is no answer."""
    bare = text.strip()
    if bare.startswith("[") and bare.endswith("]"):
        bare = bare[1:-1].strip()
    return None if bare.lower() in _NOTHING else bare


def is_wrong(text: Optional[str]) -> bool:
    """Whether a cell tells of trouble instead of answering."""
    return text is not None and any(word in text.lower() for word in _WRONG)


def number(text: Optional[str]) -> Optional[float]:
    """The number in a cell, without its unit; None if there is none."""
    if text is None or is_wrong(text):
        return None
    found = _NUMBER.match(text)
    return float(found.group()) if found else None


def whole(text: Optional[str]) -> Optional[int]:
    """The whole number in a cell."""
    found = number(text)
    return None if found is None else int(found)


def mask(text: str) -> Optional[float]:
    """The number that is written in hexadecimal in a cell, None if there is none."""
    try:
        return float(int(text, 16))
    except ValueError:
        return None


def parse_rows(text: str, fields: Sequence[str], rest: bool = False) -> List[Row]:
    """Read what ``--format=csv,noheader,nounits`` printed.

    Args:
        text: The lines.
        fields: Names of the columns.
        rest: Whether the last column may have commas in it: names of programs are what their users call them.

    Raises:
        GpuError: If a line has another number of cells; the tool prints its errors among the lines.
    """
    rows: List[Row] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        cells = line.split(",", len(fields) - 1 if rest else -1)
        if len(cells) != len(fields):
            said = line.strip()
            if is_wrong(said) or "unable to determine" in said.lower() or "no devices" in said.lower():
                raise failure(0, said)
            raise GpuError(f"nvidia-smi printed {len(cells)} cells where {len(fields)} were asked for: {said!r}")
        rows.append({name: cell(value) for name, value in zip(fields, cells)})
    return rows


def query(
    program: str, fields: Sequence[str], what: str = "gpu", limit: float = LIMIT, devices: Sequence[str] = ()
) -> List[Row]:
    """Ask for columns; those that the driver does not know are None.

    Args:
        program: The path of nvidia-smi.
        fields: Names of columns.
        what: ``"gpu"``, ``"compute-apps"``, ``"remapped-rows"`` ...
        limit: Seconds.
        devices: Only these, by uuid.

    Raises:
        GpuTimeout: If it takes longer.
        GpuError: If it cannot say; with what it said.
    """
    known = list(fields)
    while known:
        words = [program, f"--query-{what}={','.join(known)}", "--format=csv,noheader,nounits"]
        words += [f"--id={','.join(devices)}"] if devices else []
        said = run_tool(words, limit)
        unknown = _UNKNOWN_FIELD.search(said.out + said.err)
        if unknown is not None and unknown.group(1) in known:
            known.remove(unknown.group(1))
            continue
        if said.status != 0:
            raise failure(said.status, said.text)
        rows = parse_rows(said.out, known, rest=known[-1] == "process_name")
        return [{**dict.fromkeys(fields), **row} for row in rows]
    return []


_DEVICE = re.compile(r"GPU (\d+): (.*?) \(UUID: ([^)]+)\)")
_PART = re.compile(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: ([^)]+)\)")


def parse_parts(text: str) -> List[Part]:
    """Read the parts of devices in what ``nvidia-smi -L`` printed."""
    parts: List[Part] = []
    parent = ""
    for line in text.splitlines():
        device, part = _DEVICE.match(line), _PART.match(line)
        if device is not None:
            parent = device.group(3)
        elif part is not None:
            parts.append(Part(part.group(3), part.group(1), parent))
    return parts
