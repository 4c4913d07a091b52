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
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Set

from easycluster.far.fdpass import recv_packet, send_packet

__all__ = ["become_subreaper", "fork_sessions", "serve"]

_PR_SET_CHILD_SUBREAPER = 36
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
            _kill_group(packet["pid"])

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
                _kill_group(pid)
                self._kill_strays()
                send_packet(self._sock, {"kind": "exited", "pid": pid, "status": status})

    def _kill_strays(self) -> None:
        """Kill every child that is not a worker: it was left behind by one."""
        for _attempt in range(100):
            strays = [pid for pid in _children() if pid not in self._workers]
            if not strays:
                return
            for pid in strays:
                _kill_group(pid)
                try:
                    os.waitpid(pid, 0)
                except ChildProcessError:
                    pass

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
                _kill_group(pid)
        for pid in self._workers:
            _kill_group(pid)
        self._workers.clear()
        self._kill_strays()
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

        control, out, err, stacks = fds
        worker.main(socket.socket(fileno=control), out, err, stacks, packet["settings"])
    except BaseException:  # noqa: BLE001 - the last boundary of the process
        import traceback

        traceback.print_exc()
    finally:
        os._exit(70)


def become_subreaper() -> bool:
    """Become the parent of orphaned descendants, where the system can; return whether it could."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def _children() -> List[int]:
    """Return the children of this process, [] where the system does not tell."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as listing:
            return [int(pid) for pid in listing.read().split()]
    except (OSError, ValueError):
        return _children_by_status()


def _children_by_status() -> List[int]:
    """As :func:`_children`, for kernels without CONFIG_PROC_CHILDREN."""
    me = os.getpid()
    found = []
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    for name in names:
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as stat:
                    if int(stat.read().rpartition(")")[2].split()[1]) == me:
                        found.append(int(name))
            except (OSError, ValueError, IndexError):
                continue
    return found


def _kill_group(pid: int) -> None:
    """Kill a process and its group, if it leads one."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


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
