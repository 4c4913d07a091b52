"""The worker's end of the data link: which thread a request is for, and the answering of it.

This module is shipped to the far side.
"""

from __future__ import annotations

import sys
from _thread import get_ident
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

from easycluster.errors import RemoteProtocolError
from easycluster.far import output
from easycluster.link.items import Pace, load_entry
from easycluster.link.operations import Op, PeerSession, describe_operation
from easycluster.link.pending import Waiter
from easycluster.link.runs import taken_apart
from easycluster.wire.frames import MARKED, NESTED, SINGLE_THREAD, Frame, Kind
from easycluster.wire.tracebacks import is_ours

if TYPE_CHECKING:
    from types import CodeType

    from easycluster.far.worker import Worker

__all__ = ["FarThread", "Interrupted", "NearConnection", "WorkerSession", "ask"]


class Interrupted(BaseException):
    """Raised inside a call that is cancelled or whose deadline has passed."""


class FarThread:
    """A far-side thread: what it waits on, and the requests it is inside of, outermost first."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.inbox = Waiter()
        self.running: List[int] = []
        self.ident = 0


class WorkerSession(PeerSession):
    """The worker's end of the data link."""

    def __init__(self, worker: Worker, *args: Any, **kwargs: Any) -> None:
        self.worker = worker
        super().__init__(*args, **kwargs)
        self.name = worker.settings.get("label") or ""
        self.reporting = False
        if worker.report_calls:
            self.reports()

    def operations(self) -> Dict[int, Callable[..., Any]]:
        """Return what the near side may ask for."""
        namespace = self.worker.namespace
        get_global = namespace.get_global

        def call(name: str, args: Any, kwargs: Any) -> Any:
            return get_global(name)(*args, **kwargs)

        table = super().operations()
        table.update(
            {
                Op.CALL: call,
                Op.EVAL: namespace.eval,
                Op.EXEC: namespace.execblock,
                Op.IMPORT: namespace.import_modules,
                Op.GET_GLOBAL: get_global,
                Op.SET_GLOBAL: namespace.set_global,
                Op.UPDATE: namespace.update,
                Op.SERVICE: self.worker.service,
                Op.BATCH: self.run_batch,
            }
        )
        return table

    def route(self, message: Frame) -> Optional[Waiter]:
        """Return the inbox of the thread that a message is for."""
        kind, flags, request, number, _body, _buffers = message
        if kind == Kind.GOODBYE:
            self.end(EOFError())
            return None
        if number == 0 or flags & NESTED or kind == Kind.RELEASE:
            return self.worker.main_thread.inbox
        try:
            return self.worker.thread(number, stop=kind == Kind.STOP_THREAD)
        except (RuntimeError, MemoryError) as exc:
            # There are as many threads as the system allows.
            self.worker.refuse_later(request, exc)
            return None

    def take_apart(self, message: Frame, inbox: Waiter) -> None:
        """Put the calls of a run into the front of an inbox."""
        try:
            calls = taken_apart(message)
        except RemoteProtocolError as exc:
            self.end(exc)
        else:
            inbox.items.extendleft(reversed(calls))

    def begin(self, request: int) -> None:
        """Note that ``request`` runs in this thread; refuse it if it was cancelled already."""
        worker = self.worker
        # In this order, see Worker.cancel.
        worker.threads_by_ident[get_ident()].running.append(request)
        if worker.cancelled and request in worker.cancelled:
            raise Interrupted

    def finish(self, request: int) -> None:
        """Note that ``request`` has ended in this thread."""
        worker = self.worker
        running = worker.threads_by_ident[get_ident()].running
        if request in running:
            running.remove(request)
        if worker.cancelled and request in worker.cancelled:
            worker.cancel_ended(request)

    def answer_here(self, message: Frame) -> None:
        """Answer in a thread that waits for the near side, perhaps one that user code has started."""
        threads, ident = self.worker.threads_by_ident, get_ident()
        if ident in threads:
            self.answer(message)
            return
        thread = threads[ident] = FarThread(SINGLE_THREAD)
        thread.ident = ident
        try:
            self.answer(message)
        finally:
            del threads[ident]

    def mark(self) -> Any:
        """Let the keeper say when it has read what was printed until now."""
        if not output.unseen:
            return 0, 0
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass
        if not output.belongs(get_ident(), self.inside):
            return 0, 0
        return MARKED, self.worker.request_sync()

    def dump_failure(self, exc: BaseException) -> Any:
        """Return an exception as plain pickled values; a cancelled call is shown where it was, without us."""
        if isinstance(exc, Interrupted):
            _cut_traceback(exc, type(self.worker)._on_cancel_signal.__code__)
        return super().dump_failure(exc)

    def keep_failure(self, exc: BaseException) -> int:
        """Keep a failure for a debugger, if one was wished for."""
        debugger = sys.modules.get("easycluster.far.debugger")
        return 0 if debugger is None else int(debugger.keep(exc))

    def reports(self) -> None:
        """Report every call from now on; the quick way does not."""
        self.reporting = True
        self.special.add("report")

    def report(self, operation: Any) -> None:
        """Tell the server what is asked for."""
        self.worker.report(describe_operation(operation))

    def part_begins(self, name: str) -> None:
        """Tell the server which call of a batch begins."""
        self.report((Op.CALL, name))

    def part_ended(self, exc: Optional[BaseException]) -> None:
        """A call of a batch has ended."""

    def run_batch(self, calls: Any, mode: int, entries: Any) -> Any:
        """Run many calls, see :func:`easycluster.far.batch.run_batch`."""
        # Late: most sessions have none.
        from easycluster.far.batch import run_batch

        return run_batch(self, calls, mode, entries)

    def perform(self, operation: Any) -> Any:
        """Do what a request asks for."""
        if self.reporting:
            self.report(operation)
        function = self._operations[operation[0]]
        return function(*operation[1:])


