"""What a machine is, read in a few milliseconds: system, kernel, drivers and firmware.  Sent to hosts of a lab.

Whatever cannot be read is left out; nothing needs root, and nothing is changed.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from typing import Dict, Iterator, List, Tuple

__all__ = ["facts"]

# Machines have thousands of virtual interfaces and disks.
MOST_DEVICES = 16
ETHTOOL_TIME = 1.0

_DMI = {"BIOS": "bios_version", "machine": "product_name", "board": "board_name"}
_MODULES = {"nvidia driver": "nvidia", "amdgpu driver": "amdgpu", "mlx5 driver": "mlx5_core", "ice driver": "ice"}


def facts() -> Dict[str, str]:
    """Facts about this machine, by names for people."""
    found = {"kernel": platform.release(), "python": platform.python_version(), "architecture": platform.machine()}
    found.update(_system())
    for name, file in _DMI.items():
        found[name] = _read(f"/sys/class/dmi/id/{file}")
    for name, module in _MODULES.items():
        found[name] = _read(f"/sys/module/{module}/version")
    found.update(_processors())
    found.update(_memory())
    found.update(_interfaces())
    found.update(_disks())
    return {name: value for name, value in found.items() if value}


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read(4096).strip()
    except OSError:
        return ""


def _system() -> Iterator[Tuple[str, str]]:
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', _read("/etc/os-release"), re.MULTILINE)
    yield "system", match.group(1) if match else platform.system()
    # What runs in a container, or over a network, has the firmware of its host.
    match = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\S+)", _read("/proc/driver/nvidia/version"))
    if match:
        yield "nvidia driver", match.group(1)


def _processors() -> Iterator[Tuple[str, str]]:
    yield "processors", str(os.cpu_count() or "")
    text = _read("/proc/cpuinfo")
    for name, key in (("processor", "model name"), ("microcode", "microcode")):
        match = re.search(rf"^{key}\s*:\s*(.*)$", text, re.MULTILINE)
        if match:
            yield name, match.group(1)


def _memory() -> Iterator[Tuple[str, str]]:
    match = re.match(r"MemTotal:\s+(\d+) kB", _read("/proc/meminfo"))
    if match:
        # The kernel takes a little more or less with each version.
        yield "memory", f"{int(match.group(1)) / (1 << 20):.0f} GiB"


def _interfaces() -> Iterator[Tuple[str, str]]:
    for name in _names("/sys/class/net"):
        folder = f"/sys/class/net/{name}/device"
        if os.path.exists(folder):
            yield f"driver of {name}", os.path.basename(os.path.realpath(f"{folder}/driver"))
            yield f"firmware of {name}", _firmware(name)


def _firmware(interface: str) -> str:
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    try:
        said = subprocess.run(
            ["ethtool", "-i", interface],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=ETHTOOL_TIME,
            env={**os.environ, "PATH": path, "LC_ALL": "C"},
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError):
        return ""
    match = re.search(r"^firmware-version: *(.*)$", said, re.MULTILINE)
    return match.group(1).strip() if match else ""


def _disks() -> Iterator[Tuple[str, str]]:
    for name in _names("/sys/block"):
        folder = f"/sys/block/{name}/device"
        if os.path.exists(folder):
            yield f"model of {name}", _read(f"{folder}/model")
            yield f"firmware of {name}", _read(f"{folder}/firmware_rev") or _read(f"{folder}/rev")


def _names(folder: str) -> List[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [one for one in names if os.path.exists(f"{folder}/{one}/device")][:MOST_DEVICES]
