"""Many calls that came in one message: run one after the other, answered by one message.

This module is shipped to the far side.
"""

from __future__ import annotations

from _thread import get_ident
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from easycluster.far.session import Interrupted
from easycluster.link.items import PLAIN
from easycluster.wire.apart import STOP, Entries, Results, give_up, hold_still, make_entry

if TYPE_CHECKING:
    from easycluster.far.session import WorkerSession

__all__ = ["run_batch"]


def run_batch(
    session: WorkerSession, calls: List[Tuple[str, Optional[Tuple[Any, ...]]]], mode: int, entries: Entries
) -> Any:
    """Run calls; return their results, or raise what the one raised that ended the batch.

    Args:
        session: Its session.
        calls: Name and arguments of each; None where both stand in ``entries``.
        mode: Whether to go on after an exception, see :mod:`easycluster.wire.apart`.
        entries: By number of the call, ``(args, kwargs)``.
    """
    namespace, values, reporting = session.worker.namespace, session.values, session.reporting
    names, hidden, get_global = namespace.names, namespace.hidden, namespace.get_global
    unwanted, request = session.worker.cancelled, session.inside.get(get_ident(), 0)
    results: List[Any] = []
    pickled: Entries = {}
    raised: Entries = {}
    keywords: Dict[str, Any] = {}
    name = ""
    try:
        for name, args in calls:
            try:
                if reporting:
                    session.part_begins(name)
                if unwanted and request in unwanted:
                    raise Interrupted
                if args is None:
                    args, keywords = values.loads(*entries.pop(len(results)))
                    value = get_global(name)(*args, **keywords)
                else:
                    function = get_global(name) if name in hidden or name not in names else names[name]
                    value = function(*args)
                if type(value) in PLAIN:
                    results.append(value)
                else:
                    # Now: the next call may change it.
                    entry = make_entry(values.dumps(value, "result"), hold_still)
                    if b"own_object" in entry[0]:
                        session.items.kept.setdefault(request, []).append(value)
                    pickled[len(results)] = entry
                    results.append(None)
                if reporting:
                    session.part_ended(None)
            except BaseException as exc:
                if reporting:
                    session.part_ended(exc)
                if mode == STOP or not isinstance(exc, Exception):
                    raise
                raised[len(results)] = make_entry(values.dumps(session.describe_failure(exc)))
                results.append(None)
    except BaseException as exc:
        give_up(values.exports, pickled)
        give_up(values.exports, raised)
        for data, _buffers in entries.values():
            # Nobody has received what they refer to.
            values.discard(data)
        if not isinstance(exc, Interrupted):
            session.places[request] = f"call {len(results) + 1} of {len(calls)} of a batch: {name}()"
        raise
    return Results(results, pickled, raised, mode) if pickled or raised else results
