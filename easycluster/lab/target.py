"""How a host is reached: ssh, the TCP server, or a Python on this machine."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from easycluster.lab.variables import Secret

DEFAULT_TCP_PORT: Final = 11999
# A host whose answers come from a recording; no lab file says it.
RECORDED: Final = "recorded"
# The way to a host that a session on this machine stands in for; no lab file says it.
SIMULATED: Final = "simulated"
_ONLY_WITH: Final = (
    "port",
    "key",
    "key_file",
    "jump",
    "become",
    "compress",
    "ssh",
    "ssh_config",
    "ssh_args",
    "ask",
    "ssh_master",
    "python",
    "whole",
)


@dataclass(frozen=True)
class Target:
    """One way to one host, as the inventory has it.

    Attributes:
        via: ``"ssh"``, ``"tcp"``, ``"local"``, ``"simulated"`` or ``"recorded"``.
        address: What ssh or the TCP connection is given; the host's name if the file does not say.
        port: The port, or None for the usual one.
        user: Who logs in, or None for what ssh says.
        python: Interpreters to look for, in order; empty means the usual names.
        key_file: ssh identity or HMAC key file.
        compress: Whether the data is compressed.
        ssh: Path of the ssh program, ``""`` for the one on the path.
        ssh_config: A configuration file for ssh (``-F``).
        ssh_args: More arguments for ssh.
        jump: ssh's ``-J``.
        become: ``"sudo"`` or ``""``.
        ask: Whether ssh may ask at the terminal.
        ssh_master: Whether sessions at the host share one ssh login.
        key: The HMAC key as a connection spec has it, or None.
        stands_for: What a simulated host is in the lab file.
    """

    via: str
    address: str
    port: int | None = None
    user: str | None = None
    python: tuple[str, ...] = ()
    key_file: str = ""
    compress: bool = False
    ssh: str = ""
    ssh_config: str = ""
    ssh_args: tuple[str, ...] = ()
    jump: str = ""
    become: str = ""
    ask: bool = False
    ssh_master: bool = False
    key: Secret | None = None
    stands_for: str = ""

    def __str__(self) -> str:
        if self.via == SIMULATED:
            return f"simulated, for {self.stands_for}"
        if self.via == RECORDED:
            return "a recording"
        if self.via == "local":
            return "a Python on this machine"
        host = f"[{self.address}]" if ":" in self.address else self.address
        port = f":{self.port}" if self.port is not None else ""
        return f"{self.via} {self.user + '@' if self.user and self.via == 'ssh' else ''}{host}{port}"

    @property
    def is_here(self) -> bool:
        """Whether its processes are this machine's."""
        return self.via in ("local", SIMULATED)

    def ssh_arguments(self) -> tuple[str, ...]:
        """Arguments for ssh that stand before the host."""
        arguments: list[str] = []
        if self.ssh_config:
            arguments += ["-F", self.ssh_config]
        if self.key_file:
            arguments += ["-i", self.key_file, "-o", "IdentitiesOnly=yes"]
        if self.jump:
            arguments += ["-J", self.jump]
        return (*arguments, *self.ssh_args)

    def local_python(self) -> str | None:
        """The first of ``python`` that is on this machine, or None for the running one."""
        for name in self.python:
            found = shutil.which(os.path.expanduser(name))
            if found:
                return found
        return None


def merge_connect(have: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What ``connect`` of an outer layer and of an inner one say together.

    Another ``via`` keeps only the address and user: port, keys and the rest belong to the way they were given for.
    """
    if "whole" in new:
        return dict(new)
    if "via" in new and new["via"] != have.get("via", "ssh"):
        have = {key: value for key, value in have.items() if key not in _ONLY_WITH}
    timeouts = {**have.get("timeouts", {}), **new.get("timeouts", {})}
    return {**have, **new, **({"timeouts": timeouts} if timeouts else {})}


def resolve_paths(connect: Mapping[str, Any], folder_of: Callable[[str], Path]) -> dict[str, Any]:
    """``connect`` with its files absolute: relative ones begin at the file that names them.

    Args:
        connect: As it was read.
        folder_of: The directory of the file that says a key.
    """
    result = dict(connect)
    for key in ("key_file", "ssh_config"):
        # ssh(1): "-F none" reads no configuration file at all.
        if result.get(key) and result[key] != "none":
            result[key] = _absolute(result[key], folder_of(key))
    return result


def _absolute(name: str, folder: Path) -> str:
    return str(folder / os.path.expanduser(name))


def make_target(name: str, connect: Mapping[str, Any], python: tuple[str, ...]) -> Target:
    """The target of host ``name`` from its merged ``connect``."""
    via = connect.get("via", "ssh")
    port = connect.get("port", DEFAULT_TCP_PORT if via == "tcp" else None)
    become = connect.get("become", "none")
    return Target(
        via=via,
        address="localhost" if via == "local" else connect.get("address", name),
        port=None if via == "local" else port,
        user=connect.get("user") if via == "ssh" else None,
        python=connect.get("python", python),
        key=connect.get("key"),
        key_file=connect.get("key_file", ""),
        compress=connect.get("compress", False),
        ssh=connect.get("ssh", ""),
        ssh_config=connect.get("ssh_config", ""),
        ssh_args=tuple(part for text in connect.get("ssh_args", ()) for part in shlex.split(text)),
        jump=connect.get("jump", ""),
        become="" if become == "none" else become,
        ask=connect.get("ask", False),
        ssh_master=connect.get("ssh_master", False),
    )
