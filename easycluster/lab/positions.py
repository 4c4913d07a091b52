"""YAML with a position for everything: what is wrong, where, and what was probably meant.

:func:`read_tree` composes a YAML file into :class:`Leaf`, :class:`Items` and :class:`Table`, which keep line and
column and leave the scalars as they were written; PyYAML's own types would turn ``022`` into 18, ``12:34:56`` into
45296 and ``1.10`` into 1.1, and let the second of two equal keys win.  Readers report to one :class:`Problems`, so
that all faults of a file are seen at once.
"""

from __future__ import annotations

import difflib
import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml

from easycluster.errors import EasyClusterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

# An alias can stand for a tree of aliases ("billion laughs"); no honest inventory has this many nodes.
MAX_NODES = 200_000
MAX_EXCERPT = 160
# Stands for text that could not be read but is reported already; a private-use character, so never in a real file.
UNREADABLE = "\ue000"

_UNQUOTED_VARIABLE = re.compile(r"\$\{[^{}\n]*\}")
_SECRET_TEXT = re.compile(r"(!secret\s+)(.*)")
_KEY_TEXT = re.compile(r"(\bkey=)([^\s:\"',}]+)")
_SECTION_WORDS = {"hosts": "host", "roles": "role", "groups": "group", "fixtures": "fixture", "vars": "variable"}
_BOOLEAN_WORDS = frozenset({"yes", "no", "on", "off", "true", "false", "null", "~"})


