"""Calls as coroutines: the same session, read by the event loop, without a thread for each call.

The loop watches the session's link and reads it; a lock of ours in each request
(:class:`~easycluster.client.together.Notice`) says that its answer is here, also where a thread that makes calls of the
usual kind has read it.  What may block for long runs in a thread: connecting, closing, sending what is large, and
waiting for the news why a session has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import os
import sys
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from easycluster.client.inprogress import CallInProgress, elsewhere
from easycluster.client.together import Notice, read_some, reads_itself
from easycluster.errors import EasyClusterError
from easycluster.link.operations import describe_operation
from easycluster.link.pending import Waiter
from easycluster.wire.frames import MARKED, Kind
from easycluster.wire.pickling import BULK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from easycluster.client.client import BaseClient
    from easycluster.client.response import NonblockingResponse
    from easycluster.client.session import NearSession

__all__ = ["Asking", "LoopError", "asking_of", "running_loop"]

# Seconds until a link is looked at again that another thread reads.
OTHERS_READ: Final = 0.005
# Seconds between looks at calls whose news may have got lost, as when their session was closed by another thread.
LOOK_UP: Final = 0.5


# In ``special`` of a session, and no reason to go another way.
_HARMLESS: Final = frozenset({"compress"})
# The callback that a coroutine belongs to: its session, and the far side's request.
_inside: contextvars.ContextVar[tuple[NearSession, int] | None]
_inside = contextvars.ContextVar("easycluster_inside", default=None)


class LoopError(EasyClusterError, RuntimeError):
    """A client is used with an event loop that cannot serve it, or not now."""


def running_loop() -> asyncio.AbstractEventLoop:
    """The event loop of this thread.

    Raises:
        LoopError: If none runs here, or one of another kind.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        raise LoopError(
            "this runs under trio, and coroutines of EasyCluster need asyncio; choose the asyncio backend of anyio, "
            "or make calls of the usual kind in a thread"
        )
    raise LoopError(
        "no event loop of asyncio runs in this thread; call it from a coroutine, as with asyncio.run(main())"
    )


