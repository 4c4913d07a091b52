"""Stubs of far-side code: what editors and type checkers are to know of calls that go there.

The text of a stub has what the code's module has on this side, a class for what stands here for each class whose
objects stay there, and classes for those who make the calls: a host of the role, or a client.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from easycluster.lab.annotations import ANY, Annotations
from easycluster.lab.codetext import first_line, is_standard
from easycluster.lab.rolecode import HOST_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from easycluster.lab.codetext import Class, CodeText, Function

__all__ = ["Caller", "class_name", "client_caller", "host_caller", "stub_text"]

# The keywords of every call that a far side is asked for; see easycluster.objects.wrappers.take_keywords.
_ALWAYS: Final = ("threadid: _builtins.int | None = ...", 'origexc: _builtins.bool | _Literal["quiet"] = ...')
_KEYWORDS: Final = frozenset({"nonblocking", "oncomplete", "onerror", "threadid", "origexc"})
# Of an object itself, not of what stands for it.
_LIFE: Final = re.compile(
    r"__(new|init|del|repr|str|dir|sizeof|class|getattr|getattribute|setattr|delattr|reduce|reduce_ex|getstate|setstate"
    r"|init_subclass|subclasshook|set_name|eq|ne|hash|get|set|delete)__"
)

# What the text of a stub may use, by the name it has there.
_OURS: Final = {
    "_builtins": "import builtins as _builtins",
    "_Any": "from typing import Any as _Any",
    "_dataclass": "from dataclasses import dataclass as _dataclass",
    "_Literal": "from typing import Literal as _Literal",
    "_overload": "from typing import overload as _overload",
    "_Callable": "from collections.abc import Callable as _Callable",
    "_Iterator": "from collections.abc import Iterator as _Iterator",
    "_Self": "from typing_extensions import Self as _Self",
    "_Client": "from easycluster import Client as _Client",
    "_RemoteProxy": "from easycluster import RemoteProxy as _RemoteProxy",
    "_ServerObject": "from easycluster import ServerObject as _ServerObject",
    "_Global": "from easycluster.typed import Global as _Global",
    "_NotInTheCode": "from easycluster.typed import NotInTheCode as _NotInTheCode",
    "_Response": "from easycluster.typed import Response as _Response",
    "_HostResults": "from easycluster.lab import HostResults as _HostResults",
    "_Hosts": "from easycluster.lab import Hosts as _Hosts",
    "_Host": "from easycluster.lab import Host as _Host",
    "_GpuNode": "from easycluster.lab import GpuNode as _GpuNode",
    "_SanTarget": "from easycluster.lab import SanTarget as _SanTarget",
}


@dataclass(frozen=True)
class Caller:
    """A class whose attributes are the names of the code.

    Attributes:
        name: Of the class.
        base: What it derives from, a name of the stub: ``_Host``.
        doc: Its docstring.
        taken: Names that are its own, whatever the code defines.
        more: Names that it has besides and whose types nobody says here.
        is_closed: Whether any other name is a mistake.
    """

    name: str
    base: str
    doc: str
    taken: frozenset[str] = frozenset()
    more: tuple[str, ...] = ()
    is_closed: bool = True


def class_name(role: str) -> str:
    """The class of a role's hosts: ``gpu`` gives ``GpuNode``, ``san`` ``SanTarget``, ``video`` ``VideoHost``."""
    if role in ("gpu", "san"):
        return {"gpu": "GpuNode", "san": "SanTarget"}[role]
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[^0-9A-Za-z]+", role)) + "Host"


def client_caller(name: str, doc: str) -> Caller:
    """The class of clients that have the code as definitions; they have every other name of the far side, too."""
    from easycluster import Client

    return Caller(name, "_Client", doc, frozenset(dir(Client)), is_closed=False)


def host_caller(role: str, doc: str, *, is_closed: bool = True) -> Caller:
    """The class of a role's hosts."""
    more: Iterable[str] = ()
    if role == "gpu":
        from easycluster.lab.gpus import gpu_names

        more = gpu_names()
    elif role == "san":
        from easycluster.lab.storage import target_names

        more = target_names()
    base = {"gpu": "_GpuNode", "san": "_SanTarget"}.get(role, "_Host")
    taken = frozenset(HOST_NAMES)
    return Caller(class_name(role), base, doc, taken, tuple(sorted(set(more) - taken)), is_closed=is_closed)


