"""What the markers of a test ask for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import pytest

    from easycluster.lab import Need

# As in the lab file's `timeouts:`.
TIMEOUTS = ("connect", "call", "silence", "transfer", "test", "teardown", "reboot")

_OPTIONS = ("count", "where", "distinct")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Fault:
    """What is wrong with a marker.

    Attributes:
        mark: The marker, or None if it is the test itself.
        text: What is wrong, and what to write.
        at: Which part of the marker: the index of an argument, ``name=`` for the name of one, ``name`` for its value.
    """

    mark: pytest.Mark | None
    text: str
    at: int | str | None = None


@dataclass(frozen=True)
class Wanted:
    """One role of one ``ec_hosts`` or ``ec_each``, as the test wrote it; :meth:`need` needs the library."""

    mark: pytest.Mark
    role: str
    at: int | str
    options: Mapping[str, Any] = field(default_factory=dict)

    def need(self) -> Need:
        """The need.

        Raises:
            LabRequestError: If it is malformed.
        """
        from easycluster.lab import make_need

        return make_need(self.role, **self.options)


@dataclass
class Wishes:
    """Everything the markers of a test ask for.

    Attributes:
        hosts: What ``ec_hosts`` asks for: outer scopes first, each scope's as written.
        each: What ``ec_each`` asks for.
        shared: Whether the test is marked ``ec_shared``.
        destructive: Whether it is marked ``ec_destructive``.
        locks: Names of locks of the whole lab, in order, each once.
        devices: How many devices of which kind the test needs of each of its hosts.
        timeouts: Limits in seconds, by the words of ``timeouts:``.
        emulated: Whether the test accepts a processor in the place of a GPU, None if it does not say.
        faults: What is wrong with the markers.
    """

    hosts: list[Wanted] = field(default_factory=list)
    each: Wanted | None = None
    shared: bool = False
    destructive: bool = False
    locks: list[str] = field(default_factory=list)
    devices: dict[str, int] = field(default_factory=dict)
    timeouts: dict[str, float] = field(default_factory=dict)
    emulated: bool | None = None
    faults: list[Fault] = field(default_factory=list)


def wishes_of(node: pytest.Item | pytest.Function) -> Wishes:
    """Read the markers of a test, those of its class and module included; faults are collected."""
    # iter_markers() goes outwards and, within one function or class, from the last decorator to the first.
    return read_marks(reversed([mark for mark in node.iter_markers() if mark.name.startswith("ec_")]))


def read_marks(marks: Iterable[pytest.Mark]) -> Wishes:
    """Read markers, outermost first: of two limits the inner one counts, everything else adds up."""
    wishes = Wishes()
    for number, mark in enumerate(marks):
        reader = _READERS.get(mark.name)
        if reader is not None:
            reader(_Reading(mark, number, wishes))
    if wishes.shared and wishes.destructive:
        wishes.faults.append(Fault(None, "ec_shared and ec_destructive contradict each other; keep one"))
    return wishes


@dataclass(frozen=True)
class _Reading:
    mark: pytest.Mark
    number: int
    wishes: Wishes

    def fault(self, text: str, at: int | str | None = None) -> None:
        self.wishes.faults.append(Fault(self.mark, f"{self.mark.name}: {text}", at))

    def unknown(self, name: str, known: tuple[str, ...]) -> None:
        hint = close_to(name, known) or (f"known: {' '.join(known)}" if known else "it takes none")
        self.fault(f"unknown argument {name!r}; {hint}", f"{name}=")

    def only(self, known: tuple[str, ...]) -> dict[str, Any]:
        """The keyword arguments that are known; others are faults."""
        for name in self.mark.kwargs:
            if name not in known:
                self.unknown(name, known)
        return {name: value for name, value in self.mark.kwargs.items() if name in known}

    def roles(self) -> list[tuple[int, str]]:
        """The roles that stand first, with their index; what is no role is a fault."""
        for index, role in enumerate(self.mark.args):
            if not isinstance(role, str) or not role:
                self.fault(f"the name of a role is wanted, as in {self.mark.name}('gpu')", index)
        return [(index, role) for index, role in enumerate(self.mark.args) if isinstance(role, str) and role]


def _hosts(reading: _Reading) -> None:
    mark = reading.mark
    family = f"marker {reading.number}"
    options = {name: value for name, value in mark.kwargs.items() if name in _OPTIONS}
    rest = {name: value for name, value in mark.kwargs.items() if name not in _OPTIONS}
    if mark.args:
        for name in rest:
            reading.unknown(name, _OPTIONS)
        for index, role in reading.roles():
            reading.wishes.hosts.append(Wanted(mark, role, index, {**options, "family": family}))
        return
    named = {name: role for name, role in rest.items() if isinstance(role, str) and role}
    for name in rest:
        if name not in named:
            reading.unknown(name, _OPTIONS)
    if not rest:
        reading.fault("the name of a role is wanted, as in ec_hosts('gpu')")
    if "count" in options:
        reading.fault("count goes with roles and not with names, each of which is one host", "count=")
        del options["count"]
    for name, role in named.items():
        if any(name == other.options.get("label") for other in reading.wishes.hosts):
            reading.fault(f"{name!r} is the name of another host of this test", f"{name}=")
        wanted = Wanted(mark, role, name, {**options, "label": name, "family": family})
        reading.wishes.hosts.append(wanted)


def _each(reading: _Reading) -> None:
    options = reading.only(("where",))
    roles = reading.roles()
    if len(reading.mark.args) != 1:
        reading.fault("one role is wanted, as in ec_each('gpu')")
    elif roles:
        reading.wishes.each = Wanted(reading.mark, roles[0][1], 0, options)


def _flag(reading: _Reading) -> None:
    reading.only(())
    if reading.mark.args:
        reading.fault("it takes no arguments", 0)
    setattr(reading.wishes, reading.mark.name.removeprefix("ec_"), True)


def _locks(reading: _Reading) -> None:
    reading.only(())
    if not reading.mark.args:
        reading.fault("the name of a lock is wanted, as in ec_lock('fabric-A')")
    for index, name in enumerate(reading.mark.args):
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name):
            reading.fault(f"{name!r} is no name of a lock (letters, digits, '.', '-' and '_')", index)
        elif name not in reading.wishes.locks:
            reading.wishes.locks.append(name)


def _devices(reading: _Reading) -> None:
    if reading.mark.args or not reading.mark.kwargs:
        reading.fault("say how many of which kind, as in ec_devices(gpu=1)")
    for kind, count in reading.mark.kwargs.items():
        if isinstance(count, int) and not isinstance(count, bool) and count > 0:
            reading.wishes.devices[kind] = count
        else:
            reading.fault(f"{kind} is {count!r}; a number of 1 or more is wanted", kind)


def _emulated(reading: _Reading) -> None:
    reading.only(())
    args = reading.mark.args
    if len(args) > 1 or not all(isinstance(one, bool) for one in args):
        reading.fault("write ec_emulated, or ec_emulated(False) for a test that needs the real thing", 0)
    else:
        reading.wishes.emulated = args[0] if args else True


def _timeouts(reading: _Reading) -> None:
    if reading.mark.args or not reading.mark.kwargs:
        reading.fault("say what is limited, as in ec_timeout(test='1h', call='5m')")
    for name, value in reading.only(TIMEOUTS).items():
        seconds = _seconds(value)
        if seconds is None:
            reading.fault(
                f"{name} is {value!r}; a span of time is wanted, such as 30, '500ms', '10s', '5m' or '1h'", name
            )
        else:
            reading.wishes.timeouts[name] = seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if 0 < value < float("inf") else None
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    return seconds or None


_READERS: dict[str, Callable[[_Reading], None]] = {
    "ec_hosts": _hosts,
    "ec_each": _each,
    "ec_shared": _flag,
    "ec_destructive": _flag,
    "ec_devices": _devices,
    "ec_emulated": _emulated,
    "ec_lock": _locks,
    "ec_timeout": _timeouts,
}


def close_to(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """``did you mean 'count'?``, or ``""`` when nothing is close."""
    import difflib  # when something is wrong only

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"did you mean {close[0]!r}?" if close else ""
