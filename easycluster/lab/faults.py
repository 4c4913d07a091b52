"""Breaking things on purpose, for the length of a ``with`` block: links, disks, whole hosts.

``with lab.link("san01").down():`` begins a fault and ends it, whatever happens inside.  A fault begins where it is
asked for; one that nobody ends is ended with the lease of its host.  If this process is killed, whoever carries the
fault out ends it: the box of a labbox host, the far side's keeper on a real one.  No driver needs a word from us then.
"""

from __future__ import annotations

import importlib
import re
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["DRIVERS", "Disk", "Fault", "FaultDriver", "Faulty", "Link", "breaker"]

# `faults: {driver: NAME}` to the callable that makes one of (host, settings).
DRIVERS: Final[dict[str, str]] = {
    "host": "easycluster.lab.faults_host:HostFaults",
    "labbox": "easycluster.labbox.faults:BoxFaults",
}

_RATES: Final = {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_SPANS: Final = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class FaultDriver(Protocol):
    """Breaks one host.  What it cannot do raises :class:`easycluster.errors.Unsupported`.

    Each method begins a fault and returns what ends it, which is called once.  When this process dies, it ends by
    itself.  ``what`` is the operation in words, for messages.
    """

    def cut(self, what: str, seconds: float | None) -> Callable[[], None]:
        """Let nothing pass its link; for so many seconds, if that is not None."""

    def spoil(self, what: str, delay: float, jitter: float, loss: float, rate: float) -> Callable[[], None]:
        """Make its link a bad one: seconds, a share from 0 to 1, bits in a second."""

    def part(self, what: str, others: Sequence[tuple[str, str]]) -> Callable[[], None]:
        """Let nothing pass between it and others, each given as name and address."""

    def freeze(self, what: str) -> Callable[[], None]:
        """Stop all its processes."""

    def kill(self, what: str) -> Callable[[], None]:
        """Take its power away."""

    def fill(self, what: str, path: str, room: int) -> Callable[[], None]:
        """Leave so many bytes on the file system of a path."""


class Fault:
    """Something that is broken, until the end of a ``with`` block or :meth:`restore`.

    Args:
        what: In words.
        end: Ends it.
        ended: Called when it has ended, or ending it has failed.
    """

    def __init__(self, what: str, end: Callable[[], None], ended: Callable[[], None] = lambda: None) -> None:
        self.what = what
        self._end: Callable[[], None] | None = end
        self._ended = ended
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Fault {self.what}{'' if self.lasts else ', restored'}>"

    @property
    def lasts(self) -> bool:
        """Whether it has not been ended yet."""
        return self._end is not None

    def restore(self) -> None:
        """End it; more than once does nothing."""
        with self._lock:
            end, self._end = self._end, None
        if end is not None:
            try:
                end()
            finally:
                self._ended()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.restore()


class Link:
    """The link of a host, to be broken: every method returns a :class:`Fault`.

    Args:
        lab: Whose host it is.
        name: Of the host.
    """

    def __init__(self, lab: Faulty, name: str) -> None:
        self._lab = lab
        self._name = name

    def __repr__(self) -> str:
        return f"<Link of {self._name}>"

    def down(self, seconds: float | None = None) -> Fault:
        """Pull the cable: nothing passes in either direction, and nobody is told.

        Args:
            seconds: It comes up by itself then.  A real host needs that if the link is the one that we reach it by.
        """
        what = "link.down()" if seconds is None else f"link.down({seconds:g})"
        return self._lab._break(self._name, what, lambda driver: driver.cut(what, seconds))

    def delay(self, ms: float | str, *, jitter: float | str = 0.0) -> Fault:
        """Have each packet take longer.

        Args:
            ms: Milliseconds, or a text such as ``"20ms"``.
            jitter: By how much that varies at most, up and down; order is kept.
        """
        span, varies = milliseconds(ms), milliseconds(jitter)
        if span <= 0 or not 0 <= varies <= span:
            raise ValueError("a delay is more than 0, and its jitter from 0 to the delay")
        what = f"link.delay({span:g} ms)"
        return self._spoil(what, delay=span / 1000, jitter=varies / 1000)

    def loss(self, percent: float) -> Fault:
        """Lose packets by chance.

        Args:
            percent: How many of a hundred, in each direction.
        """
        if not 0 < percent <= 100:
            raise ValueError("a loss is more than 0 percent, and at most 100")
        return self._spoil(f"link.loss({percent:g} %)", loss=percent / 100)

    def rate(self, rate: float | str) -> Fault:
        """Let no more pass than so much.

        Args:
            rate: Bits in a second, or a text such as ``"10mbit"``.
        """
        bits = bits_per_second(rate)
        return self._spoil(f"link.rate({bits:g} bit/s)", rate=bits)

    def _spoil(
        self, what: str, *, delay: float = 0.0, jitter: float = 0.0, loss: float = 0.0, rate: float = 0.0
    ) -> Fault:
        return self._lab._break(self._name, what, lambda driver: driver.spoil(what, delay, jitter, loss, rate))


class Disk:
    """The disk of a host, to be filled.

    Args:
        lab: Whose host it is.
        name: Of the host.
    """

    def __init__(self, lab: Faulty, name: str) -> None:
        self._lab = lab
        self._name = name

    def __repr__(self) -> str:
        return f"<Disk of {self._name}>"

    def fill(self, path: str = "/var/tmp", *, room: int = 0) -> Fault:
        """Let nothing be written any more: no space left on device.

        Args:
            path: A directory on the file system that is to be full.
            room: Bytes that are to be left.
        """
        if room < 0:
            raise ValueError("no disk has less than 0 bytes left")
        what = f"disk.fill({path!r})"
        return self._lab._break(self._name, what, lambda driver: driver.fill(what, path, room))


class Faulty:
    """What has hosts that can be broken; for :class:`easycluster.lab.Lab` and boxes to inherit from."""

    def link(self, host: Any) -> Link:
        """The link of a host, given or named: ``with lab.link("san01").down():``."""
        return Link(self, _name(host))

    def disk(self, host: Any) -> Disk:
        """The disk of a host, given or named: ``with lab.disk("gpu01").fill():``."""
        return Disk(self, _name(host))

    def freeze(self, host: Any) -> Fault:
        """Stop all processes of a host; its kernel still answers pings and acknowledges what is sent."""
        return self._break(_name(host), "freeze()", lambda driver: driver.freeze("freeze()"))

    def kill(self, host: Any) -> Fault:
        """Take the power of a host away; it is switched on again in the end, and waited for."""
        return self._break(_name(host), "kill()", lambda driver: driver.kill("kill()"))

    def partition(self, one: Any, other: Any) -> Fault:
        """Let nothing pass between hosts, which everybody else still reaches.

        Args:
            one: A host or its name, or several.
            other: The same, of the other side.
        """
        sides = _names(one), _names(other)
        if set(sides[0]) & set(sides[1]) or not all(sides):
            raise ValueError("a partition has hosts on both sides, and none on both")
        what = f"partition({', '.join(sides[0])} | {', '.join(sides[1])})"
        faults: list[Fault] = []
        try:
            # In a fixed order, on both sides: each host refuses what comes, so that either side alone would do.
            for here, there in (sides, sides[::-1]):
                others = [(name, self._address_of(name)) for name in there]
                begin = partial(_part, what, others)
                faults += [self._break(name, what, begin) for name in here]
        except BaseException:
            _restore_all(faults)
            raise
        return Fault(what, lambda: _restore_all(faults))

    def _break(self, name: str, what: str, begin: Callable[[FaultDriver], Callable[[], None]]) -> Fault:
        raise NotImplementedError

    def _address_of(self, name: str) -> str:
        raise NotImplementedError


def breaker(host: Any, settings: Mapping[str, Any]) -> FaultDriver:
    """The driver that breaks a host.

    Args:
        host: What the driver takes: a host of a lab, or a name.
        settings: Its ``faults:``.
    """
    module, _, name = DRIVERS[settings.get("driver", "host")].partition(":")
    driver: FaultDriver = getattr(importlib.import_module(module), name)(host, settings)
    return driver


def timed(end: Callable[[], None], seconds: float) -> Callable[[], None]:
    """What ends a fault, for one that also ends by itself after so many seconds."""
    lock, over = threading.Lock(), threading.Event()

    def once() -> None:
        with lock:
            if not over.is_set():
                over.set()
                end()

    timer = threading.Timer(seconds, once)
    timer.daemon = True
    timer.start()

    def stop() -> None:
        timer.cancel()
        once()

    return stop


def milliseconds(value: float | str) -> float:
    """A span of time: milliseconds, or a text with a unit."""
    return _with_unit(value, _SPANS, "ms", "a span of time is milliseconds or a text such as '20ms'")


def bits_per_second(value: float | str) -> float:
    """A rate: bits in a second, or a text with a unit."""
    bits = _with_unit(value, _RATES, "bit", "a rate is bits in a second or a text such as '10mbit'")
    if bits <= 0:
        raise ValueError("a rate is more than 0")
    return bits


def _with_unit(value: float | str, units: Mapping[str, float], usual: str, wanted: str) -> float:
    if not isinstance(value, str):
        return float(value)
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([a-z]*)", value)
    if found is None or (found[2] or usual) not in units:
        raise ValueError(f"{wanted}, not {value!r}")
    return float(found[1]) * units[found[2] or usual]


def _part(what: str, others: Sequence[tuple[str, str]], driver: FaultDriver) -> Callable[[], None]:
    return driver.part(what, others)


def _restore_all(faults: list[Fault]) -> None:
    """End faults, the last first, all of them; the first error is raised in the end."""
    errors: list[BaseException] = []
    while faults:
        try:
            faults.pop().restore()
        except Exception as exc:  # noqa: BLE001  # the others are ended, too
            errors.append(exc)
    if errors:
        raise errors[0]


def _name(host: Any) -> str:
    return host if isinstance(host, str) else str(host.name)


def _names(hosts: Any) -> list[str]:
    return [_name(host) for host in hosts] if isinstance(hosts, (list, tuple, set)) else [_name(hosts)]