@dataclass(frozen=True, order=True)
class Place:
    """Where something stands: file as the user named it, line and column from 1, width in characters."""

    file: str
    line: int
    column: int
    width: int = field(default=1, compare=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def shifted(self, by: int, width: int) -> Place:
        """The place ``by`` characters further right."""
        return Place(self.file, self.line, self.column + by, width)


@dataclass(frozen=True)
class Leaf:
    """A scalar as written: no type is guessed until a reader says what it wants."""

    place: Place
    text: str
    plain: bool = True
    secret: bool = False
    block: bool = False

    def __repr__(self) -> str:
        return f"<Leaf {'***' if self.secret else repr(self.text)} at {self.place}>"

    @property
    def is_unreadable(self) -> bool:
        """Whether its text was reported as a problem already."""
        return UNREADABLE in self.text


@dataclass(frozen=True, eq=False)
class Items:
    """A sequence."""

    place: Place
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Entry:
    """One key of a table with its value."""

    key: Leaf
    value: Node


@dataclass(frozen=True, eq=False)
class Table:
    """A mapping; keys are text and keep the order of the file."""

    place: Place
    entries: Mapping[str, Entry]


Node = Leaf | Items | Table


@dataclass(frozen=True)
class Problem:
    """One fault: where, what is wrong, and what to write instead."""

    place: Place
    text: str
    hint: str = ""
    also: tuple[Place, ...] = ()

    def render(self, lines: Mapping[str, list[str]]) -> str:
        """The problem as people read it: position, sentence, excerpt with a caret, hint."""
        where = " and ".join(str(place) for place in (self.place, *self.also))
        head = f"{where}: {self.text}"
        source = lines.get(self.place.file, [])
        if not 0 < self.place.line <= len(source):
            return f"{head}      {self.hint}" if self.hint else head
        line = masked_line(source[self.place.line - 1])
        start = self.place.column - 1
        cut = max(0, start - MAX_EXCERPT // 2) if len(line) > MAX_EXCERPT else 0
        shown = line[cut : cut + MAX_EXCERPT]
        number = str(self.place.line)
        width = max(1, min(self.place.width, len(shown) - (start - cut)))
        # Tabs stay tabs, so that the caret stands under what it means in any terminal.
        indent = "".join("\t" if char == "\t" else " " for char in shown[: start - cut])
        caret = f"  {' ' * len(number)} | {indent}{'^' * width}"
        return f"{head}\n  {number} | {shown}\n{caret} {self.hint}".rstrip()


class InventoryError(EasyClusterError, ValueError):
    """A lab file is wrong; the message lists every problem with its position.

    Attributes:
        problems: All of them, in the order of the files.
    """

    def __init__(self, message: str, problems: Iterable[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.problems)


class Problems:
    """Collects faults while files are read, and raises them together.

    Args:
        given: What ``easycluster check`` has to be given to say the same; by default the first file.
    """

    def __init__(self, given: Iterable[str] = ()) -> None:
        self._given = tuple(given)
        self._found: dict[tuple[Place, str], Problem] = {}
        self._lines: dict[str, list[str]] = {}
        self._order: list[str] = []

    def __len__(self) -> int:
        return len(self._found)

    def add_file(self, name: str, text: str) -> None:
        """Remember the text of a file, so that problems in it can show their line."""
        if name not in self._lines:
            self._order.append(name)
        self._lines[name] = text.splitlines()

    def line(self, place: Place) -> str:
        """The line that ``place`` is on, ``""`` if it is not known."""
        source = self._lines.get(place.file, [])
        return source[place.line - 1] if 0 < place.line <= len(source) else ""

    def add(self, place: Place, text: str, hint: str = "", also: Iterable[Place] = ()) -> None:
        """Note a problem; the same sentence at the same place counts once (a range is read for each of its hosts)."""
        self._found.setdefault((place, text), Problem(place, text, hint, tuple(also)))

    def in_order(self) -> list[Problem]:
        """Every problem, file by file and line by line."""
        rank = {name: number for number, name in enumerate(self._order)}
        return sorted(self._found.values(), key=lambda one: (rank.get(one.place.file, len(rank)), one.place))

    def error(self) -> InventoryError:
        """One error that says everything."""
        problems = self.in_order()
        files = len({one.place.file for one in problems})
        count = f"{len(problems)} problem{'s' * (len(problems) != 1)} in {files} file{'s' * (files != 1)}"
        main = shlex.join(self._given or [self._order[0] if self._order else problems[0].place.file])
        last = f"{count}; nothing was connected.   Check again without running tests: easycluster check {main}"
        return InventoryError("\n".join([*(one.render(self._lines) for one in problems), last]), problems)

    def raise_if_any(self) -> None:
        """Raise what was found.

        Raises:
            InventoryError: If anything was.
        """
        if self._found:
            raise self.error()


def masked_line(line: str) -> str:
    """The line with what follows ``!secret`` (references like ``${VAR}`` apart) and ``key=`` hidden."""

    def hide(match: re.Match[str]) -> str:
        parts = re.split(r"(\$\{[^}]*\})", match.group(2))
        hidden = "".join(part if i % 2 else re.sub(r"[^\s}\]]", "*", part) for i, part in enumerate(parts))
        return match.group(1) + re.sub(r"(\$\{[^}]*\})[\s*]+$", r"\1", hidden)

    return _KEY_TEXT.sub(lambda m: m.group(1) + "*" * len(m.group(2)), _SECRET_TEXT.sub(hide, line))


def did_you_mean(word: str, known: Mapping[str, Place] | Iterable[str]) -> str:
    """``did you mean 'gpu' (defined at line 21)?``, or ``""`` when nothing is close."""
    names = list(known)
    by_fold = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(word.casefold(), by_fold, n=1, cutoff=0.6)
    if not close:
        return ""
    name = by_fold[close[0]]
    where = f" (defined at line {known[name].line})" if hasattr(known, "items") else ""  # type: ignore[index]
    return f"did you mean {name!r}{where}?"


def read_tree(path: Path, problems: Problems, shown: str | None = None) -> Node | None:
    """Read one YAML file.

    Args:
        path: The file.
        problems: Takes what is wrong with it.
        shown: How messages name the file; default is ``path`` as given.

    Returns:
        The tree, or None if there is none that could be read further.
    """
    name = shown or str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as exc:
        problems.add_file(name, "")
        problems.add(Place(name, 1, 1), f"cannot be read: {exc.strerror or exc}", _nearby(path))
        return None
    except UnicodeDecodeError as exc:
        problems.add_file(name, "")
        problems.add(Place(name, 1, 1), f"is not UTF-8 text (byte {exc.start})", "save it as UTF-8")
        return None
    problems.add_file(name, text)
    return parse_tree(text, name, problems)


def parse_tree(text: str, name: str, problems: Problems) -> Node | None:
    """Like :func:`read_tree`, for text that is already there; ``name`` is the file name of the positions."""
    problems.add_file(name, text)
    repaired = text
    while True:
        try:
            root = yaml.compose(repaired, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as exc:
            fixed = _quote_variable(repaired, name, exc, problems)
            if fixed is None:
                _report_syntax(exc, name, problems)
                return None
            repaired = fixed
        except yaml.YAMLError as exc:
            problems.add(Place(name, 1, 1), f"is not YAML: {' '.join(str(exc).split())}")
            return None
        else:
            break
    if root is None:
        problems.add(Place(name, 1, 1), "is empty", "the smallest lab is  hosts: {gpu1: {role: gpu}}")
        return None
    return _Converter(name, problems).convert(root, ())


def _nearby(path: Path) -> str:
    """A hint when a file with nearly this name is there."""
    try:
        names = [one.name for one in path.parent.iterdir()]
    except OSError:
        return ""
    return did_you_mean(path.name, names)


def _quote_variable(text: str, name: str, exc: yaml.MarkedYAMLError, problems: Problems) -> str | None:
    """Explain an unquoted ``${VAR}`` inside ``{ }`` and replace it, same width, so that reading can go on."""
    mark = exc.problem_mark
    if mark is None or mark.index is None:
        return None
    lines = text.splitlines(keepends=True)
    # The complaint can come a line late: a plain scalar may continue on the next line.
    for number in range(mark.line, max(-1, mark.line - 3), -1):
        if number >= len(lines):
            continue
        line = lines[number]
        for match in _UNQUOTED_VARIABLE.finditer(line):
            before = line[: match.start()]
            if not re.search(r"[{\[]", before) or before.count('"') % 2 or before.count("'") % 2:
                continue
            place = Place(name, number + 1, match.start() + 1, len(match.group()))
            problems.add(place, f'${{VAR}} inside {{ }} must be quoted in YAML: "{match.group()}"')
            lines[number] = line[: match.start()] + UNREADABLE * len(match.group()) + line[match.end() :]
            return "".join(lines)
    return None


def _report_syntax(exc: yaml.MarkedYAMLError, name: str, problems: Problems) -> None:
    mark = exc.problem_mark or exc.context_mark
    at_end = exc.problem is not None and ("<stream end>" in exc.problem or "end of stream" in exc.problem)
    if at_end and exc.context_mark is not None:
        # Nothing stands at the end of the file; what was never closed does.
        mark = exc.context_mark
    place = Place(name, mark.line + 1, mark.column + 1) if mark is not None else Place(name, 1, 1)
    said = ", ".join(part for part in (exc.context, exc.problem) if part)
    hint = "indent with spaces, never with tabs" if "'\\t'" in said else ""
    also = ""
    if exc.context_mark is not None and exc.context_mark.line + 1 != place.line:
        also = f" (began at line {exc.context_mark.line + 1})"
    problems.add(place, f"is not YAML: {said}{also}", hint)


class _Converter:
    """Turns PyYAML's nodes into ours; what YAML allows and an inventory does not is a problem."""

    def __init__(self, name: str, problems: Problems) -> None:
        self._name = name
        self._problems = problems
        self._count = 0

    def convert(self, node: yaml.Node, inside: tuple[yaml.Node, ...], section: str = "") -> Node | None:
        """The tree below ``node``; ``inside`` are the nodes around it, ``section`` the top-level key it is under."""
        self._count += 1
        if self._count == MAX_NODES:
            self._problems.add(self._place(node), "aliases make this file too large")
        if self._count >= MAX_NODES:
            return None
        if any(node is outer for outer in inside):
            self._problems.add(self._place(node), "an alias refers to the value it stands in")
            return None
        secret = self._tag(node)
        if isinstance(node, yaml.ScalarNode):
            block = node.style in ("|", ">")
            return Leaf(self._place(node), str(node.value), node.style is None, secret, block)
        if secret:
            self._problems.add(self._place(node), "!secret is for text, not for a list or mapping")
        if isinstance(node, yaml.SequenceNode):
            items = [self.convert(one, (*inside, node)) for one in node.value]
            return Items(self._place(node), tuple(one for one in items if one is not None))
        assert isinstance(node, yaml.MappingNode)
        return self._table(node, (*inside, node), section)

    def _table(self, node: yaml.MappingNode, inside: tuple[yaml.Node, ...], section: str) -> Table:
        entries: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._problems.add(self._place(key_node), "a key must be text", 'quote it, as in "gpu[01:04]":')
                continue
            key = Leaf(self._place(key_node), str(key_node.value), key_node.style is None)
            value = self.convert(value_node, inside, key.text if len(inside) == 1 else "")
            if value is None:
                continue
            if key.text == "<<" and key.plain:
                self._merge(value, merged)
            elif key.text in entries:
                self._duplicate(entries[key.text].key, key, section)
            else:
                entries[key.text] = Entry(key, value)
        return Table(self._place(node), {**merged, **entries} if merged else entries)

    def _merge(self, value: Node, merged: dict[str, Entry]) -> None:
        """YAML's ``<<: *other``: keys of another mapping that this one does not set itself."""
        for table in value.items if isinstance(value, Items) else (value,):
            if isinstance(table, Table):
                for name, entry in table.entries.items():
                    merged.setdefault(name, entry)
            else:
                self._problems.add(table.place, "'<<' takes a mapping, as in  <<: *other")

    def _duplicate(self, first: Leaf, second: Leaf, section: str) -> None:
        what = f"{_SECTION_WORDS[section]} {first.text!r} is defined" if section in _SECTION_WORDS else ""
        what = what or f"key {first.text!r} is written"
        text = f"{what} twice; YAML would silently keep the second"
        self._problems.add(first.place, text, also=(second.place,))

    def _tag(self, node: yaml.Node) -> bool:
        """True for ``!secret``; any other tag of the file's own is refused."""
        if node.tag == "!secret":
            return True
        if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.partition("python/")[1]:
            self._problems.add(self._place(node), f"unknown tag {node.tag!r}", "the only tag here is !secret")
        return False

    def _place(self, node: yaml.Node) -> Place:
        start, end = node.start_mark, node.end_mark
        collection = not isinstance(node, yaml.ScalarNode) and not getattr(node, "flow_style", False)
        width = 1 if collection or start.line != end.line else max(1, end.column - start.column)
        return Place(self._name, start.line + 1, start.column + 1, width)


def is_boolean_word(leaf: Leaf) -> bool:
    """Whether other YAML readers would take this key for a boolean or null (``on:`` becomes ``True:``)."""
    return leaf.plain and leaf.text.casefold() in _BOOLEAN_WORDS