class Asking:
    """Makes the calls of one client for coroutines.

    Args:
        client: A client of the usual kind; others may go on using it.
    """

    def __init__(self, client: BaseClient) -> None:
        self._client = weakref.ref(client)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        # What is waited for, by its response.
        self._waiting: dict[NonblockingResponse, asyncio.Future[None]] = {}
        self._arrived: deque[NonblockingResponse] = deque()
        self._listening: tuple[NearSession, int] | None = None
        self._look: asyncio.TimerHandle | None = None
        self._look_timer: asyncio.TimerHandle | None = None
        # Whether the loop reads the link now, and looks at what has arrived afterwards.
        self._is_reading = False
        # Keeps large calls in their order.
        self._sending: asyncio.Lock | None = None
        # Callbacks that run: a loop keeps no reference to its tasks.
        self._answering: set[asyncio.Task[None]] = set()
        elsewhere.add(self)

    def calls_in_progress(self) -> Iterator[CallInProgress]:
        """What is waited for, for those who wonder why nothing happens; asked by other threads."""
        for response in list(self._waiting):
            if not response.have_response:
                call = describe_operation(response._pending.operation)
                yield CallInProgress(response.client.peername, call, response.request_id)

    @property
    def client(self) -> BaseClient:
        """The client."""
        client = self._client()
        if client is None:
            raise LoopError("the client is gone; keep a reference to it as long as it is used")
        return client

    # The loop --------------------------------------------------------------------------------------

    def enter(self) -> asyncio.AbstractEventLoop:
        """Use the event loop of this thread from now on.

        Raises:
            LoopError: If there is none, or calls of another one are under way.
        """
        loop = running_loop()
        known = self._loop
        if known is loop:
            return loop
        if known is not None and not known.is_closed() and self._waiting:
            raise LoopError(
                f"{self.client.peername}: {len(self._waiting)} calls of another event loop, in thread "
                f"{_name_of(self._thread)}, are under way; use a client in one loop, or await these first"
            )
        self.leave()
        self._loop, self._thread, self._sending = loop, threading.get_ident(), asyncio.Lock()
        return loop

    def leave(self) -> None:
        """Have nothing to do with the loop any more; what was asked in it is stopped."""
        for response in list(self._waiting):
            # Its loop was closed, so nobody can hear of it.
            response.cancel()
        self._waiting.clear()
        self._arrived.clear()
        self._deafen()
        self._loop = self._look_timer = None

    def _listen(self, session: NearSession) -> None:
        """Have the loop read the session's link."""
        loop = self._loop
        assert loop is not None  # enter() has set it
        if self._listening is not None and self._listening[0] is session:
            return
        self._deafen()
        if session.ended is not None or reads_itself(self.client):
            return
        # One of our own: whoever closes the session does not know what the loop watches, and its number would soon
        # belong to something else.
        fd = os.dup(session.stream.fileno())
        try:
            loop.add_reader(fd, self._readable, session)
        except NotImplementedError:
            os.close(fd)
            text = f"{type(loop).__name__} cannot watch file descriptors; use asyncio.SelectorEventLoop"
            raise LoopError(text) from None
        self._listening = session, fd
        self._closer = weakref.finalize(self, os.close, fd)
        # From now on what the far side asks of us runs in the loop, too.
        session.callback_taker = taker = _Taker(session, self)
        taker.lock = _Lock(taker)

    def _deafen(self) -> None:
        listening, self._listening = self._listening, None
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if listening is None:
            return
        loop, close = self._loop, self._closer
        if loop is not None and loop.is_running() and threading.get_ident() != self._thread:
            # A loop is not to be touched by other threads.
            with contextlib.suppress(RuntimeError):  # it was closed just now
                loop.call_soon_threadsafe(_stop_reading, loop, listening[1], close)
                return
        if loop is not None and not loop.is_closed():
            loop.remove_reader(listening[1])
        close()

    def _readable(self, session: NearSession) -> None:
        """The link has something to read; in the loop."""
        if self._listening is None or self._listening[0] is not session:
            return
        client = self._client()
        was_free = True
        if client is not None and session.ended is None:
            self._is_reading = True
            try:
                was_free = read_some(client, session)
            finally:
                self._is_reading = False
        if not was_free and self._loop is not None:
            # Not to be told again and again what another thread is busy with.
            self._deafen()
            self._look = self._loop.call_later(OTHERS_READ, self._look_again, session)
        if client is None or session.ended is not None:
            self._deafen()
            self._wake_late()
        self._hand_out()

    def _look_again(self, session: NearSession) -> None:
        self._look = None
        if self._client() is not None and self._waiting:
            self._listen(session)
        self._hand_out()

    def _tell(self, response: NonblockingResponse) -> None:
        """The answer to a call is here; in whatever thread has read it."""
        self._arrived.append(response)
        if self._loop is not None and not self._is_reading:
            # If the loop was closed, whoever waited in it is gone.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        """Wake the coroutines whose answers are here; in the loop."""
        while self._arrived:
            future = self._waiting.get(self._arrived.popleft())
            if future is not None and not future.done():
                future.set_result(None)

    def _wake_late(self) -> None:
        for response, future in list(self._waiting.items()):
            if response.have_response and not future.done():
                future.set_result(None)

    def _look_up(self) -> None:
        """Wake those whose news got lost; in the loop, every now and then."""
        self._look_timer = None
        self._wake_late()
        self._look_soon()

    def _look_soon(self) -> None:
        if self._waiting and self._look_timer is None and self._loop is not None:
            self._look_timer = self._loop.call_later(LOOK_UP, self._look_up)

    # Calls -----------------------------------------------------------------------------------------

    async def ask(self, operation: tuple[Any, ...], threadid: int | None = None, origexc: bool | str = "quiet") -> Any:
        """Make one call; cancelled, it is stopped on the far side.

        Args:
            operation: What is asked.
            threadid: The far-side thread.
            origexc: Which exception to raise, see :meth:`Client.send_request`.
        """
        loop = self.enter()
        client = self.client
        response = await self._send(client, operation, threadid, origexc)
        if response._outcome is not None:
            # Somebody who observes the client has answered it.
            return response.wait()
        session = response._session
        future: asyncio.Future[None] = loop.create_future()
        self._waiting[response] = future
        try:
            response._pending.lock = Notice(session, lambda: self._tell(response))
            self._listen(session)
            self._look_soon()
            if not response.have_response:
                await future
        except BaseException:
            # Cancelled, by a timeout perhaps: nobody wants the answer any more.
            response.cancel()
            raise
        finally:
            response._pending.lock = None
            self._waiting.pop(response, None)
        if _may_block(response):
            return await loop.run_in_executor(None, response.wait)
        return response.wait()

    async def _send(
        self, client: BaseClient, operation: tuple[Any, ...], threadid: int | None, origexc: bool | str
    ) -> NonblockingResponse:
        assert self._sending is not None  # enter() has made it
        session = client._session
        is_ready = session is not None and session.ended is None and session.special <= _HARMLESS
        if is_ready and not self._sending.locked() and not _is_large(operation) and not _is_full(session):
            return _request(client, operation, threadid, origexc, _inside.get())
        async with self._sending:
            loop = asyncio.get_running_loop()
            sent = loop.run_in_executor(None, _request, client, operation, threadid, origexc, _inside.get())
            try:
                response = await asyncio.shield(sent)
            except asyncio.CancelledError:
                sent.add_done_callback(_stop_sent)
                raise
            return response

    # Callbacks -------------------------------------------------------------------------------------

    def take_callbacks(self, taker: _Taker) -> None:
        """Answer what the far side asks; called in whatever thread has read it."""
        loop = self._loop
        if loop is not None and loop.is_running():
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._start_callbacks, taker)
                return
        # The loop has ended: they run in a thread, as without one.
        taker.session.run_callbacks_of(taker)

    def _start_callbacks(self, taker: _Taker) -> None:
        while taker.items:
            task = asyncio.get_running_loop().create_task(_answer(taker.session, taker.items.popleft()))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)


