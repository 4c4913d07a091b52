"""What one end can ask of the other, and how requests are answered.

A request is a pickled tuple: the number of the operation, then its arguments.  Operations on
objects work in both directions; those on globals and code exist on the far side only.

This module is shipped to the far side.
"""

from __future__ import annotations

from _thread import get_ident
from typing import Any, Callable, Dict, List, Tuple

from easycluster.errors import RemoteProtocolError
from easycluster.link.items import ItemSource
from easycluster.link.session import Session
from easycluster.objects.exports import is_method, iterate
from easycluster.wire import failures
from easycluster.wire.frames import Frame, Kind

__all__ = ["CALLS", "Op", "PeerSession", "called", "describe_operation"]


class Op:
    """Numbers of the operations."""

    CALL = 0
    METHOD = 1
    GET = 2
    SET = 3
    DELETE = 4
    METHOD_OR_VALUE = 5
    ITEMS = 6
    EVAL = 7
    EXEC = 8
    IMPORT = 9
    GET_GLOBAL = 10
    SET_GLOBAL = 11
    UPDATE = 12
    SERVICE = 13
    BATCH = 14


_DESCRIPTIONS: Dict[int, Callable[[Any, Any], str]] = {
    Op.CALL: lambda name, _: f"{name}()",
    Op.METHOD: lambda oid, name: f"method {name}() of object {oid}",
    Op.GET: lambda oid, name: f"attribute {name} of object {oid}",
    Op.SET: lambda oid, name: f"setting attribute {name} of object {oid}",
    Op.DELETE: lambda oid, name: f"deleting attribute {name} of object {oid}",
    Op.METHOD_OR_VALUE: lambda oid, name: f"attribute {name} of object {oid}",
    Op.ITEMS: lambda oid, _: f"items of generator {oid}",
    Op.EVAL: lambda text, _: f"eval({_short(text)})",
    Op.EXEC: lambda text, _: f"execblock({_short(text)})",
    Op.IMPORT: lambda names, _: f"import of {', '.join(names)}",
    Op.GET_GLOBAL: lambda name, _: f"global {name}",
    Op.SET_GLOBAL: lambda name, _: f"setting global {name}",
    Op.UPDATE: lambda _blocks, _: "update_definitions()",
    Op.SERVICE: lambda name, what: f"{called(name, what)}()",
    Op.BATCH: lambda calls, _: f"batch of {len(calls)} calls",
}


CALLS = ("apply", "start_at")
"""Services that call a function of the user."""

# What messages call the parts of a request, from the end.
_PARTS: Dict[int, Tuple[str, ...]] = {
    Op.CALL: ("args", "kwargs"),
    Op.METHOD: ("args", "kwargs"),
    Op.SET: ("value",),
    Op.SET_GLOBAL: ("value",),
}

# Digits of 2**63.
_LONGEST_NUMBER = 19


def describe_operation(operation: Tuple[Any, ...]) -> str:
    """Return what an operation is, for a message: ``rebuild()``."""
    first = operation[1] if len(operation) > 1 else None
    second = operation[2] if len(operation) > 2 else None
    describe = _DESCRIPTIONS.get(operation[0])
    return describe(first, second) if describe is not None else f"operation {operation[0]}"


def called(service: str, what: Any) -> str:
    """Return the name of what a service calls for the user, else its own."""
    if service not in CALLS:
        return service
    return what if isinstance(what, str) else str(getattr(what, "__name__", None) or type(what).__name__)


def _short(text: Any) -> str:
    line = str(text).strip().splitlines()[0] if str(text).strip() else ""
    return repr(line if len(line) <= 60 else line[:57] + "...")


