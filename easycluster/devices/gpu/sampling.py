"""Takes samples in a thread, until it is told to stop; nothing crosses the wire meanwhile."""

from __future__ import annotations

import threading
import time
from typing import Dict, List, Tuple

from easycluster.devices.gpu.errors import GpuError, GpuTimeout
from easycluster.devices.gpu.model import Sampler, Values

__all__ = ["MOST", "PATIENCE", "Sampling"]

# Samples that are kept.  Of more, every other one is dropped and the interval doubled: a day fits.
MOST = 20_000

# Seconds.  nvidia-smi takes up to 5 s for a first line of eight devices whose driver is not kept loaded.
PATIENCE = 6.0

Taken = Tuple[float, Dict[str, Values]]


class Sampling:
    """Samples of one sampler.

    Args:
        sampler: Takes them.
        interval: Seconds from one to the next.
        paced: Whether the sampler waits for that itself.
        most: How many are kept.
        patience: Seconds without a sample that are no trouble, and that the last one is waited for.
    """

    def __init__(
        self, sampler: Sampler, interval: float, paced: bool, most: int = MOST, patience: float = PATIENCE
    ) -> None:
        self._sampler = sampler
        self._interval = interval
        self._paced = paced
        self._most = most
        self._patience = patience
        self._stop = threading.Event()
        # When the last sample came.
        self._begun = self._heard = time.monotonic()
        self._taken: List[Taken] = []
        self._skip = self._due = 0
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="easycluster-telemetry", daemon=True)
        self._thread.start()

    def stop(self) -> Tuple[List[Taken], str]:
        """End it; return the samples, each with seconds since the beginning, and what went wrong."""
        silence = time.monotonic() - self._heard
        self._stop.set()
        if not self._paced:
            # One last sample shows how it ended; a sampler that paces itself would have us wait for it.
            self._thread.join(self._patience)
            silence = time.monotonic() - self._heard if self._thread.is_alive() else 0.0
        self._sampler.close()
        self._thread.join(self._patience)
        if not self._trouble and silence > max(self._patience, 5 * self._interval):
            self._trouble = f"no sample came in the last {silence:.1f} s: what samples hangs, or is too slow"
        return self._taken, self._trouble

    def _run(self) -> None:
        due = self._begun
        while True:
            last = self._stop.is_set()
            try:
                values = self._sampler.sample()
            except (GpuError, OSError, ValueError) as exc:
                # What it reads from may be closed under its eyes when it is told to end.
                if not self._stop.is_set() or isinstance(exc, GpuTimeout):
                    self._trouble = str(exc)
                return
            if values is None:
                if not last and not self._stop.is_set():
                    self._trouble = "the tool that samples has ended"
                return
            self._heard = time.monotonic()
            self._keep(self._heard - self._begun, values)
            if last:
                return
            if not self._paced:
                # Moments are due at a fixed beat, so that slow samples do not add up; missed ones are left out.
                due = max(due + self._interval, time.monotonic())
                self._stop.wait(max(0.0, due - time.monotonic()))

    def _keep(self, moment: float, values: Dict[str, Values]) -> None:
        self._due += 1
        if self._due <= self._skip:
            return
        self._due = 0
        self._taken.append((moment, values))
        if len(self._taken) >= self._most:
            del self._taken[1::2]
            self._skip = 2 * self._skip + 1
