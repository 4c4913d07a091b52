"""What a server that runs on its own needs of the system: the background, a file with its process id, signals."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

__all__ = ["Announce", "daemonize_process", "pid_file", "stop_on_signals"]


class Stoppable(Protocol):
    """What signals are for."""

    def stop(self) -> None:
        """End, soon."""

    def reload(self) -> None:
        """Look at the files again."""


class Announce:
    """Tells the process that waits for a daemon how its start went."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, trouble: str) -> None:
        """Say what stands in the way, or nothing if all is well."""
        os.write(self._descriptor, trouble.encode() or b"ok")
        os.close(self._descriptor)


def daemonize_process() -> Announce:
    """Go on in a child without a terminal; this process exits once that says how it went."""
    sys.stdout.flush()
    sys.stderr.flush()
    ours, childs = os.pipe()
    if os.fork() != 0:
        os.close(childs)
        with open(ours, "rb") as pipe:
            said = pipe.read().decode("utf-8", "replace")
        if said != "ok":
            os.write(2, f"easycluster: {said or 'the server ended at once'}\n".encode())
        # Not sys.exit: everything here belongs to the child now.
        os._exit(0 if said == "ok" else 1)
    os.close(ours)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    if null > 2:
        os.close(null)
    return Announce(childs)


@contextlib.contextmanager
def pid_file(path: Path) -> Iterator[None]:
    """Have the process id in a file for as long as the block runs; what somebody else has written there stays."""
    mine = f"{os.getpid()}\n"
    try:
        path.write_text(mine)
    except OSError as exc:
        raise OSError(exc.errno, f"cannot write pidfile {path}: {exc.strerror}") from exc
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if path.read_text() == mine:
                path.unlink()


def _has_terminal() -> bool:
    """Tell whether this process has a controlling terminal; tty(4): opening it fails once it has hung up."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def stop_on_signals(server: Stoppable) -> Iterator[None]:
    """Stop a server on SIGTERM and SIGINT, and once its terminal is gone; a SIGHUP from anyone else reloads it.

    Outside the main thread, which alone gets signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    had_terminal = _has_terminal()

    def stop(number: int, frame: FrameType | None) -> None:
        server.stop()

    def hang_up(number: int, frame: FrameType | None) -> None:
        # Of a terminal that is gone, or of somebody who has changed the keys.
        if had_terminal and not _has_terminal():
            server.stop()
        else:
            server.reload()

    handlers = {"SIGTERM": stop, "SIGINT": stop, "SIGHUP": hang_up}
    before = {
        number: signal.signal(number, handler)
        for name, handler in handlers.items()
        if (number := getattr(signal, name, None))
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
