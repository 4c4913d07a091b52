"""Calls to several far sides that one thread waits for, without a thread for each.

The links of all clients are watched with one selector, and whoever waits reads them.  Where another thread reads a
link, a lock of ours in the request (:attr:`~easycluster.link.pending.Waiter.lock`) says that the answer is here.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
import weakref
from typing import TYPE_CHECKING, Any, Final

from easycluster.client.inprogress import CallInProgress, elsewhere
from easycluster.link.operations import describe_operation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from easycluster.client.response import NonblockingResponse
    from easycluster.client.session import NearSession

__all__ = ["Notice", "Together", "read_some", "reads_itself"]

# Seconds between looks at responses whose news may have got lost: their session was closed by another thread, or a
# signal came just when they were told of.
LOOK_UP: Final = 0.2
# Seconds until a link is looked at again that is readable but read by another thread.
OTHERS_READ: Final = 0.005
# Reads of one link before the others have their turn: 4 MiB.
READS_AT_ONCE: Final = 16


class Notice:
    """Takes the place of the lock of a thread that sleeps until its answer is here.

    Args:
        session: The session of the request.
        tell: Called in whatever thread has read the answer; must not block.
    """

    __slots__ = ("_session", "_tell")

    def __init__(self, session: NearSession, tell: Callable[[], object]) -> None:
        self._session = session
        self._tell = tell

    def release(self) -> None:
        """Say that there is news."""
        # Who counts threads that are about to send something counts those that sleep on locks.
        self._session.awake -= 1
        self._tell()


def reads_itself(client: Any) -> bool:
    """Whether a client's link must be left to a thread of its own."""
    from easycluster.client.threaded import ThreadingMixin

    return isinstance(client, ThreadingMixin)


def read_some(client: Any, session: NearSession) -> bool:
    """Read what a link has, without waiting; return False if another thread reads it."""
    for _ in range(READS_AT_ONCE):
        if session.ended is not None:
            break
        if not session._reading.acquire(blocking=False):
            return False
        try:
            if not session._decoder.ready and not session.stream.wait(write=False, timeout=0)[0]:
                break
            session._pump(None)
        finally:
            session._leave_role()
    return True


