"""The quick way of many calls, far side: those that came together are answered together.

What :mod:`easycluster.client.gather` sends arrives as many calls in one record.  Each is answered
into the same place, which is written once there is nothing more to do, or much of it; if a call
takes long, the flusher sends what those before it have answered.

This module is shipped to the far side.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, Callable

from easycluster.far.output import unseen
from easycluster.far.session import Interrupted
from easycluster.link.operations import Op
from easycluster.link.runs import FEW, LEAST_INT, MOST_INT, MOST_TEXT, TINY
from easycluster.link.sending import GATHER, GATHER_BODY
from easycluster.wire.frames import PLAIN_HEADER, Kind, plain_kind
from easycluster.wire.pickling import (
    BULK,
    BULKY,
    FAILED,
    STACK_GLOBAL,
    is_plain_dumps,
    keep,
    met,
    required,
    take_met,
)

if TYPE_CHECKING:
    from easycluster.far.session import FarThread, WorkerSession
    from easycluster.far.worker import Worker

__all__ = ["make_serve_waiting"]

_KIND_CALL, _PLAIN_REPLY = Kind.CALL, plain_kind(Kind.REPLY)
_CALLS, _OPERATION = Kind.CALLS, Kind.OPERATION
_CALL = Op.CALL
_dumps, _loads = pickle.dumps, pickle.loads
_pack = PLAIN_HEADER.pack


def make_serve_waiting(worker: Worker, session: WorkerSession, thread: FarThread) -> Callable[[], None]:
    """Return ``serve_waiting()``, which answers the plain calls in front of a thread's inbox.

    Args:
        worker: The worker.
        session: Its session.
        thread: The thread that will call it.
    """
    inside, special, dropped, gathered = session.inside, session.special, session._dropped, session.gathered
    operations, values, namespace = session._operations, session.values, worker.namespace
    names, hidden, get_global = namespace.names, namespace.hidden, namespace.get_global
    inbox, unwanted, ident = thread.inbox, worker.cancelled, thread.ident
    waiting = inbox.items
    begin, ended = thread.running.append, thread.running.pop

    def serve_waiting() -> None:
        value: Any = None
        operation: Any = None
        many = len(waiting) > FEW
        while waiting and not (special or required):
            kind, flags, request, _number, body, bulk = waiting[0]
            if kind != _OPERATION:
                if kind == _CALLS:
                    session.take_apart(waiting.popleft(), inbox)
                    many = len(waiting) > FEW
                    continue
                if kind != _KIND_CALL or flags or bulk:
                    break
            waiting.popleft()
            buffers: Any = ()
            operation = None
            inside[ident] = request
            try:
                # In this order, see Worker.cancel.
                begin(request)
                if unwanted and request in unwanted:
                    raise Interrupted
                operation = body
                if kind == _OPERATION:
                    pass
                elif STACK_GLOBAL in body:
                    operation = values.loads(body)
                else:
                    try:
                        operation = _loads(body)
                    except Exception as exc:
                        raise values.not_rebuilt(exc) from exc
                if operation[0] == _CALL:
                    name = operation[1]
                    function = get_global(name) if name in hidden or name not in names else names[name]
                    value = function(*operation[2], **operation[3])
                else:
                    value = operations[operation[0]](*operation[1:])
                ended()
                if unwanted:
                    session.finish(request)
                kind = Kind.REPLY
                form = value.__class__
                if not many:
                    tiny = False
                elif form is int:
                    tiny = LEAST_INT <= value <= MOST_INT
                else:
                    tiny = form in TINY or (form is str and len(value) <= MOST_TEXT)
                if not tiny:
                    try:
                        # Large bytes would be copied.
                        is_bulk = form in BULKY and len(value) >= BULK
                        body = FAILED if is_bulk else _dumps(value, 5, buffer_callback=keep)
                    except Exception:  # noqa: BLE001  # whatever it is, the careful way gives the error
                        body = FAILED
                    plain = len(body) <= GATHER_BODY and not met and STACK_GLOBAL not in body
                    if not plain:
                        body, buffers = values.finish_dumps(value, "result", body, take_met())
            except BaseException as exc:  # noqa: BLE001 - whatever it is, the caller gets it
                dump = take_met()
                if dump is not None:
                    dump.take_back()
                    dump = None
                session.finish(request)
                if operation is None and body.__class__ is bytes:
                    # It was cancelled while it waited: nobody has received what it refers to.
                    values.discard(body)
                tiny = plain = False
                kind = Kind.RAISE
                value = exc
                body, buffers = session.dump_failure(exc)
            if (tiny or plain) and not (unseen or dropped or special):
                del inside[ident]
                gathered.append((request, value) if tiny else _pack(len(body), _PLAIN_REPLY, request, 0) + body)
                if len(gathered) >= GATHER:
                    session.flush()
                elif waiting and not session.flush_due:
                    # The next call may take long.
                    session.gathered_some(True)
            else:
                if tiny:
                    body = _dumps(value, 5)
                flags, mark = session.mark()
                del inside[ident]
                # Behind all that is gathered.
                session.send(kind, request, body, buffers, mark, flags)
                # Who sends something by reference looks at our variables, and Python keeps what they were then.
                value = operation = function = body = buffers = None
                locals()
                if session.items.kept:
                    session.items.kept.pop(request, None)
            # Not earlier: with the value may go the last proxy for an object that the answer brings back.
            value = operation = function = None
        if gathered:
            # Not left to other threads, as on the near side: with a core of its own this side would wait for them.
            session.flush()

    is_plain_dumps("values")(serve_waiting)
    return serve_waiting
