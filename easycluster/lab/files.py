"""The files of an inventory: ``include:`` brings others in, and of several files given the later ones win.

Mappings are laid over each other key by key.  A list that a file and one it includes both have is a problem: to add
or to replace is equally likely to be meant.  Who gives several files says by their order that the later one replaces
it.  Only ``quarantine:`` always adds up, so that no overlay lets a broken machine back in unseen.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from easycluster.lab.ansible import read_ansible
from easycluster.lab.hostlist import HOSTS_PREFIX, host_list
from easycluster.lab.positions import Entry, Items, Leaf, Place, Table, read_tree
from easycluster.lab.schema import some_texts
from easycluster.lab.shapes import BAD, Reading, is_empty
from easycluster.lab.variables import Scope

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from easycluster.lab.positions import Node, Problems

ANSIBLE_PREFIX: Final = "ansible:"

# What positions call the place of an inventory that is written on the command line.
COMMAND_LINE: Final = "command line"


def path_of(source: str) -> Path:
    """The file of one ``--ec-inventory``; for a list of hosts, the list."""
    return Path(source.removeprefix(ANSIBLE_PREFIX))


class InventoryFiles:
    """Reads a lab file and everything it includes.

    Attributes:
        folders: Directory of each file, by the name that positions show.
    """

    def __init__(self, problems: Problems, environ: Mapping[str, str]) -> None:
        self.folders: dict[str, Path] = {}
        self._ansible: list[Path] = []
        self._problems = problems
        self._environ = environ

    def read(self, sources: Sequence[str]) -> Table | None:
        """The whole inventory as one tree, or None if there is nothing to go on with.

        Args:
            sources: Lab files, ``ansible:FILE`` or ``hosts:NAME,...``; later ones are laid over earlier ones.
        """
        arguments = [one for one in sources if one.startswith(HOSTS_PREFIX)]
        if arguments:
            self._problems.add_file(COMMAND_LINE, "\n".join(arguments))
        whole: Table | None = None
        for source in sources:
            table = self._source(source, arguments)
            if table is not None:
                whole = table if whole is None else self._overlay(whole, table, "", replace=True)
        return whole

    def folder(self, place: Place) -> Path:
        """Where relative paths written at ``place`` begin: its file's directory, or the working directory."""
        if place.file in self.folders:
            return self.folders[place.file]
        # The variable files beside an inventory of Ansible count as parts of it.
        roots = [one for one in self._ansible if Path(place.file).is_relative_to(one)]
        return roots[0].absolute() if roots else Path.cwd()

    def _source(self, source: str, arguments: list[str]) -> Table | None:
        if source.startswith(HOSTS_PREFIX):
            return host_list(source, Place(COMMAND_LINE, arguments.index(source) + 1, 1), self._problems)
        path = path_of(source)
        if source.startswith(ANSIBLE_PREFIX):
            self.folders[str(path)] = path.absolute().parent
            self._ansible.append(path.parent)
            return read_ansible(path, self._problems, self._environ)
        return self._read(path, str(path), ())

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

    def _overlay(self, below: Table, above: Table, where: str, *, replace: bool = False) -> Table:
        """``above`` laid over ``below``; ``replace`` lets its lists win, which else are problems."""
        entries = dict(below.entries)
        for key, entry in above.entries.items():
            under = below.entries.get(key)
            name = f"{where}{key}"
            if under is not None and name == "hosts":
                # A list of names is short for a mapping of hosts that say nothing.
                entry, under = _hosts_table(entry), _hosts_table(under)
            if under is None or name in ("include", "version", "name"):
                entries[key] = entry
            elif isinstance(entry.value, Table) and isinstance(under.value, Table):
                entries[key] = Entry(entry.key, self._overlay(under.value, entry.value, f"{name}.", replace=replace))
            elif isinstance(entry.value, Items) and isinstance(under.value, Items):
                if name == "quarantine":
                    both = (*under.value.items, *entry.value.items)
                    entries[key] = Entry(entry.key, Items(entry.value.place, both))
                    continue
                if not replace:
                    there = f"list {name!r} is written in {under.key.place.file} too"
                    text = f"{there}; lists of included files are not merged"
                    self._problems.add(entry.key.place, text, "keep one of them", also=(under.key.place,))
                entries[key] = entry
            elif is_empty(entry.value) and isinstance(under.value, Table):
                continue  # a host or group that is only named again, such as  gpu1:
            else:
                entries[key] = entry
        return Table(above.place, entries)


def _hosts_table(entry: Entry) -> Entry:
    if not isinstance(entry.value, Items) or not all(isinstance(one, Leaf) for one in entry.value.items):
        return entry
    names = [one for one in entry.value.items if isinstance(one, Leaf)]
    entries = {one.text: Entry(one, Table(one.place, {})) for one in names}
    return Entry(entry.key, Table(entry.value.place, entries))


def _items(node: Node) -> list[Node]:
    return list(node.items) if isinstance(node, Items) else [node]


def leaf_entries(node: Node | None) -> dict[str, Leaf]:
    """The scalars of a mapping such as ``vars:``."""
    if not isinstance(node, Table):
        return {}
    return {key: entry.value for key, entry in node.entries.items() if isinstance(entry.value, Leaf)}
