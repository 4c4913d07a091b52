"""What lies in a box's folder: keys, ssh configuration, inventory, and the plan that supervisor and commands share."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from easycluster.labbox.errors import LabBoxError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from easycluster.labbox.network import Range

__all__ = ["Folder", "Plan", "temporary_folder"]

# sockaddr_un holds 108 bytes.
_MAX_SOCKET_PATH: Final = 107

PREFIX: Final = "easycluster-labbox-"

POWER: Final = {"start": "on", "off": "off", "cycle": "cycle", "status": "status"}

SSHD_CONFIG: Final = """\
ListenAddress {address}
HostKey /etc/labbox/host_key
AuthorizedKeysFile /etc/labbox/authorized_keys
PidFile /run/sshd.pid
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
UseDNS no
PrintMotd no
MaxStartups 200
MaxSessions 200
Subsystem sftp internal-sftp
"""

CLIENT_CONFIG: Final = """\
Host *
    User root
    IdentityFile "{folder}/user_key"
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile "{folder}/known_hosts"
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
    ConnectTimeout 10
"""


@dataclass(frozen=True)
class Plan:
    """What a box is to be.

    Attributes:
        hosts: Their names.
        users: Accounts of theirs besides root.
        network: A /24 in CIDR notation, or ``""`` for one that is free.
        disk: Most bytes on the disk of each host.
        boot_seconds: How long a host is away at a reboot before its system starts.
        share: Folders of this machine that hosts see, to read, although they are in a home or in /tmp.
        owner: The process whose end is the end of the box, or 0.
    """

    hosts: tuple[str, ...]
    users: tuple[str, ...]
    network: str
    disk: int
    boot_seconds: float
    share: tuple[str, ...]
    owner: int


class Folder:
    """The folder of a box.

    Args:
        path: Where it is.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.control = self.path / "control"
        self.inventory = self.path / "lab.yaml"
        self.ssh_config = self.path / "ssh_config"
        self.log = self.path / "box.log"
        # The hosts' disks; only the supervisor and the hosts see what is mounted there.
        self.disks = self.path / "disks"

    def check(self) -> None:
        """Refuse a path that a socket cannot have.

        Raises:
            LabBoxError: If it is too long.
        """
        if len(os.fsencode(self.control)) > _MAX_SOCKET_PATH:
            raise LabBoxError(f"{self.path}: the path is too long for a socket; choose a folder with a shorter one")

    def read_plan(self) -> Plan:
        """What the box is to be."""
        values: dict[str, Any] = json.loads((self.path / "box.json").read_text())
        return Plan(
            **{
                **values,
                "hosts": tuple(values["hosts"]),
                "share": tuple(values["share"]),
                "users": tuple(values["users"]),
            }
        )

    def write_plan(self, plan: Plan) -> None:
        """Write the plan down."""
        (self.path / "box.json").write_text(json.dumps(asdict(plan), indent=1) + "\n")

    def console(self, name: str) -> Path:
        """What the system of a host says."""
        return self.path / f"{name}.console"

    def machine(self, name: str) -> Path:
        """Files that a host gets when its disk is made."""
        return self.path / "machines" / name

    def write_machines(self, plan: Plan, box: Range) -> None:
        """Make keys and configurations of sshd and ssh, and the inventory, once the addresses are known."""
        keys = [_make_key(self.path / "user_key", "root")]
        for name in plan.hosts:
            self.machine(name).mkdir(parents=True)
            keys.append(_make_key(self.machine(name) / "host_key", name))
        for process in keys:
            if process.wait():
                raise LabBoxError("ssh-keygen made no key")
        public = (self.path / "user_key.pub").read_text()
        known = []
        sections = []
        names = ["127.0.0.1 localhost\n::1 localhost\n"]
        for number, name in enumerate(plan.hosts):
            address = box.address(number)
            folder = self.machine(name)
            (folder / "authorized_keys").write_text(public)
            (folder / "sshd_config").write_text(SSHD_CONFIG.format(address=address))
            (folder / "machine-id").write_text(uuid.uuid4().hex + "\n")
            names.append(f"{address} {name}\n")
            known.append(f"{name},{address} {' '.join((folder / 'host_key.pub').read_text().split()[:2])}\n")
            sections.append(f"Host {name}\n    HostName {address}\n")
        (self.path / "hosts").write_text("".join(names))
        (self.path / "known_hosts").write_text("".join(known))
        self.ssh_config.write_text("".join(sections) + CLIENT_CONFIG.format(folder=self.path))
        self.inventory.write_text(self._inventory(plan, box))

    def _inventory(self, plan: Plan, box: Range) -> str:
        roles = dict.fromkeys(role_of(name) for name in plan.hosts)
        lines = ["version: 1", "roles:", *(f"  {role}: {{}}" for role in roles)]
        lines += ["defaults:", f"  connect: {{ssh_config: {json.dumps(str(self.ssh_config))}}}", "  user: root"]
        command = shlex.join([sys.executable, "-m", "easycluster", "labbox"])
        where = f"--dir {shlex.quote(str(self.path))}"
        lines.append("  power:")
        lines += [
            f"    {key}: {json.dumps(f'{command} power ${{host}} {word} {where}')}" for key, word in POWER.items()
        ]
        lines.append(f"  console: {{box: {json.dumps(str(self.path))}}}")
        lines.append(f"  faults: {{driver: labbox, box: {json.dumps(str(self.path))}}}")
        lines.append("hosts:")
        for number, name in enumerate(plan.hosts):
            lines.append(f"  {name}: {{role: {role_of(name)}, address: {box.address(number)}}}")
        return "\n".join(lines) + "\n"

    def lock(self) -> int:
        """Take the folder for a box; it is taken until the last process that has what is returned is gone.

        Raises:
            LabBoxError: If a box has it, or something that is not ours lies there.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Left by a box whose last process was killed.
            if (self.path / "box.json").exists():
                self.clear()
            strangers = sorted(path.name for path in self.path.iterdir())
        except BlockingIOError:
            os.close(fd)
            raise LabBoxError(
                f"a box is running in {self.path}; end it with: easycluster labbox down --dir {self.path}"
            ) from None
        if strangers:
            os.close(fd)
            raise LabBoxError(f"{self.path} has {strangers[0]!r}, which is not a box's; choose a folder of its own")
        return fd

    def clear(self) -> None:
        """Remove what a box has put into its folder, and the folder if nothing else is there."""
        known = {"control", "lab.yaml", "ssh_config", "box.log", "hosts", "known_hosts", "user_key", "user_key.pub"}
        for path in list(self.path.iterdir()) if self.path.is_dir() else []:
            if path.name in known or path.suffix == ".console":
                path.unlink(missing_ok=True)
            elif path.name in ("machines", "disks"):
                shutil.rmtree(path, ignore_errors=True)
        # Last, because it says whose the others are.
        (self.path / "box.json").unlink(missing_ok=True)

    def remove(self) -> None:
        """Clear the folder and remove it, unless it has something of others."""
        self.clear()
        with contextlib.suppress(OSError):
            self.path.rmdir()


def temporary_folder() -> Folder:
    """A new folder for a box that goes with its owner; what killed boxes have left is cleared away."""
    # A socket's path is short, and TMPDIR may be long.
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) < _MAX_SOCKET_PATH // 2 else "/tmp"
    for path in Path(parent).glob(PREFIX + "*"):
        with contextlib.suppress(OSError, LabBoxError):
            if (path / "box.json").exists() and path.stat().st_uid == os.geteuid():
                old = Folder(path)
                fd = old.lock()
                old.remove()
                os.close(fd)
    return Folder(tempfile.mkdtemp(prefix=PREFIX, dir=parent))


def role_of(name: str) -> str:
    """The role a host's name stands for: ``gpu`` of ``gpu01``."""
    return re.sub(r"[^A-Za-z0-9_]", "_", re.sub(r"[-_.]?[0-9]+$", "", name)) or "host"


def _make_key(path: Path, comment: str) -> subprocess.Popen[bytes]:
    words: Sequence[str] = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path))
    return subprocess.Popen(words, stdin=subprocess.DEVNULL)
