"""Asking the supervisor of a box: one line of JSON each way."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

from easycluster.labbox.errors import LabBoxError

if TYPE_CHECKING:
    from easycluster.labbox.layout import Folder

__all__ = ["ask"]


def ask(folder: Folder, do: str, **arguments: object) -> Any:
    """Let the box do something, and return its answer.

    Raises:
        LabBoxError: If there is no box, or it could not do it.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(folder.control))
            with connection.makefile("rw") as lines:
                lines.write(json.dumps({"do": do, **arguments}) + "\n")
                lines.flush()
                answer = json.loads(lines.readline() or '{"error": "the box ended"}')
    except OSError as exc:
        raise LabBoxError(f"there is no box running in {folder.path} ({exc.strerror or exc})") from exc
    if "error" in answer:
        raise LabBoxError(f"{arguments.get('host', folder.path)}: {answer['error']}")
    return answer["value"]
