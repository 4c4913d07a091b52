"""The far end of an execnet gateway: as much of execnet's protocol as one session needs.

execnet would send a far side of its own, with threads, queues and 60 KiB of source that take a quarter of a start and a
megabyte to keep.  The keeper needs one channel, and reads it in its own loop.  What crosses is a header and a payload::

    0x00   b   1   kind: one of those below
    0x01   i   4   channel, big-endian
    0x05   i   4   length of the payload
    0x09   -   n   of DATA: "A", a length as above, bytes, "Q", which is how execnet writes bytes

The near side begins with EXEC, which opens the channel; what it says is to be run is of no interest: it is the keeper.

This module is shipped to the far side.
"""

from __future__ import annotations

import os
import struct
from typing import Any, List, Optional

__all__ = ["Channel", "serve"]

TERMINATE = 2
EXEC = 3
DATA = 4
CLOSE = 5
CLOSE_ERROR = 6
LAST_MESSAGE = 7

_HEADER = struct.Struct("!bii")
_LENGTH = struct.Struct("!i")
_STOP = b"Q"
# What surrounds the bytes in the payload of DATA.
_AROUND = 1 + _LENGTH.size + len(_STOP)


class Channel:
    """The link to the near side: two descriptors, one thread.

    Args:
        read_fd: What to read.
        write_fd: What to write to; may block.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._number = 1
        self._unread = bytearray()

    def fileno(self) -> int:
        """Return what to wait for before :meth:`read`."""
        return self._read_fd

    def read(self) -> List[Optional[bytes]]:
        """Read once; return what was sent, oldest first, and None for the end."""
        try:
            data = os.read(self._read_fd, 65536)
        except OSError:
            data = b""
        if not data:
            return [None]
        unread = self._unread
        unread += data
        messages: List[Optional[bytes]] = []
        at = 0
        while len(unread) - at >= _HEADER.size:
            kind, number, length = _HEADER.unpack_from(unread, at)
            begin = at + _HEADER.size
            if len(unread) - begin < length:
                break
            at = begin + length
            if kind == EXEC:
                self._number = number
            elif kind == DATA:
                messages.append(bytes(unread[begin + _AROUND - len(_STOP) : at - len(_STOP)]))
            elif kind in (TERMINATE, CLOSE, LAST_MESSAGE):
                messages.append(None)
                break
        del unread[:at]
        return messages

    def send(self, data: bytes) -> None:
        """Send bytes to the near side, which gets them whole.

        Raises:
            OSError: If it is gone.
        """
        header = _HEADER.pack(DATA, self._number, len(data) + _AROUND)
        self._write(b"".join((header, b"A", _LENGTH.pack(len(data)), data, _STOP)))

    def fail(self, text: str) -> None:
        """Tell the near side why there will be nothing more."""
        words = text.encode("utf-8", "replace")
        header = _HEADER.pack(CLOSE_ERROR, self._number, len(words) + _AROUND)
        self._write(b"".join((header, b"N", _LENGTH.pack(len(words)), words, _STOP)))

    def _write(self, data: bytes) -> None:
        sent = os.write(self._write_fd, data)
        while sent < len(data):
            sent += os.write(self._write_fd, data[sent:])


def serve() -> None:
    """Be the keeper of this process's standard input and output.  Does not return."""
    from easycluster.far import control

    # Nothing else is to read or write the link by chance.
    channel = Channel(os.dup(0), os.dup(1))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    keep: Any = control.serve_channel
    try:
        keep(channel)
    except BaseException:  # noqa: BLE001 - the last boundary of the process
        import traceback

        channel.fail(traceback.format_exc())
    finally:
        os._exit(1)
