"""Ansible's YAML and INI inventories and the variable files beside them, for where Ansible itself is not installed."""

from __future__ import annotations

import ast
import re
import shlex
from typing import TYPE_CHECKING, Final

from easycluster.lab.positions import Entry, Items, Leaf, Place, Table, did_you_mean, read_tree
from easycluster.lab.shapes import is_empty

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from easycluster.lab.ansible import AnsibleInventory, Group
    from easycluster.lab.positions import Node, Problems

_PARTS: Final = ("hosts", "children", "vars")
_SECTION = re.compile(r"\[(?P<name>[^\]:]+)(?::(?P<part>[^\]]*))?\]\s*(?:[#;].*)?")


def read_yaml(path: Path, inventory: AnsibleInventory, problems: Problems) -> bool:
    """Read an inventory in YAML; False if there is nothing to go on with."""
    tree = read_tree(path, problems)
    if tree is None:
        return False
    if not isinstance(tree, Table):
        problems.add(tree.place, "is not a mapping of groups", "write  all: {hosts: {gpu1: {}}}")
        return False
    for key, entry in tree.entries.items():
        _group(Leaf(entry.key.place, key), entry.value, inventory, problems)
    return True


def _group(key: Leaf, node: Node, inventory: AnsibleInventory, problems: Problems) -> None:
    group = inventory.group(key)
    if is_empty(node):
        return
    if not isinstance(node, Table):
        problems.add(node.place, f"group {key.text!r} is not a mapping", f"known: {' '.join(_PARTS)}")
        return
    for name, entry in node.entries.items():
        value = entry.value
        if name not in _PARTS:
            hint = did_you_mean(name, _PARTS) or f"known: {' '.join(_PARTS)}"
            problems.add(entry.key.place, f"unknown key {name!r} in group {key.text!r}", hint)
        elif is_empty(value):
            continue
        elif not isinstance(value, Table):
            problems.add(value.place, f"{name} of group {key.text!r} is not a mapping", f"write  {name}: {{name: }}")
        elif name == "vars":
            group.variables.update(value.entries)
        elif name == "children":
            for child, one in value.entries.items():
                group.children[child] = Leaf(one.key.place, child)
                _group(group.children[child], one.value, inventory, problems)
        else:
            for host, one in value.entries.items():
                if not is_empty(one.value) and not isinstance(one.value, Table):
                    problems.add(one.value.place, f"host {host!r} is not a mapping of variables")
                    continue
                for each in inventory.add_host(Leaf(one.key.place, host), group, problems):
                    if isinstance(one.value, Table):
                        inventory.hosts[each].update(one.value.entries)


def read_ini(path: Path, inventory: AnsibleInventory, problems: Problems) -> bool:
    """Read an inventory in Ansible's INI; False if there is nothing to go on with."""
    shown = str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        problems.add_file(shown, "")
        problems.add(Place(shown, 1, 1), f"cannot be read: {getattr(exc, 'strerror', None) or exc}")
        return False
    problems.add_file(shown, text)
    group, part = inventory.group(Leaf(Place(shown, 1, 1), "ungrouped")), "hosts"
    for number, line in enumerate(text.splitlines(), 1):
        start = len(line) - len(line.lstrip())
        place = Place(shown, number, start + 1, max(1, len(line.strip())))
        if not line.strip() or line.lstrip()[0] in "#;":
            continue
        if line.lstrip().startswith("[") and (match := _SECTION.fullmatch(line.strip())):
            name = match["name"].strip()
            at = Place(shown, number, start + 2, len(name))
            group, part = inventory.group(Leaf(at, name)), match["part"] or "hosts"
            if part not in _PARTS:
                hint = did_you_mean(part, _PARTS) or f"known: {' '.join(_PARTS)}"
                problems.add(at.shifted(len(name) + 1, len(part)), f"unknown part {part!r} of group {name!r}", hint)
                part = ""
            continue
        if part == "vars":
            _variable(line, place, group, problems)
        elif part:
            _members(line, place, group, part, inventory, problems)
    return True