def stub_text(code: CodeText, callers: Iterable[Caller], head: str) -> str:
    """The text of a stub.

    Args:
        code: What it is about.
        callers: Who calls it.
        head: Lines of comment that say who made it.
    """
    return _Writer(code, tuple(callers)).text(head)


class _Writer:
    def __init__(self, code: CodeText, callers: tuple[Caller, ...]) -> None:
        self._code = code
        self._callers = callers
        self._say = Annotations(code)

    def text(self, head: str) -> str:
        callers = [*self._calls(), *(line for one in self._callers for line in self._caller(one))]
        body = [*self._module(), *self._proxies(), *callers]
        body += ["", *(f"_t_{name} = {name}" for name in sorted(self._say.aliases))]
        said = re.sub(r"\b_builtins\.(\w+)", self._builtin, "\n".join(body))
        own = [statement for name, statement in _OURS.items() if re.search(rf"\b{name}\b", said)]
        imports = sorted({*own, *self._say.import_lines()}, key=lambda line: (line.startswith("from"), line))
        return "\n".join([head, "", *imports, "", said]).rstrip() + "\n"

    def _builtin(self, match: re.Match[str]) -> str:
        return match[0] if match[1] in self._code.shadowing else match[1]

    # ------------------------------------------------------------ the module on this side

    def _module(self) -> Iterator[str]:
        for name, (annotation, value) in self._code.variables.items():
            if name.isidentifier() and not name.startswith("__"):
                yield f"{name}: {self._say.variable(annotation, value, far=False)}"
        for name, function in self._code.functions.items():
            yield from self._plain(name, function, indent="")
        for name, known in self._code.classes.items():
            bases = [base for one in known.node.bases if (base := self._base(one))]
            yield ""
            for decorator in known.node.decorator_list:
                if "dataclass" in (said := ast.unparse(decorator)):
                    yield "@_" + said.rpartition("dataclass")[1] + said.rpartition("dataclass")[2]
            yield f"class {name}({', '.join(bases)}):" if bases else f"class {name}:"
            yield from self._members(known, bases)

    def _base(self, node: ast.expr) -> str:
        said = self._say.say(node, far=False)
        if said == ANY:
            return ""
        first = said.partition(".")[0].partition("[")[0]
        # A class of a module that is not installed here would be an Any, which strict checkers refuse as a base.
        return "" if first in self._code.imports and not is_standard(self._code.imports[first]) else said

    def _members(self, known: Class, bases: list[str]) -> Iterator[str]:
        if first_line(known.node):
            yield f"    {_quoted(first_line(known.node))}"
        own = {one.name for one in known.node.body if hasattr(one, "name")}
        for name, (annotation, value) in known.attributes.items():
            if name not in known.functions:
                yield f"    {name}: {self._say.variable(annotation, value, far=False)}"
        for name, function in known.functions.items():
            if name in own:
                yield from self._plain(name, function, indent="    ")
        if len(bases) < len(known.node.bases) and "__getattr__" not in known.functions:
            yield f"    def __getattr__(self, name: _builtins.str) -> {ANY}: ..."
        yield "    ..."

    def _plain(self, name: str, function: Function, indent: str) -> Iterator[str]:
        words = {"static": ["@staticmethod"], "class": ["@classmethod"], "property": ["@property"]}
        yield from (indent + word for word in words.get(function.kind, []))
        pieces, last = self._arguments(function, far=False, skip=0)
        if function.opaque:
            first = {"method": ["self"], "class": ["cls"]}.get(function.kind, [])
            pieces, last = [*first, f"*args: {ANY}"], [f"**kwargs: {ANY}"]
        returns = ANY if function.opaque else self._say.result(function.node, far=False)
        returns = "None" if name == "__init__" else returns
        yield f"{indent}def {name}({', '.join([*pieces, *last])}) -> {returns}: {_body(function.doc)}"

    # ------------------------------------------------------------ what stands for objects

    def _proxies(self) -> Iterator[str]:
        for name, known in self._code.classes.items():
            if not known.is_exported:
                continue
            yield ""
            yield f"class {self._say.proxy_name(name)}(_RemoteProxy):"
            yield f"    {_quoted(f'Stands for a {name} on a host.')}"
            methods = known.exports.get("export_methods")
            attributes = known.exports.get("export_attrs")
            if attributes is not None:
                attributes |= known.exports.get("export_attrs_cache") or frozenset()
            for attribute, (annotation, value) in known.attributes.items():
                if _is_public(attribute) and (attributes is None or attribute in attributes):
                    yield f"    {attribute}: {self._say.variable(annotation, value, far=True)}"
            for method, function in known.functions.items():
                if _LIFE.fullmatch(method) or not (_is_public(method) or method.endswith("__")):
                    continue
                if function.kind == "property":
                    if attributes is None or method in attributes:
                        yield f"    {method}: {self._say.result(function.node, far=True)}"
                elif methods is None or method in methods:
                    yield from self._method(method, function)
            if known.is_open:
                yield f"    def __getattr__(self, name: _builtins.str) -> {ANY}: ..."

    def _method(self, name: str, function: Function) -> Iterator[str]:
        if not name.endswith("__"):
            yield from self._call(name, function, skip=0 if function.kind == "static" else 1)
            return
        pieces, last = self._arguments(function, far=True, skip=1)
        returns = self._say.result(function.node, far=True)
        yield f"    def {name}({', '.join(['self', *pieces, *last])}) -> {returns}: ..."

    # ------------------------------------------------------------ those who call

    def _calls(self) -> Iterator[str]:
        """What all callers have, where there are several."""
        if len(self._callers) > 1:
            yield ""
            yield "class _Calls:"
            yield from self._names(self._code.reachable - self._special)
            yield "    ..."

    def _caller(self, caller: Caller) -> Iterator[str]:
        several = len(self._callers) > 1
        yield ""
        yield f"class {caller.name}{'_' * (caller.name in self._code.names)}({'_Calls, ' * several}{caller.base}):"
        yield f"    {_quoted(caller.doc)}"
        names = self._code.reachable - caller.taken
        for name in caller.more:
            if name not in names:
                yield f"    {name}: {ANY}"
        yield from self._names(names & self._special if several else names)
        if caller.is_closed:
            yield "    def __getattr__(self, name: _builtins.str) -> _NotInTheCode: ..."
        if caller.base != "_Client":
            yield from self._many(caller)

    def _many(self, caller: Caller) -> Iterator[str]:
        """Several such hosts: a call on all of them has the same arguments, and results by host."""
        from easycluster.lab.hosts import Hosts

        one, many = caller.name, f"{caller.name}s"
        yield ""
        yield f"class {many}(_Hosts):"
        yield f"    {_quoted(f'Several of {one}, as remote_hosts gives them.')}"
        yield "    @_overload"
        yield f"    def __getitem__(self, key: _builtins.int | _builtins.str) -> {one}: ..."
        yield "    @_overload"
        yield f"    def __getitem__(self, key: _builtins.slice) -> {many}: ..."
        yield f"    def __iter__(self) -> _Iterator[{one}]: ..."
        names = self._code.reachable - caller.taken - set(dir(Hosts))
        for name in sorted(names & set(self._code.imports) | set(caller.more) - self._code.reachable - set(dir(Hosts))):
            yield f"    {name}: {ANY}"
        for name, function in self._code.functions.items():
            if name in names:
                pieces, last = self._arguments(function, far=True, skip=0)
                if function.opaque:
                    pieces, last = [f"*args: {ANY}"], [f"**kwargs: {ANY}"]
                said = ", ".join(["self", *pieces, *last])
                yield f"    def {name}({said}) -> _HostResults: {_body(function.doc)}"
        for name in self._code.classes:
            if name in names:
                yield f"    def {name}(self, *args: {ANY}, **kwargs: {ANY}) -> _HostResults: ..."
        if caller.is_closed:
            yield "    def __getattr__(self, name: _builtins.str) -> _NotInTheCode: ..."

    @cached_property
    def _special(self) -> set[str]:
        """Names that some caller has of its own."""
        return {name for one in self._callers for name in one.taken}

    def _names(self, names: set[str]) -> Iterator[str]:
        for name in sorted(names & set(self._code.imports)):
            yield f"    {name}: {ANY}"
        for name, (annotation, value) in self._code.variables.items():
            if name in names:
                yield f"    {name}: _Global[{self._say.variable(annotation, value, far=True)}]"
        for name, function in self._code.functions.items():
            if name in names:
                yield from self._call(name, function, skip=0)
        for name, known in self._code.classes.items():
            if name in names:
                yield from self._construct(name, known)

    def _construct(self, name: str, known: Class) -> Iterator[str]:
        returns = self._say.say(ast.Name(name), far=True)
        init = known.functions.get("__init__")
        doc = first_line(known.node)
        if init is not None and not init.opaque:
            pieces, last = self._arguments(init, far=True, skip=1)
        elif known.is_open or init is not None or known.node.decorator_list:
            pieces, last = [f"*args: {ANY}"], [f"**kwargs: {ANY}"]
        else:
            pieces, last = [], []
        yield from _overloads(name, pieces, last, returns, doc)

    def _call(self, name: str, function: Function, skip: int) -> Iterator[str]:
        if function.opaque:
            yield from _overloads(name, [f"*args: {ANY}"], [f"**kwargs: {ANY}"], ANY, function.doc)
            return
        pieces, last = self._arguments(function, far=True, skip=skip)
        yield from _overloads(name, pieces, last, self._say.result(function.node, far=True), function.doc)

    def _arguments(self, function: Function, *, far: bool, skip: int) -> tuple[list[str], list[str]]:
        """The arguments as a stub has them, and ``**kwargs`` apart; the first ``skip`` are left out."""
        said = function.node.args
        positional = [*said.posonlyargs, *said.args]
        first_default = len(positional) - len(said.defaults)
        pieces = []
        for index, one in enumerate(positional):
            if index < skip:
                continue
            bare = (
                not far and index == 0 and function.kind in ("method", "class", "property") and one.annotation is None
            )
            pieces.append(one.arg if bare else self._argument(one, index >= first_default, far=far))
            if index == len(said.posonlyargs) - 1:
                pieces.append("/")
        if said.vararg is not None:
            pieces.append("*" + self._argument(said.vararg, False, far=far))
        elif said.kwonlyargs:
            pieces.append("*")
        for one, default in zip(said.kwonlyargs, said.kw_defaults, strict=True):
            if not far or one.arg not in _KEYWORDS:
                pieces.append(self._argument(one, default is not None, far=far))
        if pieces and pieces[-1] == "*":
            pieces.pop()
        last = ["**" + self._argument(said.kwarg, False, far=far)] if said.kwarg is not None else []
        return pieces, last

    def _argument(self, one: ast.arg, has_default: bool, *, far: bool) -> str:
        # A keyword of ours never reaches the function, nor does ``self``; by its place the argument still does.
        name = f"_{one.arg}" if far and one.arg in (*_KEYWORDS, "self") else one.arg
        return f"{name}: {self._say.say(one.annotation, far=far)}" + (" = ..." if has_default else "")