class Together:
    """Responses that are waited for together, each with a key of the caller's.

    Use it in one thread; :meth:`wake` may be called by any.  Leaving the ``with`` block cancels what has not finished.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_receive, self._wake_send = socket.socketpair()
        self._wake_receive.setblocking(False)
        self._wake_send.setblocking(False)
        self._selector.register(self._wake_receive, selectors.EVENT_READ, None)
        self._responses: dict[NonblockingResponse, Any] = {}
        # Who listens to a link, and how many responses are expected from it.
        self._links: dict[NearSession, tuple[Any, int, int]] = {}
        self._linked: set[NonblockingResponse] = set()
        self._resting: set[NearSession] = set()
        self.is_limited = False
        elsewhere.add(self)
        # For those who drop it without closing it.
        self._closer = weakref.finalize(self, _close, self._selector, self._wake_receive, self._wake_send)

    def __len__(self) -> int:
        return len(self._responses)

    def __enter__(self) -> Together:  # noqa: PYI034  # Self is newer than Python 3.10
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def waiting_for(self) -> list[Any]:
        """The keys of what has not finished."""
        return list(self._responses.values())

    def responses(self) -> list[NonblockingResponse]:
        """What has not finished."""
        return list(self._responses)

    def calls_in_progress(self) -> Iterator[CallInProgress]:
        """What is waited for, for those who wonder why nothing happens; asked by other threads."""
        for response in list(self._responses):
            if not response.have_response:
                call = describe_operation(response._pending.operation)
                yield CallInProgress(response.client.peername, call, response.request_id, self.is_limited)

    def wake(self) -> None:
        """Make :meth:`finished` return, now or the next time."""
        with contextlib.suppress(OSError):  # full: it is awake already; closed: it has ended
            self._wake_send.send(b"w")

    def add(self, response: NonblockingResponse, key: Any) -> None:
        """Wait for a response, too."""
        session = response._session
        self._responses[response] = key
        if response.have_response:
            # Also one that was answered without a session.
            self.wake()
            return
        response._pending.lock = Notice(session, self.wake)
        client, fd, count = self._links.get(session, (response.client, -1, 0))
        if not count and not reads_itself(client) and session.ended is None:
            fd = session.stream.fileno()
            self._listen(session, fd)
        self._links[session] = client, fd, count + 1
        self._linked.add(response)
        # It may have come before there was a lock; this is looked at before anybody sleeps.
        self.wake()

    def _listen(self, session: NearSession, fd: int) -> None:
        if fd < 0:
            return
        try:
            self._selector.register(fd, selectors.EVENT_READ, session)
        except KeyError:
            # The number belonged to a link that has been closed since.
            self._selector.unregister(fd)
            self._selector.register(fd, selectors.EVENT_READ, session)
        except (ValueError, OSError):
            # Closed meanwhile: there will be no answer, which the next look sees.
            self.wake()

    def _deafen(self, session: NearSession, fd: int) -> None:
        with contextlib.suppress(KeyError, ValueError, OSError):
            if self._selector.get_key(fd).data is session:
                self._selector.unregister(fd)

    def finished(self, timeout: float | None = None) -> list[tuple[Any, NonblockingResponse]]:
        """Wait until some have finished, or until somebody wakes us; return their keys and responses.

        Args:
            timeout: Seconds to wait at most.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            found = self._take_finished()
            if found or (end is not None and time.monotonic() >= end):
                return found
            span = OTHERS_READ if self._resting else LOOK_UP
            if end is not None:
                span = max(0.0, min(span, end - time.monotonic()))
            for expected in self._links:
                if expected.gathered:
                    expected.flush_if_free()
            woken = False
            for key, _ in self._selector.select(span):
                if key.data is None:
                    woken = self._drain_wakes()
                    continue
                session: NearSession = key.data
                if session in self._links and not read_some(self._links[session][0], session):
                    # Not to be told again and again what another thread is busy with.
                    self._deafen(session, key.fd)
                    self._resting.add(session)
            for rested in [one for one in self._resting if one in self._links]:
                client, fd, _count = self._links[rested]
                if read_some(client, rested):
                    self._resting.discard(rested)
                    self._listen(rested, fd)
            if woken:
                return self._take_finished()

    def _drain_wakes(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            while self._wake_receive.recv(4096):
                pass
        return True

    def _take_finished(self) -> list[tuple[Any, NonblockingResponse]]:
        done = [(key, response) for response, key in self._responses.items() if response.have_response]
        for _key, response in done:
            self._forget(response)
        return done

    def _forget(self, response: NonblockingResponse) -> None:
        if self._responses.pop(response, self) is self:
            return
        if response not in self._linked:
            return
        self._linked.discard(response)
        session = response._session
        response._pending.lock = None
        client, fd, count = self._links[session]
        if count > 1:
            self._links[session] = client, fd, count - 1
            return
        del self._links[session]
        self._resting.discard(session)
        self._deafen(session, fd)

    def stop(self, response: NonblockingResponse) -> None:
        """Stop a call on its far side and wait for it no longer."""
        response.cancel()
        self._forget(response)

    def stop_all(self) -> None:
        """Stop every call that has not finished, on all far sides at once."""
        for response in list(self._responses):
            self.stop(response)

    def stop_all_in_place(self) -> None:
        """Stop every call that has not finished; :meth:`finished` gives them, cancelled."""
        for response in list(self._responses):
            response.cancel()

    def close(self) -> None:
        """Stop what has not finished, and give everything back."""
        elsewhere.discard(self)
        self.stop_all()
        self._closer()


def _close(*things: Any) -> None:
    for one in things:
        one.close()
