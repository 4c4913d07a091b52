"""One end of a data link: requests out, requests in, and who reads.

Both ends are the same class.  A thread that waits for something reads the link itself if nobody
else does, because handing a message to another thread costs more than the call it belongs to
(6 us on one core, 55 us on two).  So exactly one waiting thread holds the *reading role*; it puts
what belongs to others into their hands, and passes the role to exactly one of them when it leaves.

What :mod:`easycluster.link.sending` says about signals holds here, too.

This module is shipped to the far side.
"""

from __future__ import annotations

import itertools
import threading
import time
from _thread import allocate_lock, get_ident
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Deque, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from easycluster.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from easycluster.link.pending import Expired, Items, Pending, Waiter, wake
from easycluster.link.runs import load_run
from easycluster.link.sending import Sender, locks_here, own
from easycluster.link.watcher import Watcher
from easycluster.wire.frames import COMPRESSED, NESTED, Frame, FrameDecoder, Kind, decompress
from easycluster.wire.records import Mac

if TYPE_CHECKING:
    from easycluster.stream import ByteStream

__all__ = ["LOOK_UP", "PATIENCE", "Session", "name_parts"]

# Seconds that a message waits for those of threads which were woken just before.  Eight threads need 0.1 ms to come,
# more where others use the processor; with 0.1 ms they made 15 % fewer calls than with 0.3, with 1 ms 3 % more.
PATIENCE = 0.0003
# Seconds after which a thread looks whether its message was sent, if another was about to do that.
LOOK_UP = 0.02
# Seconds after which a thread that sleeps looks by itself: who should have woken it may have been interrupted.
NAP = 1.0

_monotonic = time.monotonic
_take = deque.popleft
_REPLY, _RAISE, _REPLIES = Kind.REPLY, Kind.RAISE, Kind.REPLIES
_OPERATION, _VALUE = Kind.OPERATION, Kind.VALUE


def name_parts(operation: Tuple[Any, ...]) -> List[str]:
    """Return what a message calls the parts of an operation; arguments are what users know."""
    names = [""] * len(operation)
    if len(operation) >= 3 and isinstance(operation[-1], dict) and isinstance(operation[-2], tuple):
        names[-2:] = ["args", "kwargs"]
    elif len(operation) > 1:
        names[-1] = "value"
    return names


