"""The near end of a far-side generator: reads ahead once it has proved fast."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from easycluster.client.session import Unwanted, abandon
from easycluster.link.items import Pace, discard_entry, load_entry
from easycluster.link.operations import Op
from easycluster.wire.frames import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from easycluster.client.client import BaseClient
    from easycluster.client.session import NearSession
    from easycluster.link.pending import Pending
    from easycluster.wire.frames import Frame

__all__ = ["iterate"]


def iterate(client: BaseClient, oid: int) -> Iterator[Any]:
    """Iterate over a far-side generator.

    Args:
        client: The client that it belongs to.
        oid: Its number.
    """
    session = client._usable()
    pace = Pace()
    entries: deque[Any] = deque()
    pending: Pending | None = None
    more, number, alone = True, 0, True

    def ask() -> Pending:
        nonlocal number, alone
        asked: Pending = client._ask_for_items(session, (Op.ITEMS, oid, pace.most, True))
        # Requests are numbered: the next number means that there was none since.
        number, alone = asked.request, number in (0, asked.request - 1)
        return asked

    try:
        while more or entries:
            if not entries:
                pending = pending or ask()
                value, error = client._await(session, pending, None)
                if error is not None:
                    pending = None
                    try:
                        raise client._chosen(error, True)
                    finally:
                        del error  # else it, its traceback and this frame hold each other
                fresh, go_on, seconds = value
                entries.extend(fresh)
                if go_on is not None:
                    pending, more = None, go_on
                    pace.note(len(fresh), seconds, alone)
                    if more and pace.most > 1:
                        pending = ask()
                continue
            yield load_entry(session.values, entries.popleft())
    finally:
        for entry in entries:
            discard_entry(session.values, entry)
        if pending is not None:
            abandon(pending, _Abandoned(session))


class _Abandoned(Unwanted):
    """Takes an answer for a loop that has ended."""

    def drop(self, session: NearSession, message: Frame) -> None:
        """Give back what one frame with items brought."""
        if message[0] == Kind.REPLY or message[0] == Kind.ITEM:
            with contextlib.suppress(Exception):
                for entry in session.load(message)[0]:
                    discard_entry(session.values, entry)
        else:
            session.late(message)
