"""Asking the supervisor of a box: one line of JSON each way."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easycluster.labbox.errors import LabBoxError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from easycluster.labbox.layout import Folder

__all__ = ["ask", "ask_pid", "hold", "open_line"]

# Ending a fault may have to wait for a machine that is just being started.
_TIMEOUT = 60.0


def ask(folder: Folder, do: str, **arguments: object) -> Any:
    """Let the box do something, and return its answer.

    Raises:
        LabBoxError: If there is no box, or it could not do it.
    """
    return _ask(folder, do, arguments)[0]


def ask_pid(folder: Folder, host: str) -> int:
    """Return the pid, as it is here, of the first process of a host.

    Raises:
        LabBoxError: If there is no box, or the host is off.
    """
    _, (fd, *_) = _ask(folder, "enter", {"host": host})
    try:
        # Its number over there says nothing here; the kernel translates for whoever reads.
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    finally:
        os.close(fd)
    pid = next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))
    if pid <= 0:
        raise LabBoxError(f"{host}: it has just ended")
    return pid


def hold(folder: Folder, faults: Iterable[Mapping[str, object]]) -> Callable[[], None]:
    """Break something for as long as this process lives, or until what is returned is called.

    Args:
        folder: Of the box.
        faults: See :func:`easycluster.labbox.holding.read_faults`.

    Raises:
        LabBoxError: If there is no box, or it could not do it.
    """
    pidfd = os.pidfd_open(os.getpid())
    try:
        connection = _connect(folder, {"do": "fault", "faults": list(faults)}, [pidfd])
    finally:
        os.close(pidfd)
    owner, lock = os.getpid(), threading.Lock()

    def end() -> None:
        with lock, connection:
            # In a fork it is the parent's to end.
            if os.getpid() != owner:
                return
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
                # No word at all is the end of the box, which ends every fault.
                connection.recv(1 << 16)

    return end


def open_line(folder: Folder, host: str) -> socket.socket:
    """The serial line of a host: a socket that has what the host says from now on, and takes what is typed.

    Raises:
        LabBoxError: If there is no box, or no such host.
    """
    connection = _connect(folder, {"do": "console", "host": host})
    connection.settimeout(None)
    return connection


def _connect(folder: Folder, request: dict[str, Any], fds: Sequence[int] = ()) -> socket.socket:
    """Ask for something that lasts as long as the connection, and return that."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_TIMEOUT)
        connection.connect(str(folder.control))
        socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], fds)
        said = b""
        while not said.endswith(b"\n"):
            # No further than the end of the line: what follows is somebody else's to read.
            byte = connection.recv(1)
            if not byte:
                break
            said += byte
        answer = json.loads(said or b'{"error": "the box ended"}')
        if "error" in answer:
            raise LabBoxError(str(answer["error"]))
        return connection
    except OSError as exc:
        connection.close()
        raise LabBoxError(f"there is no box running in {folder.path} ({exc.strerror or exc})") from exc
    except BaseException:
        connection.close()
        raise


def _ask(folder: Folder, do: str, arguments: dict[str, Any]) -> tuple[Any, list[int]]:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT)
            connection.connect(str(folder.control))
            connection.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
            said, fds, _, _ = socket.recv_fds(connection, 1 << 16, 1)
            while said and not said.endswith(b"\n"):
                more = connection.recv(1 << 16)
                said = said + more if more else b""
    except OSError as exc:
        raise LabBoxError(f"there is no box running in {folder.path} ({exc.strerror or exc})") from exc
    answer = json.loads(said or b'{"error": "the box ended"}')
    if "error" in answer:
        raise LabBoxError(f"{arguments.get('host', folder.path)}: {answer['error']}")
    return answer["value"], fds