class Session(Sender):
    """One end of one data link.

    Args:
        stream: The connected stream; the session owns it.
        values: Pickles and unpickles; see :class:`easycluster.wire.values.Values`.
        send_key: Key of the records sent, or None on a trusted link.
        receive_key: Key of the records received, or None.
        max_frame: The largest single message accepted, in bytes.
    """

    # Seconds that a busy reader is left alone before the watcher reads for it.
    WATCH_AFTER = 0.02

    def __init__(
        self,
        stream: ByteStream,
        values: Any,
        send_key: Optional[bytes] = None,
        receive_key: Optional[bytes] = None,
        max_frame: int = 4 << 30,
    ) -> None:
        self.values = values
        mac = Mac(send_key) if send_key is not None else None
        super().__init__(stream, mac, values.proxies.dropped)
        their_mac = Mac(receive_key) if receive_key is not None else None
        self._decoder = FrameDecoder(their_mac, max_frame)
        # What makes copies of the keyed states of both directions.
        self.macs = (mac.prepared, their_mac.prepared) if mac is not None and their_mac is not None else None
        # An RLock as the writing lock is, and for the same reason.
        self._reading = threading.RLock()
        self._sleepers: Dict[int, Waiter] = {}
        self._idlers: Set[Waiter] = set()
        self.number_from(1)
        self.pending: Dict[int, Pending] = {}
        # Request that each thread is inside of, so that what it asks of the peer finds its way
        # to the thread that waits there.
        self.inside: Dict[int, int] = {}
        self.completions: Deque[Pending] = deque()
        # Who waits for threads that are awake to send what is gathered.
        self._collector: Optional[Waiter] = None
        # Why a plain call has to go the long way; empty for most sessions.
        self.special: Set[str] = set()
        self._ended: Optional[BaseException] = None
        # Whether everybody has been told.
        self._through = False
        self._end_lock = allocate_lock()
        self._activity = 0
        self._watcher: Optional[Watcher] = None
        # The watcher, while it sleeps until somebody has read.
        self.parked: List[Watcher] = []

    def number_from(self, first: int) -> None:
        """Number requests from here on, and round again: 0 is no request."""
        again = itertools.chain.from_iterable(itertools.repeat(range(1, 1 << 32)))
        self._ids: Iterator[int] = itertools.chain(range(first, 1 << 32), again)

    @property
    def ended(self) -> Optional[BaseException]:
        """Why the link is of no further use, None while it is."""
        return self._ended

    @ended.setter
    def ended(self, reason: BaseException) -> None:
        self._ended = reason
        self.special.add("ended")

    @property
    def compress(self) -> bool:
        """Whether larger bodies are compressed; the peer says that it understands them."""
        return "compress" in self.special

    @compress.setter
    def compress(self, on: bool) -> None:
        (self.special.add if on else self.special.discard)("compress")

    def load(self, message: Frame) -> Any:
        """Return the value a frame carries."""
        body = message[4]
        if message[0] >= _OPERATION:
            return body
        if message[1] & COMPRESSED:
            body = decompress(body, self._decoder.max_frame)
        return self.values.loads(body, message[5])

    # What a subclass decides -------------------------------------------------------------------

    def route(self, message: Frame) -> Optional[Waiter]:
        """Return who handles a request or release of the peer; None: it was dealt with here."""
        raise NotImplementedError

    def name_parts(self, operation: Tuple[Any, ...]) -> Sequence[str]:
        """Return what a message calls each part of a request that cannot be pickled."""
        return ["operation", *(f"part {index}" for index in range(1, len(operation)))]

    def on_ended(self) -> None:
        """The link has ended; called once, in whatever thread noticed."""

    def completed(self, urgent: bool) -> None:
        """Requests with ``on_done`` were answered; called by the reading thread, must not block.

        Args:
            urgent: Whether one of them is not :attr:`~easycluster.link.pending.Pending.quiet`.
        """

    # Requests ----------------------------------------------------------------------------------

    def request(
        self,
        operation: Tuple[Any, ...],
        thread: int = 0,
        deadline: Optional[float] = None,
        blocking: bool = True,
        on_done: Optional[Callable[[Pending], None]] = None,
        nested: bool = True,
    ) -> Pending:
        """Pickle and send a request; return what to wait for.

        Args:
            operation: Number and arguments.
            thread: Number of the far-side thread.
            deadline: Monotonic seconds by which it has to be sent.
            blocking: Whether this thread will wait for the answer at once.
            on_done: See :class:`Pending`.
            nested: Whether a thread that waits for us there may run it, instead of ``thread``.
        """
        body, buffers = self.values.dumps(operation, self.name_parts)
        pending = Pending(operation, blocking)
        pending.on_done = on_done
        return self.send_request(pending, body, buffers, thread, deadline, nested)

    def send_request(
        self,
        pending: Pending,
        body: bytes,
        buffers: Sequence[memoryview],
        thread: int,
        deadline: Optional[float] = None,
        nested: bool = True,
    ) -> Pending:
        """As :meth:`request`, for an operation that is pickled already."""
        flags = 0
        if self.inside:
            parent = self.inside.get(get_ident())
            if parent is not None and nested:
                flags, thread = NESTED, parent
        pending.request = request = next(self._ids)
        self.pending[request] = pending
        try:
            self.send(Kind.CALL, request, body, buffers, thread, flags, deadline)
        except BaseException as exc:
            # Whether it was sent or not, nobody will take the answer.
            self.pending.pop(request, None)
            exc.easycluster_request = request  # type: ignore[attr-defined]  # so that the caller can cancel it
            raise
        return pending

    def expect(self, request: int, operation: Tuple[Any, ...]) -> Pending:
        """Wait for the answer to a request that has just been sent; the caller holds the reading role.

        Returns:
            What to wait for.  It has the answer already if that was read.
        """
        pending = Pending(operation, True)
        pending.request = request
        self.pending[request] = pending
        if self._decoder.chunks or self._decoder.ready:
            self._digest()
        return pending

    # Waiting -----------------------------------------------------------------------------------

    def wait_item(self, waiter: Waiter, deadline: Optional[float] = None) -> Frame:
        """Wait until ``waiter`` has a frame, reading the link if nobody else does; return the frame.

        Raises:
            Expired: At the deadline (monotonic seconds).
            OSError: If the link has ended and nothing is left to take.
        """
        self.wait_some(waiter, deadline)
        return waiter.take()

    def wait_some(self, waiter: Waiter, deadline: Optional[float] = None) -> None:
        """As :meth:`wait_item`, but leave the frame where it is."""
        gathered, reading = self.gathered, self._reading
        if reading._is_owned():
            self._reclaim(reading)
        try:
            while not waiter.items:
                if self._ended is not None:
                    raise self._ended
                if gathered:
                    if self.awake <= 0:
                        self._collector = None
                        self.flush(deadline)
                    elif self._collector is None:
                        self._collect(waiter, deadline)
                        continue
                if reading.acquire(blocking=False):
                    try:
                        while not waiter.items and self._ended is None:
                            self._pump(deadline)
                    finally:
                        self._leave_role()
                elif not self._sleep(waiter, deadline, LOOK_UP if gathered else -1.0) and gathered:
                    # Who was to send it has been interrupted, perhaps.
                    self.awake = 0
        except BaseException:
            # A signal handler may raise just after the role is taken or before it is left: then nobody could read.
            if reading._is_owned():
                while reading._is_owned():
                    reading.release()
                self.role_is_free()
            raise

    def _collect(self, waiter: Waiter, deadline: Optional[float]) -> None:
        """Sleep while what is gathered waits for threads that are awake, but not for long; then send it."""
        self._collector = waiter
        try:
            woken = self._sleep(waiter, deadline, PATIENCE)
        except BaseException:
            self.leave_gathered()
            raise
        finally:
            late = self._collector is waiter
            if late:
                self._collector = None
        if late and not woken and self.gathered:
            # Some are slow, some have something else to do; if nobody came, all have.
            self.awake = self.awake // 2 if len(self.gathered) > 1 else 0
            self.flush(deadline)

    def _sleep(self, waiter: Waiter, deadline: Optional[float], span: float = -1.0) -> bool:
        """Sleep until ``waiter`` has news or the reading role is free, or for ``span`` seconds.

        Returns:
            False if nobody has woken us.
        """
        lock = allocate_lock()
        lock.acquire()
        waiter.lock = lock
        key = id(waiter)
        self._sleepers[key] = waiter
        try:
            if self._collector is not waiter:
                watcher = self._watcher
                if watcher is not None and watcher.reading:
                    watcher.kick()
                elif self._reading_is_free():
                    return True
            if waiter.items or self.ended is not None:
                return True
            if deadline is not None:
                remaining = deadline - _monotonic()
                if remaining <= 0:
                    raise Expired
                span = min(span if span > 0 else NAP, remaining)
            return lock.acquire(timeout=span if span > 0 else NAP)
        finally:
            self._sleepers.pop(key, None)
            waiter.lock = None

    def wait_handed(self, waiter: Waiter) -> Frame:
        """Wait until somebody who reads puts a frame into ``waiter``; never reads itself.

        Raises:
            OSError: If the link has ended.
        """
        while not waiter.items:
            lock = allocate_lock()
            lock.acquire()
            waiter.lock = lock
            self._idlers.add(waiter)
            if not waiter.items and self.ended is None:
                lock.acquire(timeout=5 * NAP)  # there are many of these, and all idle
            self._idlers.discard(waiter)
            waiter.lock = None
            if not waiter.items and self.ended is not None:
                raise self.ended
        return waiter.take()

    def _reading_is_free(self) -> bool:
        if self._reading.acquire(blocking=False):
            self._leave_role()
            return True
        return False

    def _leave_role(self) -> None:
        """Give the reading role up, and to one thread that still waits."""
        self._reading.release()
        if self._sleepers or self.parked:
            self.role_is_free()

    def role_is_free(self) -> None:
        """Wake who may want to read now."""
        for watcher in self.parked[:]:
            watcher.unpark()
        for waiter in list(self._sleepers.values()):
            # One that has news was woken, unless the reader was interrupted before that.
            wake(waiter.lock)
            if not waiter.items:
                return

    def _wake_all(self) -> None:
        for waiter in [*self._sleepers.values(), *self._idlers]:
            wake(waiter.lock)

    # Reading -----------------------------------------------------------------------------------

    def _pump(self, deadline: Optional[float] = None) -> None:
        """Read once and hand out what came.  The caller holds the reading role."""
        decoder = self._decoder
        self._activity += 1
        if not decoder.ready and not decoder.chunks:
            if deadline is not None:
                remaining = deadline - _monotonic()
                if remaining <= 0 or not self.stream.wait(write=False, timeout=remaining)[0]:
                    raise Expired
            try:
                if decoder.in_bulk:
                    views, counts = decoder.targets()
                    if views:  # else a signal came between the last read and the look at what it brought
                        counts.extend(self.stream.readv_map(views))
                        # Nobody can change the size of a bytearray that we still look at.
                        views.clear()
                        if not counts[-1]:
                            return self.end(EOFError())
                    decoder.digest_bulk()
                else:
                    decoder.chunks.extend(self.stream.read_map())
            except OSError as exc:
                return self.end(own(exc))
            except ProtocolError as exc:
                return self.end(exc)
        return self._digest()

    def _digest(self) -> None:
        """Hand out what was read.  The caller holds the reading role."""
        decoder = self._decoder
        chunks = decoder.chunks
        if chunks:
            if not chunks[-1]:
                # The end of the stream; what came before it is no whole frame.
                chunks.clear()
                return self.end(EOFError())
            try:
                decoder.digest()
            except ProtocolError as exc:
                return self.end(exc)
        ready = decoder.ready
        pending = self.pending
        completed = urgent = False
        while ready:
            message = ready[0]
            kind, flags, request, thread, _body, _buffers = message
            if kind == _REPLY or kind == _RAISE:  # noqa: SIM109 - a set costs more
                answered = pending.get(request)
                if answered is None:
                    self.late(message)
                    ready.popleft()
                    continue
                # In this order: interrupted in between, the next round adds it again, and only the first is taken.
                if answered.items.__class__ is tuple:
                    answered.items = Items((message,))
                else:
                    answered.items.append(message)
                ready.popleft()
                pending.pop(request, None)
                if answered.on_done is not None:
                    self.completions.append(answered)
                    completed = True
                    urgent = urgent or not answered.quiet
                lock = answered.lock
                if lock is not None:
                    self.awake += 1
                    try:
                        lock.release()
                    except RuntimeError:
                        # It is free already, as in wake().
                        pass
                continue
            if kind == _REPLIES:
                try:
                    found = self._hand_out(load_run(message[4]))
                except ProtocolError as exc:
                    return self.end(exc)
                ready.popleft()
                completed, urgent = completed or found[0], urgent or found[1]
                continue
            waiter: Optional[Waiter] = None
            if flags & NESTED and kind == Kind.CALL:
                # The thread that waits for the outer request runs it, if it is sure to come.
                outer = pending.get(thread)
                if outer is not None and outer.blocking:
                    waiter = outer
            if waiter is None:
                waiter = self.route(ready[0])
            if waiter is None:
                ready.popleft()
                continue
            waiter.items.extend(map(_take, (ready,)))
            lock = waiter.lock
            if lock is not None:
                wake(lock)
        decoder.rest()
        if completed:
            self.completed(urgent)
        return None

    def _hand_out(self, run: List[Tuple[int, Any]]) -> Tuple[bool, bool]:
        """Hand the answers of a run out, as :meth:`_digest` does with answers that come alone.

        Returns:
            Whether there were any with ``on_done``, and whether one of these is not quiet.
        """
        pending, completions = self.pending, self.completions
        completed = urgent = False
        try:
            for request, value in run:
                answered = pending.get(request)
                if answered is None:
                    # There is nothing to give back.
                    continue
                if answered.items.__class__ is tuple:
                    answered.items = ((_VALUE, 0, request, 0, value, ()),)
                else:
                    answered.items.append((_VALUE, 0, request, 0, value, ()))
                pending.pop(request, None)
                if answered.on_done is not None:
                    completions.append(answered)
                    completed = True
                    urgent = urgent or not answered.quiet
                lock = answered.lock
                if lock is not None:
                    self.awake += 1
                    try:
                        lock.release()
                    except RuntimeError:
                        # It is free already, as in wake().
                        pass
        except (TypeError, ValueError) as exc:
            raise RemoteProtocolError("a run has entries that are no answers") from exc
        return completed, urgent

    def late(self, message: Frame) -> None:
        """An answer that nobody waits for any more: give back the references it carries."""
        body = message[4]
        if message[0] >= _OPERATION:
            return
        try:
            if message[1] & COMPRESSED:
                body = decompress(body, self._decoder.max_frame)
            self.values.discard(body)
        except Exception:  # noqa: BLE001 - the answer is dropped, whatever is wrong with it
            pass

    # The end -----------------------------------------------------------------------------------

    def end(self, reason: BaseException) -> None:
        """The link is of no further use: wake everybody who waits on it.

        A signal handler may raise in the middle of it; the next call, and the watcher, then do the rest.
        """
        with self._end_lock:
            if self.ended is None:
                self.ended = reason if isinstance(reason, OSError) else _link_ended(reason)
            elif self._through:
                return
        self._wake_all()
        # Before the watcher leaves, which handles completions.
        self.on_ended()
        if self._watcher is not None:
            self._watcher.stop()
        self.stream.shutdown()
        self._wake_all()
        self._through = True

    def close_stream(self, timeout: float = 1.0) -> None:
        """Give the descriptors back, once no thread reads or writes them any more."""
        for lock in (self._reading, self._writing):
            if not lock.acquire(timeout=timeout):
                return
        try:
            self.stream.close()
        finally:
            self._writing.release()
            self._reading.release()

    # The watcher -------------------------------------------------------------------------------

    def start_watcher(self, run_completions: Optional[Callable[[], None]] = None) -> None:
        """Let a thread read while nobody waits, or while whoever reads is busy for long."""
        if self._watcher is None and self.ended is None:
            self._watcher = Watcher(self, run_completions)
            self._watcher.start()

    def activity(self) -> Tuple[int, object]:
        """Return what :meth:`activity_since` compares with."""
        return self._activity, self._decoder.state

    def activity_since(self, seen: Tuple[int, object]) -> bool:
        """Return whether something was read, or somebody tried to, since ``seen``."""
        return seen[0] != self._activity or seen[1] is not self._decoder.state

    def wake_watcher(self) -> None:
        """Make the watcher look at the completions now."""
        if self._watcher is not None:
            self._watcher.unpark()

    def join_watcher(self, timeout: float) -> None:
        """Wait until the watcher has ended."""
        watcher = self._watcher
        if watcher is not None and watcher.ident != get_ident() and watcher.is_alive():
            watcher.join(timeout)


locks_here(Session.wait_some)


def _link_ended(reason: BaseException) -> OSError:
    error: OSError
    if isinstance(reason, ProtocolError):
        error = ConnectionAbortedError(f"the link was given up: {reason}")
    elif isinstance(reason, LocalProtocolError):
        error = ConnectionAbortedError(str(reason))
    else:
        error = ConnectionResetError("the link was closed by the far side")
    error.__cause__ = reason
    return error
