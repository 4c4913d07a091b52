"""The network of a box: a range of addresses that nobody uses, a switch, and a cable to each host.

The switch is a bridge in the supervisor's own network namespace.  One cable leads from it to the network of whoever
made the box; its near end is named after the range (``lb10-77-3``), so that two boxes can never take the same one, and
it goes with the namespace at its other end, however that ends.
"""

from __future__ import annotations

import ipaddress
import json
import random
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from easycluster.labbox.errors import LabBoxError
from easycluster.labbox.kernel import inside_network
from easycluster.labbox.relay import Quality, relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SWITCH: Final = "switch"
# Addresses below are ours; hosts count from here.
_FIRST_HOST: Final = 11
MAX_HOSTS: Final = 255 - _FIRST_HOST
# Where boxes look first: few home and company networks are so high in 10.0.0.0/8.
_PRIVATE: Final = ("10.192.0.0/10", "172.16.0.0/12", "192.168.0.0/16")
# Each is refused only if another box has just taken the range.
_ATTEMPTS: Final = 20


@dataclass(frozen=True)
class Range:
    """The addresses of a box: a /24."""

    network: ipaddress.IPv4Network

    @property
    def device(self) -> str:
        """Our end of the cable to the switch; at most 15 characters."""
        return "lb" + str(self.network.network_address).rpartition(".")[0].replace(".", "-")

    @property
    def near(self) -> str:
        """Our own address."""
        return str(self.network[1])

    def address(self, number: int) -> str:
        """Address of a host, which are counted from 0."""
        return str(self.network[_FIRST_HOST + number])

    def hardware(self, number: int) -> str:
        """The MAC address of a host; it never changes, so that everybody knows it without asking."""
        return "02:ec:" + ":".join(f"{byte:02x}" for byte in self.network[_FIRST_HOST + number].packed)

    def neighbours(self, count: int, device: str, without: int = -1) -> list[str]:
        """Lines that tell the hosts' hardware addresses to a device.

        Nobody asks for them then, so packets to a host that is off vanish, as behind a router, and are not answered
        with "no route to host".
        """
        return [
            f"neigh replace {self.address(number)} lladdr {self.hardware(number)} dev {device} nud permanent"
            for number in range(count)
            if number != without
        ]


def lay(outside: int, wanted: str, count: int) -> Range:
    """Make the switch in this network namespace and the cable to ``outside``, the namespace of the box's user.

    Raises:
        LabBoxError: If no range is free, or the wanted one is not.
    """
    ip(
        [
            f"link add {SWITCH} type bridge forward_delay 0",
            f"link set {SWITCH} up",
            "link set lo up",
        ]
    )
    with open("/proc/self/ns/net") as here:
        for candidate in _candidates(outside, wanted):
            # Whoever makes the device has the range: names are unique, and the kernel decides.
            with inside_network(outside):
                done = ip(
                    [f"link add {candidate.device} type veth peer name uplink netns /proc/self/fd/{here.fileno()}"],
                    fds=[here.fileno()],
                    check=False,
                )
                if "exists" in done:
                    continue
                if done:
                    raise LabBoxError(f"no cable could be laid: {done}")
                ip(
                    [
                        f"addr add {candidate.near}/24 dev {candidate.device}",
                        f"link set {candidate.device} up",
                        *candidate.neighbours(count, candidate.device),
                    ]
                )
            ip([f"link set uplink master {SWITCH}", "link set uplink up"])
            return candidate
    raise LabBoxError("other boxes take every free range of addresses; name one: network='10.9.8.0/24'")


def connect(box: Range, number: int, pid: int) -> None:
    """Lay a cable to the namespace of a process; it is not plugged in here."""
    ip([f"link add {port(number)} type veth peer name eth0 address {box.hardware(number)} netns {pid}"])


def plug_in(number: int, quality: Quality) -> Callable[[], None] | None:
    """Let a cable end at the switch, and return what is to run in a process of its own to carry its packets."""
    middle, end = f"middle{number}", f"end{number}"
    ip([f"link del {end}"], check=False)
    if quality.perfect:
        ip([f"link set {port(number)} master {SWITCH}"])
        return None
    ip(
        [
            f"link set {port(number)} nomaster",
            f"link add {end} type veth peer name {middle}",
            f"link set {end} master {SWITCH}",
            f"link set {end} up",
            f"link set {middle} up",
        ]
    )
    return lambda: relay((port(number), middle), quality)


def port(number: int) -> str:
    """The near end of a host's cable."""
    return f"port{number}"


def configure(box: Range, number: int, count: int) -> None:
    """Bring up the network of a host, from inside."""
    ip(
        [
            "link set lo up",
            f"addr add {box.address(number)}/24 dev eth0",
            "link set eth0 up",
            *box.neighbours(count, "eth0", without=number),
        ]
    )


def ip(lines: Sequence[str], check: bool = True, fds: Sequence[int] = ()) -> str:
    """Let iproute2 do several things at once and return its complaint, ``""`` if there is none."""
    done = subprocess.run(
        ["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, capture_output=True, check=False, pass_fds=fds
    )
    complaint = done.stderr.strip() or ("ip failed" if done.returncode else "")
    if done.returncode and check:
        raise LabBoxError(f"ip: {complaint}")
    return complaint if done.returncode else ""


def _candidates(outside: int, wanted: str) -> Iterable[Range]:
    with inside_network(outside):
        taken = _taken()
    if wanted:
        network = ipaddress.IPv4Network(wanted)
        for other in taken:
            if network.overlaps(other):
                raise LabBoxError(f"network {network} is not free: this machine has a route to {other}")
        return [Range(network)]
    found: list[Range] = []
    for text in _PRIVATE:
        whole = ipaddress.IPv4Network(text)
        numbers = random.sample(range(1 << (24 - whole.prefixlen)), 16)
        for number in numbers:
            network = ipaddress.IPv4Network((int(whole.network_address) + (number << 8), 24))
            if not any(network.overlaps(other) for other in taken):
                found.append(Range(network))
    if not found:
        raise LabBoxError(
            "no private range of addresses is free: routes of this machine cover 10.0.0.0/8, 172.16.0.0/12 and "
            "192.168.0.0/16; name one that nobody uses: network='10.9.8.0/24'"
        )
    return found[:_ATTEMPTS]


def _taken() -> list[ipaddress.IPv4Network]:
    """Everything this machine has a route to, default routes excepted."""
    done = subprocess.run(
        ["ip", "-json", "-4", "route", "show", "table", "all"], text=True, capture_output=True, check=True
    )
    found = []
    for route in json.loads(done.stdout or "[]"):
        text = str(route.get("dst", "default"))
        if text != "default":
            network = ipaddress.IPv4Network(text, strict=False)
            # A default route is often written as two halves.
            if network.prefixlen > 1:
                found.append(network)
    return found
