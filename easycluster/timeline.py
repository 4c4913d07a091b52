"""Timelines: what happened on several hosts, in the order in which it happened.

Events come from calls, output, logs, kernels and phases of tests, with times that were corrected for the offsets of the
hosts' clocks.  A timeline is plain data: it can be kept as JSON, merged with others, cut down and printed::

    timeline = Timeline.from_plain(report.ec_evidence)
    print(timeline.only(hosts=["gpu01"], kinds=["call", "kernel"]).table(30))
"""

from __future__ import annotations

import heapq
import time as clock
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

__all__ = ["KINDS", "Event", "Timeline"]

KINDS: Final = ("call", "output", "log", "kernel", "phase", "artifact")
"""What kinds of events EasyCluster makes; others may be added."""

_WIDEST: Final = 100
# Kinds of which there are many by nature.
_LINES: Final = frozenset({"output", "log", "kernel"})


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        time: When it began, in seconds since 1970 by the controller's clock.
        host: Where, by the name of the lab file; ``""`` is the controller.
        kind: One of :data:`KINDS`, or a word of one's own.
        text: What; one line, or several.
        duration: How long it took, in seconds; None if it is a moment, or had not ended.
        level: ``"error"``, ``"warning"``, ``"info"`` or the like, None if it has none.
        data: What else there is to say, as plain values.
    """

    time: float
    host: str
    kind: str
    text: str
    duration: float | None = None
    level: str | None = None
    data: Any = None

    @property
    def end(self) -> float:
        """When it ended."""
        return self.time + (self.duration or 0.0)

    def to_plain(self) -> list[Any]:
        """The event as a list of plain values; ``data`` only if there is some."""
        plain = [self.time, self.host, self.kind, self.duration, self.text, self.level]
        return plain if self.data is None else [*plain, self.data]

    @classmethod
    def from_plain(cls, plain: Iterable[Any]) -> Event:
        """The event that :meth:`to_plain` made a list of.

        Raises:
            ValueError: If it is no such list.
        """
        try:
            when, host, kind, duration, text, level, *rest = plain
            span = None if duration is None else float(duration)
            return cls(float(when), str(host), str(kind), str(text), span, level, rest[0] if rest else None)
        except (TypeError, ValueError):
            text = "an event is a list of time, host, kind, duration, text and level"
            raise ValueError(f"{text}, not {plain!r:.200}") from None


class Timeline:
    """Events in the order of their times; of equal ones, in the order in which they were given.

    Args:
        events: The events, in any order.
        clocks: By host, ``offset`` and ``error`` of its clock in seconds, as they were measured; times of events are
            corrected already, and no better than ``error``.
    """

    def __init__(self, events: Iterable[Event] = (), clocks: Mapping[str, Mapping[str, float]] | None = None) -> None:
        self.events: list[Event] = sorted(events, key=_time)
        self.clocks: dict[str, dict[str, float]] = {name: dict(one) for name, one in (clocks or {}).items()}

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __repr__(self) -> str:
        return f"<Timeline of {len(self)} events on {len(self.hosts)} hosts>"

    @property
    def hosts(self) -> list[str]:
        """The hosts that something happened on, in order of their first event."""
        return list(dict.fromkeys(event.host for event in self.events))

    @property
    def error(self) -> float:
        """How wrong the order of events of two hosts may be, in seconds."""
        worst = sorted((clock.get("error", 0.0) for clock in self.clocks.values()), reverse=True)
        return sum(worst[:2])

    def merged(self, *others: Timeline) -> Timeline:
        """This one and others in one."""
        result = Timeline(clocks=self.clocks)
        result.events = list(heapq.merge(self.events, *(other.events for other in others), key=_time))
        for other in others:
            result.clocks.update({name: dict(one) for name, one in other.clocks.items()})
        return result

    def only(
        self,
        *,
        hosts: Collection[str] | None = None,
        kinds: Collection[str] | None = None,
        levels: Collection[str] | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Timeline:
        """The events that fit all that is asked for.

        Args:
            hosts: Names of hosts.
            kinds: Kinds of events.
            levels: Levels; events without one do not fit.
            since: Those that had not ended by then.
            until: Those that had begun by then.
        """
        found = [
            event
            for event in self.events
            if (hosts is None or event.host in hosts)
            and (kinds is None or event.kind in kinds)
            and (levels is None or event.level in levels)
            and (since is None or event.end >= since)
            and (until is None or event.time <= until)
        ]
        return Timeline(found, self.clocks)

    def last(self, count: int, before: float | None = None) -> Timeline:
        """The last events, of those that began before a moment if one is given."""
        events = self.events if before is None else [event for event in self.events if event.time <= before]
        return Timeline(events[-count:] if count > 0 else (), self.clocks)

    def folded(self, most: int = 6) -> Timeline:
        """The timeline with long runs of output, log and kernel lines cut: a traceback must not hide the calls.

        Args:
            most: Lines of one kind and host that may follow each other; of more, the first ones and the last one stay.
        """
        result = Timeline(clocks=self.clocks)
        run: list[Event] = []

        def end() -> None:
            if len(run) > most > 2:
                between = run[most - 2 : -1]
                text = f"... {len(between)} more lines ..."
                middle = Event(between[0].time, run[0].host, run[0].kind, text)
                result.events.extend([*run[: most - 2], middle, run[-1]])
            else:
                result.events.extend(run)
            run.clear()

        for event in self.events:
            if run and (event.host, event.kind) != (run[0].host, run[0].kind):
                end()
            if event.kind in _LINES:
                run.append(event)
            else:
                result.events.append(event)
        end()
        return result

    def to_plain(self) -> dict[str, Any]:
        """The timeline as plain values, for JSON: ``events`` and ``clocks``."""
        return {"events": [event.to_plain() for event in self.events], "clocks": self.clocks}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Timeline:
        """The timeline in a dictionary with ``events`` and ``clocks``, such as a report's ``ec_evidence``.

        Raises:
            ValueError: If an event is none.
        """
        return cls(map(Event.from_plain, plain.get("events", ())), plain.get("clocks"))

    def table(self, lines: int | None = None, *, width: int = _WIDEST) -> str:
        """The events as a table, one line each: time, host, kind, how long, what.

        Args:
            lines: Only the last so many; a line on top says how many there were before.
            width: Texts are cut to so many characters.
        """
        events = self.events if lines is None else self.events[-lines:] if lines > 0 else []
        rows = [(_clock_text(one.time), one.host or "-", one.kind, _span(one), _line(one, width)) for one in events]
        widths = [max((len(row[at]) for row in rows), default=0) for at in range(4)]
        texts = [
            f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]}"
            for row in rows
        ]
        left_out = len(self.events) - len(events)
        if left_out:
            texts.insert(0, f"({left_out} earlier events)")
        return "\n".join(text.rstrip() for text in texts)


def _time(event: Event) -> float:
    return event.time


def _clock_text(moment: float) -> str:
    try:
        parts = clock.localtime(moment)
    except (ValueError, OverflowError, OSError):
        return f"{moment:.3f}"
    return f"{clock.strftime('%H:%M:%S', parts)}.{int(moment % 1 * 1000):03d}"


def _span(event: Event) -> str:
    span = event.duration
    if span is None:
        return ""
    return f"{span:.1f} s" if span >= 1 else f"{span * 1000:.1f} ms"


def _line(event: Event, width: int) -> str:
    first, *rest = event.text.splitlines() or [""]
    text = "".join(one if one == " " or unicodedata.category(one)[0] not in "CZ" else "?" for one in first)
    if event.level in ("error", "critical", "warning"):
        text = f"{event.level.upper()}: {text}"
    if rest:
        text += f" (+{len(rest)} lines)"
    return text if len(text) <= width else text[: width - 3] + "..."
