"""A box as its owner sees it: :class:`LabBox` and its hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from easycluster.labbox.control import ask
from easycluster.labbox.errors import LabBoxError
from easycluster.labbox.layout import Folder, Plan
from easycluster.labbox.network import MAX_HOSTS
from easycluster.labbox.needs import missing
from easycluster.labbox.waiting import answers_ssh, wait_until
from easycluster.lab.ranges import RangeError, expand

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

__all__ = ["BoxHost", "LabBox", "Link"]

# A machine that is busy with other things may take this long; an idle one takes a tenth of a second.
START_TIMEOUT: Final = 60.0
PREFIX: Final = "labbox-"


class LabBox:
    """Several hosts on this machine, each with a network, a disk, processes, an sshd and a boot id of its own.

    Entering starts them and waits until each answers ssh; leaving ends them, and nothing of them is left, also if this
    process is killed.

    Args:
        hosts: Their names; ranges such as ``gpu[01:04]`` are expanded.
        folder: Where inventory, keys and logs go; it must be empty.  By default a folder for temporary files that goes
            with the box.
        user: Whom ssh logs in as.
        network: A /24 in CIDR notation; by default one that this machine has no route to.
        disk: Most bytes on each host's disk, which lies in memory.
        boot_seconds: How long a host is away at a reboot, besides what its system takes.
        share: Folders of this machine that hosts see, read-only, although they lie in /root, /home or /tmp; the
            running Python is always shared.

    Raises:
        LabBoxError: If the box cannot be made: on entering.
    """

    def __init__(
        self,
        hosts: Iterable[str] = ("gpu[01:02]", "san1", "bench"),
        *,
        folder: str | Path | None = None,
        user: str = "root",
        network: str = "",
        disk: int = 256 << 20,
        boot_seconds: float = 0.1,
        share: Sequence[str | Path] = (),
    ) -> None:
        self._names = _expand(hosts)
        self._options = {"user": user, "network": network, "disk": disk, "boot_seconds": boot_seconds}
        self._share = share
        self._wanted = folder
        self._process: subprocess.Popen[str] | None = None
        self._folder: Folder | None = None
        self.hosts: dict[str, BoxHost] = {}

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self._files().path

    @property
    def inventory(self) -> Path:
        """A lab file with all hosts, for ``pytest --ec-inventory``."""
        return self._files().inventory

    @property
    def ssh_config(self) -> Path:
        """For ``ssh -F``: knows the hosts by name and by address."""
        return self._files().ssh_config

    def __getitem__(self, name: str) -> BoxHost:
        """The host of that name."""
        return self.hosts[name]

    def __iter__(self) -> Iterator[BoxHost]:
        """All hosts, in the order they were named in."""
        return iter(self.hosts.values())

    def __enter__(self) -> LabBox:  # noqa: PYI034  # typing.Self needs 3.11
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, where: TracebackType | None
    ) -> None:
        """End it."""
        self.close()

    def start(self, detached: bool = False) -> None:
        """Start all hosts and wait until they answer.

        Args:
            detached: Let the box outlive this process.
        """
        lacking = missing()
        if lacking:
            raise LabBoxError(lacking)
        self._folder = Folder(self._wanted or tempfile.mkdtemp(prefix=PREFIX))
        self._folder.check()
        self._folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(self._folder.path.iterdir()):
            raise LabBoxError(f"{self._folder.path} is not empty; choose a folder of its own for the box")
        plan = Plan(
            hosts=tuple(self._names),
            share=tuple(_shared(self._share)),
            owner=0 if detached else os.getpid(),
            temporary=self._wanted is None,
            **self._options,  # type: ignore[arg-type]  # each has its type above
        )
        self._folder.write_plan(plan)
        try:
            self._launch(self._folder)
            self.hosts = _hosts(self._folder)
            for host in self:
                host.wait_for_ssh()
        except BaseException:
            self.close()
            raise

    def _launch(self, folder: Folder) -> None:
        # -P would keep a folder of the same name from being imported, but is newer than our oldest Python.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "easycluster.labbox.supervisor", str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": _import_path()},
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        first = self._process.stdout.readline()
        said = json.loads(first or "{}")
        if "device" not in said:
            complaint = said.get("error") or self._process.stderr.read().strip().rpartition("\n")[2]
            raise LabBoxError(f"the box did not start: {complaint or 'it ended without a word'}")

    def close(self) -> None:
        """End all hosts and wait until nothing is left of them; more than once does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            ask(self._files(), "stop")
        except LabBoxError:
            process.terminate()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        try:
            process.wait(START_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _files(self) -> Folder:
        if self._folder is None:
            raise LabBoxError("the box has not been started; use it in a with statement")
        return self._folder

    @classmethod
    def running(cls, folder: str | Path) -> LabBox:
        """The box that runs in a folder already; closing this object leaves it alone."""
        files = Folder(folder)
        plan = files.read_plan() if (files.path / "box.json").exists() else None
        if plan is None:
            raise LabBoxError(f"{files.path} has no box; make one with: easycluster labbox up --dir {files.path}")
        box = cls(plan.hosts, folder=folder)
        box._folder = files
        box.hosts = _hosts(files)
        return box


class BoxHost:
    """One host of a box.

    Attributes:
        name: Its host name.
        address: Its IPv4 address.
        link: Its cable.
    """

    def __init__(self, folder: Folder, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.link = Link(folder, name)
        self._folder = folder

    def __repr__(self) -> str:
        return f"<BoxHost {self.name} {self.address}>"

    @property
    def boot_id(self) -> str:
        """As in its /proc/sys/kernel/random/boot_id; another one after each boot."""
        return str(self._status()["boot_id"])

    @property
    def boots(self) -> int:
        """How often it was started."""
        return int(self._status()["boots"])

    @property
    def power(self) -> str:
        """``on`` or ``off``; a host in the middle of a reboot is on."""
        return "off" if self._status()["state"] == "off" else "on"

    @property
    def console(self) -> str:
        """What its system and sshd have said, of all boots."""
        path = self._folder.console(self.name)
        return path.read_text(errors="replace") if path.exists() else ""

    def _status(self) -> dict[str, Any]:
        status: dict[str, Any] = ask(self._folder, "status")[self.name]
        return status

    def _ask(self, do: str, **arguments: object) -> Any:
        return ask(self._folder, do, host=self.name, **arguments)

    def reboot(self, wait: bool = True) -> None:
        """Shut its system down and start it again, as ``reboot`` on it does.

        Args:
            wait: Return only when the new system answers ssh.
        """
        before = self.boots
        self._ask("reboot")
        if wait:
            wait_until(lambda: self.boots > before, f"{self.name} to boot", START_TIMEOUT)
            self.wait_for_ssh()

    def power_off(self) -> None:
        """Shut its system down; processes may end in order, and their connections with them."""
        self._ask("soft")
        wait_until(lambda: self.power == "off", f"{self.name} to shut down", START_TIMEOUT)

    def power_on(self, wait: bool = True) -> None:
        """Start its system if it is off.

        Args:
            wait: Return only when it answers ssh.
        """
        self._ask("on")
        if wait:
            self.wait_for_ssh()

    def kill(self) -> None:
        """Pull the plug: everything stops at once and nobody is told; what it did not write is lost."""
        self._ask("cut")
        wait_until(lambda: self.power == "off", f"the end of {self.name}", START_TIMEOUT)

    def reset(self, wait: bool = True) -> None:
        """Pull the plug and put it in again.

        Args:
            wait: Return only when the new system answers ssh.
        """
        before = self.boots
        self._ask("cut", again=True)
        if wait:
            wait_until(lambda: self.boots > before, f"{self.name} to boot", START_TIMEOUT)
            self.wait_for_ssh()

    def freeze(self) -> None:
        """Stop all its processes; its kernel goes on answering pings and acknowledging what is sent."""
        self._ask("freeze")

    def thaw(self) -> None:
        """Let them go on."""
        self._ask("thaw")

    def set_boot_seconds(self, seconds: float) -> None:
        """How long it is away at the reboots that come.

        Args:
            seconds: Time from the end of the old system to the start of the new one.
        """
        self._ask("boot_seconds", seconds=seconds)

    def wait_for_ssh(self, timeout: float = START_TIMEOUT) -> None:
        """Return when its sshd answers.

        Raises:
            LabBoxError: If it does not, with the last words of its console.
        """
        try:
            wait_until(self._answers, f"{self.name} to answer ssh", timeout)
        except LabBoxError as exc:
            said = self.console.strip().rpartition("\n")[2]
            raise LabBoxError(f"{exc}; its console ends with {said!r}") from None

    def _answers(self) -> bool:
        if answers_ssh(self.address):
            return True
        if self._status()["state"] == "off":
            raise LabBoxError(f"{self.name} is off")
        return False

    def run(self, *command: str, timeout: float = 60.0) -> str:
        """Run a command over ssh and return its standard output.

        Raises:
            subprocess.CalledProcessError: If it fails; ``stderr`` says why.
        """
        words = ["ssh", "-F", str(self._folder.ssh_config), self.name, "--", *command]
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=timeout
        )
        return done.stdout


class Link:
    """The cable of a host."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder = folder
        self._name = name

    def down(self) -> None:
        """Pull it: packets vanish in both directions, and nobody is told."""
        ask(self._folder, "plug", host=self._name, plugged=False)

    def up(self) -> None:
        """Plug it in."""
        ask(self._folder, "plug", host=self._name, plugged=True)


def _hosts(folder: Folder) -> dict[str, BoxHost]:
    found = ask(folder, "status")
    return {name: BoxHost(folder, name, status["address"]) for name, status in found.items()}


def _expand(hosts: Iterable[str]) -> list[str]:
    try:
        names = [name.name for text in hosts for name in expand(text)]
    except RangeError as exc:
        raise LabBoxError(str(exc)) from exc
    double = {name for name in names if names.count(name) > 1}
    if double:
        raise LabBoxError(f"{sorted(double)[0]!r} is named twice")
    if not 0 < len(names) <= MAX_HOSTS:
        raise LabBoxError(f"a box has from 1 to {MAX_HOSTS} hosts, not {len(names)}")
    return names


def _shared(extra: Sequence[str | Path]) -> list[str]:
    """Folders to show: those asked for, and the running Python if hosts would not see it."""
    pythons = [prefix for prefix in {sys.prefix, sys.base_prefix} if prefix.startswith(("/root/", "/home/", "/tmp/"))]
    return sorted({str(Path(path).absolute()) for path in (*pythons, *extra)})


def _import_path() -> str:
    """Where this package is imported from, for a Python that would not find it, before what there was."""
    ours = str(Path(__file__).parents[2])
    return os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH", ""))))
