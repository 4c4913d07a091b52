"""Exceptions as plain values, and the same exceptions made from them again on the other side.

A :data:`Failure` is a dictionary of builtin values::

    "nodes"   list of exceptions as dictionaries, the raised one first; cause, context, group members and exceptions
              among the arguments are numbers of nodes, so that cycles and shared exceptions stay what they are
    "host"    what the far side calls itself
    "kept"    0, or the number under which the far side keeps the exception for a debugger
    "text"    the traceback as the far side's Python prints it, a list of strings as from traceback.format_exception

An exception is taken apart without asking it: the arguments, the members that C code and ``__slots__`` keep
(``errno``, ``UnicodeError.object``) and ``__dict__`` are read through the descriptors of the classes that own them,
and put back in the same way.  So neither ``__init__`` nor a property nor ``__reduce__`` of the class runs, and classes
that the standard pickle breaks (``__init__`` with other arguments than ``args``) come through whole.

Each value is one of::

    ("=", value)                 None, bool, int, float, str, bytes
    ("pickle", bytes, name)      anything else that ``dumps`` takes, and the name of its type
    ("node", number)             an exception
    ("lost", name, text)         what cannot be pickled, with its repr; arrives as a :class:`Lost`

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

import builtins
import copyreg
import importlib
import pickle
import reprlib
import sys
import traceback
from types import BuiltinFunctionType, FrameType, FunctionType, GetSetDescriptorType, MemberDescriptorType
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple, Type, cast

from easycluster.errors import RemoteError
from easycluster.wire import tracebacks

__all__ = ["Failure", "Lost", "add_note", "describe", "kept", "rebuild", "text"]

Failure = Dict[str, Any]
Node = Dict[str, Any]
Value = Tuple[Any, ...]

# Exceptions in one failure: a chain of causes may be thousands long, a group may hold one member a request.
MAX_NODES = 500
# Bytes of one argument or attribute.  An error is read by people; what is larger arrives as its shortened repr.
MAX_VALUE = 64 * 1024 * 1024
# Characters of one repr, and of one str of an exception.
MAX_REPR = 1000
MAX_MESSAGE = 64 * 1024
# Characters of the whole traceback text.
MAX_TEXT = 1024 * 1024

_SCALARS = (type(None), bool, int, float, str, bytes)

# The object that lacked the attribute.  Python itself leaves it out of the pickle: it may be a module, or a device.
_LEFT_OUT = (AttributeError, "obj")
# Traceback entries that are formatted as text in full; a raised recursion limit can make a hundred thousand.
MAX_FORMATTED = 2000

_NO_MESSAGE = "<exception str() failed>"

# Classes that have another name in another Python version: looked up when the first name finds nothing.
_OTHER_NAMES = {
    ("sre_constants", "error"): ("re", "error"),
    ("re", "PatternError"): ("re", "error"),
    ("builtins", "BaseExceptionGroup"): ("exceptiongroup", "BaseExceptionGroup"),
    ("builtins", "ExceptionGroup"): ("exceptiongroup", "ExceptionGroup"),
    ("exceptiongroup", "BaseExceptionGroup"): ("builtins", "BaseExceptionGroup"),
    ("exceptiongroup", "ExceptionGroup"): ("builtins", "ExceptionGroup"),
}


class Lost:
    """Stands in an exception for an argument or attribute that could not cross; its repr is the original's.

    Attributes:
        type_name: Dotted name of the value's type.
        text: ``repr`` of the value, shortened.
    """

    __slots__ = ("text", "type_name")

    def __init__(self, type_name: str, text: str) -> None:
        self.type_name = type_name
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def __reduce__(self) -> Tuple[Any, ...]:
        return Lost, (self.type_name, self.text)


def describe(
    exc: BaseException,
    *,
    dumps: Callable[[Any], bytes] = pickle.dumps,
    skip_frames: Callable[[FrameType], bool] = tracebacks.is_ours,
    host: str = "",
) -> Failure:
    """Take an exception apart into builtin values.

    Never raises, whatever the exception and what hangs on it do.

    Args:
        exc: Any exception, raised or not.
        dumps: Pickles one argument or attribute; may raise anything.
        skip_frames: Frames at both ends of each traceback for which this is true are left out.
        host: What this side calls itself; :func:`rebuild` uses it if it knows no better label.
    """
    failure: Optional[Failure] = _try(None, _Description(dumps, skip_frames).take, exc)
    if failure is None:
        node = _bare_node(exc)
        failure = {"nodes": [node], "text": _plain_lines(node)}
    failure["host"] = host
    return failure


def rebuild(failure: Failure, loads: Callable[[bytes], Any] = pickle.loads, *, host: str = "") -> Exception:
    """Make the exception again, with a traceback that shows the code of the host where it was raised.

    The result is of the original type where that can be imported and is an ``Exception``; otherwise, and also for
    ``SystemExit``, ``KeyboardInterrupt`` and the like, a :class:`~easycluster.errors.RemoteError` that names the type.
    A description that makes no sense is a RemoteError, too.
    Its cause, context, notes and group members are rebuilt likewise.  ``raise`` it outside of ``except`` blocks:
    Python would replace its context.

    Args:
        failure: From :func:`describe`, possibly by another Python version.
        loads: Reads what its ``dumps`` wrote; may raise any ``Exception``.
        host: Label for the file names in the traceback; ``""`` takes what the failure says.
    """
    try:
        return _Rebuilding(failure, loads, host or failure["host"]).run()
    except Exception as exc:  # noqa: BLE001  # whatever is wrong with the description, the caller's call has failed
        broken = RemoteError(
            f"an exception was raised on {host or 'the far side'}, but what came of it cannot be read ({exc!r})",
            traceback_text="".join(text(failure)),
        )
        broken.__cause__ = exc
        return broken


def text(failure: Failure) -> List[str]:
    """Return the traceback as the far side's Python prints it, as from ``traceback.format_exception``."""
    lines = failure.get("text") if isinstance(failure, dict) else None
    return [str(line) for line in lines] if isinstance(lines, (list, tuple)) else []


