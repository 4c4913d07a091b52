"""The audit log of a server: who came, with which key, what was called, how it ended.

One line an event, a JSON object, oldest first.  Never arguments, values, code or keys.  Every line
begins with ``time`` (UTC, RFC 3339) and ``event``::

    accepted       peer                              a connection, before it has proven anything
    refused        peer why [key]                    a connection that got nothing; it is not told why
    authenticated  peer session key                  a client proved the key of this name
    joined         peer session                      the session's second connection, for data
    started        session key pid user              the session's process runs
    call           session key function outcome ms reported_by
    died           session key signal exit_code      a worker of the session ended by itself
    ended          session key why seconds calls bytes_received bytes_sent reported_by
    keys           added withdrawn                   the key files have changed
    server         what [pid] [where]                started, stopped
    suppressed     count                             ``accepted`` and ``refused`` lines left out
    lost           count                             lines that could not be written

Who writes what.  The listener writes all of this itself, with names of its own; no session can
write or change a line, except that its code runs as some user: what that user may write, it may.
Calls are known to the worker only, which runs the key holder's code.  So ``function``, ``outcome``,
``ms``, the calls and the bytes are what the session says, marked ``"reported_by": "session"``: true
of programs that are not out to deceive, and a claim of those that are.

A worker reports on a pipe, in lines of text::

    b TAB request TAB name                                          a call begins
    e TAB request TAB outcome TAB microseconds TAB received TAB sent    it has ended; bytes so far
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Audit", "SessionCalls"]

# A session that claims more than this at a time is making it up.
_MOST_OPEN = 4096
_MOST_TEXT = 200
_MOST_LINE = 4096

_STDOUT = 1

# 200 lines, and 10 more each second, about connections that have proven nothing: whoever reaches
# the port must not be able to fill the disk.
_STRANGERS = 200
_STRANGERS_PER_SECOND = 10.0


class Audit:
    """An audit log that is being written.

    Args:
        path: The file; made for its owner only, and always appended to.  ``-`` is the standard output.
        failed: Told once when lines cannot be written, and again after they could be.

    Raises:
        OSError: If it cannot be opened, or others may write to it.
    """

    def __init__(self, path: str | os.PathLike[str], failed: Callable[[str], None]) -> None:
        # Later the working directory may be another one.
        self.path = "-" if path == "-" else os.path.abspath(path)
        self._failed = failed
        self._file = _open(self.path)
        self._lost = 0
        # Whether the last write has left a piece of a line.
        self._torn = False
        self._allowed, self._refilled = float(_STRANGERS), time.monotonic()
        self._suppressed = 0

    def __repr__(self) -> str:
        return f"<Audit {self.path}>"

    def write(self, event: str, **fields: Any) -> None:
        """Write a line."""
        self.write_all([(event, fields)])

    def write_all(self, events: list[tuple[str, dict[str, Any]]]) -> None:
        """Write lines, all in one step."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self._append("".join(json.dumps({"time": now, "event": event, **fields}) + "\n" for event, fields in events))

    def write_of_stranger(self, event: str, **fields: Any) -> None:
        """Write a line about a connection that has proven nothing, if there are not too many of them."""
        now = time.monotonic()
        self._allowed = min(_STRANGERS, self._allowed + (now - self._refilled) * _STRANGERS_PER_SECOND)
        self._refilled = now
        if self._allowed < 1:
            self._suppressed += 1
            return
        self._allowed -= 1
        self._tell_suppressed()
        self.write(event, **fields)

    def reopen(self) -> None:
        """Open the file again by its name, for programs that move log files away."""
        try:
            file = _open(self.path)
        except OSError as exc:
            self._failed(f"{exc.strerror}; going on with the old file")
            return
        self._close_file()
        self._file = file

    def close(self) -> None:
        """Close the file."""
        self._tell_suppressed()
        self._close_file()

    def _close_file(self) -> None:
        if self._file != _STDOUT:
            os.close(self._file)

    def _tell_suppressed(self) -> None:
        count, self._suppressed = self._suppressed, 0
        if count:
            self.write("suppressed", count=count)

    def _append(self, text: str) -> None:
        data = text.encode("ascii")
        if self._lost:
            now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            note = json.dumps({"time": now, "event": "lost", "count": self._lost}) + "\n"
            # In one write, so that the count is either in the file or still here.
            data = b"\n" * self._torn + note.encode("ascii") + data
        try:
            # A file takes it whole, or its disk is full.
            self._torn = os.write(self._file, data) < len(data)
            if self._torn:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as exc:
            if not self._lost:
                self._failed(f"cannot write the audit log {self.path}: {exc.strerror}; its lines are lost")
            self._lost += text.count("\n")
            return
        if self._lost:
            self._failed(f"the audit log {self.path} is written again; {self._lost} lines are lost")
            self._lost = 0


class SessionCalls:
    """What a session says about its calls, line by line as it comes; believed in nothing but its form."""

    def __init__(self) -> None:
        self.count = 0
        self.bytes_received: int | None = None
        self.bytes_sent: int | None = None
        self._open: dict[bytes, tuple[str, float]] = {}
        self._rest = b""

    def take(self, data: bytes) -> list[dict[str, Any]]:
        """Take what was read from the pipe and return the calls that have ended."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:_MOST_LINE]
        calls = []
        for line in lines:
            kind, *words = line.split(b"\t")
            try:
                if kind == b"b" and len(words) == 2 and len(self._open) < _MOST_OPEN:
                    self._open[words[0][:20]] = (_text(words[1]), time.monotonic())
                elif kind == b"e" and len(words) == 5:
                    calls.append(self._ended(*words))
            except ValueError:
                continue
        self.count += len(calls)
        return calls

    def unfinished(self) -> list[dict[str, Any]]:
        """Return the calls that have begun and will never end."""
        now = time.monotonic()
        calls = [_call(name, "unfinished", (now - began) * 1000) for name, began in self._open.values()]
        self._open.clear()
        self._rest = b""
        self.count += len(calls)
        return calls

    def _ended(self, request: bytes, outcome: bytes, micros: bytes, received: bytes, sent: bytes) -> dict[str, Any]:
        name, _began = self._open.pop(request[:20], (None, 0.0))
        if received and sent:
            self.bytes_received, self.bytes_sent = int(received[:20]), int(sent[:20])
        return _call(name, _text(outcome), int(micros[:20]) / 1000)


def _call(function: str | None, outcome: str, milliseconds: float) -> dict[str, Any]:
    return {"function": function, "outcome": outcome, "ms": round(milliseconds, 3), "reported_by": "session"}


def _text(word: bytes) -> str:
    return word[:_MOST_TEXT].decode("utf-8", "replace")


def _open(path: str) -> int:
    if path == "-":
        return _STDOUT
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        # O_NONBLOCK: opening a FIFO without a reader must not wait.
        file = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o600)
    except OSError as exc:
        raise OSError(exc.errno, f"cannot open the audit log {path}: {exc.strerror}") from exc
    status = os.fstat(file)
    trouble = ""
    if not stat.S_ISREG(status.st_mode):
        trouble = "it is not a plain file"
    elif os.name == "posix" and status.st_mode & 0o022:
        trouble = f"others may write to it; close it with: chmod go-w {path}"
    elif os.name == "posix" and status.st_uid not in (os.geteuid(), 0):
        trouble = f"it belongs to user {status.st_uid}; own it with: chown {os.geteuid()} {path}"
    if trouble:
        os.close(file)
        raise OSError(0, f"cannot use the audit log {path}: {trouble}")
    return file
