"""Commands and calls that end in time, whatever they wait for."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["capture", "kill_everything", "within"]

T = TypeVar("T")

# Bytes of output that are read; nobody has a use for more.
MOST_OUTPUT: Final = 256 * 1024

_running: set[subprocess.Popen[bytes]] = set()


def kill_everything() -> None:
    """Kill every ssh that is running; for when nobody waits for it any more."""
    for process in list(_running):
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)


def capture(command: list[str], text: bytes, timeout: float) -> tuple[bytes, str, int | None]:
    """Run a command with this input; its output, what it said on standard error, and its exit code, None if killed."""
    end = time.monotonic() + timeout
    environment = {**os.environ, "SSH_ASKPASS_REQUIRE": "never"}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=environment,
    ) as process:
        _running.add(process)
        try:
            streams = [process.stdout, process.stderr]
            found: dict[Any, bytes] = dict.fromkeys(streams, b"")
            with contextlib.suppress(BrokenPipeError), process.stdin or contextlib.nullcontext() as stream:
                # Less than a pipe holds.
                if stream is not None:
                    stream.write(text)
            with selectors.DefaultSelector() as selector:
                for one in streams:
                    selector.register(one, selectors.EVENT_READ)  # type: ignore[arg-type]  # both are there
                while selector.get_map() and time.monotonic() < end and len(found[streams[0]]) < MOST_OUTPUT:
                    for key, _events in selector.select(max(0.0, end - time.monotonic())):
                        data = os.read(key.fd, 65536)
                        found[key.fileobj] += data
                        if not data:
                            selector.unregister(key.fileobj)
            code: int | None = None
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(max(0.05, min(1.0, end - time.monotonic())))
        finally:
            _running.discard(process)
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
    return found[streams[0]], found[streams[1]].decode("utf-8", "replace"), code


def within(seconds: float, function: Callable[[], T]) -> T:
    """Call something that knows no time limit.

    Raises:
        TimeoutError: If it takes longer; it goes on in a thread that keeps nobody waiting.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as exc:  # noqa: BLE001  # raised in the caller's thread
            errors.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]
