"""The worker's end of a server's audit log: says which calls it runs and how they ended.

Names of functions and exceptions only, never arguments, values or code.  The lines are drawn in
``easycluster/transport/audit.py``; whoever runs code here can write others.

This module is shipped to the far side.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from _thread import get_ident
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Set, Tuple

from easycluster.far.session import Interrupted, WorkerSession
from easycluster.link.operations import CALLS, Op, called
from easycluster.wire.frames import Kind

if TYPE_CHECKING:
    from easycluster.far.worker import Worker

__all__ = ["AuditedSession", "name_operation"]

_MOST_NAME = 120

# The end of struct tcp_info with the bytes sent, bytes sent again and, before, those received:
# include/uapi/linux/tcp.h; Linux 4.19 or newer.
_TCP_INFO = getattr(socket, "TCP_INFO", None)
_TCP_INFO_SIZE = 216
_BYTES_RECEIVED, _BYTES_SENT = 128, 200

_NAMES: Dict[int, Callable[[Any, Any], str]] = {
    Op.CALL: lambda name, _: str(name),
    Op.METHOD: lambda oid, name: f"<object {oid}>.{name}",
    Op.GET: lambda oid, name: f"<object {oid}>.{name} (get)",
    Op.SET: lambda oid, name: f"<object {oid}>.{name} (set)",
    Op.DELETE: lambda oid, name: f"<object {oid}>.{name} (delete)",
    Op.METHOD_OR_VALUE: lambda oid, name: f"<object {oid}>.{name} (get)",
    Op.ITEMS: lambda oid, _: f"<object {oid}>.__next__",
    Op.EVAL: lambda _text, _: "eval",
    Op.EXEC: lambda _text, _: "execblock",
    Op.IMPORT: lambda names, _: f"import {', '.join(names)}",
    Op.GET_GLOBAL: lambda name, _: f"{name} (get)",
    Op.SET_GLOBAL: lambda name, _: f"{name} (set)",
    Op.UPDATE: lambda _blocks, _: "update_definitions",
    Op.SERVICE: lambda name, what: called(name, what) if name in CALLS else f"<easycluster>.{name}",
    Op.BATCH: lambda calls, _: f"batch of {len(calls)} calls",
}


def name_operation(operation: Tuple[Any, ...]) -> str:
    """Return the name of what a request asks for, and nothing of its values."""
    name = _NAMES.get(operation[0])
    if name is None:
        return f"operation {operation[0]}"
    return name(operation[1], operation[2] if len(operation) > 2 else None)


class AuditedSession(WorkerSession):
    """A session whose calls are written down."""

    def __init__(self, worker: Worker, stream: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(worker, stream, *args, **kwargs)
        self.reports()
        self._pipe = worker.settings["audit"][0]
        self._socket = getattr(stream, "socket", None)
        # When requests began that are not answered yet, and the outcomes of those that failed.
        self._began: Dict[int, float] = {}
        self._failed: Dict[int, str] = {}
        # Requests whose calls are written down one by one, and not they themselves.
        self._batches: Set[int] = set()

    def send(self, kind: int, request: int, *args: Any, **kwargs: Any) -> Any:
        """As for any session; an answer is written down before it leaves, since with it the session may end."""
        if request in self._batches and kind in (Kind.REPLY, Kind.RAISE):
            self._batches.discard(request)
            self._failed.pop(request, None)
        elif kind == Kind.REPLY or kind == Kind.RAISE:
            self._write_end(request, "ok" if kind == Kind.REPLY else self._failed.pop(request, "cancelled"))
        return super().send(kind, request, *args, **kwargs)

    def report(self, operation: Any) -> None:
        """Write down that a request begins."""
        request = self.inside.get(get_ident(), 0)
        if operation[0] == Op.BATCH:
            self._batches.add(request)
        else:
            self._began[request] = time.perf_counter()
            self._write(f"b\t{request}\t{_one_word(name_operation(operation))}\n")
        if self.worker.report_calls:
            super().report(operation)

    def part_ended(self, exc: Optional[BaseException]) -> None:
        """Write down that a call of a batch has ended."""
        self._write_end(self.inside.get(get_ident(), 0), "ok" if exc is None else _name_outcome(exc))

    def dump_failure(self, exc: BaseException) -> Any:
        """As for any session."""
        request = self.inside.get(get_ident())
        if request is not None:
            self._failed[request] = _name_outcome(exc)
        return super().dump_failure(exc)

    def _write_end(self, request: int, outcome: str) -> None:
        began = self._began.pop(request, None)
        if began is None:
            # It never ran: it was cancelled too early, or after its end, and that is a second answer.
            return
        micros = int((time.perf_counter() - began) * 1e6)
        self._write(f"e\t{request}\t{_one_word(outcome)}\t{micros}\t{self._count_bytes()}\n")

    def _count_bytes(self) -> str:
        """Return how many bytes the link has carried in each direction, as far as the system can tell."""
        if self._socket is not None and _TCP_INFO is not None:
            try:
                info = self._socket.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _TCP_INFO_SIZE)
                (received,) = struct.unpack_from("Q", info, _BYTES_RECEIVED)
                sent, again = struct.unpack_from("QQ", info, _BYTES_SENT)
            except (OSError, struct.error):
                return "\t"
            return f"{received}\t{sent - again}"
        return "\t"

    def _write(self, line: str) -> None:
        try:
            # Short enough for a pipe to take it whole, whichever threads write.
            os.write(self._pipe, line.encode("utf-8", "replace"))
        except OSError:
            # The server is gone, and so will the session be.
            pass


def _name_outcome(exc: BaseException) -> str:
    kind = type(exc)
    if kind is Interrupted:
        return "cancelled"
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _one_word(text: str) -> str:
    return " ".join(text[:_MOST_NAME].split())
