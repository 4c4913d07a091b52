"""What is at the other end of a host's serial line: a login, and a shell of root's behind it.

It asks for a name as a system does, and root needs no password: whoever is at this line stands before the machine.  The
line is a socket, the shell's terminal a pseudo terminal of the host's own.
"""

from __future__ import annotations

import os
import pty
import select
from typing import Final, NoReturn

from easycluster.labbox import kernel

__all__ = ["serve"]

_CHUNK: Final = 1 << 16
_TYPED: Final = 256


def serve(line: int, name: str) -> None:
    """Let people log in, one after the other, until the line ends.

    Args:
        line: Descriptor of the line, for both directions.
        name: Of the host.
    """
    while True:
        _say(line, f"\r\n{name} login: ".encode())
        user = _read_name(line)
        if user is None:
            return
        if user == "root":
            _run_shell(line, name)
        elif user:
            _say(line, b"\r\nLogin incorrect")


def _read_name(line: int) -> str | None:
    typed = b""
    while True:
        data = os.read(line, _TYPED)
        if not data:
            return None
        for byte in data:
            if byte in b"\r\n":
                return typed.decode(errors="replace").strip()
            typed = typed[:-1] if byte in b"\x08\x7f" else (typed + bytes((byte,)))[:_TYPED]
        _say(line, data)


def _run_shell(line: int, name: str) -> None:
    _say(line, b"\r\n")
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {
            "HOME": "/root",
            "USER": "root",
            "LOGNAME": "root",
            "SHELL": "/bin/sh",
            "TERM": "vt100",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PS1": f"root@{name}# ",
        }
        os.chdir("/root")
        os.execve("/bin/sh", ["sh"], environment)
    try:
        _join(line, terminal)
    finally:
        # Who is not gone by himself hears that the line was dropped.
        os.close(terminal)
        os.waitpid(pid, 0)


def _join(line: int, terminal: int) -> None:
    """Carry what passes between a line and a terminal until one of them ends."""
    while True:
        for end in select.select((line, terminal), (), ())[0]:
            try:
                data = os.read(end, _CHUNK)
            except OSError:
                # EIO: nobody has the terminal any more.
                return
            if not data:
                return
            if end == line:
                _say(terminal, data)
            else:
                _say(line, data)


def _say(end: int, data: bytes) -> None:
    while data:
        data = data[os.write(end, data) :]


def become(line: int, name: str) -> NoReturn:
    """Be the process at the line, in a child of a host's first process."""
    try:
        kernel.set_name("getty")
        serve(line, name)
    finally:
        os._exit(0)
