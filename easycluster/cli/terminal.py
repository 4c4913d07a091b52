"""A terminal at a line: what is typed goes there, what comes is shown, until Ctrl-] or the end of the line."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from easycluster.devices.lines import Line

__all__ = ["attach"]

# As telnet and `virsh console` have it.
_LEAVE: Final = b"\x1d"
_LOOK: Final = 0.05


def attach(line: Line) -> None:
    """Join this process's terminal and a line."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    sys.stdout.flush()
    try:
        tty.setraw(fd)
        while (data := line.read(_LOOK)) is not None:
            os.write(1, data)
            if select.select([fd], [], [], 0)[0]:
                typed = os.read(fd, 1024)
                if not typed or _LEAVE in typed:
                    return
                line.write(typed)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        print()
