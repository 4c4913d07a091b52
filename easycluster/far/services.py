"""What the far side does beyond calls: commands with live output, files in pieces.

The near half is :mod:`easycluster.remote`.  This module is shipped to the far side.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO, Any, Callable, Dict, List, Optional, Tuple, Union

__all__ = ["SERVICES", "NewFile"]

# Seconds between the polite and the hard end of a command that took too long.
TERM_GRACE = 1.0
# Seconds that pipes may stay silent after the command has ended: a daemon that it left behind may
# hold them for ever.
SILENCE = 1.0

_DESCRIPTORS = "/proc/self/fd"

_uploads: Dict[int, NewFile] = {}
_downloads: Dict[int, int] = {}
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
    try:
        readers = [_Reader(process.stdout, sys.stdout if live else None)]
        readers.append(_Reader(process.stderr, sys.stderr if live else None))
        if data is not None:
            threading.Thread(target=_feed, args=(process.stdin, data), daemon=True).start()
        late = not _wait(process, timeout)
        if late:
            _end(process)
        ended = time.monotonic()
        for reader in readers:
            reader.finish(ended)
    except BaseException:
        _end(process, grace=0.0)
        raise
    return process.returncode, bytes(readers[0].data), bytes(readers[1].data), late


def _wait(process: subprocess.Popen[bytes], timeout: Optional[float]) -> bool:
    """Wait for a process; return False if it has not ended in time.  A cancel gets through."""
    ended = threading.Event()

    def watch() -> None:
        process.wait()
        ended.set()

    threading.Thread(target=watch, name="easycluster-command", daemon=True).start()
    end = None if timeout is None else time.monotonic() + timeout
    while not ended.is_set():
        # In slices: outside of the main thread a cancel is an exception that only byte code sees.
        span = 0.1 if end is None else min(0.1, end - time.monotonic())
        if span <= 0:
            return False
        ended.wait(span)
    return True


def _end(process: subprocess.Popen[bytes], grace: float = TERM_GRACE) -> None:
    """End a command and all of its session."""
    if grace:
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    # Its children may not have taken the hint.
    _signal_group(process, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5.0)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


class _Reader:
    """Reads what a command writes, in a thread, and passes it on."""

    def __init__(self, pipe: Optional[IO[bytes]], stream: Optional[Any]) -> None:
        assert pipe is not None  # Popen was asked for it
        self.data = bytearray()
        self._pipe = pipe
        self._stream = stream
        # When the wait for the next bytes began; None while there are some in hand.
        self._waiting_since: Optional[float] = None
        self._thread = threading.Thread(target=self._run, name="easycluster-command", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        with self._pipe as pipe:
            while True:
                self._waiting_since = time.monotonic()
                piece = os.read(pipe.fileno(), 65536)
                self._waiting_since = None
                self.data += piece
                if self._stream is not None:
                    self._stream.write(decode(piece, not piece))
                    self._stream.flush()
                if not piece:
                    return

    def finish(self, ended: float) -> None:
        """Wait for the end of the output, or for a silence after the command has ended."""
        while self._thread.is_alive():
            since = self._waiting_since
            if since is not None and time.monotonic() - max(since, ended) > SILENCE:
                return
            self._thread.join(0.05)


def _feed(pipe: IO[bytes], data: bytes) -> None:
    # The command may not want all of it.
    with contextlib.suppress(BrokenPipeError), pipe:
        pipe.write(data)


class NewFile:
    """A file that takes its place in one step, once it is whole; until then it has no name.

    Args:
        path: Its place; a symbolic link is followed.

    Raises:
        OSError: If there can be no file.  Names ``path``.
    """

    def __init__(self, path: Union[str, os.PathLike[str]]) -> None:
        self.path = os.path.realpath(path)
        self._partial = ""
        if os.path.isdir(self.path):
            raise IsADirectoryError(errno.EISDIR, "is a directory: name the file in it", os.fspath(path))
        folder = os.path.dirname(self.path)
        try:
            self.fd = _open_unnamed(folder)
            if self.fd < 0:
                self.fd, self._partial = tempfile.mkstemp(prefix=".ec-", dir=folder)
        except OSError as exc:
            raise type(exc)(exc.errno, exc.strerror, os.fspath(path)) from None

    def write(self, data: bytes) -> int:
        """Append bytes; return how many."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.fd, view) :]
        return len(data)

    def keep(self, mode: int) -> None:
        """Put the file into its place with these permission bits."""
        os.fchmod(self.fd, mode)
        if not self._partial:
            partial = tempfile.mktemp(prefix=".ec-", dir=os.path.dirname(self.path))
            # As open(2) shows it; only with a descriptor does os.link call linkat, which can follow.
            os.link(f"{_DESCRIPTORS}/{self.fd}", partial, src_dir_fd=self.fd, follow_symlinks=True)
            self._partial = partial
        os.replace(self._partial, self.path)
        self._partial = ""

    def close(self) -> None:
        """Give the descriptor back, and the file with it if it was not kept; may be called twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if self._partial:
            partial, self._partial = self._partial, ""
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)


def _open_unnamed(folder: str) -> int:
    """Open a file that is gone with its descriptor, whoever is killed; -1 where there is no such thing."""
    flag = getattr(os, "O_TMPFILE", 0)
    if not flag or not os.path.isdir(_DESCRIPTORS):
        return -1
    try:
        return os.open(folder, flag | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        # An old kernel; a file system that cannot.
        if exc.errno in (errno.EISDIR, errno.EOPNOTSUPP, errno.EINVAL):
            return -1
        raise


def put_begin(path: str) -> int:
    """Begin a file that takes its place once it is whole; return its handle."""
    handle = next(_handles)
    _uploads[handle] = NewFile(os.path.expanduser(path))
    return handle


def put_chunk(handle: int, data: bytes) -> int:
    """Append bytes; return how many."""
    return _uploads[handle].write(data)


def put_end(handle: int, mode: int, keep: bool) -> None:
    """Put the file into its place with these permission bits, or drop it."""
    with contextlib.closing(_uploads.pop(handle)) as file:
        if keep:
            file.keep(mode)


def get_begin(path: str) -> Tuple[int, int, int]:
    """Open a file; return its handle, its size in bytes and its permission bits."""
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "is a directory: get its files one by one", path)
    handle = next(_handles)
    fd = _downloads[handle] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    status = os.fstat(fd)
    return handle, status.st_size, status.st_mode & 0o7777


def get_chunk(handle: int, offset: int, size: int) -> bytes:
    """Return bytes of a file: as many as asked for, fewer only at its end."""
    data = b""
    while len(data) < size:
        more = os.pread(_downloads[handle], size - len(data), offset + len(data))
        if not more:
            break
        data = data + more if data else more
    return data


def get_end(handle: int) -> None:
    """Close a file."""
    os.close(_downloads.pop(handle))


def undo(options: Dict[str, Any]) -> None:
    """Have something undone later; see :meth:`easycluster.far.undo.Registrar.register`."""
    from easycluster.far import undo as module

    assert module.registrar is not None  # every worker has one
    module.registrar.register(**options)


SERVICES: Dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (run, put_begin, put_chunk, put_end, get_begin, get_chunk, get_end, undo)
}
