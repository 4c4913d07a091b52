"""Devices that nobody else has, and what is said when they are not to be had."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Sequence, Union

if TYPE_CHECKING:
    from easycluster.devices.gpu.gpus import Gpus
    from easycluster.devices.gpu.model import Device

__all__ = ["GpuLease", "lacking", "size_of", "wanted"]

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


class GpuLease:
    """Devices that nobody else has: until :meth:`release`, the end of ``with``, or of the process that has them.

    Attributes:
        devices: Which.
        variables: What keeps programs that start on the host to them, such as ``CUDA_VISIBLE_DEVICES``.
    """

    def __init__(self, gpus: Gpus, devices: List[Device], let_go: Callable[[], object]) -> None:
        self._gpus = gpus
        self._let_go: Optional[Callable[[], object]] = let_go
        self.devices = devices
        self.variables: Dict[str, str] = {}

    def __enter__(self) -> GpuLease:  # noqa: PYI034  # Self is too new for the far side
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<GpuLease of {', '.join(map(str, self.devices)) or 'nothing'}>"

    @property
    def uuids(self) -> List[str]:
        """What the devices are known by."""
        return [device.uuid for device in self.devices]

    def release(self) -> None:
        """Give them back; a second call does nothing."""
        let_go, self._let_go = self._let_go, None
        if let_go is not None:
            try:
                self._gpus._forget(self)
            finally:
                let_go()


def wanted(count: int, least: int, name: str) -> str:
    """What somebody wants, in words."""
    memory = f" with {least / 2**30:.3g} GiB" if least else ""
    return f"{count} device{'s' if count > 1 else ''}{f' called {name!r}' if name else ''}{memory} wanted"


def lacking(every: Sequence[Device], fitting: Sequence[Device], ours: set[str]) -> str:
    """Why it is not to be had, in words."""
    if not every:
        return "the host has none"
    text = f"of {len(every)} {'fits' if len(fitting) == 1 else 'fit'} {len(fitting)}: {', '.join(map(str, every))}"
    mine = [device.uuid for device in fitting if device.uuid in ours]
    return f"{text}; leased here already: {', '.join(mine)}" if mine else text


def size_of(text: Union[int, str]) -> int:
    """Bytes, of a number or of a text such as ``"40 GiB"``."""
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match.group(2).upper() not in _UNITS:
        raise ValueError(f"memory is {text!r}; bytes are wanted, or a text such as '40 GiB'")
    return int(float(match.group(1)) * _UNITS[match.group(2).upper()])
