"""The way of a plain call while other threads wait for theirs: sent and read with them.

A thread that has the link to itself writes, sleeps in its read and is woken by the kernel.  Threads that
share it would each pay for a write of their own and for a change of the reader.  So here a call is laid beside
those of other threads (:mod:`easycluster.client.gather`): the answers to what travelled together come together,
whoever reads wakes all that have theirs, and what these ask next waits until the last of them has asked
(:meth:`~easycluster.link.session.Session.wait_some`).
"""

from __future__ import annotations

import pickle
import weakref
from _thread import allocate_lock
from time import monotonic
from typing import TYPE_CHECKING, Any

from easycluster.link.pending import Items, Pending
from easycluster.link.session import LOOK_UP, PATIENCE
from easycluster.wire.frames import PLAIN_HEADER, Kind, plain_kind
from easycluster.wire.pickling import STACK_GLOBAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from easycluster.client.client import BaseClient
    from easycluster.client.session import NearSession

__all__ = ["make_call_among_others"]

_PLAIN_CALL = plain_kind(Kind.CALL)
_REPLY, _VALUE = Kind.REPLY, Kind.VALUE
_pack, _loads = PLAIN_HEADER.pack, pickle.loads


class _Call(Pending):
    """A request that one thread waits for, made with less than :class:`Pending` takes."""

    __slots__ = ()

    def __init__(self, operation: tuple[Any, ...]) -> None:
        self.items = Items()
        self.lock = None
        self.request = 0
        self.operation = operation
        self.blocking = True
        self.on_done = None
        self.started = monotonic()


def make_call_among_others(client: BaseClient, session: NearSession) -> Callable[..., Any]:
    """Return ``call_among_others(operation, body, thread, origexc)`` for calls that are pickled and small.

    Args:
        client: Takes over whatever is not a plain answer; not kept alive.
        session: Its session.
    """
    owner: Callable[[], Any] = weakref.ref(client)
    waiting, gathered, ids, values = session.pending, session.gathered, session._ids, session.values
    completions, sleepers = session.completions, session._sleepers

    def call_among_others(operation: tuple[Any, ...], body: bytes, thread: int, origexc: bool | str) -> Any:
        request = 0
        pending = _Call(operation)
        items = pending.items
        try:
            pending.request = request = next(ids)
            waiting[request] = pending
            gathered.append(_pack(len(body), _PLAIN_CALL, request, thread) + body)
            if session.awake > 1:
                # What wait_some() would do first.
                session.awake -= 1
                lock = pending.lock = allocate_lock()
                lock.acquire()
                key = id(pending)
                sleepers[key] = pending
                late = False
                try:
                    if session._collector is not None:
                        lock.acquire(True, LOOK_UP)
                    else:
                        session._collector = pending
                        late = not lock.acquire(True, PATIENCE) and session._collector is pending
                finally:
                    sleepers.pop(key, None)
                    pending.lock = None
                    if session._collector is pending:
                        session._collector = None
                if late and gathered:
                    # As Session._collect().
                    session.awake = session.awake // 2 if len(gathered) > 1 else 0
                    session.flush()
            elif session.awake:
                session.awake = 0
            if not items:
                session.wait_some(pending)
        except BaseException as exc:
            session.leave_gathered()
            owner()._given_up(session, pending, exc)
            raise
        kind, flags, _request, _thread, answer, buffers = items[0]
        if kind == _VALUE and not completions:
            return answer
        if kind != _REPLY or flags or buffers or completions or STACK_GLOBAL in answer:
            request = 0
            try:
                return owner()._finished(session, None, pending, None, None, origexc)
            except BaseException:
                owner()._leave(session, pending.request)
                raise
        try:
            return _loads(answer)
        except Exception as exc:
            raise values.not_rebuilt(exc) from exc

    return call_among_others
