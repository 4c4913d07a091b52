"""What a host's flight recorder does: looks at counters once a second, and writes them into a ring.

The text of this module is sent to the host: standard library of Python 3.8 only.  It runs in a process of its own,
see :mod:`easycluster.far.flight`, which draws the ring.  Names of values end with their unit: ``cpu busy %``.
"""

from __future__ import annotations

import json
import os
import re
import select
import time
from typing import Any

PERIOD = 1.0
# What is looked at of each kind, so that a machine with 400 disks costs no more than one with 16.
MOST = 16
# A sensor that takes longer is looked at no more: some ask a controller over a slow bus.
SLOW = 0.01
DISK = re.compile(r"(?:sd[a-z]+|vd[a-z]+|xvd[a-z]+|nvme\d+n\d+|mmcblk\d+|pmem\d+)\Z")
SECTOR = 512


class Source:
    """A file of counters that is kept open: to read it anew costs a third of opening it anew."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, size: int = 65536) -> bytes:
        """Its text now."""
        return os.pread(self.fd, size, 0)


class Sampler:
    """The values of one machine; rates are since the sample before."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.before: dict[str, tuple[float, float]] = {}
        self.now = 0.0
        self.parts = [self.processor, self.memory, self.load, self.network, self.disks]
        self.files: dict[str, Any] = {}
        self.sensors = _sensors()
        self.nvml = read_nvml() if settings.get("nvml") else None

    def sample(self) -> dict[str, float]:
        """All values; what cannot be had is left out."""
        values: dict[str, float] = {}
        self.now = time.monotonic()
        for part in list(self.parts):
            try:
                part(values)
            except (OSError, ValueError, IndexError):
                self.parts.remove(part)
        self.hardware(values)
        if self.nvml is not None:
            self.nvml(values)
        return values

    def text(self, path: str, size: int = 65536) -> bytes:
        """What is in a file of /proc."""
        source = self.files.get(path)
        if source is None:
            source = self.files[path] = Source(path)
        data: bytes = source.read(size)
        return data

    def rate(self, values: dict[str, float], name: str, count: float, scale: float = 1.0) -> None:
        """Note how fast a counter grows."""
        before = self.before.get(name)
        self.before[name] = self.now, count
        if before is not None and self.now > before[0] and count >= before[1]:
            values[name] = round((count - before[1]) * scale / (self.now - before[0]), 3)

    def processor(self, values: dict[str, float]) -> None:
        """Shares of all processors together."""
        ticks = [int(one) for one in self.text("/proc/stat", 512).split(b"\n", 1)[0].split()[1:9]]
        total, idle, wait = sum(ticks), ticks[3] + ticks[4], ticks[4]
        before = self.files.get("ticks")
        self.files["ticks"] = total, idle, wait
        if before is not None and total > before[0]:
            span = total - before[0]
            values["cpu busy %"] = round(100 - 100.0 * (idle - before[1]) / span, 1)
            values["cpu waits %"] = round(100.0 * (wait - before[2]) / span, 1)

    def memory(self, values: dict[str, float]) -> None:
        """Used and swapped."""
        found = {}
        for line in self.text("/proc/meminfo", 2048).splitlines():
            name, _, rest = line.partition(b":")
            if name in (b"MemTotal", b"MemAvailable", b"SwapTotal", b"SwapFree", b"Dirty"):
                found[name] = int(rest.split()[0]) / 1024
        values["memory used MiB"] = round(found[b"MemTotal"] - found[b"MemAvailable"], 1)
        values["memory dirty MiB"] = round(found[b"Dirty"], 1)
        if found[b"SwapTotal"]:
            values["memory swapped MiB"] = round(found[b"SwapTotal"] - found[b"SwapFree"], 1)

    def load(self, values: dict[str, float]) -> None:
        """What waits for a processor or a disk."""
        words = self.text("/proc/loadavg", 128).split()
        values["load 1"] = float(words[0])
        values["threads running"] = float(words[3].split(b"/")[0])

    def network(self, values: dict[str, float]) -> None:
        """Traffic and faults of each interface."""
        for line in self.text("/proc/self/net/dev").splitlines()[2 : 3 + MOST]:
            name, _, rest = line.decode("ascii", "replace").partition(":")
            name, words = name.strip(), rest.split()
            if name != "lo":
                self.rate(values, f"net {name} in MB/s", int(words[0]), 1e-6)
                self.rate(values, f"net {name} out MB/s", int(words[8]), 1e-6)
                self.rate(values, f"net {name} faults /s", sum(int(words[at]) for at in (2, 3, 10, 11)))

    def disks(self, values: dict[str, float]) -> None:
        """Traffic of each whole disk, and how much of the time it was busy."""
        seen = 0
        for line in self.text("/proc/diskstats").splitlines():
            words = line.decode("ascii", "replace").split()
            if seen < MOST and DISK.match(words[2]):
                seen += 1
                self.rate(values, f"disk {words[2]} read MB/s", int(words[5]), SECTOR * 1e-6)
                self.rate(values, f"disk {words[2]} written MB/s", int(words[9]), SECTOR * 1e-6)
                self.rate(values, f"disk {words[2]} busy %", int(words[12]), 0.1)

    def hardware(self, values: dict[str, float]) -> None:
        """Temperatures, power and what GPUs of AMD say of themselves."""
        for sensor in list(self.sensors):
            name, scale, source = sensor
            try:
                began = time.monotonic()
                values[name] = round(int(source.read(32)) * scale, 2)
                if time.monotonic() - began > SLOW:
                    self.sensors.remove(sensor)
            except (OSError, ValueError):
                self.sensors.remove(sensor)


