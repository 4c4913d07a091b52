"""The template: a single-threaded process that forks workers, and owns what they leave behind.

It is forked before anything starts a thread, has the bundle imported, holds no key, and does
nothing but fork, wait and kill.  As *subreaper* (prctl(2), Linux) it becomes the parent of whatever
its workers leave behind, daemons with sessions of their own included, and kills that too.  It ends,
with everything below it, when its socket to the keeper does: whoever dies first, nothing stays.

This module is shipped to the far side.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Set, Tuple

from easycluster.far import folders
from easycluster.far.fdpass import recv_packet, send_packet
from easycluster.far.reaper import become_subreaper, kill_children, kill_group, trim

if TYPE_CHECKING:
    from easycluster.far.holdings import Holdings
    from easycluster.far.undo import Code

__all__ = ["fork_sessions", "serve"]

# Seconds that a worker gets to leave by itself when its session ends.
GRACE = 0.7

# Seconds after a session's start in which no other one is prepared: so long it has better use for the processor.
SPARE_AFTER = 0.004


def serve(sock: socket.socket) -> None:
    """Fork workers as the keeper asks, until its end of ``sock`` closes.  Does not return."""
    # Now, so that every fork has it: compiling the modules takes longer than all else together.
    import easycluster.far.worker  # noqa: F401

    template = _Template(sock)
    try:
        template.run()
    finally:
        template.end()
        os._exit(0)


class _Template:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._workers: Set[int] = set()
        self._poller = select.poll()
        # Where workers register what is to be undone: the socket, its worker, and what code that has.
        self._registrars: Dict[int, Tuple[socket.socket, int, Code]] = {}
        self._holdings: Optional[Holdings] = None
        self._keeper = os.getppid()
        # Of the keeper; removed here too, in case it was killed.
        self._directory = ""
        # Whether the session is over, so that nothing is kept any more.
        self._leaving = False
        self._wake_receive, self._wake_send = os.pipe()
        for fd in (self._wake_receive, self._wake_send):
            os.set_blocking(fd, False)
        become_subreaper()
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_send, warn_on_full_buffer=False)
        for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(ignored, signal.SIG_IGN)
        # The first worker, forked while the keeper still talks to the near side.
        self._spare: Optional[_Spare] = None
        self._spare = _Spare(self)

    def run(self) -> None:
        poller = self._poller
        poller.register(self._sock.fileno(), select.POLLIN)
        poller.register(self._wake_receive, select.POLLIN)
        while True:
            for fd, _event in poller.poll(self._patience()):
                if fd == self._wake_receive:
                    try:
                        os.read(self._wake_receive, 4096)
                    except BlockingIOError:
                        pass
                elif fd in self._registrars:
                    self._register(fd)
                elif fd == self._sock.fileno():
                    received = recv_packet(self._sock)
                    if received is None:
                        return
                    self._obey(*received)
            self._reap()
            for request, answer in self._holdings.waiters.look() if self._holdings is not None else ():
                self._answer(request, answer)

    def _patience(self) -> Optional[float]:
        """How long to wait for something to happen, in milliseconds; None if nothing is due."""
        due = self._holdings.waiters.next_look if self._holdings is not None else None
        return None if due is None else max(0.0, due - time.monotonic()) * 1000 + 1

    def _answer(self, request: int, answer: Dict[str, Any]) -> None:
        send_packet(self._sock, {"kind": "answer", "request": request, "answer": answer})

    def _obey(self, packet: Dict[str, Any], fds: List[int]) -> None:
        if packet["kind"] == "fork":
            child, self._spare = self._spare, None
            if child is None or not child.use(packet, fds):
                child = _Spare(self, fds)
                child.use(packet, fds)
            self._add_registrar(child.registrar, child.pid, packet["settings"])
            self._workers.add(child.pid)
            for fd in fds:
                os.close(fd)
            send_packet(self._sock, {"kind": "forked", "pid": child.pid})
        elif packet["kind"] == "directory":
            self._directory = packet["path"]
        elif packet["kind"] == "kill" and packet["pid"] in self._workers:
            kill_group(packet["pid"])
        elif packet["kind"] == "ask":
            answer = self.holdings.answer(packet["question"], packet["request"])
            if answer is not None:
                self._answer(packet["request"], answer)

    @property
    def holdings(self) -> Holdings:
        """What the session holds; made when there is something: most sessions hold nothing."""
        if self._holdings is None:
            from easycluster.far.holdings import Holdings

            self._holdings = Holdings(self._keeper, lambda: self._workers, self._end_workers)
            self._holdings.undo.leave = self.leave
        return self._holdings

    def leave(self) -> None:
        """In a child: close what is ours."""
        self._sock.close()
        os.close(self._wake_receive)
        os.close(self._wake_send)
        for sock, _pid, _code in self._registrars.values():
            sock.close()
        if self._spare is not None:
            self._spare.close()
        if self._holdings is not None:
            self._holdings.forget()

    def _add_registrar(self, sock: socket.socket, pid: int, settings: Dict[str, Any]) -> None:
        from easycluster.far.undo import Code

        code = Code(settings.get("definitions") or ("easycluster.remote_code",))
        self._registrars[sock.fileno()] = sock, pid, code
        self._poller.register(sock.fileno(), select.POLLIN)

    def _register(self, fd: int) -> None:
        """Take an action that a worker wants undone, and tell it that it may go on."""
        sock, _pid, code = self._registrars[fd]
        try:
            received = recv_packet(sock)
            if received is not None:
                refused = self.holdings.register(received[0], code)
                send_packet(sock, {"kind": "registered", "refused": refused})
                return
        except OSError:
            pass
        self._poller.unregister(fd)
        del self._registrars[fd]
        sock.close()

    def _take_last_words(self, pid: int) -> None:
        """Take what a worker that has ended registered with its last breath."""
        for fd, (_sock, worker, _code) in list(self._registrars.items()):
            while worker == pid and fd in self._registrars and select.select([fd], [], [], 0)[0]:
                self._register(fd)

    def _end_workers(self) -> None:
        """Kill the workers and all they left."""
        for pid in self._workers:
            kill_group(pid)
        while self._workers:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                break
            self._ended(pid, status)
        kill_children(self._kept())

    def _kept(self) -> List[int]:
        return self._holdings.kept() if self._holdings is not None and not self._leaving else []

    def _ended(self, pid: int, status: int) -> None:
        """A child was collected."""
        if pid in self._workers:
            self._workers.discard(pid)
            kill_group(pid)
            kill_children([*self._workers, *self._kept()])
            self._take_last_words(pid)
            send_packet(self._sock, {"kind": "exited", "pid": pid, "status": status})

    def _reap(self) -> None:
        """Collect what has ended, and kill what a worker that has ended left behind."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._ended(pid, status)

    def end(self) -> None:
        """Let the workers leave, then kill whatever is there."""
        self._leaving = True
        deadline = time.monotonic() + GRACE
        while self._workers and time.monotonic() < deadline:
            try:
                pid, _status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._workers.clear()
                break
            if pid == 0:
                select.select([self._wake_receive], [], [], 0.02)
                try:
                    os.read(self._wake_receive, 4096)
                except BlockingIOError:
                    pass
            else:
                self._workers.discard(pid)
                kill_group(pid)
        for pid in self._workers:
            kill_group(pid)
        self._workers.clear()
        kill_children(self._workers)
        for fd in list(self._registrars):
            while fd in self._registrars and select.select([fd], [], [], 0)[0]:
                self._register(fd)
        if self._holdings is not None:
            self._undo(self._holdings)
        if self._directory:
            folders.remove(self._directory)

    def _undo(self, holdings: Holdings) -> None:
        """Set the host back; the keeper may still be there, and must not take us for stuck."""
        if holdings.has_to_stay:
            try:
                send_packet(self._sock, {"kind": "undoing"})
            except OSError:
                pass
        holdings.end()


