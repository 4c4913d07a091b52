"""What was seen on the hosts of a test, as it hangs on a report: ``ec_evidence``, plain values of JSON.

It was in other processes and on other machines before, so it is read with care: what is not of the shape is left out
and counted, and nothing is longer than a page can bear.

    {"hosts": {name: {"role": text, "label": text}},
     "events": [[time, host, kind, duration or null, text, level or null], ...],
     "series": {host: {metric: {"unit": text, "points": [[time, value], ...]}}},
     "clocks": {host: {"offset": seconds, "error": seconds}},
     "artifacts": [{"host": ..., "name": ..., "path": ..., "size": bytes, "why": text}, ...],
     "artifacts_dir": text}

Times are seconds since 1970 on the clock of the controller; paths of artifacts are relative to their folder.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ATTRIBUTE: Final = "ec_evidence"

KINDS: Final = ("call", "output", "log", "kernel", "phase", "artifact")

# On the page; a trace has all.
MOST_EVENTS: Final = 2000
MOST_POINTS: Final = 400
LONGEST_TEXT: Final = 2000

# Words of syslog, as logging has them; others are made upper case.
_LEVELS: Final = {
    "ERR": "ERROR",
    "WARN": "WARNING",
    "CRIT": "CRITICAL",
    "ALERT": "CRITICAL",
    "EMERG": "CRITICAL",
    "EMERGENCY": "CRITICAL",
    "FATAL": "CRITICAL",
    "PANIC": "CRITICAL",
}

_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class Event(NamedTuple):
    """Something that happened.

    Attributes:
        time: Seconds since 1970.
        host: Where; ``""`` for the run itself.
        kind: One of :data:`KINDS`.
        duration: Seconds, None for a moment, and for a call that had not ended.
        text: What.
        level: Of a log: ``ERROR``, ``WARNING`` ...; of a call ``ERROR`` if it raised; of output ``STDERR``.
    """

    time: float
    host: str
    kind: str
    duration: float | None
    text: str
    level: str | None


class Series(NamedTuple):
    """One counter of one host."""

    host: str
    metric: str
    unit: str
    points: list[tuple[float, float]]


class Artifact(NamedTuple):
    """A file that was brought here; ``path`` is relative to the folder of artifacts, ``""`` if it was not kept."""

    host: str
    name: str
    path: str
    size: int
    why: str


@dataclass
class Evidence:
    """All of one test.

    Attributes:
        hosts: Role and label by name of the host.
        events: In the order of time.
        series: Counters.
        clocks: By host, how far its clock is ahead, and how well that is known; seconds.
        artifacts: Files.
        folder: Where they are, ``""`` if that is not said.
        bad: How many parts were not of the shape.
    """

    hosts: dict[str, tuple[str, str]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    clocks: dict[str, tuple[float, float]] = field(default_factory=dict)
    artifacts: list[Artifact] = field(default_factory=list)
    folder: str = ""
    bad: int = 0


def readable(text: str) -> str:
    """Text without what a terminal would carry out; other control characters become their pictures."""
    text = _ESCAPES.sub("", text.replace("\r\n", "\n"))
    return _CONTROLS.sub(lambda found: "\u2421" if found[0] == "\x7f" else chr(0x2400 + ord(found[0])), text)


def shortened(text: str, most: int) -> str:
    """The beginning and the end of a text that is longer than ``most`` characters."""
    if len(text) <= most:
        return text
    head, tail = most // 3, most - most // 3
    left_out = len(text) - head - tail
    return f"{text[:head]}\n[... {left_out} characters are left out here ...]\n{text[-tail:]}"


def read(given: object, mask: Callable[[str], str] = str) -> Evidence:
    """Read what hangs on a report.

    Args:
        given: Whatever it is.
        mask: Replaces secrets in a text.
    """
    evidence = Evidence()
    if not isinstance(given, dict):
        evidence.bad = int(given is not None)
        return evidence

    def clean(value: object) -> str:
        return readable(mask(str(value if value is not None else "")))

    for host, about in _items(given, "hosts", evidence):
        known = about if isinstance(about, dict) else {}
        evidence.hosts[clean(host)] = clean(known.get("role")), clean(known.get("label"))
    for one in _list(given, "events", evidence):
        event = _event(one, clean)
        if event is None:
            evidence.bad += 1
        else:
            evidence.events.append(event)
    evidence.events.sort(key=lambda event: event.time)
    for host, metrics in _items(given, "series", evidence):
        for metric, about in _items({"": metrics}, "", evidence):
            series = _series(clean(host), clean(metric), about, clean)
            if series is None:
                evidence.bad += 1
            else:
                evidence.series.append(series)
    for host, about in _items(given, "clocks", evidence):
        numbers = [_number(about.get(key)) for key in ("offset", "error")] if isinstance(about, dict) else [None]
        if None in numbers:
            evidence.bad += 1
        else:
            evidence.clocks[clean(host)] = numbers[0] or 0.0, numbers[1] or 0.0
    folder = given.get("artifacts_dir")
    evidence.folder = folder if isinstance(folder, str) and "\0" not in folder else ""
    for one in _list(given, "artifacts", evidence):
        if isinstance(one, dict) and (one.get("path") or one.get("name")):
            size = _number(one.get("size")) or 0
            words = [clean(one.get(key)) for key in ("host", "name", "path", "why")]
            evidence.artifacts.append(Artifact(words[0], words[1] or words[2], words[2], int(size), words[3]))
        else:
            evidence.bad += 1
    return evidence


def _items(given: dict[str, Any], key: str, evidence: Evidence) -> Iterator[tuple[Any, Any]]:
    value = given.get(key)
    if isinstance(value, dict):
        yield from value.items()
    else:
        evidence.bad += value is not None


def _list(given: dict[str, Any], key: str, evidence: Evidence) -> list[Any]:
    value = given.get(key)
    if isinstance(value, (list, tuple)):
        return list(value)
    evidence.bad += value is not None
    return []


def _number(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value) if math.isfinite(value) else None
        except OverflowError:
            return None
    return None


def _event(one: object, clean: Callable[[object], str]) -> Event | None:
    if not isinstance(one, (list, tuple)) or len(one) < 5:
        return None
    time, duration = _number(one[0]), _number(one[3])
    if time is None or one[2] not in KINDS or (one[3] is not None and duration is None):
        return None
    level = one[5] if len(one) > 5 else None
    text = shortened(clean(one[4]), LONGEST_TEXT)
    level = None if level is None else clean(level).upper()
    return Event(time, clean(one[1]), str(one[2]), duration, text, _LEVELS.get(level or "", level))


def _series(host: str, metric: str, about: object, clean: Callable[[object], str]) -> Series | None:
    points = about.get("points") if isinstance(about, dict) else None
    if not isinstance(about, dict) or not isinstance(points, (list, tuple)):
        return None
    kept = []
    for point in points:
        if isinstance(point, (list, tuple)) and len(point) == 2:
            time, value = _number(point[0]), _number(point[1])
            # A counter that could not be read is a gap and no fault.
            if time is not None and value is not None:
                kept.append((time, value))
    kept.sort()
    return Series(host, metric, clean(about.get("unit")), kept)


def thinned(points: list[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most so many points of a series, with every peak: the lowest and the highest of each stretch."""
    if len(points) <= most:
        return points
    stretches = max(1, most // 2)
    found: list[tuple[float, float]] = []
    for number in range(stretches):
        part = points[number * len(points) // stretches : (number + 1) * len(points) // stretches]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        found += sorted(ends)
    return found


def few(events: list[Event], most: int = MOST_EVENTS) -> list[Event]:
    """At most so many events, of each kind its share: what says that something is wrong, then the first and the last.

    Thousands of lines of a kernel or a log are not to leave no room for the calls.
    """
    if len(events) <= most:
        return events
    kinds: dict[str, list[int]] = {}
    for at, event in enumerate(events):
        kinds.setdefault(event.kind, []).append(at)
    kept: list[int] = []
    # The smallest first: what a kind does not need is for those that come after it.
    for done, places in enumerate(sorted(kinds.values(), key=len)):
        share = (most - len(kept)) // (len(kinds) - done)
        ranked = sorted((_rank(events[at]), min(n, len(places) - n), at) for n, at in enumerate(places))
        kept += [at for _rank, _edge, at in ranked[:share]]
    return [events[at] for at in sorted(kept)]


def _rank(event: Event) -> int:
    return ("CRITICAL", "ERROR", "WARNING").index(event.level) if event.level in ("CRITICAL", "ERROR", "WARNING") else 3
