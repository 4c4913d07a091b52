"""Shapes: what a place in the inventory may hold.  A shape reads a node into a plain value, or notes problems.

Shapes are values, so that the tables of :mod:`easycluster.lab.schema` are the one definition of the format.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from easycluster.lab.positions import Items, Leaf, Table, did_you_mean, is_boolean_word
from easycluster.lab.variables import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from easycluster.lab.positions import Node, Place, Problems
    from easycluster.lab.variables import Scope

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?[0-9]{1,15}\.[0-9]{1,15}")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Bad(Enum):
    """Stands for a value that could not be read; the problem is noted already."""

    BAD = "bad"


BAD: Final = Bad.BAD


@dataclass(frozen=True)
class Reading:
    """The circumstances of reading a node.

    Attributes:
        problems: Takes faults.
        scope: What ``${NAME}`` means here.
        where: What the node belongs to, as messages say it: ``connect of host 'encoder'``.
    """

    problems: Problems
    scope: Scope
    where: str

    def inside(self, key: str) -> Reading:
        """The circumstances one key further in."""
        return replace(self, where=f"{key} of {self.where}" if self.where else key)


class Shape(Protocol):
    """What a place may hold."""

    def read(self, node: Node, at: Reading) -> Any:
        """The value of ``node``, or :data:`BAD` after noting why not."""


def typed(text: str) -> bool | int | float | str | None:
    """A plain scalar's value: a number only if writing it again gives the same text (``022``, ``1.10`` are texts)."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text) and str(float(text)) == text:
        return float(text)
    return text


def described(value: object) -> str:
    """A value in the words of a message: ``the text "eight"``, ``the number 8``."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, Secret):
        return "a secret"
    if isinstance(value, str):
        return f'the text "{value}"' if len(value) <= 60 else f'the text "{value[:57]}..."'
    return "a mapping" if isinstance(value, dict) else "a list"


def describe_node(node: Node) -> str:
    """What is written there, in the words of a message."""
    if isinstance(node, Items):
        return "a list"
    if isinstance(node, Table):
        return "a mapping"
    if node.secret:
        return "a secret"
    return described(typed(node.text) if node.plain else node.text)


def is_empty(node: Node) -> bool:
    """Whether nothing is written there, as after ``gpu1:``."""
    return isinstance(node, Leaf) and node.plain and not node.secret and typed(node.text) is None


def _wrong(node: Node, at: Reading, wanted: str, hint: str = "") -> Literal[Bad.BAD]:
    if not (isinstance(node, Leaf) and node.is_unreadable):
        at.problems.add(node.place, f"{at.where} is {describe_node(node)}; {wanted}", hint)
    return BAD


@dataclass(frozen=True)
class Text:
    """A text.  A number is taken as it is written; ``secret=True`` allows ``!secret`` and gives a ``Secret``."""

    wanted: str = "a text is wanted"
    secret: bool = False
    pattern: str = ""

    def read(self, node: Node, at: Reading) -> str | Secret | Bad:
        """See Shape."""
        if not isinstance(node, Leaf) or is_empty(node):
            return _wrong(node, at, self.wanted)
        expanded = at.scope.expand(node, at.problems)
        if expanded is None:
            return BAD
        if expanded.secret:
            if self.secret:
                return Secret(expanded.text)
            at.problems.add(node.place, f"{at.where} cannot be a secret: messages and reports show it")
            return BAD
        if self.pattern and not re.fullmatch(self.pattern, expanded.text):
            at.problems.add(node.place, f"{at.where} is {described(expanded.text)}; {self.wanted}")
            return BAD
        return expanded.text


@dataclass(frozen=True)
class Code:
    """Python source: taken as written, ``$`` included; read into the leaf, whose place the code keeps."""

    def read(self, node: Node, at: Reading) -> Leaf | Bad:
        """See Shape."""
        if not isinstance(node, Leaf) or is_empty(node):
            return _wrong(node, at, "Python source is wanted, as in  code: |")
        return BAD if node.is_unreadable else node


@dataclass(frozen=True)
class Value:
    """Any scalar with its own type, or lists and mappings of such."""

    scalar: bool = False

    def read(self, node: Node, at: Reading) -> Any:
        """See Shape."""
        if isinstance(node, Leaf):
            expanded = at.scope.expand(node, at.problems)
            if expanded is None:
                return BAD
            if expanded.secret:
                return Secret(expanded.text)
            return typed(expanded.text) if node.plain else expanded.text
        if self.scalar:
            return _wrong(node, at, "a text, number or boolean is wanted")
        if isinstance(node, Items):
            return [value for one in node.items if (value := self.read(one, at)) is not BAD]
        return Free(self).read(node, at)


@dataclass(frozen=True)
class Flag:
    """``true`` or ``false``."""

    def read(self, node: Node, at: Reading) -> bool | Bad:
        """See Shape."""
        value: object = Value(scalar=True).read(node, at)
        if isinstance(value, (bool, Bad)):
            return value
        return _wrong(node, at, "write true or false")


@dataclass(frozen=True)
class Whole:
    """A whole number within bounds."""

    low: int = 0
    high: int = 2**31 - 1
    wanted: str = ""

    def read(self, node: Node, at: Reading) -> int | Bad:
        """See Shape."""
        value: object = Value(scalar=True).read(node, at)
        if value is BAD:
            return BAD
        # "${PORT}" has to be quoted inside { }, so a quoted number is a number here.
        value = typed(value) if isinstance(value, str) else value
        if isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high:
            return value
        return _wrong(node, at, self.wanted or f"a whole number from {self.low} to {self.high} is wanted")


@dataclass(frozen=True)
class Duration:
    """A span of time: ``500ms``, ``10s``, ``5m``, ``1h``, ``2d``; a bare number counts seconds.  Read as seconds."""

    def read(self, node: Node, at: Reading) -> float | Bad:
        """See Shape."""
        value: object = Value(scalar=True).read(node, at)
        if value is BAD:
            return BAD
        value = typed(value) if isinstance(value, str) else value
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
            return float(value)
        if isinstance(value, str) and (match := _DURATION.fullmatch(value)) and float(match[1]) > 0:
            return float(match[1]) * _SECONDS[match[2]]
        return _wrong(node, at, "a span of time is wanted, such as 500ms, 10s, 5m, 1h or 2d")


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def read(self, node: Node, at: Reading) -> str | Bad:
        """See Shape."""
        wanted = f"write {', '.join(self.words[:-1])} or {self.words[-1]}"
        text = Text(wanted).read(node, at)
        if text is BAD or text in self.words:
            return text  # type: ignore[return-value]  # Text without secret= never gives a Secret
        return _wrong(node, at, wanted, did_you_mean(str(text), self.words))


@dataclass(frozen=True)
class ListOf:
    """A list; ``single=True`` also takes one item by itself."""

    item: Shape
    single: bool = False

    def read(self, node: Node, at: Reading) -> tuple[Any, ...] | Bad:
        """See Shape."""
        if isinstance(node, Items):
            return tuple(value for one in node.items if (value := self.item.read(one, at)) is not BAD)
        if self.single:
            value = self.item.read(node, at)
            return BAD if value is BAD else (value,)
        return _wrong(node, at, "a list is wanted, as in  [a, b]")


@dataclass(frozen=True)
class Placed:
    """What ``shape`` reads, paired with its place."""

    shape: Shape

    def read(self, node: Node, at: Reading) -> tuple[Any, Place] | Bad:
        """See Shape."""
        value = self.shape.read(node, at)
        return BAD if value is BAD else (value, node.place)


@dataclass(frozen=True)
class Free:
    """A mapping whose keys are the user's own."""

    value: Shape

    def read(self, node: Node, at: Reading) -> dict[str, Any] | Bad:
        """See Shape."""
        if is_empty(node):
            return {}
        if not isinstance(node, Table):
            return _wrong(node, at, "a mapping is wanted, as in  {key: value}")
        result: dict[str, Any] = {}
        for key, entry in node.entries.items():
            if is_boolean_word(entry.key):
                text = f"key {key!r} of {at.where} is a boolean to other YAML readers"
                at.problems.add(entry.key.place, text, f'quote it: "{key}"')
                continue
            value = self.value.read(entry.value, at.inside(f"'{key}'"))
            if value is not BAD:
                result[key] = value
        return result