class _Spare:
    """A child that becomes a worker once it is told how.

    Args:
        template: Its parent.
        others: Descriptors of ours that it must not keep: they are on their way to it.

    Attributes:
        pid: Its process id.
        registrar: Where it will register what is to be undone.
    """

    def __init__(self, template: _Template, others: Sequence[int] = ()) -> None:
        self._order, order = socket.socketpair()
        self.registrar, undo = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self.close()
            for fd in others:
                os.close(fd)
            _become_worker(template, order, undo)
        order.close()
        undo.close()

    def use(self, packet: Dict[str, Any], fds: List[int]) -> bool:
        """Make a worker of it; return whether it was still there."""
        try:
            send_packet(self._order, packet, fds)
        except OSError:
            self.close()
            return False
        self._order.close()
        return True

    def close(self) -> None:
        """Close our ends; the child leaves when nobody has them."""
        self._order.close()
        self.registrar.close()


def _become_worker(template: _Template, order: socket.socket, undo: socket.socket) -> None:
    """Turn this fresh child into a worker.  Does not return."""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        template.leave()
        from easycluster.far import worker

        _warm_up()
        received = recv_packet(order)
        order.close()
        if received is None:
            os._exit(0)
        packet, fds = received
        control, out, err, stacks, *audit = fds
        packet["settings"]["audit"] = audit
        packet["settings"]["undo"] = undo
        worker.main(socket.socket(fileno=control), out, err, stacks, packet["settings"])
    except BaseException:  # noqa: BLE001 - the last boundary of the process
        import traceback

        traceback.print_exc()
    finally:
        os._exit(70)


