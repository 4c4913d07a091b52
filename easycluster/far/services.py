"""What the far side does beyond calls: commands with live output, files in pieces.

The near half is :mod:`easycluster.remote`.  This module is shipped to the far side.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from typing import IO, Any, Callable, Dict, List, Optional, Tuple, Union

__all__ = ["SERVICES"]

# Seconds between the polite and the hard end of a command that took too long.
TERM_GRACE = 1.0

_uploads: Dict[int, Tuple[IO[bytes], str, str]] = {}
_handles = iter(range(1, 1 << 62))


def run(
    command: Union[str, List[str]],
    data: Optional[bytes],
    timeout: Optional[float],
    cwd: Optional[str],
    env: Optional[Dict[str, str]],
    live: bool,
) -> Tuple[int, bytes, bytes, bool]:
    """Run a command; return its exit code, output, error output, and whether it took too long.

    A text is run by the shell.  The command has a session of its own; all of it is ended when the
    time is over or the call is cancelled.  Its standard input is at its end unless ``data`` is given.
    """
    process = subprocess.Popen(
        command,
        shell=isinstance(command, str),
        stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=None if env is None else {**os.environ, **env},
        start_new_session=True,
    )
    outs: List[List[bytes]] = [[], []]
    threads = [
        threading.Thread(target=_collect, args=(pipe, pieces, stream if live else None), daemon=True)
        for pipe, pieces, stream in ((process.stdout, outs[0], sys.stdout), (process.stderr, outs[1], sys.stderr))
    ]
    if data is not None:
        threads.append(threading.Thread(target=_feed, args=(process.stdin, data), daemon=True))
    late = False
    try:
        for thread in threads:
            thread.start()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            late = True
            _end(process)
        for thread in threads:
            # A daemon that the command left behind may hold the pipes for ever.
            thread.join(1.0)
    except BaseException:
        _end(process, grace=0.0)
        raise
    return process.returncode, b"".join(outs[0]), b"".join(outs[1]), late


def _end(process: "subprocess.Popen[bytes]", grace: float = TERM_GRACE) -> None:
    for number, span in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        if number == signal.SIGTERM and not span:
            continue
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            pass
        try:
            process.wait(span)
        except subprocess.TimeoutExpired:
            continue
        if number == signal.SIGTERM:
            # Its children may not have taken the hint.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        return


def _collect(pipe: IO[bytes], pieces: List[bytes], stream: Optional[Any]) -> None:
    with pipe:
        while True:
            data = os.read(pipe.fileno(), 65536)
            if not data:
                return
            pieces.append(data)
            if stream is not None:
                stream.write(data.decode("utf-8", "replace"))
                stream.flush()


def _feed(pipe: IO[bytes], data: bytes) -> None:
    try:
        with pipe:
            pipe.write(data)
    except BrokenPipeError:
        # The command did not want all of it.
        pass


def put_begin(path: str) -> int:
    """Open a file beside ``path`` that takes its place once it is whole; return its handle."""
    path = os.path.expanduser(path)
    target = os.path.realpath(path)
    if os.path.isdir(target):
        raise IsADirectoryError(21, "is a directory: name the file in it", path)
    fd, partial = tempfile.mkstemp(prefix=".ec-", dir=os.path.dirname(target) or ".")
    handle = next(_handles)
    _uploads[handle] = (os.fdopen(fd, "wb", buffering=0), partial, target)
    return handle


def put_chunk(handle: int, data: bytes) -> int:
    """Append bytes; return how many."""
    _uploads[handle][0].write(data)
    return len(data)


def put_end(handle: int, mode: int, keep: bool) -> None:
    """Put the file into its place with these permission bits, or drop it."""
    file, partial, target = _uploads.pop(handle)
    try:
        with file:
            if keep:
                os.fchmod(file.fileno(), mode)
        if keep:
            os.replace(partial, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)


def get_begin(path: str) -> Tuple[int, int]:
    """Return size in bytes and permission bits of a file."""
    path = os.path.expanduser(path)
    status = os.stat(path)
    if os.path.isdir(path):
        raise IsADirectoryError(21, "is a directory: get its files one by one", path)
    return status.st_size, status.st_mode & 0o7777


def get_chunk(path: str, offset: int, size: int) -> bytes:
    """Return bytes of a file."""
    with open(os.path.expanduser(path), "rb", buffering=0) as file:
        file.seek(offset)
        return file.read(size)


SERVICES: Dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (run, put_begin, put_chunk, put_end, get_begin, get_chunk)
}
