"""Faults that somebody holds: what a host is like while they last.

A fault is a layer over what the host is by itself.  Layers are added and taken away in any order, and what the host is
like follows from those that there are: so nested faults cannot restore each other's state, and one that ends while its
host is off or in the middle of a boot leaves nothing to be done.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from easycluster.labbox.relay import Quality

__all__ = ["Layer", "Layers"]


@dataclass(frozen=True, eq=False)
class Layer:
    """One fault of one host; each is only equal to itself.

    Attributes:
        down: Whether the cable is pulled.
        quality: What its cable does to packets.
        frozen: Whether all its processes are stopped.
        off: Whether its power was cut.
        room: Bytes that are left on its disk, or None for as many as there are.
    """

    down: bool = False
    quality: Quality = field(default_factory=Quality)
    frozen: bool = False
    off: bool = False
    room: int | None = None


class Layers:
    """The faults of one host."""

    def __init__(self) -> None:
        self._all: list[Layer] = []

    def add(self, layer: Layer) -> None:
        """One more."""
        self._all.append(layer)

    def remove(self, layer: Layer) -> None:
        """One less."""
        self._all.remove(layer)

    @property
    def down(self) -> bool:
        """Whether the cable is pulled."""
        return any(layer.down for layer in self._all)

    @property
    def frozen(self) -> bool:
        """Whether all processes are stopped."""
        return any(layer.frozen for layer in self._all)

    @property
    def off(self) -> bool:
        """Whether somebody keeps the power cut."""
        return any(layer.off for layer in self._all)

    @property
    def room(self) -> int | None:
        """Bytes that are left on the disk, or None for as many as there are."""
        return min((layer.room for layer in self._all if layer.room is not None), default=None)

    def quality(self, own: Quality) -> Quality:
        """What the cable does to packets, with what it does by itself."""
        for layer in self._all:
            own = own.and_then(layer.quality)
        return own
