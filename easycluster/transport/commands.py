"""Where a gateway leads, and the commands that get there: names, folders and quoting, no process yet."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import string
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from easycluster.errors import ConnectError
from easycluster.far.start import FIRST_STAGE, SEARCH

__all__ = ["SUDO", "GatewayTarget", "choose_folder", "master_command", "resolve_command", "ssh_command"]

# ssh binds a unix socket of at most 107 bytes: the folder, "/master", and 17 characters it adds while it makes it.
LONGEST_FOLDER = 80

# Of the name of a folder, as in tempfile's.
NAME_CHARACTERS = string.ascii_lowercase + string.digits

# -n: fail instead of asking for a password, which nobody could type.  -H: root's own home directory.
SUDO = "sudo -n -H --"


@dataclass(frozen=True)
class GatewayTarget:
    """Where a gateway leads.

    Attributes:
        kind: ``"local"`` for a process on this machine, ``"ssh"`` for one behind ssh.
        host: Host as ssh takes it; for messages only with a local one.
        user: Login name, None for what ssh's configuration says.
        port: Port of sshd, None for what ssh's configuration says.
        ssh: The ssh program, a name or a path.
        pythons: Commands to try in this order; none means the running interpreter locally, and python3 and python over
            ssh.  A command may have arguments (``sudo -n python3``) and begin with ``~/``.
        extra_args: Arguments for ssh, before the host.  They win over our defaults.
        ask: Let ssh ask at the terminal; the answer may take a minute longer than the timeout.
        compress: Pass ``-C``.
        sudo: Run the far side's Python as root, through ``sudo -n``: it never asks for a password.
        shared: Log in once for all sessions of this process there, see :mod:`easycluster.transport.masters`.
    """

    kind: Literal["local", "ssh"] = "local"
    host: str = "localhost"
    user: str | None = None
    port: int | None = None
    ssh: str = "ssh"
    pythons: tuple[str, ...] = ()
    extra_args: tuple[str, ...] = ()
    ask: bool = False
    compress: bool = False
    sudo: bool = False
    shared: bool = False

    def __str__(self) -> str:
        """The host as messages name it."""
        return self.host

    @property
    def candidates(self) -> tuple[str, ...]:
        """The Python commands to try."""
        if self.pythons:
            return self.pythons
        return (shlex.quote(sys.executable),) if self.kind == "local" else ("python3", "python")


def choose_folder() -> Path:
    """A path for a private folder that is short enough for ssh's socket.

    Nobody can guess it, so nobody can make it before us.
    """
    name = "ec-" + "".join(secrets.choice(NAME_CHARACTERS) for _ in range(8))
    for parent in (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"):
        parent = os.path.normpath(parent)
        if (
            re.fullmatch(r"/[\w./-]*", parent)
            and len(parent) <= LONGEST_FOLDER - 12
            and os.access(parent, os.W_OK | os.X_OK)
        ):
            return Path(parent, name)
    return Path(tempfile.gettempdir(), name)


def ssh_command(target: GatewayTarget, control: str, marker: str, timeout: float, *, shared: bool = False) -> list[str]:
    """The whole ssh command line of a session.

    Args:
        target: Where to.
        control: Socket of the master that it becomes, or that it shares.
        marker: What the line of the far side's Python begins with.
        timeout: Seconds for all of it.
        shared: Whether there is such a master.
    """
    options = [f"ControlMaster={'no' if shared else 'yes'}", f"ControlPath={control}", "ControlPersist=no"]
    command = _command(target, [*options, "RequestTTY=no"], timeout, alone=shared)
    return [*command, "--", target.host, _far_command(target.candidates, marker, target.sudo)]


def master_command(target: GatewayTarget, control: str, timeout: float) -> list[str]:
    """The ssh command line of a master without a session of its own, which lasts until it is killed."""
    options = ["ControlMaster=yes", f"ControlPath={control}", "ControlPersist=no", "RequestTTY=no"]
    return [*_command(target, options, timeout), "-N", "--", target.host]


def resolve_command(target: GatewayTarget) -> list[str]:
    """The ssh command line that prints what ssh's configuration says of the target."""
    return [*_command(target, [], 10.0), "-G", "--", target.host]


def _command(target: GatewayTarget, options: list[str], timeout: float, *, alone: bool = False) -> list[str]:
    """What all ssh command lines begin with.

    ssh takes the first value it meets, so what must be ours comes first, then the caller's arguments, then our
    defaults, then the user's configuration.
    """
    if target.host.startswith("-") or (target.user or "").startswith("-"):
        raise ConnectError(
            f"{target.host!r}: a host or user that begins with '-' would be an option of ssh", target.host
        )
    if not target.ask:
        options = [*options, "BatchMode=yes"]
    defaults = [
        # Some of the time is for what comes after the login.
        f"ConnectTimeout={max(1, int(timeout * 0.8))}",
        "ServerAliveInterval=5",
        "ServerAliveCountMax=3",
        "ForwardAgent=no",
        "ForwardX11=no",
        "ClearAllForwardings=yes",
        "PermitLocalCommand=no",
        "LogLevel=ERROR",
    ]
    if alone:
        # A session that the master cannot open makes ssh connect anew.  (It passes this over after a -J.)
        defaults.append("ProxyCommand=false")
    command = [target.ssh, "-T"]
    for option in options:
        command += ["-o", option]
    if target.compress:
        command.append("-C")
    if target.port is not None:
        command += ["-p", str(target.port)]
    if target.user:
        command += ["-l", target.user]
    command += target.extra_args
    for option in defaults:
        command += ["-o", option]
    return command


def _far_command(candidates: tuple[str, ...], marker: str, sudo: bool = False) -> str:
    """The command for the login shell over there, whichever shell that is."""
    words = ["exec", "sh", "-c", 'eval "$0"', SEARCH, marker, FIRST_STAGE]
    for candidate in candidates:
        parts = [_shell_word(word) for word in shlex.split(candidate)]
        # Looked up by the user's own path: sudo has another one.
        program = f'{SUDO} "$(command -v {parts[0]})"' if sudo else parts[0]
        words += [parts[0], " ".join([program, *parts[1:]])]
    return " ".join(words[:3] + [shlex.quote(word) for word in words[3:]])


def _shell_word(word: str) -> str:
    """Quote a word for sh, but let a leading ``~/`` mean the home directory over there."""
    if word.startswith("~/"):
        return "~/" + shlex.quote(word[2:])
    return shlex.quote(word)