def add_note(failure: Failure, note: str) -> None:
    """Add a note to an exception that was taken apart; the exception itself stays as it is."""
    first = failure["nodes"][0]
    first["notes"] = (*first["notes"], note)
    failure["text"] = [*failure["text"], note + "\n"]


def kept(failure: Failure) -> int:
    """Return the number under which the far side keeps the exception, 0 if it does not."""
    number = failure.get("kept") if isinstance(failure, dict) else None
    return number if type(number) is int else 0


# ---- Taking apart ----


class _Description:
    """One run of :func:`describe`: numbers the exceptions as it meets them."""

    def __init__(self, dumps: Callable[[Any], bytes], skip_frames: Callable[[FrameType], bool]) -> None:
        self.dumps = dumps
        self.skip_frames = skip_frames
        # In the order of their numbers; the list keeps them alive, so that their ids stay theirs.
        self.met: List[BaseException] = []
        self.numbers: Dict[int, int] = {}
        # By id of the value, so that one value in two places crosses once.
        self.values: Dict[int, Tuple[Any, Value]] = {}

    def take(self, exc: BaseException) -> Failure:
        self.number(exc)
        nodes: List[Node] = []
        while len(nodes) < len(self.met):
            each = self.met[len(nodes)]
            nodes.append({**_bare_node(each), **self.frames(each), **_try({}, self.state, each)})
        return {"nodes": nodes, "text": self.lines(exc, nodes[0])}

    def number(self, exc: Optional[BaseException]) -> Optional[int]:
        if exc is None:
            return None
        number = self.numbers.get(id(exc))
        if number is None and len(self.met) < MAX_NODES:
            number = self.numbers[id(exc)] = len(self.met)
            self.met.append(exc)
        return number

    def frames(self, exc: BaseException) -> Node:
        tb = _get(exc, "__traceback__")
        frames = _try((), tracebacks.take_traceback, tb, self.skip_frames)
        return {"frames": frames, "no_users_frames": tb is not None and not frames}

    def state(self, exc: BaseException) -> Node:
        """Return what is not in :func:`_bare_node`."""
        node: Node = {}
        members = dict(_members(exc))
        args = _get(exc, "args")
        own = dict(_get(exc, "__dict__"))
        group = _group_class()
        if group is not None and issubclass(type(exc), group):
            # The package for Python 3.10 and older has no members in C.
            message = members.pop("message", args[0])
            numbers = [self.number(each) for each in members.pop("exceptions", own.pop("_exceptions", ()))]
            kept = [each for each in numbers if each is not None]
            node["group"] = (str(message), kept)
            node["left_out"] = len(numbers) - len(kept)
            args = ()
        node["args"] = [self.value(each) for each in args]
        node["args_repr"] = _repr(args)
        node["members"] = [(name, self.value(value)) for name, value in members.items()]
        node["dict"] = [(name, self.value(own[name])) for name in own if type(name) is str and name != "__notes__"]
        values = [*node["args"], *(value for _, value in node["members"] + node["dict"])]
        if any(value[0] == "lost" for value in values) and _reduces_itself(type(exc)):
            # The class knows which part of its state matters.
            node["reduced"] = _try(None, self.dumps, exc)
        node["suppress"] = bool(_get(exc, "__suppress_context__"))
        node["cause"] = self.number(_get(exc, "__cause__"))
        node["context"] = self.number(_get(exc, "__context__"))
        return node

    def value(self, value: Any) -> Value:
        known = self.values.get(id(value))
        if known is None:
            known = self.values[id(value)] = (value, self.new_value(value))
        return known[1]

    def new_value(self, value: Any) -> Value:
        if type(value) in _SCALARS:
            is_small = not isinstance(value, (str, bytes)) or len(value) <= MAX_VALUE
            return ("=", value) if is_small else _lost(value)
        # Not isinstance(): that asks the value for its __class__.
        if issubclass(type(value), BaseException):
            number = self.number(value)
            return ("node", number) if number is not None else _lost(value)
        data = _try(None, self.dumps, value)
        if data is None or len(data) > MAX_VALUE:
            return _lost(value)
        return "pickle", data, _dotted(*_type_names(value))

    def lines(self, exc: BaseException, node: Node) -> List[str]:
        """Return the traceback as text, within bounds."""
        lines = None
        if sum(1 for _ in traceback.walk_tb(_get(exc, "__traceback__"))) <= MAX_FORMATTED:
            lines = _try(None, self.formatted, exc)
        kept: List[str] = []
        room = MAX_TEXT
        for line in lines or _plain_lines(node):
            short = _short(line, MAX_MESSAGE)
            room -= len(short)
            if room < 0:
                return [*kept, "[the rest of the traceback is left out]\n", _headline(node) + "\n"]
            kept.append(short)
        return kept

    def formatted(self, exc: BaseException) -> List[str]:
        """Do what traceback.format_exception does, without our frames."""
        whole = traceback.TracebackException(type(exc), exc, _get(exc, "__traceback__"))
        unseen: List[Tuple[traceback.TracebackException, BaseException]] = [(whole, exc)]
        seen = set()
        while unseen:
            shown, each = unseen.pop()
            if id(shown) in seen:
                continue
            seen.add(id(shown))
            kept, start = tracebacks.find_users_part(_get(each, "__traceback__"), self.skip_frames)
            shown.stack[:] = shown.stack[start : start + len(kept)]
            pairs = [(getattr(shown, link), _get(each, link)) for link in ("__cause__", "__context__")]
            pairs += zip(getattr(shown, "exceptions", None) or (), getattr(each, "exceptions", ()))
            unseen += [(there, here) for there, here in pairs if there is not None and here is not None]
        return list(whole.format())


