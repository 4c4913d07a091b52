"""Far-side hosts for the example, all on this machine: a private sshd, an EasyCluster TCP server on loopback, ...

Run as a program it starts what it is asked for (``ssh``, ``tcp``, ``machine``, ``box``), prints one JSON line that
says where things are, and waits until its standard input ends: then it stops everything and removes its directory.
Whoever started it need not do more than die.  Nothing outside one temporary directory is read or written::

    DIR/host_key, id, id.pub      a fresh key for the sshd and one for its only user, you
    DIR/sshd_config, ssh_config   `ssh -F DIR/ssh_config lab true` logs in
    DIR/bin/python3, home/        a far side finds this Python, no login files, nothing installed
    DIR/lab.key                   a fresh HMAC key for the TCP servers
    DIR/machine/                  log and boot id of the machine that can be rebooted
    DIR/disk/                     where hosts keep what has to survive a reboot
    DIR/locks/                    who has which host: these hosts are nobody else's
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 15.0

SSHD_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/id.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
StrictModes no
UsePAM no
UseDNS no
PrintMotd no
MaxStartups 100
MaxSessions 100
Subsystem sftp internal-sftp
SetEnv HOME={folder}/home PATH={folder}/bin:/usr/local/bin:/usr/bin:/bin
"""

SSH_CONFIG = """\
Host lab
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/id
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
    LogLevel ERROR
"""


