"""GPUs as values, the same for every vendor.  What a device or its tool does not say is None."""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Protocol, Sequence, Tuple

__all__ = ["Backend", "Bandwidth", "Burn", "Device", "Health", "KernelRun", "Link", "Process", "Sampler", "Values"]

# Of one device at one moment: "temperature" (degrees Celsius), "power" (W), "utilization" (%), "memory_used" (bytes),
# "clock" and "memory_clock" (MHz), "throttle" (a bit mask of reasons), "ecc_uncorrected" and so on.
Values = Dict[str, float]


class Link(NamedTuple):
    """A PCIe link.

    Attributes:
        generation: Now; it may be low while the device idles.
        width: Lanes now.
        max_generation: The most that device and slot can do together.
        max_width: The same of lanes.
    """

    generation: Optional[int]
    width: Optional[int]
    max_generation: Optional[int]
    max_width: Optional[int]

    def __str__(self) -> str:
        return (
            f"PCIe {self.generation or '?'}x{self.width or '?'} of {self.max_generation or '?'}x{self.max_width or '?'}"
        )


class Device(NamedTuple):
    """One device, or a part of one that counts as a device.

    Attributes:
        index: Its number on the host.
        uuid: What it is known by, also to locks; the same whoever looks.
        name: The product.
        vendor: ``"NVIDIA"``, ``"AMD"`` or whoever made it.
        backend: What drives it: ``"nvidia"``, ``"amd"``, ``"opencl"`` or ``"cpu"``.
        emulated: Whether a processor stands in for a GPU.
        memory: Bytes; the host's, of a device that has none of its own.
        driver: Version of the driver.
        compute_capability: Such as ``"9.0"`` or ``"gfx942"``.
        ecc: Whether its memory corrects errors.
        pcie: Its link.
        bus: Its address on the bus, such as ``"0000:3b:00.0"``.
        part_of: The device that it is a part of (MIG), ``""`` if it is whole.
    """

    index: int  # type: ignore[assignment]  # a method of tuples, but what everybody calls it
    uuid: str
    name: str
    vendor: str
    backend: str
    emulated: bool = False
    memory: int = 0
    driver: str = ""
    compute_capability: str = ""
    ecc: Optional[bool] = None
    pcie: Optional[Link] = None
    bus: str = ""
    part_of: str = ""

    def __str__(self) -> str:
        said = f"{self.name}, {self.memory / 2**30:.3g} GiB" if self.memory else self.name
        return f"{self.uuid} ({said}{', emulated' if self.emulated else ''})"


class Process(NamedTuple):
    """A process that uses a device.

    Attributes:
        pid: Its number on the host.
        name: Its program.
        user: Whose it is, ``""`` if that cannot be seen.
        memory: Bytes of the device that it has, None if nobody says.
        device: The uuid of the device.
    """

    pid: int
    name: str
    user: str
    memory: Optional[int]
    device: str

    def __str__(self) -> str:
        has = f", {self.memory / 2**20:.0f} MiB" if self.memory is not None else ""
        return f"pid {self.pid} {self.name}{f' of {self.user}' if self.user else ''}{has}"


