"""What is sent over a link: the queue in front of it, whose turn it is, and what a signal leaves behind.

A signal handler may raise at any point (Ctrl-C, a test's time limit).  Therefore all state of the
stream changes in single stores or in single steps of the interpreter (``deque.append``,
``list.extend`` of a ``map``), and the next thread that comes finds it either before or after.

This module is shipped to the far side.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Deque, List, NoReturn, Optional, Sequence, Set, Tuple, TypeVar

from easycluster.errors import LocalProtocolError
from easycluster.link.flusher import flush_soon
from easycluster.link.pending import Expired
from easycluster.link.runs import join
from easycluster.wire.frames import HEADER, MAX_INLINE, FrameEncoder, Kind, compress, frame

if TYPE_CHECKING:
    from types import CodeType, FrameType

    from easycluster.stream import ByteStream
    from easycluster.wire.records import Mac

__all__ = ["GATHER", "GATHER_BODY", "Sender", "is_quick", "locks_here", "own"]

# References given back in one frame: at most 32 bytes each.
RELEASES_AT_ONCE = 4096
# Bytes from which a body is worth compressing, on a link that compresses.
COMPRESS_FROM = 512
# Frames that are gathered for one write, and the longest body of such a frame: a record has room for all.
GATHER = 128
GATHER_BODY = 1024

_monotonic = time.monotonic
_pack = HEADER.pack
_take = deque.popleft
# Looks after which, in about two seconds, nobody is sending what the quick way has begun to send.
_TRIES = 2000
# Code of the functions that is_quick() decorates.
_quick: Set[CodeType] = set()
Function = TypeVar("Function", bound=Callable[..., Any])


class Gathered:
    """Frames and entries of runs that go out in one write; put together and sealed when their turn comes."""

    __slots__ = ("_data", "_kind", "_number", "_seal", "frames")

    def __init__(self, seal: Optional[Callable[[int, bytes], bytes]], number: int, kind: int) -> None:
        self.frames: List[Any] = []
        self._kind = kind
        self._seal = seal
        self._number = number
        self._data: Optional[bytes] = None

    def __bytes__(self) -> bytes:
        data = self._data
        if data is None:
            try:
                data = b"".join(self.frames)
            except TypeError:
                # There are entries among them.
                data = join(self.frames, self._kind)
            if self._seal is not None:
                data = self._seal(self._number, data)
            self._data = data
        return data


class Sender:
    """The sending half of a session.

    Attributes:
        sending: What the quick way of a plain call is sending, as in the queue; True while it makes
            that; else None.
        writer_at_work: Whether whoever holds the writing lock writes now.  The quick way does not take
            it: it says so in ``sending`` first and looks at this then, the others do it the other
            way round.
        gathered: Small frames, and entries of runs (:mod:`easycluster.link.runs`), that wait for others to go with;
            whoever appends calls :meth:`gathered_some` afterwards.
        entry_kind: What an entry is, a CALL or a REPLY.
    """

    entry_kind = Kind.REPLY

    if TYPE_CHECKING:
        # The session's own.
        values: Any
        parked: List[Any]
        ended: Any
        compress: bool
        _reading: Any
        role_is_free: Callable[[], None]
        end: Callable[[BaseException], None]
        _pump: Callable[[Optional[float]], None]
        _leave_role: Callable[[], None]

    def __init__(self, stream: ByteStream, mac: Optional[Mac], dropped: Deque[Any]) -> None:
        self.stream = stream
        self._encoder = FrameEncoder(mac)
        self._seal = mac.seal if mac is not None else None
        # Bytes, how many of them are written (a list that only grows), record number after them.
        self._outgoing: Deque[Tuple[Any, List[int], int]] = deque()
        self._number = 0
        # An RLock, because it knows its owner: a signal between taking a lock and the ``try``
        # behind it would otherwise leave it locked for ever.
        self._writing = threading.RLock()
        self.writer_at_work = False
        self.sending: Any = None
        self.gathered: Deque[Any] = deque()
        # Whether somebody is on the way who sends what is gathered.
        self.flush_due = False
        # How many threads were woken and will have something to send in a moment, perhaps.  Without who has woken
        # them: with all in step one side would wait for the other (34,000 calls/s on two cores, not 44,000).
        self.awake = 0
        self._dropped = dropped

    # Gathering ---------------------------------------------------------------------------------

    def gathered_some(self, patient: bool = False) -> None:
        """See that what is gathered is sent: now if it is much, else when this thread lets others run.

        Args:
            patient: Whether that may be some milliseconds later: more comes soon, as a rule.
        """
        if len(self.gathered) >= GATHER:
            self.flush()
        elif not self.flush_due:
            try:
                self.flush_due = True
                there = flush_soon(self, patient)
            except BaseException:
                # Else nobody would be asked again.
                self.flush_due = False
                raise
            if not there:
                self.flush()

    def flush(self, deadline: Optional[float] = None) -> None:
        """Send what is gathered.

        Raises:
            Expired: If the peer takes no bytes until the deadline.
            OSError: If the link has ended.
        """
        if self.ended is not None:
            raise self.ended
        writing = self._writing
        if writing._is_owned():  # type: ignore[attr-defined]  # of an RLock
            self._reclaim(writing)
        try:
            with writing:
                self._begin_to_write()
                self._queue_gathered()
                self._drain(deadline)
        except BaseException:
            self.leave_gathered()
            raise

    def leave_gathered(self) -> None:
        """Have another thread send what is gathered: others rely on this one, which has to go."""
        if self.ended is None and (self.gathered or self._outgoing):
            flush_soon(self)

    def flush_if_free(self) -> bool:
        """Send what is gathered as far as the link takes it at once; return whether something is left."""
        if self.ended is not None:
            return False
        if not self._writing.acquire(blocking=False):
            # Who writes now will not look at what was gathered a moment ago.
            return True
        try:
            self.flush_due = False
            self._begin_to_write()
            self._queue_gathered()
            self._drain(_monotonic())
        except Expired:
            return True
        except OSError:
            pass
        finally:
            self._writing.release()
        return False

    def _queue_gathered(self) -> None:
        """Queue what is gathered.  Holds the writing lock."""
        queue, gathered = self._outgoing, self.gathered
        while gathered:
            number = queue[-1][2] if queue else self._number
            record = Gathered(self._seal, number, self.entry_kind)
            queue.append((record, [], number if self._seal is None else number + 1))
            # One step; what is appended meanwhile stays for the next record.
            record.frames.extend(map(_take, itertools.repeat(gathered, min(len(gathered), GATHER))))

    # Sending -----------------------------------------------------------------------------------

    def send(
        self,
        kind: int,
        request: int,
        body: bytes,
        buffers: Sequence[memoryview] = (),
        thread: int = 0,
        flags: int = 0,
        deadline: Optional[float] = None,
    ) -> None:
        """Send one message; large ones in pieces.

        Raises:
            Expired: If the peer takes no bytes until the deadline.
            OSError: If the link has ended.
        """
        if self.ended is not None:
            raise self.ended
        writing = self._writing
        if writing._is_owned():  # type: ignore[attr-defined]  # of an RLock
            self._reclaim(writing)
        if buffers or len(body) > MAX_INLINE or self._dropped or self.compress:
            self._send_slowly(kind, request, body, buffers, thread, flags, deadline)
            return
        self._send_now(_pack(len(body), kind, flags, 0, request, thread) + body, deadline)

    def _send_now(self, data: bytes, deadline: Optional[float] = None) -> None:
        """Send one small frame."""
        with self._writing:
            self._begin_to_write()
            if self.gathered:
                self._queue_gathered()
            queue = self._outgoing
            number = queue[-1][2] if queue else self._number
            if self._seal is not None:
                data = self._seal(number, data)
                number += 1
            counts: List[int] = []
            queue.append((data, counts, number))
            if len(queue) == 1:
                try:
                    counts.extend(self.stream.write_map(data))
                except BlockingIOError:
                    pass
                except OSError as exc:
                    self._broken(exc)
                else:
                    if counts[0] == len(data):
                        self._number = number
                        queue.popleft()
                        self.writer_at_work = False
                        return
            self._drain(deadline)

    def _send_slowly(
        self,
        kind: int,
        request: int,
        body: bytes,
        buffers: Sequence[memoryview],
        thread: int,
        flags: int,
        deadline: Optional[float],
    ) -> None:
        """Send one message that is large, or to be compressed, or has references before it."""
        if self.compress and len(body) >= COMPRESS_FROM:
            flags, body = compress(flags, body)
        with self._writing:
            self._begin_to_write()
            self._queue_gathered()
            if self._dropped:
                self._queue_releases()
            queue = self._outgoing
            number = queue[-1][2] if queue else self._number
            if not buffers and len(body) <= MAX_INLINE:
                number, data = self._encoder.encode(number, _pack(len(body), kind, flags, 0, request, thread) + body)
                queue.append((data, [], number))
            else:
                number, pieces = self._encoder.encode_large(number, (kind, flags, request, thread), body, buffers)
                last = len(pieces) - 1
                # The number counts only once all pieces are queued, which happens in one step.
                queue.extend([(piece, [], number if at == last else self._number) for at, piece in enumerate(pieces)])
            self._drain(deadline)

    def _reclaim(self, lock: Any) -> None:
        """Release a lock that this thread holds because a signal came between taking it and the ``try`` behind it.

        Raises:
            LocalProtocolError: If the thread is in the middle of a message: a ``__del__`` that the
                garbage collector runs, or a signal handler, makes a call of its own.
        """
        frame: Any = sys._getframe(1)
        outside = False
        if _is_inside(self, frame):
            raise _in_the_middle()
        while frame is not None:
            if frame.f_code.co_filename not in _files:
                outside = True
            elif outside and frame.f_locals.get("self") is self:
                raise _in_the_middle()
            frame = frame.f_back
        while lock._is_owned():
            lock.release()
        if self.parked:
            self.role_is_free()

    def reclaim(self) -> None:
        """Release what a signal has left locked in this thread, before another one closes the session."""
        for lock in (self._reading, self._writing):
            if lock._is_owned():  # type: ignore[union-attr]  # of an RLock
                try:
                    self._reclaim(lock)
                except LocalProtocolError:
                    # A signal handler closes the session that it has interrupted; its descriptors stay for a while.
                    pass

    def _queue_releases(self) -> None:
        """Queue frames that give back references to the peer's objects.  Holds the writing lock."""
        queue = self._outgoing
        dropped = self.values.proxies.take_dropped()
        for start in range(0, len(dropped), RELEASES_AT_ONCE):
            body = b"".join(b"%d %d " % pair for pair in dropped[start : start + RELEASES_AT_ONCE])
            number, data = self._encoder.encode(queue[-1][2] if queue else self._number, frame(Kind.RELEASE, 0, body))
            queue.append((data, [], number))

    def flush_releases(self) -> None:
        """Send what was dropped, if the link is free; for idle times."""
        if self.ended is not None or not self.values.proxies.dropped or not self._writing.acquire(blocking=False):
            return
        try:
            self._begin_to_write()
            if not self._outgoing:
                self._queue_releases()
                # The caller serves every session: what the link does not take now goes with the next request.
                self._drain(_monotonic())
        except (Expired, OSError):
            # The link is full; or it has ended, and the far side's objects with it.
            pass
        finally:
            self._writing.release()

    def _begin_to_write(self) -> None:
        """Keep the quick way from sending until :meth:`_drain` has ended.  Holds the writing lock."""
        self.writer_at_work = True
        if self.sending is not None:
            self._take_over()

    def _take_over(self) -> None:
        """Wait until the quick way has sent what it is sending; if it was interrupted, do that in its place.

        Raises:
            LocalProtocolError: If this thread is in the middle of that itself.
        """
        if _is_inside(self, sys._getframe(1)):
            raise _in_the_middle()
        for number in range(_TRIES):
            if self.sending is None:
                return
            # It writes without waiting, so this is short unless nobody does it any more.
            time.sleep(0.00005 if number < 100 else 0.001)
        self.settle()

    def settle(self) -> None:
        """Queue what the quick way was sending as far as it is not sent."""
        record = self.sending
        if record is not None and record is not True and not (self._outgoing and self._outgoing[0] is record):
            self._outgoing.appendleft(record)
        self.sending = None

    def send_rest(self) -> None:
        """Send the rest of what the quick way could not send at once."""
        # First this: somebody may hold the lock and wait for it.
        self.settle()
        with self._writing:
            self._begin_to_write()
            self._drain(None)

    def _drain(self, deadline: Optional[float]) -> None:
        """Write what is queued; read meanwhile if the peer takes nothing.  Holds the writing lock."""
        queue = self._outgoing
        stream = self.stream
        while queue:
            data, counts, number = queue[0]
            piece = data if isinstance(data, (bytes, memoryview)) else bytes(data)
            done = sum(counts)
            if done >= len(piece):
                self._number = number
                queue.popleft()
                continue
            try:
                counts.extend(stream.write_map(memoryview(piece)[done:] if done else piece))
                if done + counts[-1] == len(piece):
                    self._number = number
                    queue.popleft()
                    continue
            except BlockingIOError:
                pass
            except OSError as exc:
                self._broken(exc)
            # To try once more what was taken in part would only cost another system call.
            self._read_while_blocked(deadline)
        self.writer_at_work = False

    def _read_while_blocked(self, deadline: Optional[float]) -> None:
        if self.ended is not None:
            raise self.ended
        remaining = None if deadline is None else deadline - _monotonic()
        if remaining is not None and remaining <= 0:
            raise Expired
        mine = self._reading.acquire(blocking=False)
        try:
            # Without the role somebody else reads; look again soon, it may be free by then.
            span = remaining if mine else min(0.05, remaining) if remaining is not None else 0.05
            readable, _, _ = self.stream.wait(write=True, read=mine, timeout=span)
            if readable and mine:
                self._pump(deadline)
        finally:
            if mine:
                self._leave_role()

    def _broken(self, exc: OSError) -> NoReturn:
        """A system call on the link has failed.

        Raises:
            OSError: Why the link has ended.
        """
        self.end(own(exc))
        raise (self.ended or exc) from exc


# Files of the methods that hold a session's locks.
_files: Set[str] = {Sender.flush.__code__.co_filename}


def locks_here(function: Function) -> Function:
    """Decorate a method of a session that takes its locks and is in another file."""
    _files.add(function.__code__.co_filename)
    return function


def is_quick(function: Function) -> Function:
    """Decorate a function that does the work of a session in its own lines; it has it as ``session``."""
    _quick.add(function.__code__)
    return function


def _is_inside(session: Sender, frame: Optional[FrameType]) -> bool:
    """Return whether a quick function of the session is on its way with a request below this frame."""
    while frame is not None:
        if frame.f_code in _quick:
            names = frame.f_locals
            if names.get("session") is session and names.get("request"):
                return True
        frame = frame.f_back
    return False


def _in_the_middle() -> LocalProtocolError:
    return LocalProtocolError(
        "the far side cannot be asked in the middle of another message; "
        "let a __del__ or a signal handler only note what is to be done"
    )


def own(exc: OSError) -> OSError:
    """Return an error of a system call on a link.

    Raises:
        OSError: If it is none: a signal handler has raised it, for instance a TimeoutError.
    """
    if exc.errno is None:
        raise exc
    return exc
