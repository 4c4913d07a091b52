"""What code says of its functions, classes and globals, read from its text: nothing of it is run."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Definition = ast.FunctionDef | ast.AsyncFunctionDef

# They leave the arguments of a function as they are written.
_HARMLESS: Final = frozenset({"staticmethod", "classmethod", "lru_cache", "cache"})
_FOR_ANNOTATIONS: Final = (
    *("from typing", "from collections.abc", "from dataclasses", "from abc", "from enum", "from easycluster"),
    *("import typing", "import easycluster"),
)
# Bases that add nothing that proxies have.
_CLOSED: Final = frozenset({"object", "ABC", "Generic", "Protocol"})


@dataclass(frozen=True)
class Function:
    """A function or method.

    Attributes:
        node: Its definition.
        kind: ``"function"``, or of a class ``"method"``, ``"static"``, ``"class"`` or ``"property"``.
        opaque: Whether only running it would tell what it takes, because of a decorator or a second definition.
    """

    node: Definition
    kind: str = "function"
    opaque: bool = False

    @property
    def doc(self) -> str:
        """The first line of its docstring, ``""`` if it has none."""
        return first_line(self.node)


@dataclass
class Class:
    """A class.

    Attributes:
        node: Its definition.
        functions: Its methods and properties, inherited ones of the same code included.
        attributes: What it and its objects have, with annotation or first value.
        is_exported: Whether its objects stay where they are and are used through proxies.
        is_open: Whether it has more than the code shows, from a base class of elsewhere.
        exports: What its proxies have if it says so, by ``export_methods`` and the like; a list that is not there, or
            has ``@auto``, is None.
    """

    node: ast.ClassDef
    functions: dict[str, Function] = field(default_factory=dict)
    attributes: dict[str, tuple[ast.expr | None, ast.expr | None]] = field(default_factory=dict)
    is_exported: bool = False
    is_open: bool = False
    exports: dict[str, frozenset[str] | None] = field(default_factory=dict)


@dataclass
class CodeText:
    """Everything that code binds at its top level, in order.

    Attributes:
        functions: By name.
        classes: By name.
        variables: Annotation and first value of each, either of which may be None.
        imports: Names that imports bind, with the statement that binds just this one.
    """

    functions: dict[str, Function] = field(default_factory=dict)
    classes: dict[str, Class] = field(default_factory=dict)
    variables: dict[str, tuple[ast.expr | None, ast.expr | None]] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """All names."""
        return {*self.functions, *self.classes, *self.variables, *self.imports}

    @property
    def reachable(self) -> set[str]:
        """Names that callers ask for; not those that are there for annotations, or ours."""
        imports = {name for name, said in self.imports.items() if not said.startswith(_FOR_ANNOTATIONS)}
        names = {*self.functions, *self.classes, *self.variables, *imports}
        return {name for name in names if not name.startswith("_")}

    @property
    def shadowing(self) -> set[str]:
        """Names that may mean something else inside a class of the stub."""
        members = (name for one in self.classes.values() for name in (*one.functions, *one.attributes))
        return {*self.reachable, *members}


def read_code(sources: Iterable[str]) -> CodeText:
    """Read the pieces of one definitions module.

    Raises:
        SyntaxError: If a piece is not Python.
        ValueError: If it holds null bytes.
    """
    code = CodeText()
    for source in sources:
        tree = ast.parse(source)
        for node, branch in _statements(tree.body):
            _note(code, node, branch)
    return code


def first_line(node: Definition | ast.ClassDef) -> str:
    """The first line of a docstring, ``""`` if there is none."""
    return (ast.get_docstring(node) or "").strip().partition("\n")[0].strip()


def own_nodes(node: Definition) -> Iterator[ast.AST]:
    """The nodes of a function's body, without those of functions and classes in it."""
    waiting: list[ast.AST] = list(node.body)
    while waiting:
        one = waiting.pop(0)
        yield one
        if not isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            waiting += ast.iter_child_nodes(one)


def _statements(body: list[ast.stmt], branch: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """The statements of a module, with those in ``if``, ``try``, ``with`` and loops, and whether they are inside."""
    for node in body:
        yield node, branch
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        for part in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(node, part, None) or [], branch=True)
        for inner in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
            yield from _statements(inner.body, branch=True)


