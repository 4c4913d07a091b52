"""Chaos: faults of real connections on purpose, in the middle of a run, to see what a suite makes of them.

``gpu02:drop@call=3,san1:freeze=20s@test=test_raid`` is a list of faults::

    WHERE:FAULT[=VALUE][@WHEN=VALUE]...

    WHERE    what names hosts elsewhere, too: a host, role, group, tag, range or glob; * is every host
    FAULT    drop            the link is cut; drop=30s: and nobody can connect for so long
             kill, crash     the process that runs the calls is killed, or ends with a segmentation fault
             freeze=20s      that process is stopped for so long
             slow=2s         each call waits so long first, until the test ends
             reboot          the host restarts, and nobody had asked for it
    WHEN     call=N          at the Nth call to these hosts; with test=, of that test
             test=NAME, N    in tests of that name (a glob), or in the Nth test
             time=20s        so long after the first test began
             random=0.05     at each call with that probability

Without a WHEN it is the first call.  Several are to hold at once.  A fault comes once, unless it is random.
"""

from __future__ import annotations

import fnmatch
import random
import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from easycluster.client.observing import unobserved
from easycluster.errors import ConnectError, EasyClusterError
from easycluster.lab.chaosfaults import FAULTS, begin_fault
from easycluster.lab.patterns import PatternError, matching
from easycluster.lab.positions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from easycluster.client.observers import Answer, Call, Outcome
    from easycluster.lab.dial import Client, TakeOutput
    from easycluster.lab.host import Host
    from easycluster.lab.inventory import HostEntry, Inventory
    from easycluster.lab.lab import Lab

__all__ = ["Chaos", "ChaosError", "Firing", "PlannedFault", "read_chaos"]

WHENS: Final = ("call", "test", "time", "random")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?\Z")
_UNITS: Final = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0}


class ChaosError(EasyClusterError, ValueError):
    """A list of faults cannot be understood.

    Attributes:
        text: All of it.
        position: Where the fault is, from 0.
        width: How many characters are at fault.
    """

    def __init__(self, problem: str, text: str = "", position: int = 0, width: int = 1) -> None:
        super().__init__(problem)
        self.text = text
        self.position = position
        self.width = width

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.text, self.position, self.width)


@dataclass(frozen=True)
class PlannedFault:
    """One fault of a list.

    Attributes:
        text: As it is written.
        hosts: Names of the hosts that it may hit.
        what: ``drop``, ``kill`` ...
        span: Its seconds, None if it has none.
        call: At which call, None if it does not matter.
        test: In which tests, by glob or number, ``""`` if in any.
        after: Seconds since the first test, None if it does not matter.
        chance: Probability at each call, None if it comes for sure.
    """

    text: str
    hosts: frozenset[str]
    what: str
    span: float | None = None
    call: int | None = None
    test: str = ""
    after: float | None = None
    chance: float | None = None


def read_chaos(text: str, inventory: Inventory) -> list[PlannedFault]:
    """Read a list of faults.

    Args:
        text: The list.
        inventory: The lab, which has the names.

    Raises:
        ChaosError: If something of it cannot be understood; it says where.
    """
    found, start = [], 0
    for part in [*_split(text, ","), ""]:
        if part.strip():
            found.append(_Reader(text, start + len(part) - len(part.lstrip()), part.strip(), inventory).read())
        start += len(part) + 1
    if not found:
        raise ChaosError("no fault is given; write  gpu02:drop@call=3", text)
    return found


def _split(text: str, separator: str) -> list[str]:
    """Split where the separator is not within brackets."""
    parts, depth = [""], 0
    for char in text:
        depth += (char == "[") - (char == "]" and depth > 0)
        if char == separator and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return parts


