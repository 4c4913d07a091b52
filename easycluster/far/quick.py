"""The quick way of a plain call, far side: one function that reads, answers and reads again.

See :mod:`easycluster.client.quick` for why.  What is no plain call, or does not come as one whole
frame, is left unread or untaken for the long way of :meth:`~easycluster.far.worker.Worker.serve`.

This module is shipped to the far side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, List

from easycluster.far.output import unseen
from easycluster.far.session import Interrupted
from easycluster.link.operations import Op
from easycluster.wire.frames import MAX_INLINE, PLAIN_HEADER, Kind, plain_kind
from easycluster.wire.records import HEAD_SIZE, pack_length, pack_number, same

if TYPE_CHECKING:
    from easycluster.far.session import FarThread, WorkerSession
    from easycluster.far.worker import Worker

__all__ = ["make_serve"]

_PLAIN_CALL, _PLAIN_REPLY = plain_kind(Kind.CALL), plain_kind(Kind.REPLY)
_REPLY, _RAISE = Kind.REPLY, Kind.RAISE
_CALL = Op.CALL
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
    dumps, loads, get_global = session.values.dumps, session.values.loads, worker.namespace.get_global
    writing, reading = session._writing, session._reading
    take_role, leave_role = reading.acquire, reading.release
    queue, unqueue = outgoing.append, outgoing.popleft
    waiting, unwanted, ident = thread.inbox.items, worker.cancelled, thread.ident
    begin, ended = thread.running.append, thread.running.pop
    sealed = session.macs is not None
    if session.macs is not None:
        (copy_out_inner, copy_out_outer), (copy_in_inner, copy_in_outer) = session.macs

    def serve() -> None:
        value: Any = None
        operation: Any = None
        buffers: Any = None
        while not waiting and not special and take_role(False):
            try:
                rest, number, incoming, ready, chunks = decoder._state
                if chunks or ready or rest or incoming is not None:
                    return
                read, sizes = stream.read_step
                chunks.extend(map(read, sizes))
                data = chunks[0]
                if sealed:
                    record = data
                    data = record[HEAD_SIZE:]
                    inner = copy_in_inner()
                    inner.update(pack_number(number) + data)
                    outer = copy_in_outer()
                    outer.update(inner.digest())
                    if not same(pack_length(len(data)) + outer.digest(), record[:HEAD_SIZE]):
                        return
                    number += 1
                if len(data) < 16:
                    return
                length, kind, request, number_of_thread = _unpack(data)
                if kind != _PLAIN_CALL or number_of_thread or length != len(data) - 16:
                    return
                decoder._state = (b"", number, None, ready, [])
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
                operation = loads(data[16:])
                if operation[0] == _CALL:
                    value = get_global(operation[1])(*operation[2], **operation[3])
                else:
                    value = operations[operation[0]](*operation[1:])
                ended()
                if unwanted:
                    session.finish(request)
                kind = _REPLY
                body, buffers = dumps(value, "result")
            except BaseException as exc:  # noqa: BLE001 - whatever it is, the caller gets it
                session.finish(request)
                kind = _RAISE
                value = exc
                body, buffers = session.dump_failure(exc)
            if kind == _RAISE or unseen or buffers or dropped or special or len(body) > MAX_INLINE:
                flags, mark = session.mark()
                del inside[ident]
                session.send(kind, request, body, buffers, mark, flags)
                # Not earlier: with the value may go the last proxy for an object that the answer brings back.
                value = operation = buffers = None
                if kept:
                    kept.pop(request, None)
                continue
            del inside[ident]
            data = _pack(len(body), _PLAIN_REPLY, request, 0) + body
            with writing:
                if outgoing:
                    session._send_now(data)
                else:
                    number = session._number
                    if sealed:
                        inner = copy_out_inner()
                        inner.update(pack_number(number) + data)
                        outer = copy_out_outer()
                        outer.update(inner.digest())
                        data = pack_length(len(data)) + outer.digest() + data
                        number += 1
                    counts: List[int] = []
                    queue((data, counts, number))
                    write, options = stream.write_step
                    try:
                        counts.extend(map(write, (data,), options) if options else map(write, (data,)))
                    except BlockingIOError:
                        session._drain(None)
                    except OSError as exc:
                        session._broken(exc)
                    else:
                        if counts[0] == len(data):
                            session._number = number
                            unqueue()
                        else:
                            session._drain(None)
            value = operation = None
            if kept:
                kept.pop(request, None)

    return serve
