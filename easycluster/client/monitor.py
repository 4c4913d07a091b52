"""The control links of this process, and the one thread that looks after all of them.

A control link carries what must not wait behind data or user code: the heartbeat, output, cancels,
and how a worker ended.  One thread serves every session of the process; user code never runs in it
except for a client's ``on_output``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import select
import socket
import threading
import time
from _thread import allocate_lock
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from easycluster.client.died import Died
from easycluster.client.logs import deliver, record_of
from easycluster.client.plain import load_plain
from easycluster.errors import ConnectionLost, ProtocolError, RemoteProtocolError
from easycluster.link.stall import StallWatch
from easycluster.wire.faults import first_words
from easycluster.wire.frames import FrameDecoder, FrameEncoder, Kind, frame
from easycluster.wire.records import Mac

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Control", "ControlPort", "Monitor", "monitor"]

_monotonic = time.monotonic

# Seconds between heartbeats, and how many may go unanswered.
HEARTBEAT = 5.0
MISSED = 3

# Seconds after which a wait looks up although nobody woke it.  A signal that comes after Python has looked for one and
# before the kernel has put the thread to sleep wakes nobody, so Ctrl-C would be seen at the end of the wait only.
LOOK_UP = 0.2

# A control link has no bulk: what a frame announces here, nobody would wait for.
MAX_BULK = 0

# Characters shown of the reason that a keeper gives for its end.
LONGEST_FAREWELL = 200


class ControlPort(Protocol):
    """The transport under a control link."""

    def send(self, data: bytes) -> None:
        """Send bytes to the keeper; any thread."""

    def fileno(self) -> int:
        """Return a descriptor to read from, or -1 if the transport calls :meth:`Control.hear` itself."""

    def read(self) -> bytes:
        """Read what is there without blocking; b"" at the end."""

    def shutdown(self) -> None:
        """End the link, so that the far side sees it."""


class Control:
    """The near end of one control link.

    Args:
        label: The host as messages name it.
        on_output: Called with 1 or 2 and bytes of standard output or error, in the monitor's thread.
        on_ended: Called once with the reason when the link ends, in the monitor's thread.
        heartbeat: Seconds between heartbeats.
        timeout: Seconds of silence after which the far side counts as lost.
    """

    def __init__(
        self,
        label: str,
        on_output: Callable[[int, bytes], None],
        on_ended: Callable[[str], None],
        heartbeat: float = HEARTBEAT,
        timeout: float | None = None,
    ) -> None:
        self.label = label
        self.heartbeat = heartbeat
        self.timeout = heartbeat * MISSED if timeout is None else timeout
        self.last_heard = _monotonic()
        self.next_ping = self.last_heard + heartbeat
        self.ended = ""
        self._was_heard = False
        self.fell_silent = False
        self.hello: dict[str, Any] | None = None
        self.worker_pid = 0
        self.died: Died | None = None
        self.last_output = b""
        self.port: ControlPort | None = None
        self.on_data: Callable[[bytes], None] | None = None
        self.on_data_credit: Callable[[int], None] | None = None
        self.on_idle: Callable[[], None] | None = None
        self._stall: StallWatch | None = None
        self._on_output = on_output
        self._on_ended = on_ended
        self._encoder = FrameEncoder(None)
        self._decoder = FrameDecoder(None, MAX_BULK)
        self._number = 0
        self._sending = threading.Lock()
        self._outgoing: deque[tuple[int, int, bytes, int]] = deque()
        self._ending = threading.Lock()
        # Locks on which threads sleep.  No condition variable: an exception from a signal handler
        # between its taking the lock and its ``with`` block would leave the monitor waiting for ever.
        self._sleepers: deque[Any] = deque()
        self._marks = [0, 0]
        self._sync_numbers = itertools.count(1)
        self._question_numbers = itertools.count(1)
        # None while there is no answer yet.
        self._answers: dict[int, dict[str, Any] | None] = {}
        # Who is told of an answer that nobody waits for here.
        self._told: dict[int, Callable[[dict[str, Any] | Exception], object]] = {}
        self._incoming: deque[bytes] = deque()
        self._closed_by_peer = ""

    def use(self, port: ControlPort, send_key: bytes | None = None, receive_key: bytes | None = None) -> None:
        """Use this transport, with these record keys."""
        self.port = port
        if send_key is not None and receive_key is not None:
            self._encoder = FrameEncoder(Mac(send_key))
            self._decoder = FrameDecoder(Mac(receive_key), MAX_BULK)

    def watch_data(self, sock: socket.socket) -> None:
        """End the session, too, if what is sent on this data connection never gets through."""
        self._stall = StallWatch(sock, self.timeout, self.heartbeat)

    # Sending -----------------------------------------------------------------------------------

    def send(self, kind: int, request: int = 0, body: bytes = b"", thread: int = 0) -> None:
        """Send a frame to the keeper.

        What the main thread sends, the monitor writes: a signal handler that raises must not leave
        a record half written, or its number used and the record lost.

        Raises:
            ConnectionLost: If the link has ended.
        """
        if self.ended or self.port is None:
            raise ConnectionLost(self.ended or "not connected", self.label)
        self._outgoing.append((kind, request, body, thread))
        if threading.current_thread() is threading.main_thread():
            monitor().wake()
        else:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting to be sent; not in the main thread.

        Raises:
            OSError: If the link has ended.
        """
        port = self.port
        with self._sending:
            while self._outgoing and port is not None:
                kind, request, body, thread = self._outgoing.popleft()
                self._number, data = self._encoder.encode(self._number, frame(kind, request, body, thread))
                port.send(data)

    def send_quietly(self, kind: int, request: int = 0, body: bytes = b"", thread: int = 0) -> None:
        """As :meth:`send`, for messages that do not matter once the link has ended."""
        with contextlib.suppress(OSError):
            self.send(kind, request, body, thread)

    # Hearing -----------------------------------------------------------------------------------

    def enqueue(self, data: bytes) -> None:
        """Take bytes from a transport's own thread; they are looked at in the monitor's."""
        self._incoming.append(data)
        monitor().wake()

    def enqueue_end(self, reason: str) -> None:
        """Take note, from a transport's own thread, that the link has ended."""
        self._closed_by_peer = reason or "the link was closed by the far side"
        monitor().wake()

    def take_queued(self) -> None:
        """Look at what was enqueued; called by the monitor."""
        while self._incoming:
            self.hear(self._incoming.popleft())
        if self._closed_by_peer and not self.ended:
            self.end(self._closed_by_peer)

    def hear(self, data: bytes) -> None:
        """Take bytes from the keeper."""
        self.last_heard = _monotonic()
        self._was_heard = True
        try:
            for kind, _flags, request, thread, body, _buffers in self._decoder.receive_data(data):
                self._obey(kind, request, thread, bytes(body))
        except ProtocolError as exc:
            self.end(f"the control link was given up: {exc}")

    def _load(self, body: bytes, read: Callable[[dict[str, Any]], Any]) -> Any:
        """Return what ``read`` makes of a message's value; this thread serves other sessions, too.

        Raises:
            RemoteProtocolError: If the value is not what it should be.
        """
        try:
            return read(load_plain(body))
        except Exception as exc:
            raise RemoteProtocolError(f"a message cannot be understood: {first_words(exc)}") from exc

    def _obey(self, kind: int, request: int, thread: int, body: bytes) -> None:
        if kind == Kind.OUTPUT:
            self.last_output = (self.last_output + body)[-2048:]
            try:
                self._on_output(request, body)
            finally:
                self.send_quietly(Kind.CREDIT, len(body))
        elif kind == Kind.LOG:
            try:
                deliver(self._load(body, partial(record_of, self.label)))
            finally:
                self.send_quietly(Kind.CREDIT, len(body))
        elif kind == Kind.SYNCED:
            if thread >= len(self._marks):
                raise RemoteProtocolError(f"there is no mark of kind {thread}")
            self._notify(self._marks.__setitem__, thread, request)
        elif kind == Kind.HELLO:
            self._notify(setattr, self, "hello", self._load(body, dict))
        elif kind == Kind.SPAWNED:
            self._notify(setattr, self, "worker_pid", request)
        elif kind == Kind.DIED:
            self._notify(setattr, self, "died", self._load(body, Died))
        elif kind == Kind.ANSWER:
            # Nobody waits any more for an answer that is not listed.
            if request in self._answers:
                self._notify(self._answers.__setitem__, request, self._load(body, dict))
            elif request in self._told:
                self._tell(request, self._load(body, dict))
        elif kind == Kind.DATA and self.on_data is not None:
            self.on_data(body)
        elif kind == Kind.CREDIT and self.on_data_credit is not None:
            self.on_data_credit(request)
        elif kind == Kind.GOODBYE:
            why = body.decode("utf-8", "replace")[:LONGEST_FAREWELL]
            self.end("the far side ended the session" + (f": {why}" if why else ""))

    def _notify(self, change: Callable[..., None], *args: Any) -> None:
        change(*args)
        self._wake_sleepers()

    def _wake_sleepers(self) -> None:
        sleepers, self._sleepers = self._sleepers, deque()
        for lock in list(sleepers):
            with contextlib.suppress(RuntimeError):
                lock.release()

    # Waiting -----------------------------------------------------------------------------------

    def wait_for(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until the condition holds or the link has ended; return whether it holds."""
        end = _monotonic() + timeout
        while not condition() and not self.ended:
            lock = allocate_lock()
            lock.acquire()
            self._sleepers.append(lock)
            # Once more: what came before the lock was there woke nobody.
            while not condition() and not self.ended:
                remaining = end - _monotonic()
                if remaining <= 0:
                    return condition()
                if lock.acquire(timeout=min(remaining, LOOK_UP)):
                    break
        return condition()

    def wait_mark(self, number: int, timeout: float) -> bool:
        """Wait until the output that belongs before an answer has arrived."""
        # Numbers go round at 2**32: compare their distance.
        return self.wait_for(lambda: (self._marks[0] - number) & 0xFFFFFFFF < 1 << 31, timeout)

    def flush_output(self, timeout: float) -> bool:
        """Wait until everything the far side has written so far was passed on."""
        number = next(self._sync_numbers) & 0xFFFFFFFF
        self.send_quietly(Kind.SYNC, number)
        return self.wait_for(lambda: (self._marks[1] - number) & 0xFFFFFFFF < 1 << 31, timeout)

    def ask(self, question: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Ask what the session holds on its host, or change it; see :mod:`easycluster.far.holdings`.

        Raises:
            ConnectionLost: If the link has ended, or no answer came in time.
        """
        number = next(self._question_numbers) & 0xFFFFFFFF
        self._answers[number] = None
        try:
            self.send(Kind.ASK, number, pickle.dumps(question, 4))
            self.wait_for(lambda: self._answers[number] is not None, timeout)
            answer = self._answers[number]
        finally:
            del self._answers[number]
        if answer is None:
            reason = self.ended or f"the keeper did not answer {question['op']!r} within {timeout:g} s"
            raise ConnectionLost(reason, self.label)
        return answer

    def ask_later(
        self, question: dict[str, Any], told: Callable[[dict[str, Any] | Exception], object]
    ) -> Callable[[], None]:
        """As :meth:`ask`, without waiting.

        Args:
            question: What is asked.
            told: Called once in the monitor's thread, with the answer or with why there is none: the link has ended.

        Returns:
            What has ``told`` not called any more.

        Raises:
            ConnectionLost: If the link has ended.
        """
        number = next(self._question_numbers) & 0xFFFFFFFF
        self._told[number] = told
        try:
            self.send(Kind.ASK, number, pickle.dumps(question, 4))
        except BaseException:
            self._told.pop(number, None)
            raise
        return lambda: self._forget(number)

    def _forget(self, number: int) -> None:
        self._told.pop(number, None)

    def _tell(self, number: int, answer: dict[str, Any] | Exception) -> None:
        told = self._told.pop(number, None)
        if told is not None:
            told(answer)

    def worker_replaced(self) -> None:
        """Forget the worker that died: a new one is asked for."""
        # It counts from the beginning again: its first answers must not find their output marked as here.
        self._marks[0] = 0
        self.died = None
        self.worker_pid = 0
        self.last_output = b""

    # The end -----------------------------------------------------------------------------------

    def end(self, reason: str) -> None:
        """The link is of no further use."""
        with self._ending:
            if self.ended:
                return
            self.ended = reason
        self._wake_sleepers()
        if self.port is not None:
            self.port.shutdown()
        for number in list(self._told):
            self._tell(number, ConnectionLost(reason, self.label))
        self._on_ended(reason)

    def tick(self, now: float) -> float:
        """Do what is due; return when to look again."""
        # Before its first word it is starting, for which a slow board may take long: the connect timeout holds.
        patience = self.timeout if self._was_heard else float("inf")
        if now - self.last_heard > patience:
            self.fell_silent = True
            self.end(f"no heartbeat for {self.timeout:g} s")
            return now + 3600
        stall = self._stall
        if stall is not None:
            trouble = stall.look(now, self.last_heard)
            if trouble:
                self.end(trouble)
                return now + 3600
        if now >= self.next_ping:
            self.next_ping = now + self.heartbeat
            self.send_quietly(Kind.PING)
        due = min(self.next_ping, self.last_heard + patience)
        return due if stall is None else min(due, stall.next_look)


class Monitor:
    """The thread that serves all control links."""

    # Seconds between looks at references that were dropped while a client is idle.
    RELEASE_EVERY = 0.5

    def __init__(self) -> None:
        self._controls: set[Control] = set()
        self._lock = threading.Lock()
        self._wake_receive, self._wake_send = socket.socketpair()
        self._wake_receive.setblocking(False)
        self._wake_send.setblocking(False)
        self._thread: threading.Thread | None = None
        # What is to be done in threads of its own; appended to by finalizers, which must not wait for anything.
        self.errands: deque[Callable[[], object]] = deque()
        # The worker of a session whose control was removed must not be waited for by its own thread.
        self.pid = os.getpid()

    def add(self, control: Control) -> None:
        """Serve a control link from now on."""
        control.last_heard = now = _monotonic()
        control.next_ping = now + control.heartbeat
        with self._lock:
            self._controls.add(control)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="easycluster-monitor", daemon=True)
                self._thread.start()
        self.wake()

    def remove(self, control: Control) -> None:
        """Stop serving a control link.  Its descriptor may be closed once this has returned."""
        with self._lock:
            self._controls.discard(control)
            thread = self._thread
            if not self._controls:
                self._thread = None
        self.wake()
        if thread is not None and thread is not threading.current_thread():
            if self._thread is None:
                thread.join(2.0)
            else:
                control.wait_for(lambda: control not in self._served, 1.0)

    _served: frozenset[Control] = frozenset()

    def wake(self) -> None:
        """Make the thread look around now."""
        with contextlib.suppress(OSError):
            self._wake_send.send(b"w")

    def close(self) -> None:
        """End the thread and give the descriptors back."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._controls.clear()
        self.wake()
        if thread is not None:
            thread.join(1.0)
        self._wake_receive.close()
        self._wake_send.close()

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            with self._lock:
                if self._thread is not me:
                    if self._thread is None:
                        # Else the last session would be held until the next one comes.
                        self._served = frozenset()
                    return
                self._served = controls = frozenset(self._controls)
            while self.errands:
                threading.Thread(target=self.errands.popleft(), name="easycluster-errand", daemon=True).start()
            now = _monotonic()
            look_again = now + self.RELEASE_EVERY
            by_fd: dict[int, Control] = {}
            for control in controls:
                control.take_queued()
                if control.ended:
                    continue
                try:
                    control.flush()
                except OSError as exc:
                    control.end(f"the control link broke: {exc.strerror or exc}")
                    continue
                look_again = min(look_again, control.tick(now))
                if control.on_idle is not None:
                    control.on_idle()
                fd = control.port.fileno() if control.port is not None else -1
                if fd >= 0:
                    by_fd[fd] = control
            timeout = max(0.0, look_again - _monotonic())
            for fd in _wait([*by_fd, self._wake_receive.fileno()], timeout):
                if fd == self._wake_receive.fileno():
                    with contextlib.suppress(BlockingIOError):
                        self._wake_receive.recv(4096)
                else:
                    self._read(by_fd[fd])

    def _read(self, control: Control) -> None:
        port = control.port
        if port is None:
            return
        try:
            data = port.read()
        except BlockingIOError:
            return
        except OSError as exc:
            control.end(f"the control link broke: {exc.strerror or exc}")
            return
        if data:
            control.hear(data)
        else:
            control.end("the link was closed by the far side")


if hasattr(select, "poll"):

    def _wait(fds: list[int], timeout: float) -> list[int]:
        poller = select.poll()
        for fd in fds:
            poller.register(fd, select.POLLIN)
        return [fd for fd, _event in poller.poll(timeout * 1000)]

else:

    def _wait(fds: list[int], timeout: float) -> list[int]:
        return select.select(fds, [], [], timeout)[0]


_monitor: Monitor | None = None
_making = threading.Lock()


def monitor() -> Monitor:
    """Return the monitor of this process."""
    global _monitor
    found = _monitor
    if found is None or found.pid != os.getpid():
        with _making:
            if _monitor is None or _monitor.pid != os.getpid():
                _monitor = Monitor()
            found = _monitor
    return found


def close_monitor() -> None:
    """Give the monitor's descriptors back, at the end of the process."""
    global _monitor
    found, _monitor = _monitor, None
    if found is not None and found.pid == os.getpid():
        found.close()