def _sensors() -> list[tuple[str, float, Source]]:
    found: dict[str, tuple[str, float, Source]] = {}
    kinds = (
        ("temp", "_input", "temperature {} C", 0.001),
        ("power", "_average", "power {} W", 1e-6),
        ("power", "_input", "power {} W", 1e-6),
    )
    for folder in _listed("/sys/class/hwmon"):
        chip = _word(folder + "/name") or os.path.basename(folder)
        files = sorted(os.path.basename(one) for one in _listed(folder))
        for start, end, pattern, scale in kinds:
            for file in [one for one in files if one.startswith(start) and one.endswith(end)][:MOST]:
                label = _word(os.path.join(folder, file[: -len(end)] + "_label")) or file[: -len(end)]
                name = pattern.format(f"{chip} {label}")
                while name in found:
                    name = (
                        pattern.format(f"{chip} {label} ({os.path.basename(folder)})")
                        if "(" not in name
                        else name + "'"
                    )
                _add(found, name, scale, os.path.join(folder, file))
    for card in _listed("/sys/class/drm"):
        if re.match(r"card\d+\Z", os.path.basename(card)):
            _add(found, f"gpu {os.path.basename(card)} busy %", 1.0, card + "/device/gpu_busy_percent")
            _add(found, f"gpu {os.path.basename(card)} memory MiB", 2.0**-20, card + "/device/mem_info_vram_used")
    return list(found.values())[: 4 * MOST]


def _add(found: dict[str, tuple[str, float, Source]], name: str, scale: float, path: str) -> None:
    try:
        source = Source(path)
        int(source.read(32))
    except (OSError, ValueError):
        return
    found[name] = name, scale, source


def _listed(folder: str) -> list[str]:
    try:
        return sorted(os.path.join(folder, name) for name in os.listdir(folder))
    except OSError:
        return []


