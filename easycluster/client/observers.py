"""What observers of calls see and say; see :mod:`easycluster.client.observing`."""

from __future__ import annotations

import itertools
import time
from _thread import get_ident
from reprlib import Repr
from typing import Any, Literal, Protocol

from easycluster.link.operations import Op, describe_operation
from easycluster.objects.proxies import RemoteProxy

__all__ = ["KINDS", "Answer", "Call", "Observer", "Outcome"]

Mode = Literal["sync", "nonblocking", "oncomplete", "items"]

KINDS = {
    Op.CALL: "call",
    Op.METHOD: "method",
    Op.GET: "get",
    Op.SET: "set",
    Op.DELETE: "delete",
    Op.METHOD_OR_VALUE: "look",
    Op.ITEMS: "items",
    Op.EVAL: "eval",
    Op.EXEC: "exec",
    Op.IMPORT: "import",
    Op.GET_GLOBAL: "get global",
    Op.SET_GLOBAL: "set global",
    Op.SERVICE: "service",
    Op.BATCH: "batch",
}
"""What :attr:`Call.kind` may be, by the number of the operation."""

_numbers = itertools.count(1)
_monotonic, _time = time.monotonic, time.time


class _Short(Repr):
    """Short texts of arguments, in which no user's code runs on a far side."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80
        self.maxlevel = 3

    def repr1(self, x: Any, level: int) -> str:
        if isinstance(x, RemoteProxy):
            # A proxy may forward its __repr__.
            return RemoteProxy.__repr__(x)
        return super().repr1(x, level)


_short = _Short()


class Call:
    """One call, as observers see it.

    Attributes:
        number: Counts all calls of this process that were observed.
        host: The far side as messages name it; of a lab's host, its name.
        operation: What is sent, see :mod:`easycluster.link.operations`.
        mode: ``"sync"``, ``"nonblocking"``, ``"oncomplete"``, or ``"items"`` for a loop over a far-side generator.
        began: When it began, on the monotonic clock.
        began_at: The same in seconds since 1970.
        thread: Which thread made it, as ``threading.get_ident()`` has it.
    """

    __slots__ = ("__weakref__", "began", "began_at", "host", "mode", "number", "operation", "thread")

    def __init__(self, host: str, operation: tuple[Any, ...], mode: Mode = "sync") -> None:
        self.number = next(_numbers)
        self.host = host
        self.operation = operation
        self.mode: Mode = mode
        self.thread = get_ident()
        self.began_at = _time()
        self.began = _monotonic()

    @property
    def name(self) -> str:
        """What it is, as messages have it: ``rebuild()``, ``eval('1 + 1')``."""
        return describe_operation(self.operation)

    @property
    def kind(self) -> str:
        """Which kind of call: one of the values of :data:`KINDS`."""
        return KINDS.get(self.operation[0], "other")

    @property
    def target(self) -> str:
        """Name of the function, method, attribute, global or service; of code, its text."""
        operation = self.operation
        at = 2 if operation[0] in (Op.METHOD, Op.GET, Op.SET, Op.DELETE, Op.METHOD_OR_VALUE) else 1
        return str(operation[at]) if operation[0] not in (Op.BATCH, Op.ITEMS) else ""

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments; of a service such as ``run``, its own."""
        number, operation = self.operation[0], self.operation
        if number in (Op.CALL, Op.METHOD):
            args: tuple[Any, ...] = operation[-2]
            return args
        if number == Op.SERVICE:
            return operation[2:]
        return operation[-1:] if number in (Op.SET, Op.SET_GLOBAL) else ()

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments."""
        return self.operation[-1] if self.operation[0] in (Op.CALL, Op.METHOD) else {}

    @property
    def arguments(self) -> str:
        """Arguments as a short text: ``"sda", force=True``; never raises, and asks no far side."""
        try:
            if self.operation[0] == Op.BATCH:
                return ", ".join(str(call[0]) for call in self.operation[1][:5])
            words = [_short.repr(one) for one in self.args]
            return ", ".join(words + [f"{key}={_short.repr(value)}" for key, value in self.kwargs.items()])
        except Exception as exc:  # noqa: BLE001  # a user's __repr__, or values that change meanwhile
            return f"<{type(exc).__name__} in repr>"

    def __repr__(self) -> str:
        return f"<Call {self.number} {self.name} on {self.host}>"


class Outcome:
    """How a call ended.

    Attributes:
        value: What it returned; of a loop over a far-side generator, how many items.  Not to be kept: what it refers
            to on the far side lives as long.
        error: What it raised, None if nothing.  Not to be kept either: it holds the frames of the test.
        elapsed: Seconds from its begin until the answer was here.
        answered: Whether an observer gave the answer, and nothing was asked of the far side.
        dropped: Whether the caller let go of the response before anybody had waited for it.
    """

    __slots__ = ("answered", "dropped", "elapsed", "error", "value")

    def __init__(
        self,
        elapsed: float,
        value: Any = None,
        error: BaseException | None = None,
        *,
        answered: bool = False,
        dropped: bool = False,
    ) -> None:
        self.value = value
        self.error = error
        self.elapsed = elapsed
        self.answered = answered
        self.dropped = dropped


class Answer:
    """What an observer gives in the place of a call.

    Args:
        value: What the call returns; of a far-side generator, an iterable.
        error: What it raises instead.  A RemoteException counts as raised over there, so ``origexc`` chooses between
            it and its ``orig``; anything else is raised as it is.
    """

    __slots__ = ("error", "value")

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value = value
        self.error = error


class Observer(Protocol):
    """Told of calls; in the thread that makes them, several at once if there are several threads."""

    def begins(self, call: Call) -> Answer | None:
        """A call begins.

        Returns:
            The answer, and nothing is asked of the far side; None lets the call go on.

        Raises:
            BaseException: The call is not made, and this raised by it; also where it is nonblocking.
        """

    def ended(self, call: Call, outcome: Outcome) -> None:
        """A call has ended; a nonblocking one once its response was waited for.  What this raises is only printed."""
