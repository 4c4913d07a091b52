"""Asking the supervisor of a box: one line of JSON each way."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easycluster.labbox.errors import LabBoxError

if TYPE_CHECKING:
    from easycluster.labbox.layout import Folder

__all__ = ["ask", "ask_pid"]


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


def _ask(folder: Folder, do: str, arguments: dict[str, Any]) -> tuple[Any, list[int]]:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
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
