"""Where a TCP server gets its keepers from.

One helper process, started afresh with the bundle and a clean environment, forks a keeper for each
session.  It is single-threaded, holds no key and does nothing else: the listener itself never forks.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from easycluster.far.fdpass import send_packet
from easycluster.transport.bundle import bundle_source

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["SessionSpawner"]

_STAGE = (
    "import sys,socket;sys.path[:]=[p for p in sys.path if p];sys.argv[:]=['-c'];"
    "sock=socket.socket(fileno=int({fd}));"
    "n=int.from_bytes(sock.recv(4,socket.MSG_WAITALL),'big');"
    "boot,_,DATA=sock.recv(n,socket.MSG_WAITALL).partition(b'\\0');"
    "exec(compile(boot,'<easycluster sessions>','exec'))"
)

_SERVE = "from easycluster.far.template import fork_sessions\ndel DATA, boot\nfork_sessions(sock)\n"

# What a session sees of the server's environment.
_KEPT = ("PATH", "HOME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LOGNAME", "USER", "SHELL", "TMPDIR", "TZ")


class SessionSpawner:
    """Forks keepers, each with a template of its own.

    Args:
        keep: Names of further environment variables that sessions may see.
    """

    def __init__(self, keep: Iterable[str] = ()) -> None:
        self._environment = {name: os.environ[name] for name in {*_KEPT, *keep} if name in os.environ}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None

    def spawn(self) -> socket.socket:
        """Return a socket to a fresh keeper.

        Raises:
            OSError: If no process can be had.
        """
        with self._lock:
            near, far = socket.socketpair()
            try:
                try:
                    send_packet(self._helper(), {"kind": "session"}, [far.fileno()])
                except (BrokenPipeError, ConnectionResetError):
                    # The helper was killed: start another one.
                    self._stop()
                    send_packet(self._helper(), {"kind": "session"}, [far.fileno()])
            except BaseException:
                near.close()
                raise
            finally:
                far.close()
            return near

    def start(self) -> None:
        """Start the helper now, so that the first session does not wait for it."""
        with self._lock:
            self._helper()

    def _helper(self) -> socket.socket:
        if self._sock is not None:
            return self._sock
        near, far = socket.socketpair()
        with far:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-c", _STAGE.format(fd=far.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=self._environment,
                pass_fds=[far.fileno()],
                start_new_session=True,
                cwd="/",
            )
        source = bundle_source(with_code=True, compress=False, then=_SERVE)
        near.sendall(len(source).to_bytes(4, "big") + source)
        self._sock = near
        return near

    def close(self) -> None:
        """End the helper; keepers end when the listener closes their sockets."""
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        process, self._process = self._process, None
        if process is not None:
            try:
                process.wait(2.0)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                process.wait()
