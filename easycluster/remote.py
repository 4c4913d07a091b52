"""Commands and files on a far side: ``run``, ``put``, ``get`` and ``undo``.

Functions that take a client, not methods of it: any name a client does not have is a far-side global.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easycluster.client.globals import GlobalProxy
from easycluster.far.services import NewFile
from easycluster.far.sources import add_note
from easycluster.far.undo import LIMIT as UNDO_LIMIT
from easycluster.link.operations import Op

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from easycluster.client.client import BaseClient

__all__ = ["get", "put", "run", "undo"]

# 1 MiB, four of them on the way: enough to fill a link, little enough to be held.
CHUNK = 1 << 20
AHEAD = 4


def run(
    client: BaseClient,
    command: str | Sequence[str],
    *,
    timeout: float | None = None,
    check: bool = False,
    input: str | bytes | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    live: bool = True,
    text: bool = True,
) -> subprocess.CompletedProcess[Any]:
    """Run a command on the far side.

    Args:
        client: Where.
        command: A list of words, or one text for the shell.
        timeout: Seconds; then the command and all it started is ended.
        check: Whether to raise if its exit code is not 0.
        input: What it reads from its standard input; without it, that is at its end.
        cwd: Directory to run it in.
        env: Environment variables to add.
        live: Whether its output also appears as far-side output while it runs.
        text: Whether output is decoded as UTF-8, else it is bytes.

    Returns:
        Exit code and output, as from ``subprocess.run``.

    Raises:
        subprocess.TimeoutExpired: With the output so far.
        subprocess.CalledProcessError: If ``check`` and the exit code is not 0.
        OSError: If it cannot be started, or the session has ended.
        ValueError: If there is no command.
    """
    data = input.encode() if isinstance(input, str) else input
    words = command if isinstance(command, str) else [os.fspath(word) for word in command]
    if not words:
        raise ValueError("no command to run: give a list of words, or a text for the shell")
    operation = (Op.SERVICE, "run", words, data, timeout, cwd, dict(env) if env is not None else None, live)
    code, out, err, late = client._request(operation, origexc="quiet")
    stdout, stderr = (out.decode("utf-8", "replace"), err.decode("utf-8", "replace")) if text else (out, err)
    error: subprocess.TimeoutExpired | subprocess.CalledProcessError | None = None
    if late:
        error = subprocess.TimeoutExpired(words, timeout or 0.0, stdout, stderr)
    elif check and code:
        error = subprocess.CalledProcessError(code, words, stdout, stderr)
    if error is not None:
        # Its own words do not say which machine it was.
        add_note(error, f"on {client.peername}")
        raise error
    return subprocess.CompletedProcess(words, code, stdout, stderr)


def put(
    client: BaseClient,
    source: str | os.PathLike[str],
    target: str,
    *,
    progress: Callable[[int, int], None] | None = None,
    mode: int | None = None,
) -> None:
    """Copy a file to the far side.

    The target changes in one step, once all is there; if anything fails it stays as it was.

    Args:
        client: Where to.
        source: Path of the file here.
        target: Path there; ``~`` is the far side's home.
        progress: Called with the bytes sent so far and in all.
        mode: Permission bits; by default those of ``source``.

    Raises:
        OSError: If a file cannot be read or written, or the session has ended.
    """
    with open(source, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        handle = _ask(client, "put_begin", target).wait()
        try:
            waiting: deque[Any] = deque()
            sent = 0
            while data := file.read(CHUNK):
                waiting.append(_ask(client, "put_chunk", handle, data))
                if len(waiting) > AHEAD:
                    sent += waiting.popleft().wait()
                    _tell(progress, sent, status.st_size)
            for response in waiting:
                sent += response.wait()
                _tell(progress, sent, status.st_size)
            _ask(client, "put_end", handle, (status.st_mode & 0o7777) if mode is None else mode, True).wait()
        except BaseException:
            _forget(client, "put_end", handle, 0, False)
            raise


def get(
    client: BaseClient,
    source: str,
    target: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
    mode: int | None = None,
) -> None:
    """Copy a file from the far side.

    The target changes in one step, once all is here; if anything fails it stays as it was.

    Args:
        client: Where from.
        source: Path there; ``~`` is the far side's home.
        target: Path here.
        progress: Called with the bytes received so far and in all.
        mode: Permission bits; by default those of ``source``.

    Raises:
        OSError: If a file cannot be read or written, shrank meanwhile, or the session has ended.
    """
    path = Path(target)
    if path.is_dir():
        path /= os.path.basename(source)
    handle, size, far_mode = _ask(client, "get_begin", source).wait()
    try:
        with contextlib.closing(NewFile(path)) as file:
            waiting = deque(_ask(client, "get_chunk", handle, at * CHUNK, CHUNK) for at in range(AHEAD))
            asked, received = AHEAD, 0
            while data := waiting.popleft().wait():
                received += file.write(data)
                waiting.append(_ask(client, "get_chunk", handle, asked * CHUNK, CHUNK))
                asked += 1
                _tell(progress, received, max(size, received))
            if received < size:
                raise OSError(f"{source} on {client.peername} shrank from {size} to {received} bytes while it was read")
            file.keep(far_mode if mode is None else mode)
    finally:
        _forget(client, "get_end", handle)


def _tell(progress: Callable[[int, int], None] | None, done: int, size: int) -> None:
    if progress is not None:
        progress(done, size)


def _forget(client: BaseClient, service: str, *args: Any) -> None:
    """Have the far side give something back, without waiting: no deadline or lost link gets in the way."""
    with contextlib.suppress(OSError):
        _ask(client, service, *args)


def _ask(client: BaseClient, service: str, *args: Any) -> Any:
    return client._request((Op.SERVICE, service, *args), nonblocking=True, origexc="quiet")


def undo(
    client: BaseClient, what: Any, *args: Any, timeout: float = UNDO_LIMIT, boot: str = "keep", **kwargs: Any
) -> None:
    """Have something done on the far side when the session ends in any way; call it before the change.

    What was registered last is done first, each action in a process of its own with the definitions, but without the
    worker's globals and objects.  A lab's hosts undo at the end of each test (:meth:`easycluster.lab.Host.undo`).

    Args:
        client: Where.
        what: A command, as a text for the shell or a list of words; a far-side name, such as ``client.set_clocks``;
            or a function of this side, which goes by value.
        args: Of the function; of a command, more words.
        timeout: Seconds until the action is killed.
        boot: ``"forget"`` if a reboot undoes the change anyway, such as one of ``ip link``.  Else, in a lab's lease,
            it is done after a reboot, too: even if the host loses power, when it is used next.
        kwargs: Of the function.

    Raises:
        AttributeError: If there is no such far-side name.
        SerializationError: If the function or its arguments cannot be kept.
        OSError: If the session has ended, or the lease is there for a reboot, and this cannot be kept over one;
            nothing is registered then.
    """
    options: dict[str, Any] = {"limit": timeout, "boot": boot}
    if isinstance(what, str):
        options["command"] = " ".join([what, *(shlex.quote(str(word)) for word in args)])
    elif isinstance(what, (list, tuple)):
        options["command"] = [os.fspath(word) for word in (*what, *args)]
    elif isinstance(what, GlobalProxy):
        options["name"], options["call"] = what._name, (args, kwargs)
    else:
        options["call"] = (what, args, kwargs)
    client._request((Op.SERVICE, "undo", options), origexc="quiet")
