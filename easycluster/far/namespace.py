"""The far side's globals: what ``client.name``, ``eval`` and ``execblock`` see.

A name is looked for in the definitions modules of the connection, in order, then among the
builtins, then it is imported.  Shipped to the far side.
"""

from __future__ import annotations

import builtins
import importlib
import re
import sys
import threading
from importlib.machinery import PathFinder
from types import CodeType, ModuleType
from typing import Any, Dict, Iterable, List, NoReturn, Optional, Sequence, Tuple

import easycluster
from easycluster.far.modules import (
    DEFAULT_MODULE,
    Block,
    Definitions,
    definitions,
)
from easycluster.far.sources import compile_source, forget_source

__all__ = ["Namespace", "exec_return", "get_global", "set_global"]

# Texts whose code and source lines are kept, and their characters together.  A loop that builds a
# new text for every call must not fill the far side's memory; functions that an older text made
# only lose their source lines.
MAX_TEXTS = 256
MAX_TEXT_SIZE = 4 << 20


class ExecReturn(BaseException):
    """Carries the value of :func:`exec_return`.  No ``except Exception`` in the block stops it."""

    def __init__(self, value: Any) -> None:
        super().__init__("exec_return was called")
        self.value = value


class _Running(threading.local):
    blocks = 0


_running = _Running()


def exec_return(value: Any = None) -> NoReturn:
    """End the running ``execblock`` and make ``value`` its result; works inside functions too.

    Raises:
        RuntimeError: If this thread is not inside ``execblock``.
    """
    if not _running.blocks:
        raise RuntimeError("exec_return() works only in code that execblock() runs, in the thread that runs it")
    raise ExecReturn(value)


class Namespace:
    """Resolves names and runs text for one session.

    Args:
        modules: Names of its definitions modules, made where they do not exist.  Text runs in, and
            new names go into, the first.

    Attributes:
        names: The globals of the first.
        hidden: Which of them may hide what a later module defines.
    """

    def __init__(self, modules: Sequence[str] = (DEFAULT_MODULE,)) -> None:
        if not modules:
            raise ValueError("a namespace needs at least one definitions module")
        self._definitions: Dict[str, Definitions] = {}
        # Every block that came, in order: what is undone later runs in a process that has them, too.
        self.received: List[Block] = []
        for name in modules:
            self._definitions[name] = definitions(name, make_packages=True)
        self._scopes: List[Dict[str, Any]] = [item.module.__dict__ for item in self._definitions.values()]
        self.names = self._scopes[0]
        self._easyclusters = _names_of_easycluster()
        # Where the first module must not hide what others define under one of easycluster's names.
        self.hidden: Dict[str, Any] = {}
        if len(self._scopes) > 1:
            self.hidden.update(self._easyclusters)
        self._main = modules[0]
        self._texts: Dict[Tuple[str, str], CodeType] = {}
        self._texts_lock = threading.Lock()
        self._text_count = 0
        self._text_size = 0

    @property
    def module(self) -> ModuleType:
        """The first definitions module, in which text runs."""
        return self._definitions[self._main].module

    def update(self, blocks: Iterable[Block]) -> int:
        """Evaluate definitions that are new; see :meth:`~easycluster.far.modules.Definitions.apply`.

        Blocks of a module that this namespace was not made with add that module at the end.
        """
        done = 0
        for block in blocks:
            record = self._definitions.get(block.module)
            if record is None:
                record = definitions(block.module, make_packages=True)
                self._definitions[block.module] = record
                self._scopes.append(record.module.__dict__)
                self.hidden.update(self._easyclusters)
            done += record.apply((block,))
            self.received.append(block)
        return done

    def get_global(self, name: str) -> Any:
        """Return what a dotted name stands for now.

        Raises:
            AttributeError: If there is no such name; a similar one is suggested.
            ImportError: If a module of that name exists and cannot be imported.
        """
        if name in self.names and name not in self.hidden:
            return self.names[name]
        return _resolve(name, self._scopes, self.names, self.hidden)

    def set_global(self, name: str, value: Any) -> None:
        """Bind a dotted name where it is bound already, else in the first definitions module."""
        owner, _, last = name.rpartition(".")
        if owner:
            setattr(self.get_global(owner), last, value)
            return
        scope = _scope_of(name, self._scopes, self.hidden)
        (self.names if scope is None else scope)[name] = value

    def eval(self, expr: str) -> Any:
        """Return the value of an expression.

        Raises:
            SyntaxError: With the text of the expression.
            Exception: Whatever the expression raises.
        """
        return self._run(expr, "eval")

    def execblock(self, code: str) -> Any:
        """Run statements; return what they pass to :func:`exec_return`, else None.

        Raises:
            SyntaxError: With the line it is about.
            Exception: Whatever the statements raise.
        """
        return self._run(code, "exec")

    def import_module(self, name: str) -> None:
        """Do ``import name`` in the first definitions module."""
        importlib.import_module(name)
        head = name.partition(".")[0]
        self.names[head] = sys.modules[head]

    def import_modules(self, names: Iterable[str]) -> None:
        """Do ``import`` for each name."""
        for name in names:
            self.import_module(name)

    def _run(self, text: str, mode: str) -> Any:
        code = self._texts.get((mode, text)) or self._compile(text, mode)
        _running.blocks += 1
        try:
            return eval(code, self.names)
        except ExecReturn as result:
            return result.value
        except NameError as exc:
            self._explain(exc, code.co_filename)
            raise
        finally:
            _running.blocks -= 1

    def _compile(self, text: str, mode: str) -> CodeType:
        with self._texts_lock:
            self._text_count += 1
            kind = "eval" if mode == "eval" else "execblock"
            filename = f"<{kind} {self._text_count}>"
            try:
                code = compile_source(text, filename, mode)
            except SyntaxError:
                forget_source(filename)  # The error carries its line itself.
                raise
            self._text_size += len(text)
            while self._texts and (len(self._texts) >= MAX_TEXTS or self._text_size > MAX_TEXT_SIZE):
                oldest = next(iter(self._texts))
                self._text_size -= len(oldest[1])
                forget_source(self._texts.pop(oldest).co_filename)
            self._texts[mode, text] = code
            return code

    def _explain(self, exc: NameError, filename: str) -> None:
        """Say what may have been meant by a name that the text itself uses and nobody defined."""
        name = _missing_name(exc)
        tb = exc.__traceback__
        while tb is not None and tb.tb_next is not None:
            tb = tb.tb_next
        if name is None or tb is None or tb.tb_frame.f_code.co_filename != filename:
            return
        for module, record in self._definitions.items():
            if name in record.module.__dict__:
                advice = f"it is defined in {module!r}, not in {self._main!r}"
                break
        else:
            if _is_module(name):
                advice = f"import it first, there or with import_module({name!r})"
            else:
                close = _similar(name, [*tb.tb_frame.f_locals, *self.names, *vars(builtins)])
                if close is None:
                    return
                advice = f"did you mean {close!r}?"
        exc.args = (f"{exc.args[0]}; {advice}",)
        if getattr(exc, "name", None):
            exc.name = None  # Python would add a suggestion of its own.


