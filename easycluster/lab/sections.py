"""The sections of a lab file as tables, and the names in them: what every step of the reader works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from easycluster.lab import schema
from easycluster.lab.files import InventoryFiles, leaf_entries, path_of
from easycluster.lab.positions import Leaf, Place, Problems, Table, did_you_mean
from easycluster.lab.ranges import RangeError, RangeName, expand
from easycluster.lab.rolecode import file_block, inline_block
from easycluster.lab.shapes import BAD, Reading, is_empty
from easycluster.lab.variables import Scope
from easycluster.lab.where import Where, WhereError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from easycluster.lab.inventory import Role
    from easycluster.lab.rolecode import CodeBlock


@dataclass(frozen=True)
class Layer:
    """One place that says something about a host: defaults, a role, a group, a range, the host itself."""

    table: Table
    where: str


@dataclass(frozen=True)
class Written:
    """One key under ``hosts:``, with one of the names it stands for."""

    name: RangeName
    key: Leaf
    table: Table

    @property
    def where(self) -> str:
        """How messages name it: as it is written, range or not."""
        return f"host {self.key.text!r}"


class Sections:
    """What is written where, looked up by name.

    Args:
        sources: The lab file, or several.
        environ: The environment.
        problems: Takes faults.
    """

    def __init__(self, sources: Sequence[str], environ: Mapping[str, str], problems: Problems) -> None:
        self._sources = sources
        self._path = path_of(sources[0])
        self._environ = environ
        self._problems = problems
        self._files = InventoryFiles(problems, environ)
        self._secrets: set[str] = set()
        self._root = Table(Place(str(self._path), 1, 1), {})
        # Filled step by step by the reader; later steps look names up in what earlier ones found.
        self._role_tables: dict[str, Table] = {}
        self._roles: dict[str, Role] = {}
        self._written: dict[str, list[Written]] = {}
        self._memberships: dict[str, list[str]] = {}
        self._members: dict[str, list[str]] = {}
        self._capability_places: dict[tuple[str, str], Place] = {}
        self._changes: dict[str, list[Layer]] = {}
        # What each role's code defines, and where.
        self._defined: dict[str, dict[str, Place]] = {}

    def _at(self, where: str, scope: Scope) -> Reading:
        return Reading(self._problems, scope, where)

    def _scope(self, layers: list[Layer] | None = None, host: RangeName | None = None, strict: bool = True) -> Scope:
        variables = leaf_entries(self._section("vars"))
        for layer in layers or []:
            if "vars" in layer.table.entries:
                variables.update(leaf_entries(layer.table.entries["vars"].value))
        brought = {"inventory_dir": str(self._path.absolute().parent)}
        if host is not None:
            brought |= {"host": host.name, **({"n": host.n} if host.n else {})}
        return Scope(variables, brought, self._environ, strict, self._secrets)

    def _section(self, key: str) -> Table | None:
        entry = self._root.entries.get(key)
        return entry.value if entry is not None and isinstance(entry.value, Table) else None

    def _tables(self, key: str, what: str) -> dict[str, tuple[Leaf, Table]]:
        """The entries of a section whose values are mappings; nothing counts as an empty one."""
        entry = self._root.entries.get(key)
        if entry is None or is_empty(entry.value):
            return {}
        if not isinstance(entry.value, Table):
            self._problems.add(entry.value.place, f"{key!r} is not a mapping; write  {key}: {{name: {{...}}}}")
            return {}
        found: dict[str, tuple[Leaf, Table]] = {}
        for name, one in entry.value.entries.items():
            if name.startswith("x-"):
                continue
            if isinstance(one.value, Table):
                found[name] = (one.key, one.value)
            elif is_empty(one.value):
                found[name] = (one.key, Table(one.key.place, {}))
            else:
                self._problems.add(one.value.place, f"{what} {name!r} is not a mapping", f"write  {name}: {{...}}")
        return found

    def _text(self, key: str, at: Reading) -> str:
        entry = self._root.entries.get(key)
        value = BAD if entry is None else schema.text.read(entry.value, at.inside(key))
        return value if isinstance(value, str) else ""

    def _where(self, text: str, place: Place) -> Where | None:
        try:
            return Where(text)
        except WhereError as exc:
            self._problems.add(self._within(place, text, exc.position, exc.width), str(exc))
            return None

    def _within(self, place: Place, text: str, position: int, width: int) -> Place:
        """Where character ``position`` of ``text`` stands, if it is written in one piece at ``place``."""
        column = self._problems.line(place).find(text, place.column - 1)
        return place if column < 0 else place.shifted(column + 1 - place.column + position, width)

    def _code(self, only: Mapping[str, Any]) -> list[CodeBlock]:
        blocks: list[CodeBlock | None] = [
            file_block(name, place, self._files.folder(place), self._problems)
            for name, place in only.get("code_files", ())
        ]
        if "code" in only:
            blocks.append(inline_block(only["code"], self._files.folder(only["code"].place), self._problems))
        return [block for block in blocks if block is not None]

    def _host_places(self) -> dict[str, Place]:
        return {name: written[0].key.place for name, written in self._written.items()}

    def _host_hint(self, name: str) -> str:
        return did_you_mean(name, self._host_places()).replace("defined at line", "line")

    def _known_hosts(self, names: tuple[tuple[str, Place], ...] | Any, what: str) -> list[str]:
        """The hosts that a list of names and ranges stands for; unknown ones are problems."""
        found: list[str] = []
        for text, place in () if names is BAD else names:
            try:
                expanded = [one.name for one in expand(text)]
            except RangeError as exc:
                self._problems.add(place, str(exc))
                continue
            for name in expanded:
                if name in self._written:
                    found.append(name)
                else:
                    inside = f" (of {text!r})" if name != text else ""
                    wrong = f"{what} names host {name!r}{inside}, which is not under hosts:"
                    self._problems.add(place, wrong, self._host_hint(name))
        return list(dict.fromkeys(found))