def _stop_reading(loop: asyncio.AbstractEventLoop, fd: int, close: weakref.finalize[Any, Any]) -> None:
    loop.remove_reader(fd)
    close()


class _Taker(Waiter):
    """Where a session puts what the far side asks: callbacks."""

    __slots__ = ("asking", "session")

    def __init__(self, session: NearSession, asking: Asking) -> None:
        super().__init__()
        self.session = session
        self.asking = asking


class _Lock:
    """Takes the place of the lock of the thread that would run callbacks."""

    __slots__ = ("_taker",)

    def __init__(self, taker: _Taker) -> None:
        self._taker = taker

    def release(self) -> None:
        """Say that there is something."""
        self._taker.asking.take_callbacks(self._taker)


async def _answer(session: NearSession, message: Any) -> None:
    """Carry out a request of the far side and send its answer, as ``PeerSession.answer`` does."""
    kind, _flags, request, _thread, body, _buffers = message
    if kind == Kind.RELEASE:
        session.release(body)
        return
    ident, inside = threading.get_ident(), session.inside
    _inside.set((session, request))
    try:
        inside[ident] = request
        try:
            value = session.perform(session.load(message))
        finally:
            inside.pop(ident, None)
        if inspect.isawaitable(value):
            value = await value
        kind = Kind.REPLY
        reply, out = session.values.dumps(value, "result")
    except BaseException as exc:
        kind = Kind.RAISE
        reply, out = session.dump_failure(exc)
        session._exits.pop(ident, None)
        if not isinstance(exc, (Exception, asyncio.CancelledError)):
            session.send(kind, request, reply, out)
            raise
    session.send(kind, request, reply, out)


def _request(
    client: BaseClient,
    operation: tuple[Any, ...],
    threadid: int | None,
    origexc: bool | str,
    inside: tuple[NearSession, int] | None,
) -> NonblockingResponse:
    """Send a call; inside of a callback, to the far-side thread that waits for that."""
    outer = None
    if inside is not None and inside[0] is client._session and inside[0].ended is None:
        outer, inside[0].inside[threading.get_ident()] = inside[0].inside, inside[1]
    try:
        response: NonblockingResponse = client._request(operation, True, threadid=threadid, origexc=origexc)
    finally:
        if outer is not None:
            outer.pop(threading.get_ident(), None)
    return response


def _stop_sent(sent: asyncio.Future[NonblockingResponse]) -> None:
    """Stop a call whose caller was cancelled while it was sent."""
    if not sent.cancelled() and sent.exception() is None:
        sent.result().cancel()


def _is_full(session: NearSession | None) -> bool:
    """Whether sending would wait for the far side to read."""
    return session is not None and bool(session._outgoing or session.writer_at_work)


def _is_large(value: Any, depth: int = 3) -> bool:
    """Whether sending a value may take long: much text or bytes, or many parts, as far as can be seen at once."""
    if isinstance(value, (bytes, bytearray, memoryview, str)):
        return len(value) >= BULK
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        if len(value) > 1000:
            return True
        parts = value.values() if isinstance(value, dict) else value
        return depth > 0 and any(_is_large(part, depth - 1) for part in parts)
    # Of its class: a proxy would ask the far side.
    return hasattr(type(value), "nbytes") and bool(value.nbytes >= BULK)


def _may_block(response: NonblockingResponse) -> bool:
    """Whether taking an answer waits for something else: output that belongs before it, or why there is none."""
    try:
        return bool(response._pending.items[0][1] & MARKED)
    except IndexError:
        return True


def _name_of(ident: int) -> str:
    found = [thread.name for thread in threading.enumerate() if thread.ident == ident]
    return repr(found[0]) if found else "that has ended"


def asking_of(client: BaseClient) -> Asking:
    """What makes the calls of a client for coroutines; there is one for each client."""
    # Not getattr(): a name that a client does not have is a far-side global.
    found: Asking | None = client.__dict__.get("_asking")
    if found is None:
        found = client.__dict__.setdefault("_asking", Asking(client))
    return found
