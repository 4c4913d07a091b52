"""The keeper: the small process that outlives the worker.

User code can crash, hold the interpreter for a minute, exhaust the memory or be stopped.  So
whatever has to survive it lives here: the lease on the near side's heartbeat, the worker's output
and last words, cancelling, and the certainty that nothing is left when the session ends.  Calls and
their data do not pass through it.

One thread, one loop::

    near side  --control link-->  keeper  --packets-->  worker        cancel, link
                                         <--packets---                sync, cancelled
                                         <--pipes-----                stdout, stderr, stacks
                                  keeper  --packets-->  template      fork, kill
                                         <--packets---                forked, exited

What the control link is made of is the business of :mod:`easycluster.far.control`.

This module is shipped to the far side.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

from easycluster.errors import RemoteProtocolError
from easycluster.far import folders
from easycluster.far.fdpass import recv_packet, send_packet
from easycluster.far.reaper import kill_children, kill_group
from easycluster.far.relay import Relay
from easycluster.link.stall import StallWatch
from easycluster.wire.frames import FrameDecoder, FrameEncoder, Kind, frame
from easycluster.wire.records import Mac

__all__ = ["CANCEL_SIGNAL", "DUMP_SIGNAL", "Keeper"]

_monotonic = time.monotonic

# Seconds without a word from the near side after which it counts as gone.
LEASE = 15.0
# Ending takes a moment, and is to be over when the near side gives us up.
USED_OF_LEASE = 0.9
# Bytes of output that may be on their way before the near side has to say that it took some.
OUTPUT_WINDOW = 1 << 20
# What an error shows of the last words.
LAST_WORDS = 4096
# Of the stacks of a worker: of their beginning, and of their end.
LONGEST_STACK = 64 << 10
# Stands for a request that nothing ends: the near side wants the worker killed.
KILLED = -1
# Seconds for the stacks of a stuck worker.
DUMP_TIME = 0.5

CANCEL_SIGNAL = int(getattr(signal, "SIGRTMIN", signal.SIGUSR1)) + (5 if hasattr(signal, "SIGRTMIN") else 0)
DUMP_SIGNAL = int(getattr(signal, "SIGRTMIN", signal.SIGUSR2)) + (6 if hasattr(signal, "SIGRTMIN") else 0)


class _Worker:
    """What the keeper knows of one worker."""

    def __init__(self, control: socket.socket, out: int, err: int, dump: int) -> None:
        self.pid = 0
        self.control = control
        self.pipes: Dict[int, int] = {out: 1, err: 2}
        self.dump = dump
        self.last_words = b""
        self.stack = b""
        self.killed = False
        # Requests for which it is about to be killed.
        self.stuck: Set[int] = set()
        # Where a passed link's other process waits for the worker's end.
        self.passers: List[socket.socket] = []


class Keeper:
    """Runs one session.

    Args:
        send: Sends bytes to the near side; may block.
        receive_key: None, or the key of records on the control link.
        template: Socket to the template process.
        template_pid: Its process id.
    """

    def __init__(self, send: Callable[[bytes], None], template: socket.socket, template_pid: int) -> None:
        self._send_bytes = send
        self._template = template
        self._template_pid = template_pid
        self._encoder = FrameEncoder(None)
        # A control link has no bulk.
        self._decoder = FrameDecoder(None, 0)
        self._number = 0
        self._worker: Optional[_Worker] = None
        self._waiting_links: List[Tuple[Dict[str, Any], List[int]]] = []
        self._handlers: Dict[int, Callable[[], None]] = {}
        self.poller = select.poll()
        # Why it ends, if the near side does not know.
        self.farewell = ""
        # Why it ends, for a server's log.
        self.why = ""
        self.lease = LEASE
        self._stall: Optional[StallWatch] = None
        self.last_heard = _monotonic()
        self._cancels: Dict[int, float] = {}
        self._kill_at: Optional[float] = None
        self._unacknowledged = 0
        self._paused: List[int] = []
        self._ending = False
        self._directory = ""
        self._listener: Optional[socket.socket] = None
        self._relay: Optional[Relay] = None
        self._settings: Dict[str, Any] = {}
        self.watch(template.fileno(), self._template_speaks)

    # The loop ----------------------------------------------------------------------------------

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        """Call ``handler`` whenever ``fd`` can be read."""
        self._handlers[fd] = handler
        self.poller.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Undo :meth:`watch`."""
        if self._handlers.pop(fd, None) is not None:
            self.poller.unregister(fd)

    def use_keys(self, send_key: bytes, receive_key: bytes) -> None:
        """Authenticate the control link's records with these keys from now on."""
        self._encoder = FrameEncoder(Mac(send_key))
        self._decoder = FrameDecoder(Mac(receive_key), 0)

    def run(self) -> None:
        """Serve until the near side says goodbye, goes silent or goes away."""
        while not self._ending:
            events = self.poller.poll(self._next_timeout() * 1000)
            for fd, handler in [(fd, self._handlers.get(fd)) for fd, _event in events]:
                # One handler may close what another's event is about, and open something with the same number: of that
                # nothing is known yet, and to read it could block us for ever.
                if handler is not None and self._handlers.get(fd) is handler:
                    handler()
            self._look_at_clock()

    def _next_timeout(self) -> float:
        now = _monotonic()
        moments = [self.last_heard + self.lease * USED_OF_LEASE, *self._cancels.values()]
        if self._kill_at is not None:
            moments.append(self._kill_at)
        if self._stall is not None:
            moments.append(self._stall.next_look)
        return max(0.0, min(moments) - now) + 0.001

    def _look_at_clock(self) -> None:
        now = _monotonic()
        if now - self.last_heard > self.lease * USED_OF_LEASE:
            # Perhaps only the way here is broken, and it is heard.
            self.farewell = f"it had no heartbeat for {self.lease:g} s"
            self.stop(f"no heartbeat for {self.lease:g} s")
        trouble = self._stall.look(now, self.last_heard) if self._stall is not None else ""
        if trouble:
            self.farewell = trouble
            self.stop(trouble)
        stuck = {request for request, moment in self._cancels.items() if moment <= now}
        if stuck:
            for request in stuck:
                del self._cancels[request]
            self._ask_for_stacks(stuck)
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            self._kill_worker()

    def end(self) -> None:
        """End everything below this process, say goodbye, give back what is ours."""
        if self._listener is not None:
            self._listener.close()
        if self._directory:
            folders.remove(self._directory)
        worker = self._worker
        if worker is not None:
            # The worker sees its end of the session; the template gives it a moment, then kills.
            _shutdown(worker.control)
        # Not closed: it may have to say that it is at work, undoing things.
        _shutdown(self._template, socket.SHUT_WR)
        undoing = False
        deadline = _monotonic() + 3.0
        while _monotonic() < deadline:
            if worker is not None:
                self._drain_output(worker)
            undoing = undoing or self._is_undoing()
            try:
                pid, status = os.waitpid(self._template_pid, os.WNOHANG)
            except ChildProcessError:
                status = 0
                break
            if pid:
                break
            time.sleep(0.005)
        else:
            status = 0
            if not undoing:
                os.kill(self._template_pid, signal.SIGKILL)
                status = os.waitpid(self._template_pid, 0)[1]
            # Else it goes on without us, with a time limit on each thing.
        if status:
            # It was killed, and left its work to us.
            if worker is not None and worker.pid:
                kill_group(worker.pid)
            kill_children()
        try:
            self._send(frame(Kind.GOODBYE, 0, self.farewell.encode()))
        except OSError:
            pass

    def _is_undoing(self) -> bool:
        """Whether the template, which was told to end, says that it has things to undo first."""
        found = False
        try:
            while select.select([self._template], [], [], 0)[0]:
                received = recv_packet(self._template)
                if received is None:
                    break
                found = found or received[0]["kind"] == "undoing"
        except OSError:
            pass
        return found

    # The near side -----------------------------------------------------------------------------

    def hear(self, data: bytes) -> None:
        """Take bytes of the control link.

        Raises:
            RemoteProtocolError: If they make no sense.
            OSError: If the near side or the template is gone.
        """
        self.last_heard = _monotonic()
        for kind, _flags, request, thread, body, _buffers in self._decoder.receive_data(data):
            self._obey(kind, request, thread, bytes(body))

    def hang_up(self) -> None:
        """The control link has ended."""
        self.stop("the link was closed")

    def stop(self, why: str) -> None:
        """End the session; the first reason is the one that counts."""
        self.why = self.why or why
        self._ending = True

    def _obey(self, kind: int, request: int, thread: int, body: bytes) -> None:
        if kind == Kind.PING:
            self._send(frame(Kind.PONG, request, body))
        elif kind == Kind.HELLO:
            self._configure(_load(body, dict))
        elif kind == Kind.SPAWN:
            self._spawn()
        elif kind == Kind.CANCEL:
            self._cancel(request, _load(body, (int, float)))
        elif kind == Kind.KILL:
            self._ask_for_stacks({KILLED})
        elif kind == Kind.CREDIT:
            if not thread:
                self._credit(request)
            elif self._relay is not None:
                self._relay.acknowledge(request)
        elif kind == Kind.SYNC:
            if self._worker is not None:
                self._drain_output(self._worker)
            self._send(frame(Kind.SYNCED, request, thread=1))
        elif kind == Kind.DATA:
            self._relay_in(body)
        elif kind == Kind.ASK:
            # What a session holds is the template's, see easycluster.far.holdings.
            send_packet(self._template, {"kind": "ask", "request": request, "question": _load(body, dict)})
        elif kind == Kind.GOODBYE:
            self.stop("the client has closed it")

    def _send(self, data: bytes) -> None:
        self._number, record = self._encoder.encode(self._number, data)
        self._send_bytes(record)

    def _configure(self, settings: Dict[str, Any]) -> None:
        """The near side's first words: how long it may be silent, how links are made."""
        lease = settings.get("lease", LEASE)
        if not isinstance(lease, (int, float)) or not lease > 0:
            raise RemoteProtocolError(f"a lease of {lease!r} seconds is not possible")
        self.lease = float(lease)
        self._settings = settings
        if settings.get("socket"):
            self._listen()
        self._spawn()
        self._send(
            frame(
                Kind.HELLO,
                0,
                pickle.dumps({"keeper": os.getpid(), "path": self._path, "python": tuple(sys.version_info[:3])}, 4),
            )
        )

    # Links -------------------------------------------------------------------------------------

    _path = ""
    report_calls = False
    # Where workers write profiles, "" for none.
    profile = ""
    # The pipe on which workers report their calls to a server's audit log, if it has one.
    audit: Sequence[int] = ()

    def _listen(self) -> None:
        """Open the socket on which a second connection hands over its pipes."""
        self._directory = folders.make_private()
        self._path = os.path.join(self._directory, "s")
        # It outlives a keeper that is killed, and removes this then.
        send_packet(self._template, {"kind": "directory", "path": self._directory})
        listener = self._listener = socket.socket(socket.AF_UNIX)
        listener.bind(self._path)
        listener.listen(8)
        self.watch(listener.fileno(), self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        passer, _address = self._listener.accept()
        passer.settimeout(2.0)
        try:
            _data, ancillary, _flags, _ = passer.recvmsg(1, socket.CMSG_SPACE(64))
            fds: List[int] = []
            for level, kind, data in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds += memoryview(data).cast("i").tolist()
        except OSError:
            passer.close()
            return
        if len(fds) != 2:
            for fd in fds:
                os.close(fd)
            passer.close()
            return
        if self._worker is not None:
            self._worker.passers.append(passer)
        self.pass_link({"kind": "link", "marker": self._settings.get("marker", b"")}, fds)

    def watch_data(self, sock: socket.socket) -> None:
        """End the session, too, if what the worker sends on this data connection never gets through."""
        heartbeat = self._settings.get("heartbeat", 0.0)
        self._stall = StallWatch(sock, self.lease, heartbeat if isinstance(heartbeat, (int, float)) else 0.0)

    def pass_link(self, packet: Dict[str, Any], fds: List[int]) -> None:
        """Give a connected data link to the worker; it waits for one if there is none."""
        worker = self._worker
        if worker is None:
            self._waiting_links.append((packet, fds))
            return
        try:
            send_packet(worker.control, packet, fds)
        except OSError:
            pass
        for fd in fds:
            os.close(fd)

    # The worker --------------------------------------------------------------------------------

    def _spawn(self) -> None:
        if self._worker is not None:
            return
        control, theirs = socket.socketpair()
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        dump, dump_end = os.pipe()
        for fd in (out, err, dump):
            os.set_blocking(fd, False)
        settings = dict(self._settings, report=self.report_calls, profile=self.profile)
        fds = [theirs.fileno(), out_end, err_end, dump_end, *self.audit]
        send_packet(self._template, {"kind": "fork", "settings": settings}, fds)
        theirs.close()
        for fd in (out_end, err_end, dump_end):
            os.close(fd)
        worker = self._worker = _Worker(control, out, err, dump)
        self.watch(control.fileno(), lambda: self._worker_speaks(worker))
        for pipe in (out, err):
            self.watch(pipe, self._reader(worker, pipe))
        # Always: who crashes writes here, and must not wait for room.
        self.watch(dump, lambda: self._read_stack(worker))
        for packet, fds in self._waiting_links:
            self.pass_link(packet, fds)
        self._waiting_links.clear()

    def _template_speaks(self) -> None:
        received = recv_packet(self._template)
        if received is None:
            # Without it nothing can be run or cleaned up: the session is over.
            self.stop("its template is gone")
            return
        packet, _fds = received
        worker = self._worker
        if packet["kind"] == "forked" and worker is not None:
            worker.pid = packet["pid"]
            self._send(frame(Kind.SPAWNED, worker.pid & 0xFFFFFFFF))
        elif packet["kind"] == "exited" and worker is not None and packet["pid"] == worker.pid:
            self._worker_exited(worker, packet["status"])
        elif packet["kind"] == "answer":
            self._send(frame(Kind.ANSWER, packet["request"], pickle.dumps(packet["answer"], 4)))

    def _worker_exited(self, worker: _Worker, status: int) -> None:
        # What it said last may lie there unread: a record of what it died of, say.
        while worker.control.fileno() in self._handlers and select.select([worker.control], [], [], 0)[0]:
            self._worker_speaks(worker)
        self._drain_output(worker)
        self._read_stack(worker)
        for fd in list(worker.pipes):
            self._close_pipe(worker, fd)
        self.unwatch(worker.dump)
        os.close(worker.dump)
        self.unwatch(worker.control.fileno())
        worker.control.close()
        for passer in worker.passers:
            passer.close()
        self._worker = None
        self._cancels.clear()
        self._kill_at = None
        self._stall = None
        self._end_relay()
        died = {
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
            "exit_code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            "killed": worker.killed,
            "last_output": worker.last_words.decode("utf-8", "replace"),
            "stack": worker.stack.decode("utf-8", "replace"),
        }
        self.worker_ended(died)
        self._send(frame(Kind.DIED, worker.pid & 0xFFFFFFFF, pickle.dumps(died, 4)))

    def _worker_speaks(self, worker: _Worker) -> None:
        try:
            received = recv_packet(worker.control)
        except Exception:  # noqa: BLE001 - nonsense: user code has got at the socket
            received = None
        if received is None:
            self.unwatch(worker.control.fileno())
            return
        packet, _fds = received
        if packet["kind"] == "sync":
            self._drain_output(worker)
            self._send(frame(Kind.SYNCED, packet["number"]))
        elif packet["kind"] == "cancelled":
            self._cancels.pop(packet["request"], None)
            if packet["request"] in worker.stuck:
                worker.stuck.discard(packet["request"])
                if not worker.stuck:
                    self._spare(worker)
        elif packet["kind"] == "log":
            # First what was printed before it; both count as output that the near side has to take.
            self._drain_output(worker)
            self._unacknowledged += len(packet["record"])
            self._send(frame(Kind.LOG, 0, packet["record"]))
        elif packet["kind"] == "report":
            self.report(packet)

    def report(self, packet: Dict[str, Any]) -> None:
        """The worker tells what is called, where the server asked for it."""

    def worker_ended(self, died: Dict[str, Any]) -> None:
        """A worker is gone, one way or the other."""

    # Cancelling --------------------------------------------------------------------------------

    def _cancel(self, request: int, grace: float) -> None:
        worker = self._worker
        if worker is None:
            return
        self._cancels[request] = _monotonic() + grace
        try:
            send_packet(worker.control, {"kind": "cancel", "request": request})
        except OSError:
            pass

    def _ask_for_stacks(self, stuck: Set[int]) -> None:
        """Make a worker that is stuck in some requests say where, without its interpreter; then kill it."""
        worker = self._worker
        if worker is None or not worker.pid:
            return
        worker.stuck |= stuck
        if self._kill_at is not None:
            return
        worker.killed = True
        try:
            os.kill(worker.pid, DUMP_SIGNAL)
        except ProcessLookupError:
            return
        self._kill_at = _monotonic() + DUMP_TIME

        def stacks() -> None:
            self._read_stack(worker)
            # faulthandler ends with the thread that got the signal; a short pause for the rest.
            self._kill_at = min(self._kill_at or 0, _monotonic() + 0.05) if self._kill_at is not None else None

        self.watch(worker.dump, stacks)

    def _spare(self, worker: _Worker) -> None:
        """Let a worker live: what it was to be killed for has ended.  The signal may have ended it."""
        self._kill_at = None
        worker.killed = False
        self._read_stack(worker)
        self.watch(worker.dump, lambda: self._read_stack(worker))
        worker.stack = b""

    def _read_stack(self, worker: _Worker) -> None:
        while True:
            try:
                data = os.read(worker.dump, 65536)
            except (BlockingIOError, OSError):
                return
            if not data:
                self.unwatch(worker.dump)
                return
            worker.stack += data
            if len(worker.stack) > 2 * LONGEST_STACK:
                # The thread that crashed is the first or the last, with but few exceptions.
                worker.stack = worker.stack[:LONGEST_STACK] + worker.stack[-LONGEST_STACK:]

    def _kill_worker(self) -> None:
        worker = self._worker
        if worker is None:
            return
        self._read_stack(worker)
        self.unwatch(worker.dump)
        send_packet(self._template, {"kind": "kill", "pid": worker.pid})

    # Output ------------------------------------------------------------------------------------

    def _read_pipe(self, worker: _Worker, fd: int) -> bool:
        """Pass some output on; return whether there may be more."""
        if self._unacknowledged >= OUTPUT_WINDOW:
            self._pause(worker)
            return False
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._close_pipe(worker, fd)
            return False
        stream = worker.pipes[fd]
        worker.last_words = (worker.last_words + data)[-LAST_WORDS:]
        self._unacknowledged += len(data)
        self._send(frame(Kind.OUTPUT, stream, data))
        return True

    def _reader(self, worker: _Worker, fd: int) -> Callable[[], None]:
        def read() -> None:
            self._read_pipe(worker, fd)

        return read

    def _drain_output(self, worker: _Worker) -> None:
        for fd in list(worker.pipes):
            while self._read_pipe(worker, fd):
                pass

    def _close_pipe(self, worker: _Worker, fd: int) -> None:
        if worker.pipes.pop(fd, None) is not None:
            self.unwatch(fd)
            os.close(fd)

    def _pause(self, worker: _Worker) -> None:
        """Stop reading output until the near side has taken some: the worker then waits in write."""
        for fd in worker.pipes:
            if fd in self._handlers:
                self.poller.unregister(fd)
                self._paused.append(fd)
                self._handlers.pop(fd)

    def _credit(self, taken: int) -> None:
        self._unacknowledged = max(0, self._unacknowledged - taken)
        worker = self._worker
        if self._paused and self._unacknowledged < OUTPUT_WINDOW // 2:
            paused, self._paused = self._paused, []
            if worker is not None:
                for pipe in paused:
                    if pipe in worker.pipes:
                        self.watch(pipe, self._reader(worker, pipe))

    # A data link inside the control link ---------------------------------------------------------

    def _relay_in(self, body: bytes) -> None:
        relay = self._relay
        if relay is None and body:
            # For a worker that has ended meanwhile.  A link of the next one begins with an empty frame.
            self._send(frame(Kind.CREDIT, len(body)))
            return
        if relay is None:
            mine, theirs = socket.socketpair()
            relay = self._relay = Relay(mine, self._send, self.poller)
            self.watch(mine.fileno(), self._relay_ready)
            self.pass_link({"kind": "link", "marker": b""}, [theirs.detach()])
        relay.take(body)

    def _relay_ready(self) -> None:
        if self._relay is not None:
            self._relay.ready()
            if self._relay.ended:
                self._end_relay()

    def _end_relay(self) -> None:
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.finish()
            self.unwatch(relay.sock.fileno())
            relay.sock.close()


def _load(body: bytes, kind: Any) -> Any:
    """Return the value of a message; what else it may be ends the session as any other nonsense does."""
    try:
        value = pickle.loads(body)
    except Exception as exc:
        raise RemoteProtocolError("a control message cannot be read") from exc
    if not isinstance(value, kind):
        raise RemoteProtocolError(f"a control message holds {type(value).__name__}")
    return value


def _shutdown(sock: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    try:
        sock.shutdown(how)
    except OSError:
        pass
