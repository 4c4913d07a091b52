"""The quick way of a plain call: one function from its arguments to its value.

The kernel needs 15 us for a message there and one back over a local socket.  Meanwhile it and the
other process push us out of the caches, so that each byte code and each function that a call runs
through costs far more than in a loop of its own: the same work parted among seven functions on
each side took 10 us longer.  So :func:`make_call` here and :func:`~easycluster.far.quick.make_serve`
repeat, each in one function, what Session, Values, the frame encoder and decoder and Mac do for the
one case that counts: a small message each way, and nothing else going on.

Whatever is not that case is left to the others, which then find everything as if nothing had been
tried.  The rules of :mod:`easycluster.link.session` about signals hold here, too.
"""

from __future__ import annotations

import pickle
import weakref
from time import monotonic
from typing import TYPE_CHECKING, Any

from easycluster.client.crowd import make_call_among_others
from easycluster.link.sending import GATHER_BODY, is_quick
from easycluster.link.session import name_parts
from easycluster.wire.frames import MAX_INLINE, PLAIN_HEADER, Kind, plain_kind
from easycluster.wire.pickling import BULK, FAILED, STACK_GLOBAL, is_plain_dumps, keep, met, required, take_met
from easycluster.wire.records import HEAD_SIZE, pack_head, pack_number, same

if TYPE_CHECKING:
    from collections.abc import Callable

    from easycluster.client.client import BaseClient
    from easycluster.client.session import NearSession

__all__ = ["make_call"]

_PLAIN_CALL, _PLAIN_REPLY = plain_kind(Kind.CALL), plain_kind(Kind.REPLY)
_pack = PLAIN_HEADER.pack
_dumps, _loads = pickle.dumps, pickle.loads


def make_call(
    client: BaseClient,
    session: NearSession,
    deadlines: list[float],
    *,
    one_thread: bool,
    numbers: Any = None,
) -> Callable[..., Any]:
    """Return ``call(operation, origexc=True)``, which does what ``client._request`` does with these alone.

    Args:
        client: Takes over whatever is not a plain call; not kept alive.
        session: Its session; a function is made for each.
        deadlines: Not empty while a deadline is set for any thread.
        one_thread: Whether calls that name no far-side thread all go to thread 0.
        numbers: Its ``number`` is one more than that of the calling thread's far-side thread, 0 if the client decides.
    """
    owner: Callable[[], Any] = weakref.ref(client)
    decoder, stream, outgoing = session._decoder, session.stream, session._outgoing
    inside, special, dropped, parked = session.inside, session.special, session._dropped, session.parked
    sleepers, completions, ids = session._sleepers, session.completions, session._ids
    values, reading, gathered = session.values, session._reading, session.gathered
    is_owned, take_role, leave_role = reading._is_owned, reading.acquire, reading.release
    # Nobody closes the stream while we hold the reading role.
    (read, sizes), (write, flags) = stream.read_step, stream.write_step
    waiting, call_among_others = session.pending, make_call_among_others(client, session)
    sealed = session.macs is not None
    if session.macs is not None:
        (copy_out_inner, copy_out_outer), (copy_in_inner, copy_in_outer) = session.macs

    def call(operation: tuple[Any, ...], origexc: bool | str = True) -> Any:
        request = 0
        if inside or deadlines or required or special:
            return owner()._request(operation, origexc=origexc)
        # Before the role is taken: how a value is pickled may be the user's code, and that may make calls.
        try:
            body = _dumps(operation, 5, buffer_callback=keep)
        except Exception:  # noqa: BLE001  # whatever it is, the careful way gives the error
            body = FAILED
        except BaseException:
            dump = take_met()
            if dump is not None:
                dump.take_back()
            raise
        thread = 0
        if not one_thread:
            thread = numbers.number if numbers is not None else 0
            thread = thread - 1 if thread else owner()._thread_number(None)
        if STACK_GLOBAL in body or len(body) >= BULK or met:
            body, buffers = values.finish_dumps(operation, name_parts, body, take_met())
            if buffers or len(body) > MAX_INLINE:
                return owner()._request_pickled(session, operation, body, buffers, thread, origexc)
        if dropped or is_owned():
            return owner()._request_pickled(session, operation, body, (), thread, origexc)
        if waiting or session.awake or not take_role(False):
            if len(body) <= GATHER_BODY:
                return call_among_others(operation, body, thread, origexc)
            return owner()._request_pickled(session, operation, body, (), thread, origexc)
        pending = None
        asked = 0
        began = monotonic()
        try:
            try:
                request = asked = next(ids)
                data = _pack(len(body), _PLAIN_CALL, request, thread) + body
                if session.sending is not None:
                    session.settle()
                session.sending = True
                if outgoing or gathered or session.writer_at_work:
                    session.sending = None
                    session.send(Kind.CALL, request, body, (), thread)
                else:
                    number = session._number
                    if sealed:
                        inner = copy_out_inner()
                        inner.update(pack_number(number) + data)
                        outer = copy_out_outer()
                        outer.update(inner.digest())
                        data = pack_head(len(data), outer.digest()) + data
                        number += 1
                    counts: list[int] = []
                    session.sending = data, counts, number
                    try:
                        counts.extend(map(write, (data,), flags) if flags else map(write, (data,)))
                    except BlockingIOError:
                        session.send_rest()
                    else:
                        if counts[0] == len(data):
                            session._number = number
                            session.sending = None
                        else:
                            session.send_rest()
                answer = b""
                begun, number, chunks = decoder._state
                if not (begun or chunks or special):
                    chunks.extend(map(read, sizes))
                    answer = chunks[0]
                    if sealed:
                        data = answer[HEAD_SIZE:]
                        inner = copy_in_inner()
                        inner.update(pack_number(number) + data)
                        outer = copy_in_outer()
                        outer.update(inner.digest())
                        if same(pack_head(len(data), outer.digest()), answer[:HEAD_SIZE]):
                            number += 1
                            answer = data
                        else:
                            answer = b""
                # A frame with flags, an exception, references, and whatever is not one whole frame go the long way.
                if STACK_GLOBAL not in answer and answer[:16] == _pack(
                    len(answer) - 16 & 0xFFFFFFFF, _PLAIN_REPLY, request, 0
                ):
                    # From here on it is taken.  If a signal handler raises now, nobody wants it any more.
                    decoder._state = (None, number, [])
                else:
                    answer = b""
                    pending = session.expect(request, operation)
                    pending.started = began
            except BaseException as exc:
                if request:
                    exc.easycluster_request = request  # type: ignore[attr-defined]  # it was sent, perhaps
                    session.pending.pop(request, None)
                owner()._call_failed(session, operation, exc, began)
                raise
            finally:
                leave_role()
                if sleepers or parked:
                    session.role_is_free()
            request = 0
            if pending is not None or completions:
                return owner()._finish_call(session, pending, answer, origexc)
        except BaseException:
            # Between the sending and a wait, or in what ends the one, a signal handler may raise, too.
            if asked in waiting:
                owner()._leave(session, asked)
            raise
        try:
            return _loads(answer[16:])
        except Exception as exc:
            raise values.not_rebuilt(exc) from exc

    is_plain_dumps("values")(call)
    return is_quick(call)
