"""Annotations of far-side code, said again in a stub: what the stub does not know is Any."""

from __future__ import annotations

import ast
import builtins
from typing import TYPE_CHECKING, Final

from easycluster.lab.codetext import is_standard, own_nodes

if TYPE_CHECKING:
    from easycluster.lab.codetext import CodeText, Definition

ANY: Final = "_Any"
_BUILTINS: Final = frozenset(dir(builtins))
_CONSTANTS: Final = (bool, int, float, str, bytes)


class Annotations:
    """Says annotations of some code, and remembers what the stub needs for them.

    Args:
        code: The code.

    Attributes:
        imports: Names of imports that were used.
        renamed: Those that were used where a class has members of the same name: ``_t_NAME`` stands for them.
        aliases: The same for classes of the code.
    """

    def __init__(self, code: CodeText) -> None:
        self._code = code
        self._bound = code.names
        self._shadowing = code.shadowing
        self.imports: set[str] = set()
        self.renamed: set[str] = set()
        self.aliases: set[str] = set()

    def proxy_name(self, name: str) -> str:
        """The class in the stub of what stands for objects of an exported class."""
        return f"{name}Proxy" if f"{name}Proxy" not in self._bound else f"{name}Proxy_"

    def say(self, node: ast.expr | None, *, far: bool) -> str:
        """The annotation as the stub has it.

        Args:
            node: The annotation, or None if there is none.
            far: Whether it is about a call over there, from where exported objects come as proxies.
        """
        if node is None:
            return ANY
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                return self._quoted(node.value, far=far)
            return "..." if node.value is ... else "None" if node.value is None else ANY
        if isinstance(node, ast.Name):
            return self._name(node.id, far=far)
        if isinstance(node, ast.Attribute):
            base = self.say(node.value, far=far)
            return ANY if base == ANY else f"{base}.{node.attr}"
        if isinstance(node, ast.Subscript):
            return self._subscript(node, far=far)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            sides = self.say(node.left, far=far), self.say(node.right, far=far)
            return ANY if ANY in sides else " | ".join(sides)
        if isinstance(node, (ast.List, ast.Tuple)):
            inner = ", ".join(self.say(one, far=far) for one in node.elts)
            return f"[{inner}]" if isinstance(node, ast.List) else inner or "()"
        return ANY

    def variable(self, annotation: ast.expr | None, value: ast.expr | None, *, far: bool) -> str:
        """The type of a variable or attribute."""
        if annotation is not None:
            said = self.say(annotation, far=far)
            return ANY if said.rpartition(".")[2] in ("Final", "ClassVar") else said
        return _constant_type(value) or ANY

    def result(self, node: Definition, *, far: bool) -> str:
        """The type of what a function returns; without an annotation, what its text shows beyond doubt."""
        if isinstance(node, ast.AsyncFunctionDef):
            return ANY
        if node.returns is not None:
            return self.say(node.returns, far=far)
        parts = list(own_nodes(node))
        if any(isinstance(one, (ast.Yield, ast.YieldFrom)) for one in parts):
            return "_Iterator[_Any]"
        values = [one.value for one in parts if isinstance(one, ast.Return)]
        if all(value is None for value in values):
            return ANY if isinstance(node.body[-1], ast.Raise) else "None"
        found = {self._value_type(value, far=far) for value in values}
        return found.pop() if len(found) == 1 else ANY

    def _value_type(self, value: ast.expr | None, *, far: bool) -> str:
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in self._code.classes:
            return self._name(value.func.id, far=far)
        if isinstance(value, ast.Name) and value.id == "self":
            return "_Self"
        return _constant_type(value) or ANY

    def _quoted(self, text: str, *, far: bool) -> str:
        try:
            return self.say(ast.parse(text.strip(), mode="eval").body, far=far)
        except (SyntaxError, ValueError):
            return ANY

    def _name(self, name: str, *, far: bool) -> str:
        known = self._code.classes.get(name)
        if known is not None:
            if far and known.is_exported:
                return self.proxy_name(name)
        elif name in self._code.imports:
            # Renamed by its import: an assignment would make a variable of it where the module is not installed.
            (self.renamed if far and name in self._shadowing else self.imports).add(name)
            return f"_t_{name}" if far and name in self._shadowing else name
        elif name in self._bound and not (name in self._code.functions and name in _BUILTINS):
            return ANY
        elif name in _BUILTINS:
            return f"_builtins.{name}" if name in self._shadowing else name
        else:
            return ANY
        if not far or name not in self._shadowing:
            return name
        # In a class whose members are named as the code's globals are, the name would mean the member.
        self.aliases.add(name)
        return f"_t_{name}"

    def _subscript(self, node: ast.Subscript, *, far: bool) -> str:
        base = self.say(node.value, far=far)
        if base == ANY:
            return ANY
        if base.rpartition(".")[2].replace("_t_", "") in ("Literal", "Annotated"):
            inner = ast.unparse(node.slice)
            return f"{base}[{inner}]" if base.endswith("Literal") else ANY
        inner = self.say(node.slice, far=far)
        if base.rpartition(".")[2].replace("_t_", "") in ("Final", "ClassVar"):
            return inner
        return f"{base}[{inner}]"

    def import_lines(self) -> list[str]:
        """The import statements for what was used."""
        lines = []
        for name in sorted(self.imports | self.renamed):
            said = self._code.imports[name]
            # ``import a.b`` binds ``a``, and has ``a.b`` there.
            binds_top = said.startswith("import ") and " as " not in said and "." in said
            forms = [said] if name in self.imports or binds_top else []
            if name in self.renamed:
                module = f"import {name}" if binds_top else said.partition(" as ")[0]
                forms.append(f"{module} as _t_{name}")
            # What the far side has need not be installed here.
            mark = "" if is_standard(said) else "  # type: ignore[import-not-found, import-untyped, unused-ignore]"
            lines += [f"{one}{mark}" for one in forms]
        return lines


def _constant_type(value: ast.expr | None) -> str:
    if isinstance(value, ast.JoinedStr):
        return "_builtins.str"
    if isinstance(value, ast.Constant) and isinstance(value.value, _CONSTANTS):
        return f"_builtins.{type(value.value).__name__}"
    return ""