def _note(code: CodeText, node: ast.stmt, branch: bool) -> None:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        # Of two branches only one is run, and only over there it is known which.
        twice = branch and node.name in code.names
        _forget(code, node.name)
        code.functions[node.name] = Function(node, opaque=twice or _is_opaque(node))
    elif isinstance(node, ast.ClassDef):
        _forget(code, node.name)
        code.classes[node.name] = _read_class(node, code)
    elif isinstance(node, ast.Import):
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            code.imports.setdefault(name, f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else ""))
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            if alias.name != "*" and not node.level and node.module != "__future__":
                renamed = f" as {alias.asname}" if alias.asname else ""
                said = f"from {node.module} import {alias.name}{renamed}"
                code.imports.setdefault(alias.asname or alias.name, said)
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        _note_variable(code, node.target.id, node.annotation, node.value)
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            for one in target.elts if isinstance(target, (ast.Tuple, ast.List)) else (target,):
                if isinstance(one, ast.Name):
                    _note_variable(code, one.id, None, node.value if one is target else None)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call = node.value
        if _last(call.func) == "make_server_class" and call.args and _last(call.args[0]) in code.classes:
            code.classes[_last(call.args[0])].is_exported = True


def _note_variable(code: CodeText, name: str, annotation: ast.expr | None, value: ast.expr | None) -> None:
    if name in code.functions:
        # As in  f = cached(f)
        code.functions[name] = replace(code.functions[name], opaque=True)
    elif name not in code.classes and name not in code.imports:
        code.variables.setdefault(name, (annotation, value))


def _forget(code: CodeText, name: str) -> None:
    """What is defined later counts."""
    for known in (code.functions, code.classes, code.variables, code.imports):
        known.pop(name, None)


def _read_class(node: ast.ClassDef, code: CodeText) -> Class:
    found = Class(node)
    for base in reversed(node.bases):
        name = _last(base)
        if name in code.classes:
            above = code.classes[name]
            found.functions.update(above.functions)
            found.attributes.update(above.attributes)
            found.exports.update(above.exports)
            found.is_exported |= above.is_exported
            found.is_open |= above.is_open
        elif name == "ServerObject":
            found.is_exported = True
        elif name not in _CLOSED:
            found.is_open = True
    for one, _ in _statements(node.body):
        if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if {_last(word) for word in one.decorator_list} & {"setter", "deleter", "getter"}:
                continue
            found.functions[one.name] = Function(one, _kind(one), _is_opaque(one))
            _note_attributes(found, one)
        elif isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            found.attributes[one.target.id] = (one.annotation, one.value)
        elif isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name):
            name = one.targets[0].id
            if name.startswith("export_"):
                found.exports[name] = _names(one.value)
            elif name == "proxy_class":
                found.is_open = True
            elif name != "__slots__":
                found.attributes[name] = (None, one.value)
    return found


def _note_attributes(found: Class, node: Definition) -> None:
    """What a method gives its object: ``self.name = ...``."""
    own = node.args.posonlyargs + node.args.args
    if not own or _kind(node) != "method":
        return
    arguments = {one.arg: one.annotation for one in (*own, *node.args.kwonlyargs)}
    for one in own_nodes(node):
        if not isinstance(one, (ast.Assign, ast.AnnAssign)):
            continue
        for place in one.targets if isinstance(one, ast.Assign) else [one.target]:
            if isinstance(place, ast.Attribute) and isinstance(place.value, ast.Name) and place.value.id == own[0].arg:
                annotation = one.annotation if isinstance(one, ast.AnnAssign) else None
                if annotation is None and isinstance(one.value, ast.Name):
                    annotation = arguments.get(one.value.id)
                found.attributes.setdefault(place.attr, (annotation, one.value))


def _names(node: ast.expr) -> frozenset[str] | None:
    """The names in an export list; None if they are not written out or ``@auto`` stands for more."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        found = {node.value}
    elif isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        texts = [one.value if isinstance(one, ast.Constant) else None for one in node.elts]
        found = {one for one in texts if isinstance(one, str)}
        if len(found) != len(texts):
            return None
    else:
        return None
    return None if "@auto" in found else frozenset(found)


def _kind(node: Definition) -> str:
    words = {_last(one) for one in node.decorator_list}
    if words & {"property", "cached_property"}:
        return "property"
    return "static" if "staticmethod" in words else "class" if "classmethod" in words else "method"


def _is_opaque(node: Definition) -> bool:
    words = {_last(one.func if isinstance(one, ast.Call) else one) for one in node.decorator_list}
    return not words <= {*_HARMLESS, "property", "cached_property"}


def _last(node: ast.expr) -> str:
    """``c`` of ``a.b.c``; ``""`` of anything that is no dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def is_standard(statement: str) -> bool:
    """Whether an import statement is of a module that type checkers know without it being installed."""
    return statement.split()[1].partition(".")[0] in {*sys.stdlib_module_names, "easycluster"}
