"""The code of a role: where it comes from, what it defines, and the module it becomes on both sides."""

from __future__ import annotations

import ast
import hashlib
import re
import sys
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

from easycluster.lab.positions import Place, Problems, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from easycluster.lab.positions import Leaf

# Modules of roles are importable here, so that classes of role code can be named in tests and pickled both ways.  Not
# below `easycluster`, whose frames are left out of tracebacks.
PACKAGE: Final = "easycluster_roles"

# The names of a Host that are ours.  Role code that defined one of them would be out of reach.
HOST_NAMES: Final = (
    "name",
    "address",
    "aio",
    "call",
    "run",
    "put",
    "get",
    "power",
    "reboot",
    "console",
    "link",
    "undo",
    "expect_loss",
    "remote",
    "gpu",
    "san",
)


@dataclass(frozen=True)
class CodeBlock:
    """One piece of a role's code.

    Attributes:
        source: Its text.
        path: The file it is in: an entry of ``code_files:``, or the lab file for ``code:``.
        shown: How messages name its file.
        first_line: Line of that file that the first line of ``source`` is on.
        column: Columns that the inventory's indentation took from each line.
    """

    source: str
    path: Path
    shown: str
    first_line: int = 1
    column: int = 0

    def place(self, line: int, offset: int, width: int = 1) -> Place:
        """Where line ``line`` (from 1), character ``offset`` (from 0) of the source stands."""
        return Place(self.shown, self.first_line + line - 1, self.column + offset + 1, width)


def inline_block(leaf: Leaf, folder: Path, problems: Problems) -> CodeBlock:
    """The block for a ``code:`` key of a lab file in ``folder``."""
    path = folder / Path(leaf.place.file).name
    if not leaf.block:
        return CodeBlock(leaf.text, path, leaf.place.file, leaf.place.line, leaf.place.column - 1)
    first = leaf.place.line + 1
    line = next((one for one in leaf.text.split("\n") if one.strip()), "")
    number = leaf.text.split("\n").index(line) if line else 0
    written = problems.line(Place(leaf.place.file, first + number, 1))
    return CodeBlock(leaf.text, path, leaf.place.file, first, max(0, len(written.rstrip()) - len(line.rstrip())))


def file_block(name: str, place: Place, folder: Path, problems: Problems) -> CodeBlock | None:
    """The block for an entry of ``code_files:``, or None if the file cannot be read (a problem is noted)."""
    path = folder / Path(name).expanduser()
    shown = str(Path(place.file).parent / name)
    try:
        data = path.read_bytes()
    except OSError as exc:
        nearby = sorted(one.name for one in path.parent.glob("*.py")) if path.parent.is_dir() else []
        why = "does not exist" if isinstance(exc, FileNotFoundError) else f"cannot be read: {exc.strerror}"
        problems.add(place, f"code file {name!r} {why}", did_you_mean(path.name, nearby))
        return None
    try:
        source = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        problems.add(place, f"code file {name!r} is not UTF-8 text")
        return None
    problems.add_file(shown, source)
    return CodeBlock(source, path.absolute(), shown)


def defined_names(block: CodeBlock, problems: Problems) -> dict[str, Place] | None:
    """The names that a block gives to its module, with their places; None if it cannot be parsed."""
    try:
        tree = ast.parse(block.source)
    except SyntaxError as exc:
        line, column = exc.lineno or 1, (exc.offset or 1) - 1
        width = (exc.end_offset or 0) - (exc.offset or 0) if exc.end_lineno == exc.lineno else 1
        problems.add(block.place(line, max(0, column), max(1, width)), f"is not Python: {exc.msg}")
        return None
    except ValueError as exc:
        problems.add(block.place(1, 0), f"is not Python: {exc}")
        return None
    found: dict[str, Place] = {}
    lines = block.source.split("\n")
    for name, node in bindings(tree.body):
        text = lines[node.lineno - 1] if node.lineno <= len(lines) else ""
        # The statement may begin with 'def' or 'from x import'; the caret belongs under the name.
        match = re.compile(rf"\b{re.escape(name)}\b").search(text, node.col_offset)
        offset = match.start() if match else node.col_offset
        found.setdefault(name, block.place(node.lineno, offset, len(name) if match else 1))
    return found


def bindings(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt | ast.expr]]:
    """Names bound at module level, also inside ``if``, ``try``, ``with`` and loops."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield (alias.asname or alias.name).partition(".")[0], node
            continue
        for expression in ast.iter_child_nodes(node):
            if isinstance(expression, ast.expr):
                yield from _stored(expression)
        if isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                yield from _stored(item.optional_vars) if item.optional_vars is not None else ()
        for part in ("body", "orelse", "finalbody"):
            yield from bindings(getattr(node, part, None) or [])
        for inner in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
            yield from bindings(inner.body)


def _stored(expression: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(expression, ast.Name) and isinstance(expression.ctx, ast.Store):
        yield expression.id, expression
    elif isinstance(expression, (ast.Tuple, ast.List)):
        for item in expression.elts:
            yield from _stored(item)
    elif isinstance(expression, ast.Starred):
        yield from _stored(expression.value)


def check_names(role: str, blocks: list[CodeBlock], problems: Problems) -> dict[str, Place]:
    """Note names of ours that a role's code defines; returns everything it defines."""
    every: dict[str, Place] = {}
    for block in blocks:
        for name, place in (defined_names(block, problems) or {}).items():
            every.setdefault(name, place)
            if name in HOST_NAMES:
                problems.add(
                    place,
                    f"the code of role {role!r} defines {name!r}, which is a name of every host",
                    f"rename it; taken: {' '.join(HOST_NAMES)}",
                )
    return every


@lru_cache(maxsize=64)
def names_of(blocks: tuple[CodeBlock, ...]) -> frozenset[str]:
    """The names that a role's code can be seen to define."""
    return frozenset(name for block in blocks for name in defined_names(block, Problems([])) or {})


_lock = threading.Lock()
_defined: dict[str, str] = {}


def define_module(role: str, blocks: tuple[CodeBlock, ...]) -> str:
    """Make the definitions module of a role and return its name.

    The name is ``easycluster_roles.ROLE``, so tests write ``from easycluster_roles.gpu import DriverError``; the code
    is evaluated here when something first asks for one of its names.  The same code loaded again is the same module;
    another lab's role of the same name but other code becomes ``ROLE_2`` and so on.
    """
    from easycluster.definitions import definitions_module

    digest = hashlib.sha256("\0".join(f"{block.path}\0{block.source}" for block in blocks).encode()).hexdigest()
    base = f"{PACKAGE}.{role.replace('-', '_')}"
    with _lock:
        if PACKAGE not in sys.modules:
            package = ModuleType(PACKAGE, "The code of the roles of the lab.")
            package.__path__ = []
            sys.modules[PACKAGE] = package
        number, name = 1, base
        while _defined.get(name, digest) != digest:
            number += 1
            name = f"{base}_{number}"
        if name not in _defined:
            module = definitions_module(name)
            for block in blocks:
                module.define(block.source, local="lazy", filename=block.path, first_line=block.first_line)
            _defined[name] = digest
    return name