def _variable(line: str, place: Place, group: Group, problems: Problems) -> None:
    name, equals, value = line.partition("=")
    if not equals:
        problems.add(place, f"{line.strip()!r} is not a variable", "write  name=value")
        return
    key = Leaf(Place(place.file, place.line, place.column, len(name.strip())), name.strip())
    at = len(name) + 1 + len(value) - len(value.lstrip())
    group.variables[key.text] = Entry(key, _literal(value.strip(), Place(place.file, place.line, at + 1)))


def _members(line: str, place: Place, group: Group, part: str, inventory: AnsibleInventory, problems: Problems) -> None:
    try:
        words = list(_words(line))
    except ValueError as exc:
        problems.add(place, f"cannot be split into words: {exc}")
        return
    (first, column), *rest = words
    at = Place(place.file, place.line, column + 1, len(first))
    if part == "children":
        for word, where in rest:
            problems.add(Place(place.file, place.line, where + 1, len(word)), f"{word!r} behind the name of a group")
        group.children[first] = Leaf(at, first)
        inventory.group(Leaf(at, first))
        return
    # Ansible's own short form: name:port, where the name may be a range, which has colons of its own.
    match = re.fullmatch(r"((?:\[[^\]]*\]|[^:\[\]])+):([0-9]+)", first)
    variables: dict[str, Entry] = {}
    if match:
        first = match[1]
        variables["ansible_port"] = Entry(Leaf(at, "ansible_port"), Leaf(at, match[2]))
    for word, where in rest:
        name, equals, value = word.partition("=")
        spot = Place(place.file, place.line, where + 1, len(word))
        if not equals:
            problems.add(spot, f"{word!r} is not a variable of host {first!r}", "write  name=value, one host a line")
            continue
        variables[name] = Entry(Leaf(spot.shifted(0, len(name)), name), _literal(value, spot.shifted(len(name) + 1, 1)))
    for each in inventory.add_host(Leaf(at, first), group, problems):
        inventory.hosts[each].update(variables)


def _words(line: str) -> Iterator[tuple[str, int]]:
    """The words of a line as a shell splits it, with their columns from 0; ``#`` begins a comment."""
    for match in re.finditer(r"""(?:[^\s"'#]|(?<=\S)#|"(?:[^"\\]|\\.)*"|'[^']*')+|(#.*)|(["'].*)""", line):
        if match[1]:
            return
        if match[2]:
            raise ValueError("a quotation mark without its partner")
        yield "".join(shlex.split(match.group())), match.start()


def _literal(text: str, place: Place) -> Node:
    """A value of an INI file: Python's literals for numbers, lists and mappings, else the text."""
    place = Place(place.file, place.line, place.column, max(1, len(text)))
    try:
        value: object = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return Leaf(place, text)
    return _node(value, text, place)


def _node(value: object, text: str, place: Place) -> Node:
    if isinstance(value, str):
        return Leaf(place, value, plain=False)
    if isinstance(value, (list, tuple)):
        return Items(place, tuple(_node(one, repr(one), place) for one in value))
    if isinstance(value, dict):
        entries = {str(key): Entry(Leaf(place, str(key)), _node(one, repr(one), place)) for key, one in value.items()}
        return Table(place, entries)
    return Leaf(place, text)


def read_vars_beside(folder: Path, shown: Path, inventory: AnsibleInventory, problems: Problems) -> None:
    """Add what ``group_vars/`` and ``host_vars/`` beside the inventory say; a file wins over the inventory."""
    for kind, names in (("group_vars", inventory.groups), ("host_vars", inventory.hosts)):
        for name in ["all", *names] if kind == "group_vars" and "all" not in names else list(names):
            for file in _vars_files(folder / kind, name):
                tree = read_tree(file, problems, str(shown / file.relative_to(folder)))
                if tree is None or is_empty(tree):
                    continue
                if not isinstance(tree, Table):
                    problems.add(tree.place, "is not a mapping of variables")
                elif kind == "group_vars":
                    inventory.group(Leaf(tree.place, name)).variables.update(tree.entries)
                else:
                    inventory.hosts[name].update(tree.entries)


def _vars_files(folder: Path, name: str) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [folder / f"{name}{end}" for end in ("", ".yml", ".yaml", ".json")]
    inner = folder / name
    inside = sorted(inner.iterdir()) if inner.is_dir() else []
    return [one for one in found if one.is_file()] + [one for one in inside if one.suffix in (".yml", ".yaml", ".json")]