# Whether sessions are forked before their clients come.
_forks_ahead = False


def _warm_up() -> None:
    """Do some of what comes first, if there is time: a forked process pays for each page that it touches.

    That is 1.4 of 5.2 ms of processor time that the keeper and the worker of a TCP session need up to the first answer.
    """
    if not _forks_ahead:
        return
    import pickle

    from easycluster.wire.frames import FrameDecoder, FrameEncoder, Kind, frame
    from easycluster.wire.records import Mac

    key = bytes(32)
    _number, data = FrameEncoder(Mac(key)).encode(0, frame(Kind.HELLO, 0, pickle.dumps({"": 0.5, "x": (1, [b""])}, 4)))
    for message in FrameDecoder(Mac(key), 0).receive_data(data):
        pickle.loads(message[4])
    near, far = socket.socketpair()
    with near, far:
        send_packet(near, {"kind": "warm", "settings": {}}, [near.fileno()])
        received = recv_packet(far)
        assert received is not None
        os.close(received[1][0])
    thread = threading.Thread(target=eval, args=("1 + 1",), name="easycluster-warm-up")
    thread.start()
    thread.join()


def fork_sessions(sock: socket.socket) -> None:
    """Fork a keeper, with a template of its own, for each socket that arrives.  Does not return.

    Run by the process that a TCP server starts for this: it holds no key, the keys of a session
    reach its keeper over the socket that is passed here.  After the first session there is one
    more keeper than sockets, so that the next client does not wait for three forks.
    """
    global _forks_ahead
    _forks_ahead = True
    # All that a session imports, hashlib for its records: see Mac.
    import hashlib  # noqa: F401

    import easycluster.far.control
    import easycluster.far.worker  # noqa: F401

    # What each worker begins with.
    exec("from easycluster import *", {})
    trim()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    spare: Optional[socket.socket] = None
    poller = select.poll()
    poller.register(sock.fileno(), select.POLLIN)
    while True:
        received = recv_packet(sock)
        if received is None:
            os._exit(0)
        packet, fds = received
        if spare is None or not _send(spare, packet, fds):
            spare = _fork_session([sock.fileno(), *fds])
            _send(spare, packet, fds)
        spare.close()
        spare = None
        for fd in fds:
            os.close(fd)
        if not poller.poll(SPARE_AFTER * 1000):
            spare = _fork_session([sock.fileno()])


def _send(order: socket.socket, packet: Dict[str, Any], fds: List[int]) -> bool:
    """Pass a packet on; return whether somebody is there to take it."""
    try:
        send_packet(order, packet, fds)
    except OSError:
        order.close()
        return False
    return True


def _fork_session(others: Sequence[int]) -> socket.socket:
    """Fork a keeper that begins when it gets its socket over the one returned, and leaves when that closes."""
    mine, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            mine.close()
            for fd in others:
                os.close(fd)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _start_session(theirs)
        finally:
            os._exit(70)
    theirs.close()
    return mine


def _start_session(order: socket.socket) -> None:
    os.setsid()
    near, far = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        near.close()
        order.close()
        serve(far)
    far.close()
    from easycluster.far import control

    _warm_up()
    received = recv_packet(order)
    order.close()
    if received is not None:
        control.serve_listener(socket.socket(fileno=received[1][0]), near, pid)
    os._exit(0)