def find_sshd() -> str | None:
    """Return the path of an OpenSSH server, or None if there is none; it is rarely on a user's PATH."""
    return shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for_port(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    """Return once something listens on a loopback port.

    Raises:
        RuntimeError: If the server ends or START_TIMEOUT passes first; the message has the end of its log.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        time.sleep(0.02)
    said = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"the server for port {port} did not come up (exit status {server.poll()}):\n{said}")


@contextlib.contextmanager
def started(command: list[str], port: int, log: Path) -> Iterator[None]:
    """Run a server from the moment it listens on its port until the block ends."""
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=ROOT)
    try:
        wait_for_port(port, server, log)
        yield
    finally:
        server.terminate()
        try:
            server.wait(5.0)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@contextlib.contextmanager
def private_sshd(folder: Path) -> Iterator[dict[str, str]]:
    """Run an sshd of our own; gives ``ssh_config`` and ``ssh_host`` for ``ssh -F ssh_config ssh_host``.

    Raises:
        RuntimeError: If no sshd is installed or it does not start.
    """
    sshd = find_sshd()
    if sshd is None:
        raise RuntimeError("no sshd found: install openssh-server")
    for name in ("host_key", "id"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "home").mkdir()
    (folder / "bin").mkdir()
    for name in ("python", "python3"):
        # The real file, not a virtual environment's link: the far side is a bare Python.
        (folder / "bin" / name).symlink_to(Path(sys.executable).resolve())
    if os.geteuid() == 0:
        # sshd refuses to start as root without its privilege separation directory, which a boot script makes elsewhere.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    port = free_port()
    settings = {"folder": str(folder), "port": port, "user": getpass.getuser()}
    (folder / "sshd_config").write_text(SSHD_CONFIG.format(**settings))
    (folder / "ssh_config").write_text(SSH_CONFIG.format(**settings))
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    with started([sshd, "-D", "-e", "-f", str(folder / "sshd_config")], port, folder / "sshd.log"):
        yield {"ssh_config": str(folder / "ssh_config"), "ssh_host": "lab"}


def serve_command(folder: Path, port: int) -> list[str]:
    """The command of a TCP server on loopback, with a key that is made by the first who asks."""
    key_file = folder / "lab.key"
    command = [sys.executable, "-m", "easycluster"]
    if not key_file.exists():
        made = subprocess.run(
            [*command, "--generate", str(key_file)], stdin=subprocess.DEVNULL, capture_output=True, cwd=ROOT
        )
        if made.returncode != 0:
            raise RuntimeError(f"no key could be made:\n{made.stderr.decode(errors='replace')}")
    return [*command, "--serve", "--keyfile", str(key_file), "--port", str(port), "--bind", "127.0.0.1"]


@contextlib.contextmanager
def tcp_server(folder: Path) -> Iterator[dict[str, str]]:
    """Run ``easycluster --serve`` on loopback; gives ``tcp_port`` and ``key_file``."""
    port = free_port()
    with started(serve_command(folder, port), port, folder / "server.log"):
        yield {"tcp_port": str(port), "key_file": str(folder / "lab.key")}


UNSHARE = ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")

# Process 1 of its namespace: it runs the server, and on SIGTERM it ends, and with it every process of the machine.
# Its boot id is a file of ours, laid over the kernel's: proc(5).
MACHINE = """
mount --bind "$1" /proc/sys/kernel/random/boot_id || exit 3
shift
trap exit TERM
"$@" &
wait $!
"""


class Machine(threading.Thread):
    """A TCP server with processes and a boot id of its own, in user, process and mount namespaces: no root needed.

    ``kill -TERM 1`` over there is a reboot: everything that runs on it is killed, and it comes back with another
    boot id.
    """

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(daemon=True)
        self._boot_id, self._log = folder / "boot_id", folder / "log"
        serve = serve_command(folder.parent, port)
        self._command = [*UNSHARE, "sh", "-c", MACHINE, "machine", str(self._boot_id), *serve]
        self._stopping = threading.Event()
        self.boot()

    def boot(self) -> None:
        """Start it, with a new boot id."""
        self._boot_id.write_text(f"{uuid.uuid4()}\n")
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT)

    def run(self) -> None:
        """Start it again whenever it has ended."""
        while self.process.wait() is not None and not self._stopping.wait(0.1):
            self.boot()

    def stop(self) -> None:
        """End it for good."""
        self._stopping.set()
        while self.is_alive():
            self.process.kill()
            self.join(0.1)


def can_make_machines() -> bool:
    """Whether this user may make namespaces, and a boot id may be laid over the kernel's in them."""
    try:
        tried = subprocess.run(
            [*UNSHARE, "sh", "-c", "mount --bind /dev/null /proc/sys/kernel/random/boot_id"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=START_TIMEOUT,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return tried.returncode == 0


@contextlib.contextmanager
def private_machine(folder: Path) -> Iterator[dict[str, str]]:
    """Run a machine that can be rebooted, where the system lets us; gives ``machine``, a connection spec."""
    if not can_make_machines():
        yield {}
        return
    port = free_port()
    (folder / "machine").mkdir()
    machine = Machine(folder / "machine", port)
    machine.start()
    try:
        wait_for_port(port, machine.process, folder / "machine" / "log")
        yield {"machine": f"127.0.0.1:{port}:kf={folder / 'lab.key'}"}
    finally:
        machine.stop()


@contextlib.contextmanager
def box(folder: Path) -> Iterator[dict[str, str]]:
    """Run a box of eight hosts, which takes root; gives ``box``, the lab file that it makes."""
    from easycluster.labbox import LabBox, LabBoxError

    try:
        with LabBox(["gpu[01:04]", "san[01:02]", "video01", "bench01"], share=[ROOT, sys.prefix]) as running:
            yield {"box": str(running.inventory)}
    except LabBoxError as exc:
        raise RuntimeError(str(exc)) from exc


KINDS = {"ssh": private_sshd, "tcp": tcp_server, "machine": private_machine, "box": box}


def main(wanted: list[str]) -> None:
    """Start the wanted hosts, say where they are, and stop them when standard input ends."""
    # A signal ends the wait below like any other exit, so that the servers are stopped and the directory goes.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    with contextlib.ExitStack() as hosts:
        folder = Path(hosts.enter_context(tempfile.TemporaryDirectory(prefix="hw-lab-")))
        (folder / "disk").mkdir()
        settings = {"disk": str(folder / "disk"), "locks": str(folder / "locks")}
        for name in wanted:
            settings |= hosts.enter_context(KINDS[name](folder))
        print(json.dumps(settings), flush=True)
        sys.stdin.read()


class FarHosts:
    """The helper program above as an object: ``start`` it, read ``settings``, ``stop`` it."""

    def __init__(self, *wanted: str) -> None:
        self.wanted = wanted
        self.settings: dict[str, str] = {}
        self._helper: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the hosts; returns when all of them answer.

        Raises:
            RuntimeError: If one of them does not come up; the helper has printed why.
        """
        # In a group of its own: Ctrl-C is for the tests, the hosts stay until the last session is closed.
        self._helper = subprocess.Popen(
            [sys.executable, __file__, *self.wanted],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._helper.stdout is not None
        line = self._helper.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError("the far-side hosts of the example did not start; what they said is above")
        self.settings = json.loads(line)

    def stop(self) -> None:
        """Stop the hosts and remove what they left; safe to call twice."""
        if self._helper is not None:
            self._helper.communicate()
            self._helper = None


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(sys.argv[1:])