class _Reader:
    """Reads one fault, knowing where in the whole text it stands."""

    def __init__(self, text: str, start: int, part: str, inventory: Inventory) -> None:
        self._text, self._start, self._part, self._inventory = text, start, part, inventory

    def _wrong(self, problem: str, at: int, word: str) -> ChaosError:
        return ChaosError(problem, self._text, self._start + at, max(1, len(word)))

    def read(self) -> PlannedFault:
        where, *rest = _split(self._part, ":")
        if not rest:
            raise self._wrong(
                f"{where!r} names no fault; write  {where}:drop  or another of {_listed(FAULTS)}", 0, where
            )
        try:
            hosts = matching(self._inventory, where)
        except PatternError as exc:
            raise self._wrong(str(exc), 0, where) from None
        at = len(where) + 1
        first, *conditions = self._part[at:].split("@")
        what, _, value = first.partition("=")
        if what not in FAULTS:
            hint = did_you_mean(what, list(FAULTS)) or f"known: {_listed(FAULTS)}"
            raise self._wrong(f"there is no fault {what!r}; {hint}", at, what)
        span = self._span(value, at + len(what) + 1) if value else None
        if FAULTS[what] == "needed" and span is None:
            raise self._wrong(f"{what} takes how long; write  {what}=20s", at, first)
        if FAULTS[what] == "none" and "=" in first:
            raise self._wrong(f"{what} takes no value", at + len(what), f"={value}")
        said: dict[str, float | int | str] = {}
        at += len(first)
        for condition in conditions:
            self._condition(condition, at + 1, said)
            at += 1 + len(condition)
        if not said:
            said["call"] = 1
        return PlannedFault(self._part, frozenset(hosts), what, span, **said)  # type: ignore[arg-type]  # as read

    def _condition(self, text: str, at: int, said: dict[str, float | int | str]) -> None:
        name, equals, value = text.partition("=")
        if name not in WHENS:
            hint = did_you_mean(name, WHENS) or f"known: {_listed(WHENS)}"
            raise self._wrong(f"there is no condition {name!r}; {hint}", at, name)
        key = {"time": "after", "random": "chance"}.get(name, name)
        if key in said:
            raise self._wrong(f"{name} is given twice", at, text)
        begin = at + len(name) + 1
        if not equals or not value:
            raise self._wrong(f"{name} lacks its value; write  @{name}={_EXAMPLES[name]}", at, text)
        if name == "test":
            said[key] = value
        elif name == "call":
            if not value.isdecimal() or not int(value):
                raise self._wrong(f"{value!r} is no number of a call, which count from 1", begin, value)
            said[key] = int(value)
        elif name == "time":
            said[key] = self._span(value, begin)
        else:
            try:
                chance = float(value)
            except ValueError:
                chance = -1.0
            if not 0.0 < chance <= 1.0:
                raise self._wrong(f"{value!r} is no probability; write one above 0, up to 1", begin, value)
            said[key] = chance

    def _span(self, text: str, at: int) -> float:
        match = _SPAN.match(text)
        if match is None:
            raise self._wrong(f"{text!r} is no span of time; write 500ms, 20s or 5m", at, text)
        return float(match.group(1)) * _UNITS[match.group(2)]


_EXAMPLES: Final = {"call": "3", "test": "test_raid", "time": "20s", "random": "0.05"}


def _listed(words: object) -> str:
    return ", ".join(words)  # type: ignore[arg-type]  # texts


@dataclass
class Firing:
    """A fault that came.

    Attributes:
        fault: As it is written.
        what: Its kind.
        host: Whom it hit.
        call: At which call, ``""`` if between calls.
        number: Which call to these hosts that was, 0 if between calls.
        test: In which test, ``""`` if in none.
        after: Seconds since the first test.
        problem: Why it could not be done, ``""`` if it was.
    """

    fault: str
    what: str
    host: str
    call: str
    number: int
    test: str
    after: float
    problem: str = ""


@dataclass
class _Count:
    """Calls to the hosts of one fault."""

    calls: int = 0
    in_test: int = 0


@dataclass
class _Test:
    """The test that runs."""

    nodeid: str = ""
    names: tuple[str, ...] = ()
    number: int = 0
    slow: dict[str, float] = field(default_factory=dict)


