"""The quick way of a nonblocking call: pickled at once, sent with others.

A call of its own write and its own record costs 20 us here and as much there, most of it for waking
the far side.  Here a call is pickled, numbered and laid beside others; they travel together when
there are many, when somebody waits for an answer, or when this thread lets the flusher run
(:mod:`easycluster.link.flusher`).  The first one, with nothing else on its way, travels alone and
at once, so that a lone call does not begin later than it would.

What is not a small call with plain arguments goes the long way, behind all that was gathered.
"""

from __future__ import annotations

import pickle
import weakref
from time import monotonic
from typing import TYPE_CHECKING, Any

from easycluster.client.arrivals import Outstanding, nothing
from easycluster.client.response import NonblockingResponse
from easycluster.link.operations import Op
from easycluster.link.runs import LEAST_INT, MOST_ARGUMENTS, MOST_INT, MOST_TEXT, TINY
from easycluster.link.sending import GATHER, GATHER_BODY
from easycluster.link.session import name_parts
from easycluster.wire.frames import PLAIN_HEADER, Kind, plain_kind
from easycluster.wire.pickling import FAILED, STACK_GLOBAL, holds_bulk, is_plain_dumps, keep, met, required, take_met

if TYPE_CHECKING:
    from collections.abc import Callable

    from easycluster.client.client import BaseClient
    from easycluster.client.session import NearSession

__all__ = ["make_start"]

_CALL, _PLAIN_CALL = Op.CALL, plain_kind(Kind.CALL)
_pack = PLAIN_HEADER.pack
_dumps, _new = pickle.dumps, object.__new__


def make_start(
    client: BaseClient, session: NearSession, deadlines: list[float], *, one_thread: bool, numbers: Any = None
) -> Callable[[tuple[Any, ...]], Any]:
    """Return ``start(operation)``, which does what ``client._request(operation, nonblocking=True)`` does.

    Args:
        client: Takes over whatever is not a plain call; not kept alive.
        session: Its session; a function is made for each.
        deadlines: Not empty while a deadline is set for any thread.
        one_thread: Whether calls that name no far-side thread all go to thread 0.
        numbers: As for :func:`~easycluster.client.quick.make_call`.
    """
    owner: Callable[[], Any] = weakref.ref(client)
    inside, special, dropped, ids = session.inside, session.special, session._dropped, session._ids
    values, pending, gathered = session.values, session.pending, session.gathered

    def start(operation: tuple[Any, ...]) -> Any:
        client = owner()
        if inside or deadlines or required or special or dropped:
            return client._request(operation, True)
        thread = 0
        if not one_thread:
            thread = numbers.number if numbers is not None else 0
            thread = thread - 1 if thread else client._thread_number(None)
        entry: Any = None
        if not thread and operation[0] == _CALL:
            _operation, name, args, kwargs = operation
            if not kwargs and len(args) <= MOST_ARGUMENTS:
                for value in args:
                    form = value.__class__
                    if form is int:
                        if LEAST_INT <= value <= MOST_INT:
                            continue
                    elif form in TINY or (form is str and len(value) <= MOST_TEXT):
                        continue
                    break
                else:
                    if len(name) <= MOST_TEXT:
                        request = next(ids)
                        entry = request, name, args
        if entry is None:
            if holds_bulk(operation):
                # It would be copied before that is noticed.
                return client._request(operation, True)
            try:
                body = _dumps(operation, 5, buffer_callback=keep)
            except Exception:  # noqa: BLE001  # whatever it is, the careful way gives the error
                body = FAILED
            except BaseException:
                dump = take_met()
                if dump is not None:
                    dump.take_back()
                raise
            if len(body) > GATHER_BODY or met or STACK_GLOBAL in body:
                body, buffers = values.finish_dumps(operation, name_parts, body, take_met())
                return client._start_pickled(session, operation, body, buffers, thread)
            request = next(ids)
            entry = _pack(len(body), _PLAIN_CALL, request, thread) + body
        # What their __init__ do.
        asked = _new(Outstanding)
        asked.items = ()
        asked.lock = None
        asked.request = request
        asked.operation = operation
        asked.blocking = False
        asked.on_done = nothing
        asked.started = monotonic()
        asked.dropped = False
        asked.taken = False
        asked.keep = None
        asked.quiet = True
        response = _new(NonblockingResponse)
        response._session = session
        response._pending = asked
        response.client = client
        try:
            pending[request] = asked
            gathered.append(entry)
            if len(gathered) >= GATHER or len(pending) == 1:
                session.flush()
            elif not session.flush_due:
                session.gathered_some()
        except BaseException as exc:
            pending.pop(request, None)
            exc.easycluster_request = request  # type: ignore[attr-defined]  # it was sent, perhaps
            client._call_failed(session, operation, exc)
            raise
        return response

    is_plain_dumps("values")(start)
    return start
