"""Commands and files on a far side: ``run``, ``put`` and ``get``.

Functions that take a client, not methods of it: any name a client does not have is a far-side global.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easycluster.link.operations import Op

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from easycluster.client.client import BaseClient

__all__ = ["get", "put", "run"]

# 1 MiB, four of them on the way: enough to fill a link, little enough to be held.
CHUNK = 1 << 20
AHEAD = 4


def run(
    client: BaseClient,
    command: str | Sequence[str],
    *,
    timeout: float | None = None,
    check: bool = False,
    input: str | bytes | None = None,  # noqa: A002 - the word of subprocess.run
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
    """
    data = input.encode() if isinstance(input, str) else input
    words = command if isinstance(command, str) else [os.fspath(word) for word in command]
    operation = (Op.SERVICE, "run", words, data, timeout, cwd, dict(env) if env is not None else None, live)
    code, out, err, late = client._request(operation, origexc="quiet")
    stdout, stderr = (out.decode("utf-8", "replace"), err.decode("utf-8", "replace")) if text else (out, err)
    if late:
        raise subprocess.TimeoutExpired(words, timeout or 0.0, stdout, stderr)
    if check and code:
        raise subprocess.CalledProcessError(code, words, stdout, stderr)
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
            waiting: list[tuple[Any, int]] = []
            sent = 0
            while True:
                data = file.read(CHUNK)
                if data:
                    waiting.append((_ask(client, "put_chunk", handle, data), len(data)))
                while waiting and (not data or len(waiting) > AHEAD):
                    response, size = waiting.pop(0)
                    response.wait()
                    sent += size
                    if progress is not None:
                        progress(sent, status.st_size)
                if not data:
                    break
        except BaseException:
            with contextlib.suppress(OSError):
                _ask(client, "put_end", handle, 0, False).wait()
            raise
        _ask(client, "put_end", handle, (status.st_mode & 0o7777) if mode is None else mode, True).wait()


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
    size, far_mode = _ask(client, "get_begin", source).wait()
    path = Path(target)
    if path.is_dir():
        path /= os.path.basename(source)
    fd, partial = tempfile.mkstemp(prefix=".ec-", dir=path.parent)
    try:
        with os.fdopen(fd, "wb", buffering=0) as file:
            waiting = [_ask(client, "get_chunk", source, at * CHUNK, CHUNK) for at in range(AHEAD)]
            asked, received = AHEAD, 0
            while data := waiting.pop(0).wait():
                file.write(data)
                received += len(data)
                waiting.append(_ask(client, "get_chunk", source, asked * CHUNK, CHUNK))
                asked += 1
                if progress is not None:
                    progress(received, max(size, received))
            for response in waiting:
                response.wait()
            if received < size:
                raise OSError(f"{source} on {client.peername} shrank from {size} to {received} bytes while it was read")
            os.fchmod(file.fileno(), far_mode if mode is None else mode)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def _ask(client: BaseClient, service: str, *args: Any) -> Any:
    return client._request((Op.SERVICE, service, *args), nonblocking=True, origexc="quiet")
