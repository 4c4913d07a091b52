"""Those who wait for locks of this host through one session: each gets his answer when he is called, or in vain.

The kernel frees the lock of a process that was killed without telling anybody, so looking is the only way to know.  It
is done here, beside the locks, and not over the link.

This module is shipped to the far side.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

if TYPE_CHECKING:
    from easycluster.far.locks import LockDirectory

__all__ = ["Waiters"]

Plain = Dict[str, Any]

# How often it is looked, in seconds: for the first in line, and for the others.
LOOK, LOOK_BEHIND = 0.05, 0.2
# Who is called and does not take what he waited for loses his place, for he keeps others from it.
CALL_TIME = 5.0


class _Waiter:
    def __init__(self, question: Plain, info: Plain, now: float) -> None:
        self.question = question
        self.info = info
        self.ticket = int(question["ticket"])
        self.until = now + float(question["seconds"])
        self.look_at = now
        self.answer: Plain = {}


class Waiters:
    """See the module.

    Args:
        locks: Gives the directory of a question.
    """

    def __init__(self, locks: Callable[[Plain], LockDirectory]) -> None:
        self._locks = locks
        self._waiting: Dict[int, _Waiter] = {}
        # Who was answered and is still in line, until when he may be: his ticket, and his directory.
        self._called: Dict[int, Tuple[float, LockDirectory]] = {}

    def wait(self, question: Plain, info: Plain, request: int) -> Optional[Plain]:
        """Get in line, or stay there; return the answer if it is due at once, else :meth:`look` has it later."""
        now = time.monotonic()
        one = _Waiter(question, info, now)
        if self._look(one, now):
            return one.answer
        self._waiting[request] = one
        return None

    def taken(self, ticket: int) -> None:
        """Somebody has got what he waited for, and with it left the line."""
        self._called.pop(ticket, None)

    def leave(self, ticket: int, locks: LockDirectory) -> None:
        """Somebody waits no longer."""
        self._called.pop(ticket, None)
        for request in [number for number, one in self._waiting.items() if one.ticket == ticket]:
            del self._waiting[request]
        locks.leave_line(ticket)

    @property
    def next_look(self) -> Optional[float]:
        """When :meth:`look` is due, on the monotonic clock; None if nobody waits."""
        moments = [*(one.look_at for one in self._waiting.values()), *(when for when, _ in self._called.values())]
        return min(moments) if moments else None

    def look(self) -> List[Tuple[int, Plain]]:
        """Look whose turn it is; return the answers that are due, each with its request."""
        now = time.monotonic()
        answers = []
        for request, one in list(self._waiting.items()):
            try:
                due = one.look_at <= now and self._look(one, now)
            except Exception as exc:  # noqa: BLE001 - the near side says it
                one.answer, due = {"fault": str(exc) or repr(exc)}, True
            if due:
                del self._waiting[request]
                answers.append((request, one.answer))
        for ticket, (moment, locks) in list(self._called.items()):
            if moment <= now:
                self.leave(ticket, locks)
        return answers

    def _look(self, one: _Waiter, now: float) -> bool:
        """Ask for one who is in line; whether he gets his answer now."""
        question = one.question
        locks = self._locks(question)
        in_the_way, place = locks.wait(question["wanted"], one.info, one.ticket, float(question["waited"]))
        one.answer = {"in_the_way": in_the_way, "place": place}
        one.look_at = min(one.until, now + (LOOK if place == 1 else LOOK_BEHIND))
        due = not in_the_way or now >= one.until
        self._called.pop(one.ticket, None)
        if due:
            self._called[one.ticket] = now + CALL_TIME, locks
        return due