def get_global(name: str, context: Optional[ModuleType] = None, auto_import: bool = False) -> Any:
    """Return what a dotted name stands for in this process.

    Args:
        name: The name.
        context: Module to look in before the builtins.
        auto_import: True to import modules that the name goes through; the first of them is then
            bound in ``context``, as by ``import``.

    Raises:
        AttributeError: If there is no such name.
    """
    scopes = [] if context is None else [vars(context)]
    return _resolve(name, scopes, scopes[0] if scopes else {}, importing=auto_import)


def set_global(name: str, value: Any, context: Optional[ModuleType] = None) -> None:
    """Bind a dotted name in this process; one without dots needs the module to bind it in.

    Raises:
        TypeError: If the name has no dots and no ``context`` is given.
    """
    owner, _, last = name.rpartition(".")
    if owner:
        setattr(get_global(owner, context), last, value)
    elif context is None:
        raise TypeError(f"set_global({name!r}) needs context=, the module to bind it in")
    else:
        setattr(context, name, value)


def _names_of_easycluster() -> Dict[str, Any]:
    """Return what every definitions module begins with."""
    names = {name: getattr(easycluster, name) for name in getattr(easycluster, "__all__", ())}
    return {"easycluster": easycluster, **names}


def _resolve(
    name: str,
    scopes: Sequence[Dict[str, Any]],
    bind: Dict[str, Any],
    hidden: Optional[Dict[str, Any]] = None,
    importing: bool = True,
) -> Any:
    head, *rest = name.split(".")
    scope = _scope_of(head, scopes, hidden or {})
    value = _resolve_outside(head, scopes, bind, importing) if scope is None else scope[head]
    for part in rest:
        try:
            value = getattr(value, part)
        except AttributeError:
            # A module with a __getattr__ of its own has said what there is to say.
            if not isinstance(value, ModuleType) or "__getattr__" in vars(value):
                raise
            value = _resolve_in_module(value, part, importing)
    return value


def _scope_of(name: str, scopes: Sequence[Dict[str, Any]], hidden: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """Return the first scope that has ``name``; one that has more than what ``hidden`` has goes before."""
    found = None
    for scope in scopes:
        if name in scope:
            if name not in hidden or scope[name] is not hidden[name]:
                return scope
            found = found or scope
    return found


def _resolve_outside(name: str, scopes: Sequence[Dict[str, Any]], bind: Dict[str, Any], importing: bool) -> Any:
    if hasattr(builtins, name):
        return getattr(builtins, name)
    module = _try_import(name) if importing and name.isidentifier() else None
    if module is not None:
        bind[name] = module
        return module
    looked = [scope["__name__"] for scope in scopes if "__name__" in scope]
    message = f"no {name!r} in {', '.join([*looked, 'builtins'])}, and no module of that name"
    close = _similar(name, [key for scope in scopes for key in scope] + dir(builtins))
    raise AttributeError(f"{message}; did you mean {close!r}?" if close else message)


def _resolve_in_module(module: ModuleType, name: str, importing: bool) -> Any:
    if importing and hasattr(module, "__path__"):
        found = _try_import(f"{module.__name__}.{name}")
        if found is not None:
            return found
    message = f"module {module.__name__!r} has no attribute {name!r}"
    close = _similar(name, dir(module))
    raise AttributeError(f"{message}; did you mean {close!r}?" if close else message) from None


def _try_import(name: str) -> Optional[ModuleType]:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        # A module that exists but lacks one that it needs is another matter.
        if exc.name != name:
            raise
        return None


def _is_module(name: str) -> bool:
    # Python's own finder only: for an error message nobody asks the controller.
    return name in sys.modules or name in sys.builtin_module_names or PathFinder.find_spec(name) is not None


def _missing_name(exc: NameError) -> Optional[str]:
    if type(exc) is not NameError or len(exc.args) != 1:
        return None
    match = re.match(r"name '(\w+)' is not defined", str(exc.args[0]))
    return match.group(1) if match else None


def _similar(name: str, names: Iterable[str]) -> Optional[str]:
    import difflib  # 4 ms that only a failing lookup pays for

    found = difflib.get_close_matches(name, list({*names}), 1, 0.7)
    return found[0] if found else None
