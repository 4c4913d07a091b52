"""A host of a box as tests and commands see it."""

from __future__ import annotations

import itertools
import subprocess
from typing import TYPE_CHECKING, Any, Final

from easycluster.labbox.control import ask, ask_pid
from easycluster.labbox.errors import LabBoxError
from easycluster.labbox.waiting import answers_ssh, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from easycluster.labbox.layout import Folder

__all__ = ["START_TIMEOUT", "BoxHost", "Link", "hosts_of"]

# A machine that is busy with other things may take this long; an idle one takes a tenth of a second.
START_TIMEOUT: Final = 60.0


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
    def console_file(self) -> Path:
        """What its system and sshd say is appended there, over all boots."""
        return self._folder.console(self.name)

    @property
    def console(self) -> str:
        """What its system and sshd have said so far."""
        return self.console_file.read_text(errors="replace") if self.console_file.exists() else ""

    def describe(self) -> str:
        """Its state in some words."""
        status = self._status()
        words = [str(status["state"])] + ["frozen"] * bool(status["frozen"])
        words += ["link down"] if status["link"] == "down" else []
        numbers = {name: amount for name, amount in status["quality"].items() if name != "without"}
        words += [f"{name} {amount:g}" for name, amount in numbers.items() if amount]
        words += ["cut off from some"] * bool(status["quality"]["without"])
        words += ["disk full"] if status["room"] is not None else []
        return ", ".join(words)

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
        before = self.boot_id
        self._ask("reboot")
        if wait:
            self.wait_for_boot(before)
            self.wait_for_ssh()

    def power_off(self) -> None:
        """Shut its system down; processes may end in order, and their connections with them."""
        self._ask("soft")
        self.wait_for_power("off")

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
        self.wait_for_power("off")

    def reset(self, wait: bool = True) -> None:
        """Pull the plug and put it in again.

        Args:
            wait: Return only when the new system answers ssh.
        """
        before = self.boot_id
        self._ask("cut", again=True)
        if wait:
            self.wait_for_boot(before)
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

    def wait_for_power(self, power: str, timeout: float = START_TIMEOUT) -> None:
        """Return when :attr:`power` is that.

        Raises:
            LabBoxError: If it is not within ``timeout`` seconds.
        """
        wait_until(lambda: self.power == power, f"{self.name} to be {power}", timeout)

    def wait_for_boot(self, before: str, timeout: float = START_TIMEOUT) -> None:
        """Return when another system than the one with the boot id ``before`` has begun.

        Raises:
            LabBoxError: If none does within ``timeout`` seconds.
        """
        wait_until(lambda: self.boot_id != before, f"{self.name} to boot", timeout)

    def wait_for_ssh(self, timeout: float = START_TIMEOUT) -> None:
        """Return when its sshd answers.

        Raises:
            LabBoxError: If it does not, with the last words of its console.
        """
        # Short at first: while a host boots, its packets vanish, and the kernel sends the next one after a second only.
        # Longer then, for cables with a delay.
        timeouts = itertools.chain((0.2, 0.2, 0.2, 0.4, 0.8, 1.5, 3.0), itertools.repeat(6.0))
        try:
            wait_until(lambda: self._answers(min(timeout, next(timeouts))), f"{self.name} to answer ssh", timeout)
        except LabBoxError as exc:
            said = self.console.removesuffix(f"\n{self.name} login: ").strip().rpartition("\n")[2]
            raise LabBoxError(f"{exc}; its console ends with {said!r}") from None

    def _answers(self, timeout: float) -> bool:
        if answers_ssh(self.address, timeout):
            return True
        if self._status()["state"] == "off":
            raise LabBoxError(f"{self.name} is off")
        return False

    def run(self, *command: str, timeout: float = 60.0) -> str:
        """Run a command over ssh and return its standard output.

        Raises:
            subprocess.CalledProcessError: If it fails; ``stderr`` says why.
        """
        return _output(["ssh", "-F", str(self._folder.ssh_config), self.name, "--", *command], timeout)

    def inside(self, *command: str, timeout: float = 60.0) -> str:
        """Run a command without the network, as at a keyboard of the host, and return its standard output.

        Raises:
            LabBoxError: If the host is off.
            subprocess.CalledProcessError: If the command fails; ``stderr`` says why.
        """
        return _output([*self.entrance(), *command], timeout)

    def entrance(self) -> list[str]:
        """The words that let a command run in the host, by nsenter, until it is off."""
        spaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--time")
        return ["nsenter", "-t", str(ask_pid(self._folder, self.name)), *spaces, "--wd", "--"]


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

    def shape(self, *, delay: float = 0.0, loss: float = 0.0, rate: float = 0.0, jitter: float = 0.0) -> None:
        """Make it a bad one, also for the boots that come; what is not named is as in a good one.

        Args:
            delay: Seconds that each packet takes, in either direction.
            loss: The share of packets that is lost, from 0 to 1.
            rate: Bits in a second, in either direction; 0 for no limit.
            jitter: Seconds by which the delay of a packet is at most shorter or longer.
        """
        if min(delay, rate, jitter) < 0 or not 0 <= loss <= 1:
            raise ValueError("delay, rate and jitter are 0 or more, loss is from 0 to 1")
        ask(self._folder, "shape", host=self._name, delay=delay, loss=loss, rate=rate, jitter=jitter)

    def clear(self) -> None:
        """Make it a good one again; a pulled one stays pulled."""
        self.shape()


def hosts_of(folder: Folder) -> dict[str, BoxHost]:
    """All hosts of the box in a folder, by name."""
    found = ask(folder, "status")
    return {name: BoxHost(folder, name, status["address"]) for name, status in found.items()}


def _output(words: list[str], timeout: float) -> str:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=timeout)
    return done.stdout