def _bare_node(exc: BaseException) -> Node:
    """Return what can be said about any exception, however broken."""
    own_notes = _get(exc, "__dict__").get("__notes__")
    notes = own_notes if type(own_notes) in (list, tuple) else ()
    return {
        "type": _type_names(exc),
        "message": _try(_NO_MESSAGE, _message, exc),
        "notes": tuple(_try("<note str() failed>", _message, note) for note in notes),
        "args_repr": "",
        "frames": (),
    }


def _message(value: Any) -> str:
    # A subclass of str, which str() may return, need not exist on the other side.
    return _short(str.__str__(str(value)), MAX_MESSAGE)


def _members(exc: BaseException) -> Iterator[Tuple[str, Any]]:
    """Yield what C code and ``__slots__`` keep outside of ``__dict__``."""
    seen = set()
    for cls in type.__getattribute__(type(exc), "__mro__"):
        for name, descriptor in () if cls is BaseException else list(vars(cls).items()):
            is_member = isinstance(descriptor, (MemberDescriptorType, GetSetDescriptorType))
            is_special = name.startswith("__") and name.endswith("__")
            if is_member and not is_special and name not in seen and (cls, name) != _LEFT_OUT:
                seen.add(name)
                value = _try(None, descriptor.__get__, exc, cls)
                # None is what a member holds before anybody sets it.
                if value is not None:
                    yield name, value


