"""Answers to calls that nobody waits for: completion functions, responses, and who is told of them.

Whoever reads the link puts answered requests into ``completions``.  From there a request goes to
its completion function, which runs where the client says, or to its response, which stays listed
here until somebody takes the answer.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from easycluster.errors import RemoteException

if TYPE_CHECKING:
    import weakref

    from easycluster.client.client import BaseClient
    from easycluster.client.response import NonblockingResponse
    from easycluster.client.session import NearSession
    from easycluster.link.pending import Pending

__all__ = ["Arrivals", "Completion", "ResponseSlot"]


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


class ResponseSlot:
    """What a request knows of its response, which its caller may have dropped."""

    __slots__ = ("_session", "keep", "response")

    def __init__(self, session: NearSession) -> None:
        self._session = session
        self.response: weakref.ref[NonblockingResponse] | None = None
        # The response itself, once something besides its caller waits for it.
        self.keep: Any = None

    def __call__(self, pending: Pending) -> None:
        """Give back the references in an answer that nobody wants any more."""
        while pending.items:
            self._session.late(pending.items.popleft())


class Arrivals:
    """The answers of one client that nobody has taken yet.  Outlives sessions.

    Attributes:
        completions: Requests that were answered, or will not be; appended to by whoever reads.
    """

    def __init__(self) -> None:
        self.completions: deque[Pending] = deque()
        self._due: deque[Pending] = deque()
        self._responses: deque[weakref.ref[NonblockingResponse]] = deque()
        self._notifier: _Notifier | None = None

    def sort(self) -> None:
        """Hand answers to their responses; completion functions stay until :meth:`run_due`."""
        while self.completions:
            try:
                pending = self.completions.popleft()
            except IndexError:  # another thread took it
                break
            slot = pending.on_done
            if not isinstance(slot, ResponseSlot):
                self._due.append(pending)
            elif slot.response is not None and self._response(slot, pending) is not None:
                self._responses.append(slot.response)

    def _response(self, slot: ResponseSlot, pending: Pending) -> NonblockingResponse | None:
        """Return the response if it lives and nobody has waited for it yet; tell those who watch it."""
        response = slot.response() if slot.response is not None else None
        if response is None:
            slot(pending)
            return None
        if response.taken:
            return None
        response._arrived()
        return response

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
                    response = self._responses.popleft()()
                    if response is not None and not response.taken:
                        return True
                    continue
                else:
                    pending = self.completions.popleft()
            except IndexError:
                continue
            slot = pending.on_done
            if isinstance(slot, ResponseSlot):
                # One that was dropped counts: somebody may read as many responses as calls were made.
                dropped = slot.response is None or slot.response() is None
                if self._response(slot, pending) is not None or dropped:
                    return True
            elif slot is not None:
                slot(pending)
                return True
        return False

    # Telling -------------------------------------------------------------------------------------

    def watch(self, link_fd: int) -> int:
        """Return a descriptor that is readable while there is something to take, or to read from the link."""
        if self._notifier is None:
            self._notifier = _Notifier(link_fd)
            self.tell()
        return self._notifier.fileno()

    def relink(self, link_fd: int) -> None:
        """Watch another link from now on."""
        if self._notifier is not None:
            self._notifier.relink(link_fd)

    def arrived(self) -> None:
        """Say that there is something; called by whoever reads, does not block."""
        notifier = self._notifier
        if notifier is not None:
            notifier.set()

    def tell(self) -> None:
        """Have the descriptor be readable exactly while there is something to take."""
        notifier = self._notifier
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
                response = responses[0]()
                if response is not None and not response.taken:
                    return True
                responses.popleft()
        return bool(self._due or self.completions)

    def close(self) -> None:
        """Give the descriptor back."""
        notifier, self._notifier = self._notifier, None
        if notifier is not None:
            notifier.close()

    def forget(self) -> None:
        """Leave everything to the parent of this process."""
        self._notifier = None
        self.completions.clear()
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