@dataclass(frozen=True)
class Fields:
    """A mapping with known keys; ``x-`` keys are the user's own and ignored."""

    fields: Mapping[str, Shape]
    required: tuple[str, ...] = ()
    hidden: frozenset[str] = field(default_factory=frozenset)

    def read(self, node: Node, at: Reading) -> dict[str, Any] | Bad:
        """See Shape."""
        if is_empty(node):
            return {}
        if not isinstance(node, Table):
            return _wrong(node, at, f"a mapping is wanted with some of: {' '.join(self.shown)}")
        check_keys(node, self.shown, at)
        for key in self.required:
            if key not in node.entries:
                at.problems.add(node.place, f"{at.where} lacks {key!r}")
        result: dict[str, Any] = {}
        for key, entry in node.entries.items():
            if key in self.fields:
                value = self.fields[key].read(entry.value, at.inside(key))
                if value is not BAD:
                    result[key] = value
        return result

    @property
    def shown(self) -> list[str]:
        """The keys that messages list."""
        return [key for key in self.fields if key not in self.hidden]


@dataclass(frozen=True)
class OneOf:
    """Different shapes for a scalar, a list and a mapping."""

    leaf: Shape | None = None
    items: Shape | None = None
    table: Shape | None = None
    wanted: str = ""

    def read(self, node: Node, at: Reading) -> Any:
        """See Shape."""
        shape = self.leaf if isinstance(node, Leaf) else self.items if isinstance(node, Items) else self.table
        return shape.read(node, at) if shape is not None else _wrong(node, at, self.wanted)


def check_keys(table: Table, known: list[str], at: Reading) -> None:
    """Note every key that is not known."""
    for key, entry in table.entries.items():
        if key in known or key.startswith("x-"):
            continue
        guess = did_you_mean(key, known)
        listed = f"known: {' '.join(known)}"
        text = f"unknown key {key!r} in {at.where}" if at.where else f"unknown key {key!r}"
        at.problems.add(entry.key.place, text, f"{guess}  {listed}" if guess else listed)
