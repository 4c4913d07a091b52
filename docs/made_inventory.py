"""The reference of the lab file, from the tables that the reader goes by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from easycluster.lab import schema
from easycluster.lab.explained import EXPLAINED, key_texts
from easycluster.lab.schema import Connect, RoleNames
from easycluster.lab.shapes import (
    Choice,
    Code,
    Duration,
    Fields,
    Flag,
    Free,
    ListOf,
    OneOf,
    Placed,
    Text,
    Value,
    Whole,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from easycluster.lab.shapes import Shape

HEAD = """\
# Every key of the lab file

Made by `python -m docs.make` from the tables that the reader itself goes by (`easycluster/lab/schema.py`);
[the lab file](lab_inventory.md) explains them with examples, and `easycluster schema` gives editors the same as a JSON
Schema. A key that is not listed is a fault, but for those that begin with `x-`. `${NAME}` may stand for any scalar. A
span is `500ms`, `10s`, `5m`, `1h`, `2d`, or a number of seconds.
"""

# Where a section is told of at length.
_MORE = {
    "power": "lab_power.md",
    "console": "lab_console.md",
    "faults": "lab_faults.md",
    "gpu": "devices_gpu.md",
    "san": "devices_san.md",
    "timeouts": "lab_verdicts.md#time-limits",
    "lock": "lab_leases.md#locks",
}
_TOP = {
    "version": "1",
    "name": "text",
    "include": "text, or a list of such",
    "vars": "names and values",
    "defaults": "[settings](#settings)",
    "roles": "names, each with [a role](#a-role)",
    "groups": "names, each with [a group](#a-group)",
    "hosts": "names, each with [a host](#a-host); or a list of names",
    "fixtures": "names, each with [a fixture](#a-fixture)",
    "quarantine": "a list of [entries](#an-entry-of-quarantine)",
    "simulate": "roles, each with [a stand-in](#a-stand-in)",
}


def page() -> str:
    """The page."""
    parts = [HEAD, _section("The file", _rows((key, _TOP[key], EXPLAINED["file"][key]) for key in schema.SECTIONS))]
    for title, table, key, text in (
        ("A host", schema.HOST, "host", "these, and all [settings](#settings)"),
        ("A role", schema.ROLE, "role", "these, and all [settings](#settings), which hold for its hosts"),
        ("A group", schema.GROUP, "group", "these, and all [settings](#settings), which hold for its hosts"),
        ("A fixture", schema.FIXTURE, "fixture", ""),
        ("An entry of quarantine", schema.QUARANTINE, "quarantine", ""),
        ("A stand-in", schema.SIMULATE, "simulate", ""),
    ):
        has_settings = set(schema.SETTINGS) <= set(table.fields)
        fields = [name for name in table.fields if not (has_settings and name in schema.SETTINGS)]
        parts.append(_section(title, _table(fields, table, key), text))
    settings = Fields(schema.SETTINGS)
    words = "of a host, a role, a group, and of `defaults:`, which only lacks `vars`"
    parts.append(_section("Settings", _table(schema.SETTINGS, settings, "settings"), words))
    for name, shape in schema.SETTINGS.items():
        table = shape.table if isinstance(shape, OneOf) else shape
        if isinstance(table, Fields):
            more = f"see [the page about it]({_MORE[name]})" if name in _MORE else ""
            parts.append(_section(f"`{name}`", _table(table.fields, table, name), more))
    for name, table in (("chap", schema.CHAP), ("lun", schema.LUN.table)):
        assert isinstance(table, Fields)
        title = {"chap": "`chap` of `san`", "lun": "A unit of `san`"}[name]
        parts.append(_section(title, _table(table.fields, table, name)))
    parts.append(_section("`connect`", list(_ways()), "a word, a connection spec, or a mapping with these keys"))
    return "\n".join(parts)


def _section(title: str, rows: list[str], text: str = "") -> str:
    return "\n".join(
        [f"## {title}", "", *([f"{text[0].upper()}{text[1:]}." if text else "", ""] if text else []), *rows, ""]
    )


def _table(fields: Iterable[str], table: Fields, name: str) -> list[str]:
    texts = EXPLAINED["settings"] if name == "settings" else key_texts(table)
    required = set(table.required)
    shown = [(key, table.fields[key]) for key in fields if key not in table.hidden]
    return _rows((key, holds(one, key) + (" (needed)" if key in required else ""), texts[key]) for key, one in shown)


def _rows(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    body = [f"| `{key}` | {what.replace('|', chr(92) + '|')} | {text} |" for key, what, text in rows]
    return ["| key | holds | |", "|---|---|---|", *body]


def _ways() -> Iterator[str]:
    every: dict[str, list[str]] = {}
    for via, way in schema.CONNECT.items():
        for key in way.fields:
            every.setdefault(key, []).append(via)
    yield "| key | holds | with | |"
    yield "|---|---|---|---|"
    for key, vias in every.items():
        shape = schema.CONNECT[vias[0]].fields[key]
        yield f"| `{key}` | {holds(shape, key)} | {' '.join(vias)} | {EXPLAINED['connect'][key]} |"


def holds(shape: Shape | None, key: str = "") -> str:
    """What a shape takes, in words."""
    if isinstance(shape, Placed):
        return holds(shape.shape, key)
    if isinstance(shape, ListOf):
        item = holds(shape.item, key)
        return f"{item}, or a list of such" if shape.single else f"a list: {item}"
    if isinstance(shape, OneOf):
        return ", or ".join(holds(one, key) for one in (shape.leaf, shape.items, shape.table) if one is not None)
    if isinstance(shape, Free):
        inner = "values" if isinstance(shape.value, (Value, Placed)) else holds(shape.value, key) + "s"
        return f"names and {inner}"
    if isinstance(shape, Fields):
        anchor = {"chap": "chap-of-san", "luns": "a-unit-of-san"}.get(key, key)
        return f"[a mapping](#{anchor})"
    if isinstance(shape, Choice):
        return " ".join(f"`{word}`" for word in shape.words)
    if isinstance(shape, Whole):
        return f"a number from {shape.low} to {shape.high}"
    if isinstance(shape, Text):
        return ("a name" if shape.pattern == schema.IDENTIFIER else "text") + (
            ", may be secret" if shape.secret else ""
        )
    names: dict[object, str] = {
        Flag: "`true` `false`",
        Duration: "a span",
        Code: "text",
        Value: "any value",
        RoleNames: "a name, or a list of such",
    }
    if isinstance(shape, Connect):
        return "[a word, a spec, or a mapping](#connect)"
    return names[type(shape)]
