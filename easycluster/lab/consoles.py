"""Opens the console that the lab file gives a host: ``console:`` with a command, a socket, a serial port or a box."""

from __future__ import annotations

import contextlib
import itertools
import shlex
from typing import TYPE_CHECKING, Any, Final

from easycluster.errors import Unsupported
from easycluster.lab.console import Console
from easycluster.lab.target import RECORDED
from easycluster.lab.variables import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from easycluster.lab.console import ConsoleLine
    from easycluster.lab.host import Host
    from easycluster.lab.lab import Lab

__all__ = ["console_of"]

KINDS: Final = ("command", "socket", "serial", "box")
MODULE: Final = "easycluster.devices.lines"

# Far-side threads of our own, which no test's calls run in.
_threads = itertools.count(0x0C0_0000)


def console_of(lab: Lab, host: Host) -> Console:
    """The console of a host, opened if it is not open.

    Raises:
        Unsupported: If the lab file has none for it.
        LineError: If it cannot be opened.
    """
    connection = host._connection
    with connection.console_lock:
        console: Console | None = connection.console
        if console is None or not console.is_open:
            if console is not None:
                console.close()
            console = connection.console = _open(lab, host)
        return console


def _open(lab: Lab, host: Host) -> Console:
    if host._entry.target.via == RECORDED:
        raise Unsupported("console", f"{host.name} is {host._entry.target}")
    if lab.simulation is not None:
        raise Unsupported("console", f"{host.name} is simulated, and has none")
    said = host._entry.settings.get("console")
    settings: dict[str, Any] = said if isinstance(said, dict) else {"command": said} if said else {}
    kinds = [kind for kind in KINDS if kind in settings]
    if len(kinds) != 1:
        what = "says more than one of" if kinds else "has none of"
        text = f"the lab file has no console: for {host.name}" if not settings else ""
        raise Unsupported("console", text or f"console: of {host.name} {what} {', '.join(KINDS)}")
    file = settings.get("log", "")
    log = _Log(file, lab.inventory.mask) if file else None

    def hear(text: str) -> None:
        host._connection.note("console", text)
        if log is not None:
            log.add(text)

    return Console(_line(lab, host, kinds[0], settings), host.name, lab.inventory.mask, hear)


class _Log:
    """A file with what a console says, line by line: of half a line it cannot be seen whether it has a secret.

    Args:
        file: Its path; it is appended to.
        mask: Hides secrets.
    """

    def __init__(self, file: str, mask: Callable[[str], str]) -> None:
        self._file = file
        self._mask = mask
        self._begun = ""

    def add(self, text: str) -> None:
        """Something more; ``""`` is the end."""
        lines, newline, self._begun = (self._begun + text).rpartition("\n")
        if not text:
            lines, self._begun = lines + newline + self._begun, ""
        if lines:
            # A disk that is full is no reason not to hear the console any more.
            with contextlib.suppress(OSError), open(self._file, "a", encoding="utf-8", newline="") as file:
                file.write(self._mask(lines) + newline)


def _line(lab: Lab, host: Host, kind: str, settings: dict[str, Any]) -> ConsoleLine:
    if kind == "box":
        from importlib import import_module

        # Found by name: boxes are above the lab.
        line: ConsoleLine = import_module("easycluster.labbox.line").BoxLine(settings["box"], host.name)
        return line
    options: dict[str, Any] = {"address": settings.get("socket")} if kind == "socket" else {}
    if kind == "serial":
        options = {"device": settings["serial"], "speed": settings.get("speed", 115200)}
    elif kind == "command":
        env = {name: _plain(value) for name, value in settings.get("env", {}).items()}
        options = {"words": shlex.split(_plain(settings["command"])), "env": env}
    through = settings.get("on")
    if through:
        return _FarLine(lab._every[through], kind, options)
    from easycluster.devices.lines import open_line

    return open_line(kind, **options)


class _FarLine:
    """A line that is opened on another host of the lab.

    Args:
        host: That host.
        kind: See :func:`easycluster.devices.lines.open_line`.
        options: The same.
    """

    def __init__(self, host: Host, kind: str, options: dict[str, Any]) -> None:
        client: Any = host._connection.client()
        client.import_module(MODULE)
        self._thread = next(_threads)
        self._line = client.call(f"{MODULE}.open_line", kind, **options)

    def read(self, timeout: float) -> bytes | None:
        """See ConsoleLine."""
        data: bytes | None = self._line.raw_call_method("read", (timeout,), threadid=self._thread)
        return data

    def write(self, data: bytes) -> None:
        """See ConsoleLine."""
        self._line.raw_call_method("write", (data,))

    def close(self) -> None:
        """See ConsoleLine."""
        self._line.raw_call_method("close", ())


def _plain(value: Any) -> str:
    return value.reveal() if isinstance(value, Secret) else str(value)