class Chaos:
    """Lets faults come, as an observer of all calls of a lab.

    Args:
        lab: The lab.
        faults: Which.
        seed: What decides for random faults, together with test and call: the same test meets the same faults again.
        claim: Asked before a fault comes that comes once, with its number; False if another process has had it.
    """

    def __init__(
        self, lab: Lab, faults: list[PlannedFault], seed: int = 0, claim: Callable[[int], bool] = lambda number: True
    ) -> None:
        self._lab = lab
        self.faults = faults
        self._seed = seed
        self._claim = claim
        self._counts = [_Count() for _ in faults]
        self._done: set[int] = set()
        self._test = _Test()
        self._began = 0.0
        self._lock = threading.Lock()
        self._fired: list[Firing] = []
        self._closed = threading.Event()
        self._leave = lab.observe(self)
        # Until when nobody can connect, by host, on the monotonic clock.
        self._off: dict[str, float] = {}
        self._dialers = {name: host._connection._dialer for name, host in lab._every.items()}
        for host in lab._every.values():
            host._connection._dialer = self._dial

    def close(self) -> None:
        """Let no more faults come; those that last are over."""
        self._closed.set()
        self._leave()
        for name, dialer in self._dialers.items():
            self._lab._every[name]._connection._dialer = dialer

    def _dial(self, entry: HostEntry, definitions: Sequence[str], take_output: TakeOutput) -> Client:
        """Connect, unless the link is to stay cut."""
        if time.monotonic() < self._off.get(entry.name, 0.0):
            raise ConnectError(f"{entry.name}: the link is cut, by --ec-chaos", entry.name)
        return self._dialers[entry.name](entry, definitions, take_output)

    def begin_test(self, nodeid: str, names: tuple[str, ...]) -> None:
        """A test begins; ``names`` are those by which it may be meant."""
        if not self._began:
            self._began = time.monotonic()
            if any(fault.after is not None for fault in self.faults):
                threading.Thread(target=self._watch, name="easycluster-chaos", daemon=True).start()
        self._test = _Test(nodeid, names, self._test.number + 1)
        for count in self._counts:
            count.in_test = 0

    def end_test(self) -> None:
        """It has ended."""
        self._test = _Test(number=self._test.number)

    def take_fired(self) -> list[Firing]:
        """What came since the last time."""
        with self._lock:
            taken, self._fired = self._fired, []
        return taken

    # The observer ----------------------------------------------------------------------------------

    def begins(self, call: Call) -> Answer | None:
        """See Observer."""
        for number, fault in enumerate(self.faults):
            if call.host in fault.hosts and self._is_due(number, fault, call.host):
                self._fire(number, fault, self._lab._every[call.host], call.name)
        delay = self._test.slow.get(call.host, 0.0)
        if delay:
            self._closed.wait(delay)
        return None

    def ended(self, call: Call, outcome: Outcome) -> None:
        """See Observer."""

    def _is_due(self, number: int, fault: PlannedFault, host: str) -> bool:
        test = self._test
        with self._lock:
            count = self._counts[number]
            count.calls += 1
            count.in_test += 1
            if number in self._done or not self._is_meant(fault.test):
                return False
            if fault.call is not None and fault.call != (count.in_test if fault.test else count.calls):
                return False
            if fault.after is not None and time.monotonic() - self._began < fault.after:
                return False
            if fault.chance is not None:
                return random.Random(f"{self._seed} {number} {test.nodeid} {count.in_test}").random() < fault.chance
            self._done.add(number)
        return self._claim(number)

    def _is_meant(self, wanted: str) -> bool:
        if not wanted:
            return True
        if wanted.isdecimal():
            return int(wanted) == self._test.number
        return any(fnmatch.fnmatchcase(name, wanted) for name in self._test.names)

    def _fire(self, number: int, fault: PlannedFault, host: Host, call: str = "") -> None:
        count = self._counts[number]
        position = (count.in_test if fault.test else count.calls) if call else 0
        after = time.monotonic() - self._began if self._began else 0.0
        firing = Firing(fault.text, fault.what, host.name, call, position, self._test.nodeid, after)
        try:
            if fault.what == "slow":
                self._test.slow[host.name] = fault.span or 0.0
            else:
                if fault.what == "drop" and fault.span:
                    self._off[host.name] = time.monotonic() + fault.span
                with unobserved():
                    begin_fault(host, fault.what, fault.span or 0.0)
        except (EasyClusterError, OSError) as exc:
            firing.problem = self._lab.inventory.mask(str(exc))
        with self._lock:
            self._fired.append(firing)

    def _watch(self) -> None:
        """Let faults come in the middle of calls when their time has come; in a thread of its own."""
        waiting = [(fault.after, number) for number, fault in enumerate(self.faults) if fault.after is not None]
        for after, number in sorted(waiting):
            if self._closed.wait(max(0.0, self._began + after - time.monotonic())):
                return
            fault = self.faults[number]
            if fault.call is not None or fault.chance is not None:
                continue  # the call decides
            hosts = [call.host for call in self._lab.calls_in_progress() if call.host in fault.hosts]
            with self._lock:
                if not hosts or number in self._done or not self._is_meant(fault.test):
                    continue  # it comes with the next call
                self._done.add(number)
            if self._claim(number):
                call = next(call.call for call in self._lab.calls_in_progress() if call.host == hosts[0])
                self._fire(number, fault, self._lab._every[hosts[0]], call)