def ask(session: WorkerSession, operation: Any) -> Any:
    """Send the peer a request from this thread and wait for its answer; run what it asks meanwhile."""
    from easycluster.wire import failures

    pending = session.request(operation)
    try:
        while True:
            message = session.wait_item(pending)
            if message[0] == Kind.CALL:
                session.answer_here(message)
            else:
                break
    finally:
        session.pending.pop(pending.request, None)
    value = session.load(message)
    if message[0] == Kind.RAISE:
        raise failures.rebuild(value, loads=session.values.loads, host=session.values.peer.host)
    return value


class NearConnection:
    """What proxies for objects of the near side talk to."""

    def __init__(self, session: WorkerSession, peername: str) -> None:
        self._session = session
        self.peername = peername

    def send_request(self, oid: int, method: str, args: Any, kwargs: Any = None, *_: Any, **__: Any) -> Any:
        """Call a method of an object."""
        return ask(self._session, (Op.METHOD, oid, method, args, kwargs or {}))

    def get_attribute(self, oid: int, name: str, **_: Any) -> Any:
        """Return an attribute of an object."""
        return ask(self._session, (Op.GET, oid, name))

    def set_attribute(self, oid: int, name: str, value: Any, **_: Any) -> Any:
        """Set an attribute of an object."""
        return ask(self._session, (Op.SET, oid, name, value))

    def del_attribute(self, oid: int, name: str, **_: Any) -> Any:
        """Delete an attribute of an object."""
        return ask(self._session, (Op.DELETE, oid, name))

    def get_method(self, oid: int, name: str) -> Any:
        """Return ``(True, None)`` for a method, else ``(False, value)``."""
        return ask(self._session, (Op.METHOD_OR_VALUE, oid, name))

    def stream(self, oid: int) -> Any:
        """Iterate over an iterator, several items at a time."""
        pace = Pace()
        more = True
        while more:
            entries, more, seconds = ask(self._session, (Op.ITEMS, oid, pace.most))
            pace.note(len(entries), seconds)
            for entry in entries:
                yield load_entry(self._session.values, entry)


def _cut_traceback(exc: BaseException, handler: CodeType) -> None:
    """Leave the signal handler out of a traceback, and a traceback that has nothing but our own code."""
    foreign = False
    tb = exc.__traceback__
    while tb is not None:
        following = tb.tb_next
        foreign = foreign or not is_ours(tb.tb_frame)
        if following is not None and following.tb_frame.f_code is handler:
            tb.tb_next = following = None
        tb = following
    if not foreign:
        exc.__traceback__ = None
