"""A JSON Schema of the lab file, for editors; made from the shapes that the reader itself goes by.

``${NAME}`` may stand for any scalar, so every number and word may also be a text with such a reference.  What JSON
Schema cannot say (that a role is defined, that two ranges do not overlap) is left to ``easycluster check``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from easycluster.lab import schema
from easycluster.lab.explained import EXPLAINED, explain
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
    from easycluster.lab.shapes import Shape

DIALECT: Final = "http://json-schema.org/draft-07/schema#"

Schema = dict[str, Any]

# What ${NAME} makes possible anywhere.
_REFERENCE: Final[Schema] = {"type": "string", "pattern": r"\$\{"}
_EMPTY: Final[Schema] = {"type": "null"}
_DURATION: Final = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d)?)$"


def lab_schema() -> Schema:
    """The schema of a whole lab file."""
    named = {"hosts": schema.HOST, "roles": schema.ROLE, "groups": schema.GROUP, "fixtures": schema.FIXTURE}
    shapes: dict[str, Schema] = {
        "version": {"const": 1},
        "name": of(schema.text),
        "include": of(schema.some_texts),
        "vars": of(schema.SETTINGS["vars"]),
        "defaults": of(schema.DEFAULTS),
        "quarantine": {"anyOf": [{"type": "array", "items": of(schema.QUARANTINE)}, _EMPTY]},
        "simulate": _named(schema.SIMULATE),
        **{key: _named(shape) for key, shape in named.items()},
    }
    shapes["hosts"]["anyOf"].append({"type": "array", "items": {"type": "string"}})
    return {
        "$schema": DIALECT,
        "title": "EasyCluster lab file",
        "description": "Hosts of a lab, what they can do and how they are reached: pytest --ec-inventory lab.yaml",
        "type": "object",
        "properties": {key: _described(shapes[key], EXPLAINED["file"].get(key, "")) for key in schema.SECTIONS},
        "patternProperties": {"^x-": {}},
        "additionalProperties": False,
        "definitions": {key: of(shape) for key, shape in schema.SETTINGS.items()},
    }


def of(shape: Shape) -> Schema:
    """The schema of what one shape reads.

    Raises:
        TypeError: If it is a shape that this module does not know yet.
    """
    if isinstance(shape, Fields):
        return _fields(shape)
    if isinstance(shape, Free):
        return _or_empty({"type": "object", "additionalProperties": of(shape.value)})
    if isinstance(shape, Placed):
        return of(shape.shape)
    if isinstance(shape, ListOf):
        many = {"type": "array", "items": of(shape.item)}
        return {"anyOf": [of(shape.item), many]} if shape.single else many
    if isinstance(shape, OneOf):
        return {"anyOf": [of(one) for one in (shape.leaf, shape.items, shape.table) if one is not None]}
    if isinstance(shape, RoleNames):
        return of(ListOf(Text(), single=True))
    if isinstance(shape, Connect):
        return _connect()
    return _scalar(shape)


def _scalar(shape: Shape) -> Schema:
    if isinstance(shape, Text):
        pattern = {"pattern": f"^({shape.pattern})$"} if shape.pattern else {}
        # A number is taken as it is written; YAML readers hand it to the schema as a number.
        return {"type": "string", **pattern} if pattern else {"type": ["string", "number", "boolean"]}
    if isinstance(shape, Code):
        return {"type": "string"}
    if isinstance(shape, Flag):
        return {"anyOf": [{"type": "boolean"}, _REFERENCE]}
    if isinstance(shape, Whole):
        return {"anyOf": [{"type": "integer", "minimum": shape.low, "maximum": shape.high}, _REFERENCE]}
    if isinstance(shape, Duration):
        texts = {"type": "string", "pattern": _DURATION}
        return {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, texts, _REFERENCE]}
    if isinstance(shape, Choice):
        return {"anyOf": [{"enum": list(shape.words)}, _REFERENCE]}
    if isinstance(shape, Value):
        return {} if not shape.scalar else {"type": ["string", "number", "boolean", "null"]}
    raise TypeError(f"no JSON Schema for {shape!r}")


def _fields(shape: Fields) -> Schema:
    found: Schema = {
        "type": "object",
        "properties": {
            key: _described(_setting(key, one), explain(shape, key))
            for key, one in shape.fields.items()
            if key not in shape.hidden
        },
        "patternProperties": {"^x-": {}},
        "additionalProperties": False,
    }
    if shape.required:
        return {**found, "required": list(shape.required)}
    return _or_empty(found)


def _described(one: Schema, text: str) -> Schema:
    """The schema of a key with what editors show of it.  Beside a reference, readers of draft 7 would not see it."""
    if not text:
        return one
    return {"description": text, **({"allOf": [one]} if "$ref" in one else one)}


def _setting(key: str, shape: Shape) -> Schema:
    """What one key holds; settings that many sections have are defined once."""
    return {"$ref": f"#/definitions/{key}"} if schema.SETTINGS.get(key) is shape else of(shape)


def _named(shape: Fields) -> Schema:
    """A section: names of the user's own, each with such a mapping."""
    return _or_empty({"type": "object", "patternProperties": {"^x-": {}}, "additionalProperties": of(shape)})


def _connect() -> Schema:
    ways = []
    for via, way in schema.CONNECT.items():
        ways.append({**_connect_table({**way.fields, "via": Choice((via,))}), "required": ["via"]})
    every = {key: one for way in schema.CONNECT.values() for key, one in way.fields.items() if key != "via"}
    return {"anyOf": [{"type": "string"}, *ways, _connect_table(every)]}


def _connect_table(fields: dict[str, Shape]) -> Schema:
    table: Schema = of(Fields(fields))["anyOf"][0]
    texts = EXPLAINED["connect"]
    said = {key: _described(one, texts.get(key, "")) for key, one in table["properties"].items()}
    return {**table, "properties": said}


def _or_empty(one: Schema) -> Schema:
    return {"anyOf": [one, _EMPTY]}
