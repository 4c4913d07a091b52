"""The files of an inventory: ``include:`` brings others in, and the file that includes wins.

Mappings are laid over each other key by key.  A list that both files have is a problem: to add or to replace is
equally likely to be meant.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from easycluster.lab.positions import Entry, Items, Leaf, Table, read_tree
from easycluster.lab.schema import some_texts
from easycluster.lab.shapes import BAD, Reading
from easycluster.lab.variables import Scope

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from easycluster.lab.positions import Node, Place, Problems


class InventoryFiles:
    """Reads a lab file and everything it includes.

    Attributes:
        folders: Directory of each file, by the name that positions show.
    """

    def __init__(self, problems: Problems, environ: Mapping[str, str]) -> None:
        self.folders: dict[str, Path] = {}
        self._problems = problems
        self._environ = environ

    def read(self, path: Path) -> Table | None:
        """The whole inventory as one tree, or None if there is nothing to go on with."""
        return self._read(path, str(path), ())

    def folder(self, place: Place) -> Path:
        """Where relative paths written at ``place`` begin."""
        return self.folders[place.file]

    def _read(self, path: Path, shown: str, inside: tuple[Path, ...]) -> Table | None:
        self.folders[shown] = path.absolute().parent
        root = read_tree(path, self._problems, shown)
        if root is None:
            return None
        if not isinstance(root, Table):
            self._problems.add(root.place, "is not a mapping", "the smallest lab is  hosts: {gpu1: {role: gpu}}")
            return None
        included = root.entries.get("include")
        if included is None:
            return root
        scope = Scope({}, {"inventory_dir": str(self.folders[shown])}, self._environ)
        names = some_texts.read(included.value, Reading(self._problems, scope, "include"))
        for name, node in () if names is BAD else reversed(list(zip(names, _items(included.value), strict=False))):
            below = self._include(str(name), node.place, path, (*inside, path.resolve()))
            if below is not None:
                root = self._overlay(below, root, "")
        return root

    def _include(self, name: str, place: Place, by: Path, inside: tuple[Path, ...]) -> Table | None:
        path = by.parent / os.path.expanduser(name)
        if path.resolve() in inside:
            self._problems.add(place, f"{name!r} includes itself")
            return None
        if not path.is_file():
            self._problems.add(place, f"included file {str(path)!r} does not exist")
            return None
        return self._read(path, str(path), inside)

    def _overlay(self, below: Table, above: Table, where: str) -> Table:
        """``above`` laid over ``below``."""
        entries = dict(below.entries)
        for key, entry in above.entries.items():
            under = below.entries.get(key)
            name = f"{where}{key}"
            if under is None or key in ("include", "version", "name"):
                entries[key] = entry
            elif isinstance(entry.value, Table) and isinstance(under.value, Table):
                entries[key] = Entry(entry.key, self._overlay(under.value, entry.value, f"{name}."))
            elif isinstance(entry.value, Items) and isinstance(under.value, Items):
                self._problems.add(
                    entry.key.place,
                    f"list {name!r} is written in {under.key.place.file} too; lists of included files are not merged",
                    "keep one of them",
                    also=(under.key.place,),
                )
            else:
                entries[key] = entry
        return Table(above.place, entries)


def _items(node: Node) -> list[Node]:
    return list(node.items) if isinstance(node, Items) else [node]


def leaf_entries(node: Node | None) -> dict[str, Leaf]:
    """The scalars of a mapping such as ``vars:``."""
    if not isinstance(node, Table):
        return {}
    return {key: entry.value for key, entry in node.entries.items() if isinstance(entry.value, Leaf)}
