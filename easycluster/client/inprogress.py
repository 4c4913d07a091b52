"""Which calls are in progress, for those who wonder why nothing happens.

Nothing is noted when a call begins: the threads that wait say in their frames what they wait for, so that only asking
costs something.
"""

from __future__ import annotations

import gc
import sys
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from easycluster.client import crowd, quick
from easycluster.client import requests as waiting
from easycluster.link.operations import CALLS, Op, describe_operation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

__all__ = ["CallInProgress", "calls_in_progress", "elsewhere", "stop_calls_of"]

elsewhere: weakref.WeakSet[Any] = weakref.WeakSet()
"""What waits for calls without a thread for each; ``calls_in_progress()`` of it gives them."""

# The functions that wait for a call without a method of the client.
_QUICK = {("call", quick.__file__), ("call_among_others", crowd.__file__)}


@dataclass(frozen=True)
class CallInProgress:
    """A call that a thread of this process waits for.

    Attributes:
        host: The far side, as messages name it.
        call: What was called: ``rebuild()``.
        request: Its number, by which two equal calls are told apart.
        is_limited: Whether whoever made it has given it a deadline; what we ask for ourselves needs none.
    """

    host: str
    call: str
    request: int
    is_limited: bool = False


def calls_in_progress() -> list[CallInProgress]:
    """The calls that this process waits for now, each once."""
    # Before Python 3.12 a look at another thread's frames may start a collection in the middle: what that runs lets
    # the other thread go on, and leave the very frame that is looked at.  Then f_back is whatever lies there now.
    collects = sys.version_info < (3, 12) and gc.isenabled()
    if collects:
        gc.disable()
    try:
        found = dict.fromkeys(
            call for frame in sys._current_frames().values() for call in _waited_for(frame) if call is not None
        )
    finally:
        if collects:
            gc.enable()
    for others in list(elsewhere):
        found.update(dict.fromkeys(others.calls_in_progress()))
    return list(found)


def _waited_for(frame: FrameType | None) -> Iterator[CallInProgress | None]:
    while frame is not None:
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        if (name, file) in _QUICK:
            yield _quick_call(frame.f_locals)
        elif name == "_await_until" and file == waiting.__file__:
            names = frame.f_locals
            yield _call(names.get("self"), names.get("pending"), names.get("limit") is not None or _is_timed_run(frame))
        frame = frame.f_back


def stop_calls_of(threads: Iterable[int]) -> None:
    """Stop the calls that threads wait for, on their far sides; the threads get the errors.

    Args:
        threads: Their identifiers.
    """
    frames = sys._current_frames()
    for ident in threads:
        frame = frames.get(ident)
        while frame is not None:
            names = frame.f_locals
            if frame.f_code.co_name == "_await_until" and frame.f_code.co_filename == waiting.__file__:
                client, pending = names.get("self"), names.get("pending")
                if client is not None and pending is not None:
                    client._stop(names.get("session"), pending.request)
            elif (frame.f_code.co_name, frame.f_code.co_filename) in _QUICK and names.get("request"):
                client = names["owner"]()
                if client is not None:
                    client._stop(names.get("session"), names["request"])
            frame = frame.f_back


def _is_timed_run(frame: FrameType) -> bool:
    """Whether this is a wait for a command that has a time limit."""
    outer: FrameType | None = frame
    while outer is not None:
        if outer.f_code.co_name == "run" and outer.f_globals.get("__name__") == "easycluster.remote":
            return outer.f_locals.get("timeout") is not None
        outer = outer.f_back
    return False


def _quick_call(names: dict[str, Any]) -> CallInProgress | None:
    owner, operation, request = names.get("owner"), names.get("operation"), names.get("request")
    client = owner() if owner is not None else None
    if client is None or operation is None or not request:
        return None
    return CallInProgress(client.peername, describe_operation(operation), request)


def _call(client: Any, pending: Any, is_limited: bool) -> CallInProgress | None:
    if client is None or pending is None:
        return None
    operation = pending.operation
    ours = operation[0] == Op.SERVICE and operation[1] not in ("run", *CALLS)
    return CallInProgress(client.peername, describe_operation(operation), pending.request, is_limited or ours)