def _word(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read(64).strip()
    except OSError:
        return ""


def read_nvml(name: str = "libnvidia-ml.so.1") -> Any:
    """What reads NVIDIA's GPUs through their library, None without one; a program for it would cost 50 ms each time."""
    import ctypes

    try:
        library = ctypes.CDLL(name)
        if library.nvmlInit_v2():
            return None
        count = ctypes.c_uint()
        if library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return None
        devices = []
        for index in range(min(count.value, MOST)):
            device = ctypes.c_void_p()
            if not library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)):
                devices.append((index, device))
    except (OSError, AttributeError):
        return None

    def read(values: dict[str, float]) -> None:
        for index, device in devices:
            busy, number, memory = (ctypes.c_uint * 2)(), ctypes.c_uint(), (ctypes.c_ulonglong * 3)()
            if not library.nvmlDeviceGetUtilizationRates(device, busy):
                values[f"gpu {index} busy %"] = float(busy[0])
            if not library.nvmlDeviceGetMemoryInfo(device, memory):
                values[f"gpu {index} memory MiB"] = round(memory[2] / 2.0**20, 1)
            if not library.nvmlDeviceGetTemperature(device, 0, ctypes.byref(number)):
                values[f"temperature gpu {index} C"] = float(number.value)
            if not library.nvmlDeviceGetPowerUsage(device, ctypes.byref(number)):
                values[f"power gpu {index} W"] = number.value / 1000.0

    return read


class KernelLog:
    """When the kernel says something, by the monotonic clock.

    Its own times are of a clock that nobody corrects, and not of the time namespace that we may be in.
    """

    # Looks in one period; a kernel that says more is looked at with the counters.
    MOST_LOOKS = 20
    # Seconds for which the quickest look counts: clocks drift.
    FRESH = 300.0

    def __init__(self) -> None:
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self.fd, 0, os.SEEK_END)
        self.poll = select.poll()
        self.poll.register(self.fd, select.POLLIN)
        # How far the monotonic clock is ahead of the kernel's, and when that was found out.
        self.ahead: float | None = None
        self.found = 0.0

    def wait(self, until: float) -> bool:
        """Look whenever there is something, until a time of the monotonic clock; back after the first look."""
        for _ in range(self.MOST_LOOKS):
            left = until - time.monotonic()
            if left <= 0 or not self.poll.poll(left * 1000):
                break
            was_silent = self.ahead is None
            self.look()
            if was_silent and self.ahead is not None:
                return True
        time.sleep(max(0.0, until - time.monotonic()))
        return False

    def look(self) -> None:
        """Read what is new."""
        last = b""
        while True:
            try:
                last = os.read(self.fd, 8192)
            except BlockingIOError:
                break
            except BrokenPipeError:  # it was overwritten before we have seen it
                continue
        if last:
            now = time.monotonic()
            ahead = now - int(last.split(b",", 3)[2]) / 1e6
            if self.ahead is None or ahead < self.ahead or now - self.found > self.FRESH:
                self.ahead, self.found = ahead, now


def _kernel_log() -> KernelLog | None:
    try:
        return KernelLog()
    except OSError:  # not ours to read
        return None


def main(ring: Any, slot: int, slots: int, settings: dict[str, Any]) -> None:
    """Sample until whoever started us is gone."""
    parent = os.getppid()
    sampler = Sampler(settings)
    kernel = _kernel_log()
    period = float(settings.get("period") or PERIOD)
    due, number = time.monotonic(), 0
    while os.getppid() == parent:
        began, wall = time.monotonic(), time.time()
        values = sampler.sample()
        record: dict[str, Any] = {"t": round(began, 4), "w": round(wall, 4), "v": values}
        if kernel is not None:
            record["k"] = kernel.ahead
        _write(ring, number % slots * slot, slot, record)
        number += 1
        due += period
        now = time.monotonic()
        if due < now:  # the machine was suspended, or has no time for us
            due = now + period
        try:
            if kernel is not None and kernel.wait(due):
                due = time.monotonic()  # whoever reads the log needs to know its clock
        except (OSError, ValueError, IndexError):
            kernel = None
        time.sleep(max(0.0, due - time.monotonic()))


def _write(ring: Any, at: int, slot: int, record: dict[str, Any]) -> None:
    data = json.dumps(record, separators=(",", ":")).encode()
    while len(data) > slot - 4 and record["v"]:
        # The ones that were found last go first: sensors.
        for name in list(record["v"])[-8:]:
            del record["v"][name]
        data = json.dumps(record, separators=(",", ":")).encode()
    ring[at : at + 4] = b"\0\0\0\0"
    ring[at + 4 : at + 4 + len(data)] = data
    ring[at : at + 4] = len(data).to_bytes(4, "little")
