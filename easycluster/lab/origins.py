"""Where each value of a host comes from: file and line for everything that ``easycluster show --origin`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from easycluster.lab.positions import Items, Leaf, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from easycluster.lab.positions import Node, Place
    from easycluster.lab.sections import Layer

# Settings in which an inner layer adds to an outer one; the others replace it.
ADDED_MAPPINGS: Final = ("vars", "capabilities", "timeouts", "power", "gpu", "san", "faults")
ADDED_LISTS: Final = ("tags",)
# Settings that are about the connection, and may stand beside `connect` as well as in it.
REACH: Final = ("address", "user", "port", "become")
# Settings that are merged in a way of their own.
_MERGED: Final = ("connect", "artifacts")


class Origins:
    """Follows a host's layers from the outermost inwards.

    Attributes:
        places: The place of each value, by dotted name: ``timeouts.call``, ``connect.user``, ``tags.nightly``.
    """

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self._via = "ssh"

    def add(self, layer: Layer, read: Mapping[str, Any], keys: Iterable[str] = ()) -> None:
        """Note where a layer sets what.

        Args:
            layer: The layer.
            read: The settings that were read from it.
            keys: Further keys of it that count.
        """
        for key in (*keys, *read):
            entry = layer.table.entries[key]
            if key == "connect":
                self._connect(read[key][0])
            elif key not in ADDED_MAPPINGS and key not in ADDED_LISTS and key not in _MERGED:
                self._forget(key)
            self._note(key, entry.key.place, entry.value)
            if key in REACH:
                self.places[f"connect.{key}"] = entry.key.place

    def _connect(self, value: Mapping[str, Any]) -> None:
        """Another way to connect, or a whole spec, takes the place of what outer layers say."""
        kept: dict[str, Place] = {}
        if "whole" not in value:
            if value.get("via", self._via) == self._via:
                return
            kept = {key: place for key, place in self.places.items() if key in ("connect.address", "connect.user")}
        self._via = value.get("via", self._via)
        self._forget("connect")
        self.places.update(kept)

    def _forget(self, key: str) -> None:
        for name in [one for one in self.places if one == key or one.startswith(f"{key}.")]:
            del self.places[name]

    def _note(self, name: str, place: Place, value: Node) -> None:
        self.places[name] = place
        if isinstance(value, Table):
            for key, entry in value.entries.items():
                self._note(f"{name}.{key}", entry.key.place, entry.value)
        elif name in ADDED_LISTS:
            for item in value.items if isinstance(value, Items) else (value,):
                if isinstance(item, Leaf):
                    self.places.setdefault(f"{name}.{item.text}", item.place)
