"""A private sshd on loopback with its own keys, for anyone, root or not.

Every test that needs ssh uses the real one.  The fixtures skip where there is no sshd, and fail there in CI.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Sshd", "require_sshd", "sshd", "sshd_factory"]

CONFIG = """\
Port {port}
ListenAddress {host}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
# One that is safe from computers of the future takes longer than all the rest of a connection.
KexAlgorithms curve25519-sha256
MaxStartups 200
# Not the start-up files of whoever runs the tests: theirs may take longer than the test, and wait for each other.
SetEnv HOME={folder}/home PATH={path}
LogLevel VERBOSE
"""

CLIENT_CONFIG = """\
Host *
    Port {port}
    User {user}
    IdentityFile {folder}/user_key
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
"""


def find_sshd() -> str | None:
    """Path of the sshd program, None where there is none."""
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/sbin:/usr/local/sbin:/opt/homebrew/sbin")


def require_sshd() -> str:
    """Path of sshd; without one the test is skipped, and in CI it fails."""
    program = find_sshd()
    if program is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        text = "needs sshd, ssh and ssh-keygen: install openssh-server and openssh-client"
        if os.environ.get("CI") == "true":
            pytest.fail(text, pytrace=False)
        pytest.skip(text)
    return program


class Sshd:
    """One sshd process and what a client needs to reach it.

    Attributes:
        host: Address it listens at.
        port: Port it listens at, new with each :meth:`start`.
        user: The only user it lets in: the one who runs it.
        folder: Its private folder: ``host_key``, ``user_key``, ``known_hosts``, ``log``.
        config_path: A configuration for ``ssh -F``.
        extra_args: ``("-F", config_path)``, as connections take it.
    """

    def __init__(self, *lines: str, host: str = "127.0.0.1") -> None:
        """Make keys and configuration.

        Args:
            lines: More lines for ``sshd_config``; ssh keywords take their first value, so these win.
            host: Address to listen at.
        """
        self.host = host
        self.port = 0
        self.user = getpass.getuser()
        self.lines = lines
        # Not under pytest's folder, whose path is too long for sockets.
        self.folder = Path(tempfile.mkdtemp(prefix="sshd-ec-"))
        self.config_path = self.folder / "ssh_config"
        self.extra_args: tuple[str, ...] = ("-F", str(self.config_path))
        self.pid = 0
        self._hold = -1  # sshd is killed when this pipe closes
        (self.folder / "home").mkdir()
        for name in ("host_key", "user_key"):
            make_key(self.folder / name)
        shutil.copy(self.folder / "user_key.pub", self.folder / "authorized_keys")

    def start(self) -> None:
        """Run sshd and wait until it answers."""
        program = require_sshd()
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for _ in range(5):  # someone may take the port between choosing and using it
            self.port = free_port(self.host)
            self.write_config()
            self.run([program, "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.folder / "log")])
            if self.answers(10.0):
                return
            self.stop()
        raise RuntimeError(f"sshd did not start:\n{(self.folder / 'log').read_text()}")

    def run(self, command: list[str]) -> None:
        """Run sshd so that it ends with us and yet is no child of ours, which a check for left-overs would find."""
        read_fd, self._hold = os.pipe()
        script = 'exec 3<&0; ("$@" >/dev/null 2>&1 3<&- & echo $!; exec >/dev/null; read x <&3; kill -9 $!; wait) &'
        output = subprocess.check_output(["sh", "-c", script, "sh", *command], stdin=read_fd, start_new_session=True)
        os.close(read_fd)
        self.pid = int(output)

    def write_config(self) -> None:
        """Write both configurations for the present port."""
        lines = "".join(line + "\n" for line in self.lines)
        # The Python that is found first is ours, wherever it comes from.
        python = os.path.dirname(os.path.realpath(sys.executable))
        path = f"{python}:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
        text = CONFIG.format(port=self.port, host=self.host, folder=self.folder, path=path)
        (self.folder / "sshd_config").write_text(lines + text)
        self.config_path.write_text(CLIENT_CONFIG.format(port=self.port, user=self.user, folder=self.folder))
        name = f"[{self.host}]:{self.port}"
        (self.folder / "known_hosts").write_text(f"{name} {(self.folder / 'host_key.pub').read_text()}")

    def answers(self, seconds: float) -> bool:
        """Whether sshd sends its banner within so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.is_running():
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1.0) as connection:
                if connection.recv(4) == b"SSH-":
                    return True
            time.sleep(0.01)
        return False

    def is_running(self) -> bool:
        """Whether the sshd process exists."""
        if not self.pid:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def sessions(self) -> list[int]:
        """Process ids of the connections it serves now; empty where there is no /proc."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    def drop_connections(self) -> None:
        """End every connection at once, as a crash of the host would."""
        for pid in self.sessions():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End sshd and its connections; it may be started again."""
        if self._hold < 0:
            return
        self.drop_connections()
        os.close(self._hold)
        self._hold = -1
        while self.is_running():
            time.sleep(0.005)

    def close(self) -> None:
        """Stop and remove everything."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Sshd:  # noqa: PYI034  # typing.Self needs 3.11
        """Start."""
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop and remove everything."""
        self.close()


def make_key(path: Path) -> None:
    """Make an ed25519 key pair at ``path`` and ``path.pub``."""
    command: Sequence[str] = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "easycluster-test", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def free_port(host: str) -> int:
    """A TCP port that nobody uses at the moment."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def sshd() -> Iterator[Sshd]:
    """A private sshd that everyone shares."""
    require_sshd()
    with Sshd() as server:
        yield server


@pytest.fixture
def sshd_factory() -> Iterator[type[Sshd]]:
    """For tests that need an sshd of their own: ``sshd_factory("MaxSessions 1")`` is a running one."""
    require_sshd()
    with contextlib.ExitStack() as stack:

        def make(*lines: str, host: str = "127.0.0.1") -> Sshd:
            server = Sshd(*lines, host=host)
            stack.callback(server.close)
            server.start()
            return server

        yield make  # type: ignore[misc]  # a function that is called like the class
