"""Faults of real hosts: by the host's own tools, over our session, and undone there whoever dies."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from easycluster.errors import ConnectError, SessionError, Unsupported
from easycluster.lab import deadman
from easycluster.lab.faults import timed
from easycluster.lab.power import driver_for, driver_named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from easycluster.lab.host import Host

__all__ = ["HostFaults"]

MODULE: Final = "easycluster.devices.breaking"
_HEARTBEAT: Final = 5.0
# Of the three heartbeats after which both sides give the link up.
_BEARABLE: Final = 2
# Seconds for a link to go down that was told to, and to be used again after it has come back.
_GOING: Final = 5.0
_BACK: Final = 60.0
_PROBE: Final = 0.3


class HostFaults:
    """Breaks a host that is reached over the network, as :class:`easycluster.lab.faults.FaultDriver` has it.

    Args:
        host: Which.
        settings: Its ``faults:``.
    """

    def __init__(self, host: Host, settings: Mapping[str, Any]) -> None:
        self._host = host
        self._interface = str(settings.get("interface", ""))

    def _call(self, function: str, *args: Any) -> Any:
        client: Any = self._host._connection.client()
        client.import_module(MODULE)
        return client.call(f"{MODULE}.{function}", *args)

    def _held(self, function: str, *args: Any) -> Callable[[], None]:
        token = self._call(function, *args)

        def end() -> None:
            # A session that is lost has been undone, or is about to be.
            with contextlib.suppress(SessionError, ConnectError):
                self._call("restore", token)

        return end

    def _links(self, what: str) -> tuple[str, bool]:
        """The interface to break, and whether we come by it ourselves."""
        address = self._host.address
        with contextlib.suppress(OSError):
            address = socket.getaddrinfo(address, None)[0][4][0]  # type: ignore[assignment]  # an address is a text
        named, ours = self._call("links", address)
        interface = self._interface or named or ours
        if not interface:
            text = f"which interface of {self._host.name} it is about is not known; say faults: {{interface: eth0}}"
            raise Unsupported(what, text)
        return interface, interface == (ours or named) or not (ours or named)

    def cut(self, what: str, seconds: float | None) -> Callable[[], None]:
        """Drop everything at its interface."""
        interface, is_ours = self._links(what)
        if not is_ours:
            end = self._held("cut", what, interface)
            return end if seconds is None else timed(end, seconds)
        name = self._host.name
        if seconds is None:
            text = f"our own session comes by {interface}, so nobody could end it; say for how long: down(seconds=5)"
            raise Unsupported(what, f"{name}: {text}")
        beat = float(self._host._entry.settings.get("keepalive", _HEARTBEAT))
        if seconds > _BEARABLE * beat:
            text = f"our own session comes by {interface}, and is given up after {3 * beat:g} s of silence"
            raise Unsupported(
                what, f"{name}: {text}; have it down for {_BEARABLE * beat:g} s at most, or raise keepalive:"
            )
        self._call("cut_for", what, interface, seconds)
        began = time.monotonic()
        self._wait_for_silence()
        return lambda: self._wait_for_return(began + seconds)

    def _wait_for_silence(self) -> None:
        """Return when the host does not take connections any more; one that only others reach is believed."""
        target = self._host._entry.target
        end = time.monotonic() + _GOING
        time.sleep(_PROBE)
        while time.monotonic() < end:
            try:
                socket.create_connection((target.address, target.port or 22), _PROBE).close()
            except OSError:
                return

    def _wait_for_return(self, when: float) -> None:
        """Return when the host answers again; a session that did not survive is replaced."""
        connection = self._host._connection
        end = when + _BACK
        while True:
            try:
                client: Any = connection.client()
                client.eval("1", timeout=max(1.0, end - time.monotonic()))
                return
            except (SessionError, ConnectError):
                if time.monotonic() > end:
                    raise
            connection.drop_lost()
            connection.memory.forget()

    def spoil(self, what: str, delay: float, jitter: float, loss: float, rate: float) -> Callable[[], None]:
        """Have its interface drop, hold back or throttle."""
        interface, is_ours = self._links(what)
        if loss > 0.5 and is_ours:
            text = f"our own session comes by {interface}, and would be lost; at most 50 %, or link.down(seconds=...)"
            raise Unsupported(what, f"{self._host.name}: {text}")
        return self._held("spoil", what, interface, delay, jitter, loss, rate)

    def part(self, what: str, others: Sequence[tuple[str, str]]) -> Callable[[], None]:
        """Have it drop what comes from others, and what goes to them."""
        addresses = [str(one[4][0]) for _, name in others for one in socket.getaddrinfo(name, None)]
        return self._held("part", what, sorted(set(addresses)))

    def freeze(self, what: str) -> Callable[[], None]:
        """Not possible: who stops all processes of a host stops the one that could let them go on."""
        raise Unsupported(what, f"{self._host.name} cannot be stopped from inside; a host of a box (labbox) can")

    def kill(self, what: str) -> Callable[[], None]:
        """Switch its power off as the lab file says, with a process beside us that switches it on if we die."""
        host = self._host
        settings = host._entry.settings.get("power", {})
        driver = driver_for(host._lab, host)
        if settings.get("on"):
            text = f"its power is switched through {settings['on']}, which nobody could do if this process died"
            raise Unsupported(what, f"{host.name}: {text}; use power('off')")
        call_off = deadman.watch(driver_named(settings), host.name, settings)
        try:
            driver.off()
        except BaseException:
            call_off()
            raise

        def end() -> None:
            driver.on()
            call_off()

        return end

    def fill(self, what: str, path: str, room: int) -> Callable[[], None]:
        """Fill it with a file."""
        return self._held("fill", what, path, room)