class Health(NamedTuple):
    """The state of a host's devices at one moment.

    Attributes:
        counters: By device and name, what has been counted: ``ecc_corrected``, ``ecc_uncorrected``, ``retired_pages``,
            ``remapped_rows``, and as 0 or 1 ``retirement_pending``, ``remap_pending``, ``remap_failed``.
        log: Lines of the kernel's log that tell of faults, since :attr:`since`.
        since: Where in the log they begin.
        cursor: Where the log ended.
        unread: Why the log could not be read, ``""`` if it was.
    """

    counters: Dict[str, Dict[str, int]]
    log: Tuple[str, ...] = ()
    since: str = ""
    cursor: str = ""
    unread: str = ""

    @property
    def problems(self) -> List[str]:
        """What is wrong now, whoever caused it: repairs that wait for a reset, and those that failed."""
        words = {
            "retirement_pending": "memory pages wait for a reset to be retired",
            "remap_pending": "memory rows wait for a reset to be remapped",
            "remap_failed": "a memory row could not be remapped",
        }
        return [
            f"{uuid}: {text}"
            for uuid, counters in self.counters.items()
            for name, text in words.items()
            if counters.get(name)
        ]

    def faults_since(self, before: Health, devices: Sequence[str] = ()) -> List[str]:
        """What has gone wrong since an earlier moment; corrected errors are none, a vanished device is one.

        Args:
            before: The state then.
            devices: Whose counters count, by uuid; all if there are none.
        """
        faults = list(self.log)
        for uuid, counters in before.counters.items():
            if devices and uuid not in devices:
                continue
            now = self.counters.get(uuid)
            if now is None:
                faults.append(f"{uuid}: is not there any more")
                continue
            for name, value in counters.items():
                risen = now.get(name, value) - value
                if risen > 0 and name != "ecc_corrected":
                    faults.append(f"{uuid}: {name} rose by {risen} to {now[name]}")
        return faults


class Bandwidth(NamedTuple):
    """How fast data moves, in GB/s (10**9 bytes); every copy was compared.

    Attributes:
        to_device: From the host's memory.
        from_device: To the host's memory.
        on_device: Within the device, each byte counted once.
        size: Bytes of one copy.
        device: Which.
    """

    to_device: float
    from_device: float
    on_device: float
    size: int
    device: str

    def __str__(self) -> str:
        return (
            f"{self.device}: to {self.to_device:.2f}, from {self.from_device:.2f}, on it {self.on_device:.2f} GB/s"
            f" ({self.size >> 20} MiB)"
        )


class Burn(NamedTuple):
    """What a device did under load.

    Attributes:
        device: Which.
        seconds: How long it computed.
        rounds: How often its results were compared.
        errors: How many numbers were wrong.
        gops: Operations in a second, in 10**9; of hash functions, bytes.
        first_error: What was found first, ``""`` if nothing.
    """

    device: str
    seconds: float
    rounds: int
    errors: int
    gops: float
    first_error: str = ""

    def __str__(self) -> str:
        wrong = f", {self.errors} wrong: {self.first_error}" if self.errors else ", all right"
        return f"{self.device}: {self.rounds} rounds in {self.seconds:.2f} s, {self.gops:.2f} G/s{wrong}"


class KernelRun(NamedTuple):
    """A kernel has run.

    Attributes:
        results: Each array that was given, as the kernel left it.
        seconds: From its start to its end.
        log: What the compiler said.
        device: Where.
    """

    results: Tuple[object, ...]
    seconds: float
    log: str
    device: str


class Sampler(Protocol):
    """Takes samples of devices; used by one thread."""

    def sample(self) -> Optional[Dict[str, Values]]:
        """What each device says now; None if there will be no more."""

    def close(self) -> None:
        """End it; :meth:`sample` returns soon, in whichever thread it is."""


class Backend(Protocol):
    """What drives the devices of one host.

    Attributes:
        name: Its name.
        paced: Whether its sampler waits for the interval itself.
    """

    name: str
    paced: bool

    @property
    def emulated(self) -> bool:
        """Whether processors stand in for GPUs."""

    def devices(self) -> List[Device]:
        """The devices."""

    def processes(self) -> List[Process]:
        """Who uses them."""

    def counters(self) -> Dict[str, Dict[str, int]]:
        """See :class:`Health`."""

    def is_fault(self, line: str, devices: Sequence[str]) -> bool:
        """Whether a line of the kernel's log tells of a fault of some devices, by uuid; of any if there are none."""

    def sampler(self, devices: Sequence[str], interval: float) -> Sampler:
        """Begin to sample devices, by uuid."""

    def environment(self, devices: Sequence[str]) -> Dict[str, str]:
        """What keeps programs to these devices."""

    def reset(self, device: str) -> None:
        """Reset one, by uuid."""
