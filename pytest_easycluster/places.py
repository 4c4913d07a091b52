"""Where a marker stands in the source: pytest knows the test, and the source has the rest."""

from __future__ import annotations

import ast
import inspect
from typing import TYPE_CHECKING, Any

import pytest

from easycluster.lab import Place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_easycluster.markers import Fault

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Sources:
    """Reads each file once.

    Attributes:
        lines: The lines of every file read, by the name that places have.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._trees: dict[str, ast.Module | None] = {}
        self.lines: dict[str, list[str]] = {}

    def place(self, item: pytest.Item, fault: Fault, argument: str = "") -> Place:
        """Where a fault is: its part of the marker, else the marker, else the test.

        Args:
            item: The test.
            fault: What is wrong with it.
            argument: If the fault is about the test, the argument that it is about.
        """
        shown = item.location[0]
        tree = self._tree(str(item.path), shown)
        function = _function(tree, item) if tree is not None else None
        if tree is not None and fault.mark is not None:
            node = next((node for node, mark in item.iter_markers_with_node() if mark is fault.mark), item)
            scope = function if node is item else _scope(tree, node)
            found = _marker(scope, fault.mark) if scope is not None else None
            if found is not None:
                return self._of(shown, *_part(found, fault))
        if function is not None:
            for one in _arguments(function):
                if one.arg == argument:
                    return self._of(shown, one.lineno, one.col_offset, len(one.arg))
            return self._of(shown, *self._name_of(shown, function))
        return Place(shown, (item.location[1] or 0) + 1, 1)

    def _of(self, shown: str, line: int, offset: int, width: int) -> Place:
        """A place from what ast says, which counts bytes."""
        text = self.lines[shown][line - 1].encode()
        return Place(shown, line, len(text[:offset].decode()) + 1, max(1, width))

    def _name_of(self, shown: str, function: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[int, int, int]:
        text = self.lines[shown][function.lineno - 1]
        column = text.find(function.name, function.col_offset + 3)
        return function.lineno, max(column, function.col_offset), len(function.name)

    def _tree(self, path: str, shown: str) -> ast.Module | None:
        if path not in self._trees:
            try:
                with open(path, "rb") as file:
                    source = file.read()
                self._trees[path] = ast.parse(source)
                self.lines[shown] = source.decode().splitlines()
            except (OSError, SyntaxError, ValueError):
                self._trees[path] = None  # not Python, or not there: the test's own line has to do
        return self._trees[path]


def _function(tree: ast.Module, item: pytest.Item) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    code = getattr(inspect.unwrap(getattr(item, "function", None) or (lambda: None)), "__code__", None)
    if code is None:
        return None
    named = (node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS) and node.name == code.co_name)
    # A code object's first line is that of its first decorator.
    return next(
        (
            node
            for node in named
            if min([node.lineno, *(one.lineno for one in node.decorator_list)]) == code.co_firstlineno
        ),
        None,
    )


def _scope(tree: ast.Module, node: Any) -> ast.AST | None:
    """The class or module that a marker of an outer scope belongs to."""
    if not isinstance(node, pytest.Class):
        return tree
    names = [one.name for one in node.listchain() if isinstance(one, pytest.Class)]
    scope: ast.AST = tree
    for name in names:
        scope = next(
            (one for one in getattr(scope, "body", ()) if isinstance(one, ast.ClassDef) and one.name == name), tree
        )
    return scope


def _marker(scope: ast.AST, mark: pytest.Mark) -> ast.expr | None:
    """The expression that made a marker: the one with its arguments, else the first of its name."""
    found = [one for expression in _expressions(scope) for one in _uses(expression, mark.name)]
    alike = [one for one in found if _literals(one) == (mark.args, dict(mark.kwargs))]
    return next(iter([*alike, *found]), None)


def _expressions(scope: ast.AST) -> Iterator[ast.expr]:
    yield from getattr(scope, "decorator_list", ())
    if not isinstance(scope, _FUNCTIONS):
        for one in getattr(scope, "body", ()):
            if isinstance(one, ast.Assign) and any(
                isinstance(to, ast.Name) and to.id == "pytestmark" for to in one.targets
            ):
                yield one.value


def _uses(expression: ast.expr, name: str) -> Iterator[ast.expr]:
    called = set()
    for one in ast.walk(expression):
        if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute) and one.func.attr == name:
            called.add(one.func)
            yield one
        elif isinstance(one, ast.Attribute) and one.attr == name and one not in called:
            yield one


def _literals(use: ast.expr) -> tuple[tuple[Any, ...], dict[str | None, Any]] | None:
    if not isinstance(use, ast.Call):
        return (), {}
    try:
        named = {one.arg: ast.literal_eval(one.value) for one in use.keywords}
        return tuple(ast.literal_eval(one) for one in use.args), named
    except ValueError:
        return None


def _part(use: ast.expr, fault: Fault) -> tuple[int, int, int]:
    """Line, offset and width of the part of a marker that is at fault."""
    if isinstance(use, ast.Call):
        if isinstance(fault.at, int) and fault.at < len(use.args):
            return _extent(use.args[fault.at])
        for keyword in use.keywords:
            if f"{keyword.arg}=" == fault.at:
                return keyword.lineno, keyword.col_offset, len(str(keyword.arg))
            if keyword.arg == fault.at:
                return _extent(keyword.value)
        use = use.func
    assert isinstance(use, ast.Attribute)
    assert use.end_lineno is not None
    assert use.end_col_offset is not None
    return use.end_lineno, use.end_col_offset - len(use.attr), len(use.attr)


def _extent(node: ast.expr) -> tuple[int, int, int]:
    one_line = node.end_lineno == node.lineno and node.end_col_offset is not None
    return node.lineno, node.col_offset, (node.end_col_offset or 0) - node.col_offset if one_line else 1


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    every = function.args
    return [*every.posonlyargs, *every.args, *every.kwonlyargs]
