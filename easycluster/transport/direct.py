"""Data pipes: raw pipes to the far-side worker beside a gateway, so that a call passes no process or thread of ours.

The worker listens at a unix socket in a private directory.  Whoever connects hands it two descriptors, one to read and
one to write.  Locally these are pipes of ours; over ssh they are the standard input and output of a second session on
the gateway's own ssh connection.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import socket
import subprocess
import tempfile
import threading
import time
from typing import IO

from easycluster.errors import ConnectError, ConnectTimeout
from easycluster.far.start import PASSER

__all__ = ["DataPipes", "open_local_pipes", "open_ssh_pipes"]

# What start-up files may print before the marker.
MOST_NOISE = 64 * 1024

# Seconds that a session's ssh gets to end after its pipes were closed.
GRACE = 0.2


class DataPipes:
    """A pair of pipes to the worker.

    Attributes:
        host: The host as messages name it.
        read_fd: Descriptor to read from.
        write_fd: Descriptor to write to.
        closed: Whether :meth:`close` was called.
    """

    def __init__(
        self,
        host: str,
        read_fd: int,
        write_fd: int,
        connection: socket.socket | None = None,
        process: subprocess.Popen[bytes] | None = None,
        errors: IO[bytes] | None = None,
    ) -> None:
        """Own the descriptors, and the connection or ssh process that keeps them alive."""
        self.host = host
        self.read_fd = read_fd
        self.write_fd = write_fd
        self.closed = False
        self._connection = connection
        self._process = process
        self._errors = errors
        self._lock = threading.Lock()

    def tell(self, path: str) -> None:
        """Say which unix socket the pipes are to be handed to, to a session that waits to hear it.

        Raises:
            ConnectError: If that has ended.
        """
        try:
            os.write(self.write_fd, os.fsencode(path) + b"\n")
        except OSError as exc:
            raise self._failure("the far side ended it") from exc

    def skip_noise(self, marker: bytes, timeout: float) -> None:
        """Read up to and including the marker, and not a byte more.

        Raises:
            ConnectTimeout: If it does not come in time.
            ConnectError: If too much else does.
        """
        end = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self.read_fd, select.POLLIN)
        seen = b""
        while not seen.endswith(marker):
            left = end - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise self._failure(f"no answer within {timeout:g} s", ConnectTimeout)
            data = os.read(self.read_fd, len(marker) - _overlap(seen, marker))
            if not data:
                raise self._failure("the far side ended it")
            seen += data
            if len(seen) > MOST_NOISE:
                raise self._failure(f"more than {MOST_NOISE} bytes of something else came: {seen[:200]!r}")

    def _failure(self, reason: str, kind: type[ConnectError] = ConnectError) -> ConnectError:
        words = ""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)  # its last words may still be on their way
        if self._errors is not None:
            self._errors.seek(0)
            words = self._errors.read(4096).decode("utf-8", "replace")
        return kind(f"{self.host}: no data pipe: {reason}", self.host, words)

    def close(self) -> None:
        """Close both pipes and end what kept them; any thread, any number of times.

        The descriptors are closed here and must not be closed by anyone else.
        """
        with self._lock:
            if self.closed:
                return
            self.closed = True
            os.close(self.write_fd)
            if self._connection is not None:
                self._connection.close()
            if self._process is not None:
                try:
                    self._process.wait(GRACE)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
            os.close(self.read_fd)
            if self._errors is not None:
                self._errors.close()


def _overlap(seen: bytes, marker: bytes) -> int:
    """How many bytes at the end of what was seen may be the beginning of the marker."""
    return max(count for count in range(len(marker)) if seen.endswith(marker[:count]))


def _two_pipes() -> tuple[int, int, int, int]:
    """Return what the far side reads, what we read, what it writes and what we write."""
    far_read, write_fd = os.pipe()
    try:
        read_fd, far_write = os.pipe()
    except OSError:
        os.close(far_read)
        os.close(write_fd)
        raise
    return far_read, read_fd, far_write, write_fd


def open_local_pipes(host: str, path: str) -> DataPipes:
    """Hand two pipes to the listener at a unix socket on this machine."""
    # First, because pipes would be left behind if there were no descriptor for it.
    connection = socket.socket(socket.AF_UNIX)
    try:
        far_read, read_fd, far_write, write_fd = _two_pipes()
    except OSError:
        connection.close()
        raise
    pipes = DataPipes(host, read_fd, write_fd, connection=connection)
    try:
        connection.settimeout(5.0)
        connection.connect(path)
        socket.send_fds(connection, [b"x"], [far_read, far_write])
    except OSError as exc:
        pipes.close()
        raise ConnectError(f"{host}: no data pipe: {exc.strerror or exc} ({path})", host) from exc
    finally:
        os.close(far_read)
        os.close(far_write)
    return pipes


def open_ssh_pipes(host: str, ssh: str, master: str, python: str, become: str = "") -> DataPipes:
    """Open a session on the master that hands its standard input and output to a listener, see :meth:`DataPipes.tell`.

    ``become`` is a command that runs Python as the user whom the listener belongs to.
    """
    far_command = f"exec {become} " + " ".join(shlex.quote(word) for word in (python, "-I", "-S", "-c", PASSER))
    command = [ssh, "-T", "-S", master, "-F", os.devnull, "-o", "ControlMaster=no", "-o", "BatchMode=yes"]
    # A session that the master cannot open makes ssh connect anew, by itself and without the user's configuration.
    command += ["-o", "ProxyCommand=false", "-o", "LogLevel=ERROR", "--", host, far_command]
    errors = tempfile.TemporaryFile()  # noqa: SIM115  # DataPipes closes it
    try:
        far_read, read_fd, far_write, write_fd = _two_pipes()
    except OSError:
        errors.close()
        raise
    pipes = DataPipes(host, read_fd, write_fd, errors=errors)
    try:
        pipes._process = subprocess.Popen(
            command, stdin=far_read, stdout=far_write, stderr=errors, start_new_session=True
        )
    except OSError as exc:
        pipes.close()
        raise ConnectError(f"{host}: no data pipe: cannot run {ssh!r}: {exc.strerror}", host) from exc
    finally:
        os.close(far_read)
        os.close(far_write)
    return pipes
