"""Lines to a machine's console: a command in a terminal of its own, a socket, a serial port.

A line is read and written as bytes; all reading waits with an end.  The standard library does it all, so a line can be
opened on a far side, too.

This module is shipped to the far side.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import time
from typing import Any, Dict, Optional, Sequence, Type

from easycluster.errors import EasyClusterError, Unsupported
from easycluster.objects.exports import ServerObject

__all__ = ["CommandLine", "Line", "LineError", "SerialLine", "SocketLine", "open_line"]

_CHUNK = 1 << 16
_CONNECT = 10.0
_WRITE = 10.0
# How long a command that was told to hang up may take.
_END = 2.0


class LineError(EasyClusterError, OSError):
    """A line cannot be opened or written to; says which and why."""


class Line(ServerObject):
    """Bytes in both directions.

    Args:
        fd: A descriptor for both.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)

    def read(self, timeout: float) -> Optional[bytes]:
        """What has come; ``b""`` if nothing does within so many seconds, None at the end of the line."""
        try:
            if not select.select([self._fd], [], [], timeout)[0]:
                return b""
            return os.read(self._fd, _CHUNK) or None
        except BlockingIOError:
            return b""
        except (OSError, ValueError):
            # EIO: nobody is at the other end of a terminal any more.  ValueError: it was closed.
            return None

    def write(self, data: bytes) -> None:
        """Send bytes.

        Raises:
            LineError: If the line has ended, or takes no more.
        """
        end = time.monotonic() + _WRITE
        while data:
            try:
                if select.select([], [self._fd], [], max(0.0, end - time.monotonic()))[1]:
                    data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                pass
            except (OSError, ValueError) as exc:
                raise LineError(f"the line has ended ({getattr(exc, 'strerror', None) or exc})") from None
            if data and time.monotonic() > end:
                raise LineError(f"the line has taken nothing for {_WRITE:g} s")

    def close(self) -> None:
        """End it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class SocketLine(Line):
    """A terminal server's port, or a socket in the file system.

    Args:
        address: ``host:port``, or a path with a ``/`` in it.
    """

    def __init__(self, address: str) -> None:
        try:
            connection = _connect(address)
        except (OSError, ValueError, OverflowError) as exc:
            raise LineError(f"{address}: {getattr(exc, 'strerror', None) or exc}") from None
        super().__init__(connection.detach())


def _connect(address: str) -> socket.socket:
    if "/" not in address:
        host, _, port = address.rpartition(":")
        connection = socket.create_connection((host.strip("[]"), int(port)), _CONNECT)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


class SerialLine(Line):
    """A serial port: 8 bits, no parity, no flow control.

    Args:
        device: Its path.
        speed: Bits in a second.
    """

    def __init__(self, device: str, speed: int = 115200) -> None:
        try:
            import termios
        except ImportError:
            raise Unsupported("console", "this system has no termios, so no serial ports") from None
        rate = getattr(termios, f"B{speed}", None)
        if rate is None:
            raise LineError(f"{device}: {speed} is no speed of a serial port")
        try:
            fd = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            # As cfmakeraw(3), and without looking at the modem's wires.
            state = termios.tcgetattr(fd)
            control = termios.CS8 | termios.CREAD | termios.CLOCAL
            termios.tcsetattr(fd, termios.TCSANOW, [0, 0, control, 0, rate, rate, state[6]])
        except (OSError, termios.error) as exc:
            raise LineError(f"{device}: {exc.args[-1]}") from None
        super().__init__(fd)


class CommandLine(Line):
    """A command in a terminal of its own, such as ``ipmitool ... sol activate``; it ends with the line.

    Args:
        words: The command and its arguments.
        env: What to add to its environment.
    """

    def __init__(self, words: Sequence[str], env: Optional[Dict[str, str]] = None) -> None:
        if not hasattr(os, "openpty"):
            raise Unsupported("console", "this system has no pseudo terminals")
        if shutil.which(words[0]) is None:
            raise LineError(f"{words[0]} is not installed here")
        ours, theirs = os.openpty()
        try:
            # `setsid` of Popen, and then the terminal is taken by opening it: credentials(7).
            take = ["/bin/sh", "-c", 'exec "$@" <>"$0" >&0 2>&0', os.ttyname(theirs)]
            self._process = subprocess.Popen(
                [*take, *words],
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env={"TERM": "vt100", **os.environ, **(env or {})},
                start_new_session=True,
            )
        except OSError as exc:
            os.close(ours)
            raise LineError(f"{words[0]}: {exc.strerror}") from None
        finally:
            os.close(theirs)
        super().__init__(ours)

    def close(self) -> None:
        """End it and the command: it is hung up upon, and killed if that is not enough."""
        super().close()
        process = self._process
        if process.poll() is None:
            self._signal(signal.SIGHUP)
            try:
                process.wait(_END)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                process.wait()

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except OSError:
            pass


def open_line(kind: str, **options: Any) -> Line:
    """Open a line of a kind: ``"command"``, ``"socket"`` or ``"serial"``."""
    kinds: Dict[str, Type[Any]] = {"command": CommandLine, "socket": SocketLine, "serial": SerialLine}
    line: Line = kinds[kind](**options)
    return line
