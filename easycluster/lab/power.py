"""The power of a host: drivers that switch it, and what that means for its lease."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from easycluster.errors import EasyClusterError, Unsupported
from easycluster.lab import overboot
from easycluster.lab.boots import DOWN_TIMEOUT
from easycluster.lab.holders import clock
from easycluster.lab.reboot import MARGIN, boot_timeout, bury, come_back, give_up
from easycluster.lab.target import RECORDED
from easycluster.lab.variables import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from easycluster.lab.host import Host
    from easycluster.lab.lab import Lab

__all__ = ["DRIVERS", "Action", "CommandDriver", "Outlet", "PowerDriver", "PowerError", "power"]

Action = Literal["on", "off", "cycle", "status"]
ACTIONS: Final = ("on", "off", "cycle", "status")

COMMAND_TIMEOUT: Final = 60.0
# Of what a command said, an error shows the end.
_SHOWN: Final = 2000
# A host that was switched off stays ours for so long.  If we are dead when it comes up, the host lets others have it
# soon, see easycluster.far.reservations.
OFF_TIME: Final = 8 * 3600.0
# Seconds between two looks whether a host is off.
_LOOK: Final = 0.5

# `power: {driver: NAME}` to the callable that makes one, found when it is needed: some live in packages above this one.
DRIVERS: Final[dict[str, str]] = {
    "command": "easycluster.lab.power:CommandDriver",
    "ipmi": "easycluster.lab.power_bmc:IpmiDriver",
    "redfish": "easycluster.lab.power_bmc:RedfishDriver",
    "labbox": "easycluster.labbox.power:LabBoxDriver",
}


class PowerError(EasyClusterError):
    """Power could not be switched; says which command said what.

    Attributes:
        host: The host's name.
        output: The end of what the command said, secrets masked.
    """

    def __init__(self, message: str, host: str = "", output: str = "") -> None:
        super().__init__(f"{message}\n{output}" if output else message)
        self.message = message
        self.host = host
        self.output = output

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.host, self.output)


class PowerDriver(Protocol):
    """Switches the power of one host.  What it cannot do raises :class:`easycluster.errors.Unsupported`.

    A driver returns when the switch has been told; whether the host has come up, or gone down, is not its business.
    """

    def on(self) -> None:
        """Switch it on."""

    def off(self) -> None:
        """Switch it off."""

    def cycle(self) -> None:
        """Switch it off and on."""

    def status(self) -> str:
        """``"on"`` or ``"off"``."""


@dataclass(frozen=True)
class Outlet:
    """What a driver gets to know.

    Attributes:
        host: The host's name.
        settings: Its ``power:``; values may be :class:`easycluster.lab.Secret`.
        run: Runs words with more environment and a time limit in seconds, here or on the host of ``on:``; gives exit
            code and output.
        mask: Hides the lab's secrets in a text.
    """

    host: str
    settings: Mapping[str, Any]
    run: Callable[[Sequence[str], Mapping[str, str], float], tuple[int, str]]
    mask: Callable[[str], str]


class CommandDriver:
    """Commands of the lab file: ``start``, ``off``, ``cycle`` or ``reset``, ``status``.

    A command is split into words as a shell does, and runs without one; where one is wanted, write ``sh -c '...'``.

    Args:
        outlet: What there is to know.
    """

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def on(self) -> None:
        """See PowerDriver."""
        self._run("start", "on")

    def off(self) -> None:
        """See PowerDriver."""
        self._run("off", "off")

    def cycle(self) -> None:
        """See PowerDriver; without a command of its own it is off and on."""
        settings = self._outlet.settings
        if "cycle" in settings or "reset" in settings:
            self._run("cycle" if "cycle" in settings else "reset", "cycle")
            return
        if "off" not in settings or "start" not in settings:
            raise self._unsupported("cycle", "cycle, or both off and start")
        self._run("off", "cycle")
        if "status" in settings:
            end = time.monotonic() + self._timeout
            while self.status() != "off" and time.monotonic() < end:
                time.sleep(_LOOK)
        self._run("start", "cycle")

    def status(self) -> str:
        """See PowerDriver: the last ``on`` or ``off`` that the command says."""
        said = self._run("status", "status")
        words = re.findall(r"\b(on|off)\b", said.lower())
        if not words:
            shown = self._outlet.mask(said.strip()[-_SHOWN:])
            raise PowerError(f"{self._outlet.host}: power status says neither on nor off", self._outlet.host, shown)
        return str(words[-1])

    @property
    def _timeout(self) -> float:
        return float(self._outlet.settings.get("timeout", COMMAND_TIMEOUT))

    def _unsupported(self, action: str, wanted: str) -> Unsupported:
        text = f"the lab file gives {self._outlet.host} no command for it; add {wanted} to its power:"
        return Unsupported(f"power({action!r})", text)

    def _run(self, key: str, action: str) -> str:
        outlet = self._outlet
        if key not in outlet.settings:
            raise self._unsupported(action, key)
        command = _plain(outlet.settings[key])
        env = {name: _plain(value) for name, value in outlet.settings.get("env", {}).items()}
        what, shown = f"{outlet.host}: power {key}", outlet.mask(command)
        try:
            words = shlex.split(command)
        except ValueError as exc:
            raise PowerError(f"{what} cannot be split into words ({exc}): {shown}", outlet.host) from None
        try:
            code, said = outlet.run(words, env, self._timeout)
        except subprocess.TimeoutExpired as exc:
            said = _text(exc.output)
            text = f"{what} did not finish within {self._timeout:g} s: {shown}"
        except OSError as exc:
            raise PowerError(f"{what} cannot be run: {exc.strerror or exc}: {shown}", outlet.host) from None
        else:
            if not code:
                return said
            text = f"{what} ended with exit code {code}: {shown}"
        # Not from the other error, which has the words with their secrets.
        raise PowerError(text, outlet.host, outlet.mask(said.strip()[-_SHOWN:])) from None


def driver_for(lab: Lab, host: Host) -> PowerDriver:
    """The driver of a host.

    Raises:
        Unsupported: If the lab file says nothing about its power.
    """
    settings = host._entry.settings.get("power")
    if not settings:
        raise Unsupported("power()", f"the lab file has no power: for {host.name}")
    if host._entry.target.via == RECORDED:
        raise Unsupported("power()", f"{host.name} is {host._entry.target}")
    if lab.simulation is not None:
        return lab.simulation.power_of(host.name)
    module, _, name = driver_named(settings).partition(":")
    through = settings.get("on")
    run = _runner(lab._every[through]) if through else run_here
    driver: PowerDriver = getattr(importlib.import_module(module), name)(
        Outlet(host.name, settings, run, lab.inventory.mask)
    )
    return driver


def driver_named(settings: Mapping[str, Any]) -> str:
    """Where the driver is that ``power:`` asks for, as ``module:name``."""
    return DRIVERS[settings.get("driver", "command")]


def _runner(host: Host) -> Callable[[Sequence[str], Mapping[str, str], float], tuple[int, str]]:
    def run(words: Sequence[str], env: Mapping[str, str], timeout: float) -> tuple[int, str]:
        done = host.run(list(words), env=env, timeout=timeout, live=False)
        return done.returncode, done.stdout + done.stderr

    return run


def run_here(words: Sequence[str], env: Mapping[str, str], timeout: float) -> tuple[int, str]:
    """Run a command on this machine; it and what it started is gone if it takes too long, or we are interrupted."""
    process = subprocess.Popen(
        list(words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **env},
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=timeout)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=1.0)
        raise
    return process.returncode, said


def _plain(value: Any) -> str:
    return value.reveal() if isinstance(value, Secret) else str(value)


def _text(output: Any) -> str:
    return output.decode("utf-8", "replace") if isinstance(output, bytes) else output or ""


# What it means for the lease ---------------------------------------------------------------------


def power(lab: Lab, host: Host, action: str, timeout: float | None = None) -> str:
    """Switch a host's power; see :meth:`easycluster.lab.Host.power`."""
    if action not in ACTIONS:
        raise ValueError(f"power is switched {', '.join(map(repr, ACTIONS))}, not {action!r}")
    driver = driver_for(lab, host)
    if action == "status":
        return driver.status()
    lab.leases.need_exclusive(host, f"power({action!r})")
    if _is_switched_only(host):
        # There is no session with it that could be lost.
        getattr(driver, action)()
    elif action == "off":
        switch_off(lab, host, driver)
    elif action == "cycle":
        _cycle(lab, host, driver, timeout)
    else:
        switch_on(lab, host, driver, timeout)
    return "off" if action == "off" else "on"