def _reduces_itself(cls: type) -> bool:
    ways = [getattr(cls, name, None) for name in ("__reduce__", "__reduce_ex__", "__getstate__")]
    return cls in copyreg.dispatch_table or any(isinstance(way, FunctionType) for way in ways)


def _lost(value: Any) -> Value:
    return "lost", _dotted(*_type_names(value)), _repr(value)


# ---- Putting together ----


class _Rebuilding:
    """One run of :func:`rebuild`: makes each exception once, and joins them when they exist."""

    def __init__(self, failure: Failure, loads: Callable[[bytes], Any], host: str) -> None:
        self.nodes: List[Node] = failure["nodes"]
        self.text: List[str] = failure["text"]
        self.loads = loads
        self.host = host
        self.made: Dict[int, Exception] = {}
        self.being_made: Set[int] = set()
        self.unjoined: List[int] = []
        # By id of the described value, which the failure keeps alive.
        self.values: Dict[int, Any] = {}

    def run(self) -> Exception:
        exc = self.make(0)
        # Not by recursion: a chain may be longer than Python's stack.
        while self.unjoined:
            number = self.unjoined.pop()
            node, each = self.nodes[number], self.made[number]
            for link in ("context", "cause"):
                if node.get(link) is not None:
                    _set(each, f"__{link}__", self.make(node[link]))
            _set(each, "__suppress_context__", node.get("suppress", False))
        return exc

    def make(self, number: int) -> Exception:
        if number in self.made:
            return self.made[number]
        node = self.nodes[number]
        if number in self.being_made:
            # A group among its own members' arguments: Python makes a group only after its members.
            return self.stand_in(number)
        self.being_made.add(number)
        exc = self.original(number, node) or self.stand_in(number)
        self.being_made.discard(number)
        self.made[number] = exc
        self.unjoined.append(number)
        notes = list(node["notes"])
        if number == 0 and node.get("no_users_frames") and self.host:
            # No file name says it.
            notes.append(f"raised on {self.host}")
        if node.get("left_out"):
            notes.append(f"{node['left_out']} more exceptions of this group were left out")
        if notes:
            _get(exc, "__dict__")["__notes__"] = notes
        _set(exc, "__traceback__", _try_here(None, tracebacks.make_traceback, node["frames"], self.host))
        return exc

    def original(self, number: int, node: Node) -> Optional[Exception]:
        """Make the exception with its own type, or return None."""
        cls = _find_class(*node["type"])
        if cls is None or "dict" not in node:
            return None
        # A class whose __str__ fails would break every report.
        if node["message"] == _NO_MESSAGE and isinstance(cls.__str__, FunctionType):
            return None
        exc = _try_here(None, self.loads, node["reduced"]) if node.get("reduced") else None
        if type(exc) is not cls:
            exc = _try_here(None, self.assemble, number, node, cls)
        # It may need what did not come along.
        if exc is None or _try_here(None, str, exc) is None:
            self.made.pop(number, None)
            return None
        return cast(Exception, exc)

    def assemble(self, number: int, node: Node, cls: Type[Exception]) -> Exception:
        exc: Any
        if "group" in node:
            message, members = node["group"]
            exc = _group_class().__new__(cls, message, [self.make(each) for each in members])
        else:
            exc = _c_new(cls)(cls)
            # An exception among its arguments may lead back to it.
            self.made[number] = exc
            _set(exc, "args", tuple(self.value(each) for each in node["args"]))
        for name, value in node["members"]:
            descriptor = _member(cls, name)
            if descriptor is not None:
                descriptor.__set__(exc, self.value(value))
        _get(exc, "__dict__").update((name, self.value(value)) for name, value in node["dict"])
        return cast(Exception, exc)

    def stand_in(self, number: int) -> RemoteError:
        node = self.nodes[number]
        lines = self.text if number == 0 else _plain_lines(node)
        return RemoteError(_headline(node), _dotted(*node["type"]), node["args_repr"], "".join(lines))

    def value(self, value: Value) -> Any:
        if id(value) not in self.values:
            self.values[id(value)] = self.new_value(value)
        return self.values[id(value)]

    def new_value(self, value: Value) -> Any:
        if value[0] == "=":
            return value[1]
        if value[0] == "node":
            return self.make(value[1])
        if value[0] == "lost":
            return Lost(value[1], value[2])
        lost = Lost(value[2], f"<{value[2]} object that could not be rebuilt here>")
        return _try_here(lost, self.loads, value[1])


