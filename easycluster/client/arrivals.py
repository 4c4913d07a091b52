"""Answers to calls that nobody waits for: completion functions, responses, and who is told of them.

Whoever reads the link puts answered requests into ``completions``.  From there a request goes to
its completion function, which runs where the client says, or to its response, which stays listed
here until somebody takes the answer.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from easycluster.client.session import Unwanted
from easycluster.errors import RemoteException
from easycluster.link.pending import Pending

if TYPE_CHECKING:
    from easycluster.client.client import BaseClient
    from easycluster.client.response import NonblockingResponse
    from easycluster.client.session import NearSession

__all__ = ["Arrivals", "Completion", "Outstanding"]

# Answers to nonblocking calls that may lie unsorted; their callers may have dropped them.
_MOST_UNSORTED = 4096
_monotonic = time.monotonic


class Completion:
    """The completion functions of one request.

    Args:
        client: The client.
        session: The session that the request was sent on.
        oncomplete: Function, or tuple of a function and further arguments, for the result.
        onerror: The same for a RemoteException.
    """

    __slots__ = ("_client", "_oncomplete", "_onerror", "_session")

    def __init__(self, client: BaseClient, session: NearSession, oncomplete: Any, onerror: Any) -> None:
        self._client = client
        self._session = session
        self._oncomplete = oncomplete
        self._onerror = onerror

    def __call__(self, pending: Pending) -> None:
        """Call one of them; the answer is here, or the session has ended."""
        function = self._oncomplete
        try:
            argument, error = self._client._await(self._session, pending, None)
        except Exception as exc:  # noqa: BLE001 - whatever is wrong with the answer, the function hears of it
            argument, error = None, RemoteException(exc)
        if error is not None:
            function, argument = self._onerror, error
        if isinstance(function, tuple):
            function[0](argument, *function[1:])
        else:
            function(argument)


def nothing(pending: Pending) -> None:
    """What there is to do for a response when its answer is here."""


class Outstanding(Pending):
    """A nonblocking request: what its response waits for, which the caller may have dropped.

    Attributes:
        dropped: Whether the response is gone, and nobody has waited for it.
        taken: Whether somebody has waited for it, successfully or not.
        keep: The response itself, once something besides its caller waits for it.
        quiet: Whether nothing but its caller waits for it.
    """

    __slots__ = ("__weakref__", "dropped", "keep", "quiet", "taken")

    def __init__(self, operation: tuple[Any, ...]) -> None:
        # As the others do it, without the call; and easycluster.client.gather without this one.
        self.items = ()
        self.lock = None
        self.request = 0
        self.operation = operation
        self.blocking = False
        self.on_done = nothing
        self.started = _monotonic()
        self.dropped = self.taken = False
        self.keep: NonblockingResponse | None = None
        self.quiet = True


class Arrivals:
    """The answers of one client that nobody has taken yet.  Outlives sessions.

    Attributes:
        completions: Requests that were answered, or will not be; appended to by whoever reads.
        urgent: Whether one of them is more than a response that somebody may wait for some time.
        notifier: The descriptor for ``select``, once somebody has asked for it.
    """

    def __init__(self) -> None:
        self.completions: deque[Pending] = deque()
        self.urgent = False
        # Not to wait for: whoever holds it does what others would.
        self._settling = threading.RLock()
        self._due: deque[Pending] = deque()
        # As long as their callers have the responses.
        self._responses: deque[weakref.ref[Outstanding]] = deque()
        self.notifier: _Notifier | None = None

    def sort(self) -> None:
        """Hand answers to their responses; completion functions stay until :meth:`run_due`."""
        self.urgent = bool(self._due)
        while self.completions:
            try:
                pending = self.completions.popleft()
            except IndexError:  # another thread took it
                break
            if not isinstance(pending, Outstanding):
                self._due.append(pending)
                self.urgent = True
            elif self._is_wanted(pending):
                self._responses.append(weakref.ref(pending))

    def settle(self) -> None:
        """Sort if somebody waits for that, and do what has become due; else forget what was waited for."""
        if self.urgent or self.notifier is not None:
            self.sort()
            self.run_due()
            self.tell()
        else:
            self.look()

    def look(self) -> None:
        """Sort if somebody waits for that; else only forget those answers at the front that were waited for."""
        completions = self.completions
        if self.urgent:
            self.sort()
        elif completions and self._settling.acquire(blocking=False):
            try:
                while completions and isinstance(completions[0], Outstanding) and completions[0].taken:
                    completions.popleft()
            except IndexError:  # another thread sorts
                pass
            finally:
                self._settling.release()

    def _is_wanted(self, pending: Outstanding) -> bool:
        """Return whether the response lives and nobody has waited for it yet; tell those who watch it."""
        if pending.dropped:
            if pending.on_done is not None:
                pending.on_done(pending)
            return False
        if pending.taken:
            return False
        if pending.keep is not None:
            pending.keep._arrived()
        return True

    def run_due(self) -> int:
        """Call the completion functions whose calls have finished; return how many."""
        count = 0
        while self._due:
            try:
                pending = self._due.popleft()
            except IndexError:
                break
            count += 1
            assert pending.on_done is not None  # sort() looked
            pending.on_done(pending)
        self.urgent = bool(self.completions)
        return count

    def has_due(self) -> bool:
        """Whether :meth:`run_due` has something to do."""
        return bool(self._due)

    def take(self) -> bool:
        """Take one answer, running its completion function if it has one; return whether there was one."""
        while self._due or self._responses or self.completions:
            try:
                if self._due:
                    pending = self._due.popleft()
                elif self._responses:
                    answered = self._responses.popleft()()
                    if answered is not None and not (answered.taken or answered.dropped):
                        return True
                    continue
                else:
                    pending = self.completions.popleft()
            except IndexError:
                continue
            if isinstance(pending, Outstanding):
                # One that was dropped counts: somebody may read as many responses as calls were made.
                if self._is_wanted(pending) or pending.dropped:
                    return True
            elif pending.on_done is not None:
                pending.on_done(pending)
                if not isinstance(pending.on_done, Unwanted):
                    return True
        return False

    # Telling -------------------------------------------------------------------------------------

    def watch(self, link_fd: int) -> int:
        """Return a descriptor that is readable while there is something to take, or to read from the link."""
        if self.notifier is None:
            self.notifier = _Notifier(link_fd)
            self.tell()
        return self.notifier.fileno()

    def relink(self, link_fd: int) -> None:
        """Watch another link from now on."""
        if self.notifier is not None:
            self.notifier.relink(link_fd)

    def arrived(self, urgent: bool = True) -> None:
        """Say that there is something; called by whoever reads, does not block."""
        if urgent or len(self.completions) > _MOST_UNSORTED:
            self.urgent = True
        notifier = self.notifier
        if notifier is not None:
            notifier.set()

    def tell(self) -> None:
        """Have the descriptor be readable exactly while there is something to take."""
        notifier = self.notifier
        if notifier is not None:
            # First this, so that what arrives meanwhile is not missed.
            notifier.clear()
        if self.has_some() and notifier is not None:
            notifier.set()

    def has_some(self) -> bool:
        """Whether there is something to take; forgets responses that were waited for."""
        responses = self._responses
        while responses:
            with contextlib.suppress(IndexError):
                answered = responses[0]()
                if answered is not None and not (answered.taken or answered.dropped):
                    return True
                responses.popleft()
        return bool(self._due or self.completions)

    def close(self) -> None:
        """Give the descriptor back."""
        notifier, self.notifier = self.notifier, None
        if notifier is not None:
            notifier.close()

    def forget(self) -> None:
        """Leave everything to the parent of this process."""
        self.notifier = None
        self.completions.clear()
        self.urgent = False
        self._due.clear()
        self._responses.clear()


class _Notifier:
    """A descriptor that is readable while it is set or bytes are on the way."""

    def __init__(self, link_fd: int) -> None:
        self._receive, self._send = socket.socketpair()
        self._receive.setblocking(False)
        self._send.setblocking(False)
        self._epoll: Any = None
        if hasattr(select, "epoll"):
            self._epoll = select.epoll()
            self._epoll.register(self._receive.fileno(), select.EPOLLIN)
            self._epoll.register(link_fd, select.EPOLLIN)
        self._link_fd = link_fd

    def fileno(self) -> int:
        return int(self._epoll.fileno()) if self._epoll is not None else self._link_fd

    def relink(self, link_fd: int) -> None:
        if self._epoll is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(self._link_fd)
            with contextlib.suppress(FileExistsError):
                self._epoll.register(link_fd, select.EPOLLIN)
        self._link_fd = link_fd

    def set(self) -> None:
        with contextlib.suppress(OSError):
            self._send.send(b"r")

    def clear(self) -> None:
        with contextlib.suppress(OSError):
            while self._receive.recv(4096):
                pass

    def close(self) -> None:
        if self._epoll is not None:
            self._epoll.close()
        self._receive.close()
        self._send.close()