def _is_switched_only(host: Host) -> bool:
    return bool(host._entry.settings.get("runs_on")) or host._entry.target.via == "local"


def switch_off(lab: Lab, host: Host, driver: PowerDriver, word: str = "power('off')") -> None:
    """Switch a host off; its lease goes on, and what is used of it meanwhile is a HostIsOff.

    Args:
        lab: Whose host it is.
        host: Which.
        driver: Switches it, also on again at the end of the lease.
        word: What was called.
    """
    connection = host._connection
    if connection.switched_off:
        return
    client: Any = connection.client()
    overboot.refuse_others(lab.leases, host, word)
    before = overboot.carry(lab.leases, host, OFF_TIME)
    what = f"{word} at {clock(time.time())}"
    with connection.expected():
        try:
            driver.off()
        except BaseException:
            overboot.resume(lab.leases, host)
            raise
        connection.boot_id = before
        connection.switched_off, connection.switched_by = what, driver
        bury(client, host.name, f"of before the {what}")
        connection.let_go(client)


def _cycle(lab: Lab, host: Host, driver: PowerDriver, timeout: float | None) -> None:
    connection = host._connection
    seconds = boot_timeout(host) if timeout is None else timeout
    what, since = f"power('cycle') at {clock(time.time())}", time.monotonic()
    if connection.switched_off:
        switch_on(lab, host, driver, timeout)
        return
    client: Any = connection.client()
    overboot.refuse_others(lab.leases, host, "power('cycle')")
    before = overboot.carry(lab.leases, host, seconds + MARGIN)
    with connection.expected():
        try:
            driver.cycle()
            down = min(DOWN_TIMEOUT, seconds)
            come_back(
                host,
                lab.leases,
                before,
                client,
                what=what,
                since=since,
                timeout=seconds,
                down_timeout=down,
                patience=0.0,
            )
        except BaseException:
            give_up(lab.leases, host, client)
            raise


def switch_on(lab: Lab, host: Host, driver: PowerDriver, timeout: float | None = None) -> None:
    """Switch a host on and wait until it answers, if it was off."""
    connection = host._connection
    driver.on()
    if connection.is_open and not connection.switched_off:
        # It was on.
        return
    seconds = boot_timeout(host) if timeout is None else timeout
    what, since = f"power('on') at {clock(time.time())}", time.monotonic()
    before = connection.boot_id if connection.switched_off else ""
    come_back(host, lab.leases, before, None, what=what, since=since, timeout=seconds, down_timeout=DOWN_TIMEOUT)


def bring_back(lab: Lab, host: Host) -> str:
    """Switch a host on that this process switched off and left so; return what was wrong with that."""
    try:
        switch_on(lab, host, host._connection.switched_by or driver_for(lab, host))
    except (EasyClusterError, OSError) as exc:
        return str(exc)
    return ""