def _overloads(name: str, pieces: list[str], last: list[str], returns: str, doc: str) -> Iterator[str]:
    """A call in its three forms: waiting, with a response, and with functions for the outcome."""
    star = [] if any(one.startswith("*") for one in pieces) else ["*"]
    quiet = "nonblocking: _Literal[False] = ..."
    outcome = "_Callable[..., _Any] | _builtins.tuple[_Any, ...]"
    late = [f"oncomplete: {outcome}", f"onerror: {outcome} = ..."]
    forms = (
        ([quiet, *_ALWAYS], returns, _body(doc)),
        (["nonblocking: _Literal[True]", *_ALWAYS], f"_Response[{returns}]", "..."),
        (["nonblocking: _builtins.bool = ...", *late, *_ALWAYS], "_builtins.int", "..."),
    )
    for keywords, result, body in forms:
        yield "    @_overload"
        yield f"    def {name}({', '.join(['self', *pieces, *star, *keywords, *last])}) -> {result}: {body}"


def _is_public(name: str) -> bool:
    return not name.startswith("_")


def _body(doc: str) -> str:
    return _quoted(doc) if doc else "..."


def _quoted(doc: str) -> str:
    said = doc.replace("\\", "\\\\").replace('"""', "'''")
    return f'"""{said}{" " if said.endswith(chr(34)) else ""}"""'