class PeerSession(Session):
    """A session that answers requests on this end's objects.

    Attributes:
        name: What this end is called in the tracebacks it sends.
    """

    name = ""

    def operations(self) -> Dict[int, Callable[..., Any]]:
        """Return what the peer may ask for."""
        return {
            Op.METHOD: self.call_method,
            Op.GET: lambda oid, name: getattr(self.values.exports.get(oid), name),
            Op.SET: lambda oid, name, value: setattr(self.values.exports.get(oid), name, value),
            Op.DELETE: lambda oid, name: delattr(self.values.exports.get(oid), name),
            Op.METHOD_OR_VALUE: self.method_or_value,
            Op.ITEMS: self.items.next_items,
        }

    def call_method(self, oid: int, name: str, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        """Call a method of an exported object."""
        if name == "__iter__" and not args:
            return iterate(self.values.exports.get(oid))
        return getattr(self.values.exports.get(oid), name)(*args, **kwargs)

    def method_or_value(self, oid: int, name: str) -> Tuple[bool, Any]:
        """Return ``(True, None)`` if the attribute is a method, else ``(False, its value)``."""
        value = getattr(self.values.exports.get(oid), name)
        if is_method(value):
            return True, None
        return False, value

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.items = ItemSource(self)
        self._operations = self.operations()
        # By request, where in it what it raises was raised, if that has to be said.
        self.places: Dict[int, str] = {}

    def name_parts(self, operation: Tuple[Any, ...]) -> List[str]:
        """Return what a message calls each part of a request that cannot be pickled."""
        known = _PARTS.get(operation[0], ())
        return [*("argument" for _ in range(len(operation) - len(known))), *known]

    # Answering ---------------------------------------------------------------------------------

    def begin(self, request: int) -> None:
        """User code of ``request`` is about to run in this thread."""

    def finish(self, request: int) -> None:
        """User code of ``request`` has ended in this thread."""

    def mark(self) -> Tuple[int, int]:
        """Return flags and number by which the peer knows which output belongs before the answer."""
        return 0, 0

    def perform(self, operation: Tuple[Any, ...]) -> Any:
        """Do what a request asks for."""
        function = self._operations.get(operation[0])
        if function is None:
            raise RemoteProtocolError(f"{describe_operation(operation)} cannot be asked of this end")
        return function(*operation[1:])

    def answer(self, message: Frame) -> None:
        """Carry out a request and send its answer.  Never raises what user code raised."""
        kind, _flags, request, _thread, body, _buffers = message
        if kind == Kind.RELEASE:
            self.release(body)
            return
        ident = get_ident()
        inside = self.inside
        outer = inside.get(ident)
        inside[ident] = request
        value: Any = None
        begun = False
        try:
            try:
                self.begin(request)
                begun = True
                value = self.perform(self.load(message))
                self.finish(request)
                kind = Kind.REPLY
                reply, out = self.values.dumps(value, "result")
            except BaseException as exc:  # noqa: BLE001 - whatever it is, the caller gets it
                self.finish(request)
                if not begun:
                    # It was cancelled while it waited: nobody has received what it refers to.
                    self.late(message)
                kind = Kind.RAISE
                value = exc
                reply, out = self.dump_failure(exc)
            # While we are inside: others count as ours what was written meanwhile.
            flags, mark = self.mark()
        finally:
            if outer is None:
                inside.pop(ident, None)
            else:
                inside[ident] = outer
        del body, message
        self.send(kind, request, reply, out, mark, flags)
        # Not earlier: with the value may go the last proxy for an object that the answer brings back.
        del value
        if self.items.kept:
            self.items.kept.pop(request, None)

    def release(self, body: bytes) -> None:
        """Give up exported objects that the peer has no proxies for any more."""
        numbers = body.split()
        if len(numbers) % 2 or not all(each.isdigit() and len(each) <= _LONGEST_NUMBER for each in numbers):
            # Objects would be held for ever, or let go too early.
            self.end(RemoteProtocolError("references were given back with something that is no number"))
            return
        for oid, count in zip(numbers[::2], numbers[1::2]):
            self.values.exports.release(int(oid), int(count))

    def dump_failure(self, exc: BaseException) -> Tuple[bytes, List[memoryview]]:
        """Return an exception as plain pickled values."""
        failure = self.describe_failure(exc)
        failure["kept"] = self.keep_failure(exc)
        place = self.places and self.places.pop(self.inside.get(get_ident(), 0), "")
        if place:
            failures.add_note(failure, place)
        result: Tuple[bytes, List[memoryview]] = self.values.dumps(failure)
        return result

    def describe_failure(self, exc: BaseException) -> failures.Failure:
        """Return an exception as builtin values."""
        return failures.describe(exc, dumps=self._dumps_alone, host=self.name)

    def keep_failure(self, exc: BaseException) -> int:
        """Keep what a failure refers to if somebody may ask for it; return its number, 0 if not."""
        return 0

    def _dumps_alone(self, value: Any) -> bytes:
        data, buffers = self.values.dumps(value)
        if buffers:
            raise ValueError("too large to hang on an exception")
        return bytes(data)
