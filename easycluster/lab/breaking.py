"""Faults of a lab's hosts: who may begin one, what ends it at the latest, and what it means for the connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from easycluster.errors import Unsupported
from easycluster.lab.faults import Fault, breaker
from easycluster.lab.power import switch_off, switch_on
from easycluster.lab.target import RECORDED

if TYPE_CHECKING:
    from collections.abc import Callable

    from easycluster.lab.faults import FaultDriver
    from easycluster.lab.host import Host
    from easycluster.lab.lab import Lab
    from easycluster.lab.power import PowerDriver

__all__ = ["begin_fault", "begin_kill"]


def begin_fault(lab: Lab, host: Host, what: str, begin: Callable[[FaultDriver], Callable[[], None]]) -> Fault:
    """Break a host of a lab until the fault is restored, or the host's lease ends.

    Args:
        lab: Whose host it is.
        host: Which.
        what: The operation, for messages.
        begin: Begins it with the host's driver and returns what ends it.

    Raises:
        Unsupported: If this host cannot be broken so.
        LeaseError: If others may use it.
    """
    _refuse(host, what)
    if lab.simulation is not None:
        raise Unsupported(what, f"{host.name} is simulated; --ec-chaos breaks simulated hosts, too")
    lab.leases.need_exclusive(host, what)
    end = begin(breaker(host, host._entry.settings.get("faults", {})))
    connection = host._connection

    def ended() -> None:
        # What was lost meanwhile was lost to this; the next use connects anew.
        connection.drop_lost()
        connection.memory.forget()

    fault = Fault(f"{host.name}: {what}", end, ended)
    # Who leaves it open has it ended with the lease, or with the lab.
    connection.at_release.append(fault.restore)
    return fault


def begin_kill(lab: Lab, host: Host) -> Fault:
    """Take the power of a host of a lab away until the fault is restored; then it is waited for.

    Raises:
        Unsupported: If its power cannot be switched, or nobody could switch it on if this process died.
        LeaseError: If others may use it.
    """
    what = "kill()"
    _refuse(host, what)
    lab.leases.need_exclusive(host, what)
    switch: PowerDriver
    if lab.simulation is not None:
        switch = lab.simulation.power_of(host.name)
    else:
        switch = _Plug(breaker(host, host._entry.settings.get("faults", {})), what)
    switch_off(lab, host, switch, what)

    def end() -> None:
        # Somebody may have switched it on already; then it is only let go of.
        switch_on(lab, host, switch)

    fault = Fault(f"{host.name}: {what}", end)
    host._connection.at_release.append(fault.restore)
    return fault


class _Plug:
    """A fault driver's ``kill`` as a power switch."""

    def __init__(self, driver: FaultDriver, what: str) -> None:
        self._driver = driver
        self._what = what
        self._end: Callable[[], None] | None = None

    def off(self) -> None:
        """Pull it."""
        self._end = self._driver.kill(self._what)

    def on(self) -> None:
        """Put it in again."""
        end, self._end = self._end, None
        if end is not None:
            end()

    def cycle(self) -> None:
        """Both."""
        self.off()
        self.on()

    def status(self) -> str:
        """Whether it is in."""
        return "off" if self._end is not None else "on"


def _refuse(host: Host, what: str) -> None:
    entry = host._entry
    through = entry.settings.get("runs_on")
    if through:
        raise Unsupported(what, f"{host.name} has no system of its own here, its code runs on {through}")
    if entry.target.via == RECORDED:
        raise Unsupported(what, f"{host.name} is {entry.target}")
    if entry.target.via == "local":
        raise Unsupported(what, f"{host.name} is this machine, where the tests run")
