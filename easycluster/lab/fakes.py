"""Fakes: code of the lab file's ``simulate:`` that stands in for parts of a role's code, and what must be true of it.

A fake that takes other arguments than what it stands for would have tests pass that fail on the lab, so the two are
held against each other when the lab file is read: by their source, since neither need run here.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from easycluster.lab.positions import Problems, did_you_mean
from easycluster.lab.rolecode import CodeBlock, bindings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from easycluster.lab.positions import Place

__all__ = ["Fakes", "check_fakes", "faked_names", "imported_modules", "without"]

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Fakes:
    """What ``simulate:`` says of one role.

    Attributes:
        blocks: Code that is laid over the role's.
        capabilities: What its simulated hosts can do, over what the lab file says of the real ones.
    """

    blocks: tuple[CodeBlock, ...] = ()
    capabilities: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class _Defined:
    """A function, class or other name of some code."""

    node: ast.AST
    place: Place

    @property
    def arguments(self) -> ast.arguments | None:
        return self.node.args if isinstance(self.node, _FUNCTIONS) else None


def check_fakes(role: str, real: Sequence[CodeBlock], fakes: Sequence[CodeBlock], problems: Problems) -> None:
    """Note fakes that differ from what they stand for, and those that probably stand for nothing.

    Args:
        role: Name of the role.
        real: Its code.
        fakes: The code of ``simulate:``.
        problems: Takes faults.
    """
    have, given = _definitions(real), _definitions(fakes)
    for name, fake in given.items():
        if name in have:
            _compare(name, have[name], fake, problems)
        elif isinstance(fake.node, (*_FUNCTIONS, ast.ClassDef)) and not name.startswith("_") and "." not in name:
            hint = did_you_mean(name, {one: found.place for one, found in have.items() if one not in given})
            if hint:
                problems.add(fake.place, f"fake {name!r} stands for nothing in the code of role {role!r}", hint)


def _compare(name: str, real: _Defined, fake: _Defined, problems: Problems) -> None:
    where = f"({real.place.file}:{real.place.line})"
    if isinstance(real.node, ast.ClassDef):
        if isinstance(fake.node, ast.ClassDef) and not fake.node.bases:
            lacks = [one for one in _methods(real.node) if one not in _methods(fake.node) and not one.startswith("_")]
            if lacks:
                text = f"fake class {name!r} lacks {', '.join(lacks)} of the real one {where}"
                problems.add(fake.place, text, f"add it, or begin with  class {name}({name}):")
        return
    if real.arguments is None or isinstance(fake.node, ast.ClassDef):
        return
    if fake.arguments is None:
        if not isinstance(fake.node, (ast.Import, ast.ImportFrom)):
            text = f"fake {name!r} is no def, so its arguments cannot be seen"
            problems.add(fake.place, text, f"write  def {name}({_shown(real.arguments)}):")
        return
    if _shape(real.arguments) != _shape(fake.arguments):
        text = f"fake {name}({_shown(fake.arguments)}) differs from the real {name}({_shown(real.arguments)}) {where}"
        problems.add(fake.place, text, "give it the same arguments")


def _definitions(blocks: Sequence[CodeBlock]) -> dict[str, _Defined]:
    """Names that code binds at module level, and ``Class.method``; of two, the last counts."""
    found: dict[str, _Defined] = {}
    for block in blocks:
        try:
            tree = ast.parse(block.source)
        except (SyntaxError, ValueError):
            continue  # noted already
        lines = block.source.split("\n")
        for name, node in bindings(tree.body):
            found[name] = _Defined(node, _place(block, lines, node, name))
            if isinstance(node, ast.ClassDef):
                for method in _methods(node).values():
                    found[f"{name}.{method.name}"] = _Defined(method, _place(block, lines, method, method.name))
    return found


def _place(block: CodeBlock, lines: list[str], node: Any, name: str) -> Place:
    text = lines[node.lineno - 1] if node.lineno <= len(lines) else ""
    column = text.find(name, node.col_offset)
    return block.place(node.lineno, max(column, node.col_offset), len(name) if column >= 0 else 1)


def _methods(node: ast.ClassDef) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    return {one.name: one for one in node.body if isinstance(one, _FUNCTIONS)}


def _shape(arguments: ast.arguments) -> tuple[object, ...]:
    """What callers can see of arguments: names, order, kinds, and which may be left out."""
    every = [*arguments.posonlyargs, *arguments.args]
    return (
        len(arguments.posonlyargs),
        [one.arg for one in arguments.args],
        len(every) - len(arguments.defaults),
        arguments.vararg is not None,
        {one.arg: default is None for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)},
        arguments.kwarg is not None,
    )


def _shown(arguments: ast.arguments) -> str:
    """The arguments as they are written, annotations apart."""
    copy = ast.parse(f"def f({ast.unparse(arguments)}): pass").body[0]
    assert isinstance(copy, ast.FunctionDef)
    for node in ast.walk(copy.args):
        if isinstance(node, ast.arg):
            node.annotation = None
    return ast.unparse(copy.args)


def without(block: CodeBlock, names: set[str]) -> CodeBlock:
    """A block of real code without the statements that only define what has fakes: they may not work here.

    Lines stay where they are.  What a fake is made of (``class Gpu(Gpu):``) is not to be among the names.
    """
    try:
        body = ast.parse(block.source).body
    except (SyntaxError, ValueError):
        return block
    spans = [_span(node) for node in body]
    lines = block.source.split("\n")
    for number, (node, (first, last)) in enumerate(zip(body, spans, strict=True)):
        bound = {name for name, _node in bindings([node])}
        before = spans[number - 1][1] if number else 0
        after = spans[number + 1][0] if number + 1 < len(spans) else last + 1
        if bound and bound <= names and before < first and last < after:
            lines[first - 1 : last] = [""] * (last - first + 1)
    return replace(block, source="\n".join(lines))


def _span(node: ast.stmt) -> tuple[int, int]:
    first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])
    return first, node.end_lineno or node.lineno


def faked_names(fakes: Sequence[CodeBlock]) -> set[str]:
    """Names that fakes define without using the real ones."""
    found: set[str] = set()
    for name, one in _definitions(fakes).items():
        node = one.node
        real = isinstance(node, ast.ClassDef) and any(
            isinstance(part, ast.Name) and part.id == name for base in node.bases for part in ast.walk(base)
        )
        if "." not in name and not real:
            found.add(name)
    return found


def imported_modules(blocks: Sequence[CodeBlock]) -> list[str]:
    """Top-level names of the modules that code imports without being able to do without them."""
    found: dict[str, None] = {}
    for block in blocks:
        try:
            tree = ast.parse(block.source)
        except (SyntaxError, ValueError):
            continue
        for name in _imports(tree.body):
            found[name.partition(".")[0]] = None
    return list(found)


def _imports(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Those of a module itself and of its functions; code in ``try`` knows what to do without them."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module and not node.level:
                yield node.module
        elif not isinstance(node, ast.Try):
            yield from _imports(getattr(node, "body", None) or [])
            yield from _imports(getattr(node, "orelse", None) or [])
