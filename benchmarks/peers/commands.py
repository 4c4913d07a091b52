"""What runs commands over ssh: ``add`` is ``true``, for there is nothing cheaper that can be asked."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import Peer, Session

if TYPE_CHECKING:
    from collections.abc import Sequence


class CommandSession(Session):
    """One way to run a command."""

    def run(self, command: str) -> None:
        """Run a command.

        Raises:
            Exception: If its status is not 0; each way has its own.
        """
        raise NotImplementedError

    def add(self, a: int, b: int) -> int:
        self.run("true")
        return a + b


class SshSession(CommandSession):
    """A new ``ssh`` for each command."""

    def __init__(self, ssh: list[str]) -> None:
        self.ssh = ssh

    def run(self, command: str) -> None:
        subprocess.run([*self.ssh, command], stdin=subprocess.DEVNULL, check=True)


class Ssh(Peer):
    """A new connection for each command."""

    def open(self) -> CommandSession:
        return SshSession(self.ssh)


class SshMaster(Peer):
    """A connection that is shared: ControlMaster in ssh_config(5)."""

    def open(self) -> CommandSession:
        return SshSession([*self.ssh[:-1], self.settings["ssh_master"]])


def configured(settings: dict[str, str]) -> dict[str, str]:
    """Return what ssh's configuration says of the host, for libraries that do not read all of it."""
    words = Path(settings["ssh_config"]).read_text().split()
    return {word: words[number + 1] for number, word in reversed(list(enumerate(words[:-1])))}


class ParamikoSession(CommandSession):
    """A channel for each command."""

    def __init__(self, host: dict[str, str]) -> None:
        import paramiko

        self.client = paramiko.SSHClient()
        self.client.load_host_keys(host["UserKnownHostsFile"])
        self.client.connect(
            host["HostName"], int(host["Port"]), host["User"], key_filename=host["IdentityFile"], allow_agent=False
        )

    def run(self, command: str) -> None:
        stdin, stdout, _ = self.client.exec_command(command)
        stdin.channel.shutdown_write()
        if stdout.channel.recv_exit_status():
            raise RuntimeError(f"{command!r} failed")

    def close(self) -> None:
        self.client.close()


class Paramiko(Peer):
    """ssh in Python."""

    imports = "paramiko"

    def open(self) -> CommandSession:
        return ParamikoSession(configured(self.settings))


class FabricSession(CommandSession):
    """``Connection.run``."""

    def __init__(self, host: dict[str, str]) -> None:
        from fabric import Connection

        key = {"key_filename": host["IdentityFile"], "allow_agent": False}
        self.connection = Connection(host["HostName"], user=host["User"], port=int(host["Port"]), connect_kwargs=key)
        self.connection.client.load_host_keys(host["UserKnownHostsFile"])
        self.connection.open()

    def run(self, command: str) -> None:
        self.connection.run(command, hide=True, in_stream=False)

    def close(self) -> None:
        self.connection.close()


class Fabric(Peer):
    """Commands over paramiko."""

    imports = "fabric"

    def open(self) -> CommandSession:
        return FabricSession(configured(self.settings))


class AsyncsshSession(CommandSession):
    """A channel for each command, in a loop of this thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, host: dict[str, str]) -> None:
        import asyncssh

        self.loop = loop
        self.connection: Any = loop.run_until_complete(
            asyncssh.connect(
                host["HostName"],
                int(host["Port"]),
                username=host["User"],
                client_keys=[host["IdentityFile"]],
                known_hosts=host["UserKnownHostsFile"],
                config=None,
            )
        )

    def run(self, command: str) -> None:
        self.loop.run_until_complete(self.connection.run(command, check=True))

    def start(self, name: str, *args: Any) -> Any:
        return self.loop.create_task(self.connection.run("true", check=True)), sum(args)

    def gather(self, started: Sequence[Any]) -> list[Any]:
        async def all_of_them() -> None:
            await asyncio.gather(*(task for task, _ in started))

        self.loop.run_until_complete(all_of_them())
        return [result for _, result in started]

    def close(self) -> None:
        self.connection.close()
        self.loop.run_until_complete(self.connection.wait_closed())


class Asyncssh(Peer):
    """ssh in Python, asynchronous."""

    imports = "asyncssh"
    shared = False

    def serve(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.stack.callback(self.loop.close)

    def open(self) -> CommandSession:
        return AsyncsshSession(self.loop, configured(self.settings))


class TestinfraSession(CommandSession):
    """``host.run``."""

    def __init__(self, spec: str, config: str) -> None:
        import testinfra

        self.host = testinfra.get_host(spec, ssh_config=config)

    def run(self, command: str) -> None:
        if self.host.run(command).rc:
            raise RuntimeError(f"{command!r} failed")


class Testinfra(Peer):
    """Its ssh backend as it comes."""

    imports = "testinfra"

    def open(self) -> CommandSession:
        return TestinfraSession(f"ssh://{self.settings['ssh_host']}", self.settings["ssh_config"])
