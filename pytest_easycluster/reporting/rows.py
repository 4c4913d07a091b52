"""What the page is given: a row for each test, and its details, which the browser reads when the test is opened.

Both are plain values of JSON, with times in milliseconds.  A row is a list, as there are thousands::

    [test, word, start, duration, [host, word, host, word, ...], message, worker, attempts]

Words and hosts are numbers there: places in the lists ``words`` and ``hosts`` of the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_easycluster.reporting import evidence
from pytest_easycluster.reporting.records import USED, WORDS, Attempt, Record, kept_sections
from pytest_easycluster.reporting.targets import link

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Row:
    """What the list of tests shows of one.

    Attributes:
        test: Its node id.
        word: Its verdict.
        start: Seconds since 1970, 0 if it did not begin.
        duration: Seconds.
        hosts: The verdict on each of its hosts.
        message: What went wrong, in one line.
        worker: Of pytest-xdist.
        attempts: How often it was run.
        seen: Role and label of its hosts, as what was seen there says.
        clocks: How far the clock of each host was ahead, and how well that is known; seconds.
    """

    test: str
    word: str
    start: float
    duration: float
    hosts: dict[str, str]
    message: str
    worker: str
    attempts: int
    seen: dict[str, tuple[str, str]]
    clocks: dict[str, tuple[float, float]]


def row(record: Record) -> Row:
    """The row of a test."""
    seen = record.seen
    return Row(
        record.test,
        record.word,
        record.start,
        record.duration,
        record.hosts(),
        record.message,
        record.worker,
        len(record.attempts),
        seen.hosts,
        seen.clocks,
    )


def packed(one: Row, started: float, hosts: dict[str, int], words: Sequence[str] = (*WORDS, USED)) -> list[Any]:
    """A row as the page has it."""
    marks = [number for host, word in one.hosts.items() for number in (hosts[host], words.index(word))]
    start = _ms(one.start - started) if one.start else None
    return [
        one.test,
        words.index(one.word),
        start,
        _ms(one.duration),
        marks,
        one.message,
        one.worker,
        one.attempts,
    ]


def details(record: Record, to_file: Callable[[evidence.Artifact], str]) -> dict[str, Any]:
    """What the page shows of a test that is opened.

    Args:
        record: The test.
        to_file: The address of an artifact, ``""`` if there is none.
    """
    seen = record.seen
    events = evidence.few(seen.events)
    begin = beginning(record)
    hosts = list(dict.fromkeys([*record.hosts(), *(e.host for e in events), *(s.host for s in seen.series)]))
    hosts = [host for host in hosts if host]
    number = {host: at for at, host in enumerate(hosts)}
    return {
        "begin": begin,
        "start": _ms(record.start - begin) if record.start else 0,
        "again": record.again,
        "attempts": [_attempt(one, begin) for one in record.attempts],
        "hosts": hosts,
        "roles": [seen.hosts.get(host, ("", ""))[0] for host in hosts],
        "events": [
            [
                _ms(one.time - begin),
                number.get(one.host, -1),
                one.kind,
                None if one.duration is None else _ms(one.duration),
                one.text,
                one.level,
            ]
            for one in events
        ],
        "left_out": len(seen.events) - len(events),
        "unread": seen.bad,
        "series": [
            {
                "host": number[one.host],
                "metric": one.metric,
                "unit": one.unit,
                "points": [[_ms(time - begin), _short(value)] for time, value in evidence.thinned(one.points)],
            }
            for one in seen.series
            if one.points and one.host in number
        ],
        "clocks": {host: [_ms(offset), _ms(error)] for host, (offset, error) in seen.clocks.items()},
        "artifacts": [[one.host, one.name, to_file(one), one.size, one.why] for one in seen.artifacts],
        "properties": [list(pair) for pair in record.properties],
    }


def beginning(record: Record) -> float:
    """What times in a test are counted from: its first phase, or what was seen before."""
    seen = record.seen
    times = [record.start, *(event.time for event in seen.events[:1])]
    times += [one.points[0][0] for one in seen.series if one.points]
    return min((time for time in times if time), default=0.0)


def _attempt(attempt: Attempt, begin: float) -> dict[str, Any]:
    return {
        "word": attempt.word,
        "phases": [
            {
                "when": phase.when,
                "word": phase.word,
                "start": _ms(phase.start - begin) if phase.start else None,
                "duration": _ms(phase.duration),
                "text": phase.text,
                "faults": [list(fault) for fault in phase.faults],
                "on": phase.on,
            }
            for phase in attempt.phases
        ],
        "subtests": [[one.when, one.word, one.text] for one in attempt.subtests],
        "sections": [list(section) for section in kept_sections(attempt)],
    }


def address_of(folder: str, page: Path) -> Callable[[evidence.Artifact], str]:
    """What finds the addresses of artifacts.

    Args:
        folder: Where they are, ``""`` if nobody knows.
        page: From where.
    """

    def to_file(artifact: evidence.Artifact) -> str:
        if not folder or not artifact.path:
            return ""
        # A name from another machine, which is not to lead anywhere else.
        target = Path(folder) / artifact.path
        inside = ".." not in target.parts and not artifact.path.startswith(("/", "\\")) and ":" not in artifact.path[:3]
        return link(target, page.parent) if inside else ""

    return to_file


def _ms(seconds: float) -> float:
    value = round(seconds * 1000, 3)
    return int(value) if value == int(value) else value


def _short(value: float) -> float:
    """A number of a counter in as many digits as anybody can see."""
    short = float(f"{value:.6g}")
    return int(short) if short == int(short) else short
