"""``--ec-set host.key=value``: one more layer above a host's own, read and checked as if the lab file said it."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Final

from easycluster.lab.positions import Entry, Leaf, Place, Table, did_you_mean, parse_tree
from easycluster.lab.ranges import RangeError, expand
from easycluster.lab.sections import Layer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from easycluster.lab.positions import Node, Problems

# What positions call the place of a change.
OPTION: Final = "--ec-set"
_FORM: Final = "write  host.key=value, as in  gpu01.timeouts.call=60s"


def read_changes(changes: Sequence[str], hosts: Iterable[str], problems: Problems) -> dict[str, list[Layer]]:
    """The layers that changes add, by host, in the order given.

    Args:
        changes: Texts such as ``gpu01.timeouts.call=60s``.  The host may be a range or a pattern (``gpu*``), the value
            is YAML.
        hosts: Names of the lab's hosts.
        problems: Takes faults; their positions count lines by changes.
    """
    names = list(hosts)
    layers: dict[str, list[Layer]] = {}
    for number, text in enumerate(changes, 1):
        problems.add_file(OPTION, "\n".join(changes))
        found = _read(text, Place(OPTION, number, 1, len(text)), names, problems)
        if found is None:
            continue
        who, shown, table = found
        layer = Layer(table, f"host {shown!r}")
        for name in who:
            layers.setdefault(name, []).append(layer)
    if changes:
        problems.add_file(OPTION, "\n".join(changes))
    return layers


def _read(text: str, place: Place, names: list[str], problems: Problems) -> tuple[list[str], str, Table] | None:
    target, equals, value = text.partition("=")
    if not equals or "." not in target:
        problems.add(place, f"{text!r} is not a change", _FORM)
        return None
    # A host's name may have dots itself: the longest one that the lab knows is meant.
    cuts = [index for index, char in enumerate(target) if char == "."]
    for cut in reversed(cuts):
        who = _hosts(target[:cut], names)
        if who:
            break
    else:
        wrong = target[: cuts[0]]
        hint = did_you_mean(wrong, names) or f"hosts: {' '.join(names)}"
        problems.add(place.shifted(0, len(wrong)), f"no host {wrong!r} to change", hint)
        return None
    tree = _value(value, place, len(target) + 1, problems)
    if tree is None:
        return None
    keys = target[cut + 1 :].split(".")
    if not all(keys):
        problems.add(place.shifted(cut + 1, max(1, len(target) - cut - 1)), f"{text!r} is not a change", _FORM)
        return None
    offset = len(target)
    for key in reversed(keys):
        offset -= len(key)
        at = place.shifted(offset, len(key))
        tree = Table(at, {key: Entry(Leaf(at, key), tree)})
        offset -= 1
    assert isinstance(tree, Table)
    return who, target[:cut], tree


def _hosts(text: str, names: list[str]) -> list[str]:
    if text in names:
        return [text]
    if "[" in text:
        try:
            wanted = [one.name for one in expand(text)]
        except RangeError:
            wanted = []
        if wanted and all(one in names for one in wanted):
            return wanted
    return [name for name in names if fnmatch.fnmatchcase(name, text)] if set(text) & set("*?[") else []


def _value(text: str, place: Place, offset: int, problems: Problems) -> Node | None:
    """The value as YAML, at its true position."""
    if not text.strip():
        return Leaf(place.shifted(offset, 1), "")
    # Spaces and empty lines before it put the value where it stands among all changes.
    return parse_tree("\n" * (place.line - 1) + " " * offset + text, OPTION, problems)
