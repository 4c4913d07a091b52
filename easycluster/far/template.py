"""The template: a single-threaded process that forks workers, and owns what they leave behind.

It is forked before anything starts a thread, has the bundle imported, holds no key, and does
nothing but fork, wait and kill.  As *subreaper* (prctl(2), Linux) it becomes the parent of whatever
its workers leave behind, daemons with sessions of their own included, and kills that too.  It ends,
with everything below it, when its socket to the keeper does: whoever dies first, nothing stays.

This module is shipped to the far side.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import time
from typing import Any, Callable, Dict, List, Optional, Set

from easycluster.far.fdpass import recv_packet, send_packet
from easycluster.far.reaper import become_subreaper, kill_children, kill_group

__all__ = ["fork_sessions", "serve"]

# Seconds that a worker gets to leave by itself when its session ends.
GRACE = 0.7


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
        # Of the keeper; removed here too, in case it was killed.
        self._directory = ""
        self._wake_receive, self._wake_send = os.pipe()
        for fd in (self._wake_receive, self._wake_send):
            os.set_blocking(fd, False)
        become_subreaper()
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_send, warn_on_full_buffer=False)
        for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(ignored, signal.SIG_IGN)

    def run(self) -> None:
        poller = select.poll()
        poller.register(self._sock.fileno(), select.POLLIN)
        poller.register(self._wake_receive, select.POLLIN)
        while True:
            for fd, _event in poller.poll():
                if fd == self._wake_receive:
                    try:
                        os.read(self._wake_receive, 4096)
                    except BlockingIOError:
                        pass
                else:
                    received = recv_packet(self._sock)
                    if received is None:
                        return
                    self._obey(*received)
            self._reap()

    def _obey(self, packet: Dict[str, Any], fds: List[int]) -> None:
        if packet["kind"] == "fork":
            pid = os.fork()
            if pid == 0:
                _become_worker(self, packet, fds)
            self._workers.add(pid)
            for fd in fds:
                os.close(fd)
            send_packet(self._sock, {"kind": "forked", "pid": pid})
        elif packet["kind"] == "directory":
            self._directory = packet["path"]
        elif packet["kind"] == "kill" and packet["pid"] in self._workers:
            kill_group(packet["pid"])

    def _reap(self) -> None:
        """Collect what has ended, and kill what a worker that has ended left behind."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._workers:
                self._workers.discard(pid)
                kill_group(pid)
                kill_children(self._workers)
                send_packet(self._sock, {"kind": "exited", "pid": pid, "status": status})

    def end(self) -> None:
        """Let the workers leave, then kill whatever is there."""
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
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)


def _become_worker(template: _Template, packet: Dict[str, Any], fds: List[int]) -> None:
    """Turn this fresh child into a worker.  Does not return."""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        template._sock.close()
        os.close(template._wake_receive)
        os.close(template._wake_send)
        from easycluster.far import worker

        control, out, err, stacks, *audit = fds
        packet["settings"]["audit"] = audit
        worker.main(socket.socket(fileno=control), out, err, stacks, packet["settings"])
    except BaseException:  # noqa: BLE001 - the last boundary of the process
        import traceback

        traceback.print_exc()
    finally:
        os._exit(70)


def fork_sessions(sock: socket.socket, start: Optional[Callable[[socket.socket, int], None]] = None) -> None:
    """Fork a keeper, with a template of its own, for each socket that arrives.  Does not return.

    Run by the process that a TCP server starts for this: it holds no key, the keys of a session
    reach its keeper over the socket that is passed here.
    """
    import easycluster.far.worker  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    while True:
        received = recv_packet(sock)
        if received is None:
            os._exit(0)
        _packet, fds = received
        pid = os.fork()
        if pid == 0:
            try:
                sock.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _start_session(fds[0])
            finally:
                os._exit(70)
        for fd in fds:
            os.close(fd)


def _start_session(fd: int) -> None:
    os.setsid()
    near, far = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        near.close()
        os.close(fd)
        serve(far)
    far.close()
    from easycluster.far import control

    control.serve_listener(socket.socket(fileno=fd), near, pid)
