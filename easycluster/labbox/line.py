"""The serial line of a box's host, for the lab file: ``console: {box: FOLDER}``."""

from __future__ import annotations

from easycluster.devices.lines import Line
from easycluster.labbox.control import open_line
from easycluster.labbox.layout import Folder

__all__ = ["BoxLine"]


class BoxLine(Line):
    """What a host says from now on, and what is typed there; it goes on over boots.

    Args:
        folder: Of the box.
        host: The host's name.
    """

    def __init__(self, folder: str, host: str) -> None:
        super().__init__(open_line(Folder(folder), host).detach())