def _find_class(module: str, qualname: str) -> Optional[Type[Exception]]:
    """Find an exception class that may be raised here; None if there is none of that name."""
    found = _try_here(None, _import_name, module, qualname)
    if found is None and (module, qualname) in _OTHER_NAMES:
        found = _try_here(None, _import_name, *_OTHER_NAMES[module, qualname])
    group = _group_class()
    if group is not None and found is group:
        # Its members, rebuilt, are Exceptions, whatever they were.
        found = _import_name(group.__module__, "ExceptionGroup")
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _import_name(module: str, qualname: str) -> Any:
    found: Any = sys.modules.get(module) or importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    return found


def _c_new(cls: type) -> Callable[..., Any]:
    """Return the ``__new__`` of the class written in C that decides how instances lie in memory.

    It makes any class below it, without arguments.  Of several such bases the nearest one need not be it, and refuses.
    """
    each: Any = cls
    while not isinstance(vars(each).get("__new__"), BuiltinFunctionType):
        each = each.__base__
    return cast(Callable[..., Any], vars(each)["__new__"])


def _member(cls: type, name: str) -> Any:
    found = (vars(each).get(name) for each in cls.__mro__)
    return next((each for each in found if isinstance(each, (MemberDescriptorType, GetSetDescriptorType))), None)


# ---- What both use ----


def _try(default: Any, function: Callable[..., Any], *args: Any) -> Any:
    """Call what runs code of the exception's author, and return ``default`` when it raises anything."""
    try:
        return function(*args)
    except BaseException:  # noqa: BLE001  # sys.exit() in a __repr__ must not end the session
        return default


def _try_here(default: Any, function: Callable[..., Any], *args: Any) -> Any:
    """Do the same where the caller waits: Ctrl-C and the end of a test's time pass through."""
    try:
        return function(*args)
    except (Exception, SystemExit):  # noqa: BLE001  # the code that failed is a class from elsewhere
        return default


def _get(exc: BaseException, name: str) -> Any:
    """Read an attribute of ``BaseException`` past whatever the class of ``exc`` put before it."""
    return vars(BaseException)[name].__get__(exc, type(exc))


def _set(exc: BaseException, name: str, value: Any) -> None:
    vars(BaseException)[name].__set__(exc, value)


def _group_class() -> Any:
    group = getattr(builtins, "BaseExceptionGroup", None)
    if group is None:
        # Without the package nobody can have raised one; whoever wants to rebuild one has imported it.
        group = getattr(sys.modules.get("exceptiongroup"), "BaseExceptionGroup", None)
    return group


def _type_names(value: Any) -> Tuple[str, str]:
    cls = type(value)
    module = _try("", getattr, cls, "__module__")
    qualname = vars(type)["__qualname__"].__get__(cls)
    return (str(module) if isinstance(module, str) else ""), str(qualname)


def _dotted(module: str, qualname: str) -> str:
    return f"{module}.{qualname}" if module and module not in ("builtins", "__main__") else qualname


def _headline(node: Node) -> str:
    name = _dotted(*node["type"])
    return f"{name}: {node['message']}" if node["message"] else name


def _plain_lines(node: Node) -> List[str]:
    """Format one exception from its description alone."""
    lines = ["Traceback (most recent call last):\n"] if node["frames"] else []
    for filename, line, name, first, source, *_ in node["frames"]:
        shown = source[line - first].strip() if 0 <= line - first < len(source) else ""
        lines.append(f'  File "{filename}", line {line}, in {name}\n' + (f"    {shown}\n" if shown else ""))
    return [*lines, _headline(node) + "\n", *(note + "\n" for note in node["notes"])]


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text) - limit} more characters)"


_shortener = reprlib.Repr()
_shortener.maxlevel = 4
_shortener.maxtuple = _shortener.maxlist = _shortener.maxdict = _shortener.maxset = _shortener.maxfrozenset = 20
_shortener.maxstring = _shortener.maxother = _shortener.maxlong = MAX_REPR


def _repr(value: Any) -> str:
    if isinstance(value, (bytes, bytearray)) and len(value) > MAX_REPR:
        return repr(value[:MAX_REPR]) + f"... ({len(value) - MAX_REPR} more bytes)"
    fallback = f"<{_dotted(*_type_names(value))} object whose repr() failed>"
    return str(_try(fallback, _shortener.repr, value))
