"""What was sampled while something ran: times, values, and a table of them for reports."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

__all__ = ["Series"]

# As reports show a metric: its unit, and what to divide it by.
_SHOWN = {
    "temperature": ("C", 1.0),
    "power": ("W", 1.0),
    "utilization": ("%", 1.0),
    "memory_utilization": ("%", 1.0),
    "memory_used": ("MiB", 2.0**20),
    "clock": ("MHz", 1.0),
    "memory_clock": ("MHz", 1.0),
}


class Series:
    """Samples of some devices, filled when the sampling has ended.

    Attributes:
        host: Where it was taken, ``""`` for this machine.
        interval: Seconds from sample to sample, as wanted.
        samples: Seconds since the beginning, and by device what it said then: metric and value.
        trouble: Why it ended early, ``""`` if it did not.
    """

    def __init__(self, host: str, interval: float) -> None:
        self.host = host
        self.interval = interval
        self.samples: List[Tuple[float, Dict[str, Dict[str, float]]]] = []
        self.trouble = ""

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        return f"<Series of {len(self.samples)} samples in {self.seconds:.2f} s>"

    def fill(self, samples: Sequence[Tuple[float, Mapping[str, Any]]], trouble: str) -> None:
        """Take what was sampled."""
        self.samples = [(moment, {device: dict(one) for device, one in said.items()}) for moment, said in samples]
        self.trouble = trouble

    @property
    def seconds(self) -> float:
        """When the last sample was taken."""
        return self.samples[-1][0] if self.samples else 0.0

    @property
    def devices(self) -> List[str]:
        """The devices that said something, by uuid."""
        return list(dict.fromkeys(device for _, said in self.samples for device in said))

    @property
    def metrics(self) -> List[str]:
        """What was said."""
        every = (name for _, said in self.samples for one in said.values() for name in one)
        return list(dict.fromkeys(every))

    def values(self, metric: str, device: Optional[str] = None) -> List[float]:
        """Every value of a metric, in order; of all devices if none is named.

        Raises:
            KeyError: If nobody said it.
        """
        found = [
            one[metric]
            for _, said in self.samples
            for name, one in said.items()
            if metric in one and device in (None, name)
        ]
        if not found:
            known = ", ".join(self.metrics) or self.trouble or "nothing"
            whose = f" of {', '.join(self.devices)}" if device and self.devices else ""
            raise KeyError(f"{metric!r} was not sampled{f' of {device}' if device else ''}; there is: {known}{whose}")
        return found

    def max(self, metric: str, device: Optional[str] = None) -> float:
        """The highest value."""
        return max(self.values(metric, device))

    def min(self, metric: str, device: Optional[str] = None) -> float:
        """The lowest value."""
        return min(self.values(metric, device))

    def mean(self, metric: str, device: Optional[str] = None) -> float:
        """The mean of the values."""
        values = self.values(metric, device)
        return sum(values) / len(values)

    def table(self) -> str:
        """Lowest, mean and highest value of each metric, a line each."""
        lines = [f"{len(self.samples)} samples in {self.seconds:.2f} s, every {self.interval:g} s"]
        for device in self.devices:
            for metric in self.metrics:
                try:
                    values = self.values(metric, device)
                except KeyError:
                    continue
                unit, factor = _SHOWN.get(metric, ("", 1.0))
                low, mean, high = (
                    f"{value / factor:.1f}" for value in (min(values), sum(values) / len(values), max(values))
                )
                lines.append(f"{device} {metric}: {low} .. {high} {unit}".rstrip() + f", mean {mean}")
        if self.trouble:
            lines.append(f"ended early: {self.trouble}")
        return "\n".join(lines)
