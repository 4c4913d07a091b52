"""The quick way of a plain call, far side: one function that reads, answers and reads again.

See :mod:`easycluster.client.quick` for why.  What is no plain call, or does not come as one whole
frame, is left unread or untaken for the long way of :meth:`~easycluster.far.worker.Worker.serve`.

This module is shipped to the far side.
"""

from __future__ import annotations

import pickle
import struct
from typing import TYPE_CHECKING, Any, Callable, List

from easycluster.far.output import unseen
from easycluster.far.session import Interrupted
from easycluster.link.operations import Op
from easycluster.link.sending import is_quick
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
from easycluster.wire.records import HEAD_SIZE, pack_head, pack_number, same

if TYPE_CHECKING:
    from easycluster.far.session import FarThread, WorkerSession
    from easycluster.far.worker import Worker

__all__ = ["make_serve"]

_PLAIN_CALL, _PLAIN_REPLY = plain_kind(Kind.CALL), plain_kind(Kind.REPLY)
_CALL = Op.CALL
_dumps, _loads = pickle.dumps, pickle.loads
_pack, _unpack = PLAIN_HEADER.pack, PLAIN_HEADER.unpack_from


def make_serve(worker: Worker, session: WorkerSession, thread: FarThread) -> Callable[[], None]:
    """Return ``serve()``, which answers plain calls and returns when something else has come.

    Args:
        worker: The worker.
        session: Its session.
        thread: The thread that will call it, the one for calls to thread 0.
    """
    decoder, stream, outgoing = session._decoder, session.stream, session._outgoing
    inside, special, dropped, parked = session.inside, session.special, session._dropped, session.parked
    sleepers, operations, kept = session._sleepers, session._operations, session.items.kept
    values, namespace = session.values, worker.namespace
    names, hidden, get_global = namespace.names, namespace.hidden, namespace.get_global
    reading, gathered = session._reading, session.gathered
    take_role, leave_role = reading.acquire, reading.release
    waiting, unwanted, ident = thread.inbox.items, worker.cancelled, thread.ident
    begin, ended = thread.running.append, thread.running.pop
    # A worker's stream lives as long as the process.
    (read, sizes), (write, options) = stream.read_step, stream.write_step
    sealed = session.macs is not None
    if session.macs is not None:
        (copy_out_inner, copy_out_outer), (copy_in_inner, copy_in_outer) = session.macs

    def serve() -> None:
        value: Any = None
        operation: Any = None
        function: Any = None
        body: Any = None
        buffers: Any = None
        kind = Kind.REPLY
        while not waiting and not special and not gathered and take_role(False):
            try:
                begun, number, chunks = decoder._state
                if begun or chunks:
                    return
                chunks.extend(map(read, sizes))
                data = chunks[0]
                if sealed:
                    record = data
                    data = record[HEAD_SIZE:]
                    inner = copy_in_inner()
                    inner.update(pack_number(number) + data)
                    outer = copy_in_outer()
                    outer.update(inner.digest())
                    if not same(pack_head(len(data), outer.digest()), record[:HEAD_SIZE]):
                        return
                    number += 1
                length, what, request, number_of_thread = _unpack(data)
                if what != _PLAIN_CALL or number_of_thread or length != len(data) - 16:
                    if sealed:
                        # Not to verify it twice.
                        decoder.accept(data, number)
                    return
                decoder._state = (None, number, [])
            except struct.error:
                # Less than a header.
                return
            except OSError as exc:
                if exc.errno is None:
                    raise
                session.end(exc)
                return
            finally:
                leave_role()
                if sleepers or parked:
                    session.role_is_free()
            inside[ident] = request
            try:
                # In this order, see Worker.cancel.
                begin(request)
                if unwanted and request in unwanted:
                    raise Interrupted
                operation = body = data[16:]
                if STACK_GLOBAL in body:
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
                plain = not required
                if plain:
                    try:
                        # Large bytes would be copied.
                        is_bulk = value.__class__ in BULKY and len(value) >= BULK
                        body = FAILED if is_bulk else _dumps(value, 5, buffer_callback=keep)
                    except Exception:  # noqa: BLE001  # whatever it is, the careful way gives the error
                        body = FAILED
                    if STACK_GLOBAL in body or len(body) >= BULK or met:
                        plain = False
                        body, buffers = values.finish_dumps(value, "result", body, take_met())
                else:
                    body, buffers = values.dumps(value, "result")
            except BaseException as exc:  # noqa: BLE001 - whatever it is, the caller gets it
                dump = take_met()
                if dump is not None:
                    dump.take_back()
                    dump = None
                session.finish(request)
                if operation is None:
                    # It was cancelled while it waited: nobody has received what it refers to.
                    values.discard(data[16:])
                plain = False
                kind = Kind.RAISE
                value = exc
                body, buffers = session.dump_failure(exc)
            if plain and not (unseen or dropped or special):
                del inside[ident]
                data = _pack(len(body), _PLAIN_REPLY, request, 0) + body
                if session.sending is not None:
                    session.settle()
                session.sending = True
                if outgoing or session.writer_at_work:
                    session.sending = None
                    session.send(Kind.REPLY, request, body)
                else:
                    number = session._number
                    if sealed:
                        inner = copy_out_inner()
                        inner.update(pack_number(number) + data)
                        outer = copy_out_outer()
                        outer.update(inner.digest())
                        data = pack_head(len(data), outer.digest()) + data
                        number += 1
                    counts: List[int] = []
                    session.sending = data, counts, number
                    try:
                        counts.extend(map(write, (data,), options) if options else map(write, (data,)))
                    except BlockingIOError:
                        session.send_rest()
                    except OSError as exc:
                        session._broken(exc)
                    else:
                        if counts[0] == len(data):
                            session._number = number
                            session.sending = None
                        else:
                            session.send_rest()
            else:
                if plain:
                    buffers = ()
                flags, mark = session.mark()
                del inside[ident]
                session.send(kind, request, body, buffers, mark, flags)
                # Who sends something by reference looks at our variables, and Python keeps what they were then.
                value = operation = function = body = buffers = None
                kind = Kind.REPLY
                locals()
            # Not earlier: with the value may go the last proxy for an object that the answer brings back.
            value = operation = function = None
            if kept:
                kept.pop(request, None)

    is_plain_dumps("values")(serve)
    return is_quick(serve)
