"""What happens on a lab's hosts while a test runs, noted as it happens: calls, output, log records.

Little is done while it happens: texts are made when somebody asks for the events.  What a test does a million times
is kept as far as there is room, the last of it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from easycluster.link.operations import Op
from easycluster.timeline import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from easycluster.client.observers import Call, Outcome
    from easycluster.lab.lab import Lab
    from easycluster.lab.recorder import ClockTrack

__all__ = ["Watch"]

MOST_CALLS: Final = 4000
MOST_PIECES: Final = 4000
MOST_RECORDS: Final = 2000
MOST_NOTES: Final = 500
# Characters of one piece of output, of a value and of an error.
LONGEST: Final = 4000
SHORT: Final = 60
SHOWN: Final = 300
# Arguments of one call.
MOST_SHOWN: Final = 8

# Of put() and get(): their first step stands for them.
_STEPS: Final = frozenset({"put_chunk", "put_end", "get_chunk", "get_end"})
_PLAIN: Final = frozenset({int, float, bool, type(None)})


class Watch:
    """Notes what happens from :meth:`begin` on, on all hosts of a lab.

    Args:
        lab: The lab.
    """

    def __init__(self, lab: Lab) -> None:
        self._open: dict[int, Call] = {}
        self._calls: deque[tuple[float, str, Any, float | None, str | None]] = deque(maxlen=MOST_CALLS)
        self._pieces: deque[tuple[float, str, str, str]] = deque(maxlen=MOST_PIECES)
        self._records: deque[tuple[float, str, str, str]] = deque(maxlen=MOST_RECORDS)
        self._notes: deque[tuple[float, str, str]] = deque(maxlen=MOST_NOTES)
        self._handler = _Handler(self._records)
        # Everything that was noted, also what had no room.
        self.touched: set[str] = set()
        self._leave = [lab.observe(self)]
        for host in lab._every.values():
            self._leave.append(host._connection.listen(self._take_output))

    def close(self) -> None:
        """Note nothing more."""
        self.log(False)
        for leave in self._leave:
            leave()
        self._leave.clear()

    def begin(self) -> None:
        """Forget what was before; calls that have not ended stay."""
        for notes in (self._calls, self._pieces, self._records, self._notes):
            notes.clear()
        self.touched = {call.host for call in list(self._open.values())}

    def log(self, on: bool) -> None:
        """Note records of ``logging``, or no more: only while a test runs are they its own."""
        root = logging.getLogger()
        if on and self._handler not in root.handlers:
            root.addHandler(self._handler)
        elif not on:
            root.removeHandler(self._handler)

    # What is told ------------------------------------------------------------------------------

    def begins(self, call: Call) -> None:
        """A call begins."""
        if call.kind != "service" or call.target not in _STEPS:
            self._open[call.number] = call
            self.touched.add(call.host)

    def ended(self, call: Call, outcome: Outcome) -> None:
        """A call has ended."""
        if self._open.pop(call.number, None) is None:
            return
        operation = call.operation
        if outcome.error is None and operation[0] == Op.CALL and not outcome.dropped and _is_plain(operation):
            # Kept as it is: nothing in it is the test's to change or to hold, and most are never shown.
            self._calls.append((call.began_at, call.host, operation, outcome.elapsed, None))
            return
        text: str
        text, level = _described(call), None
        if outcome.error is not None:
            text, level = f"{text} raised {_error_text(outcome.error)}", "error"
        elif outcome.dropped:
            text += " (nobody waited for it)"
        self._calls.append((call.began_at, call.host, text, outcome.elapsed, level))

    def _take_output(self, host: str, stream: str, text: str) -> None:
        self._pieces.append((time.time(), host, stream, text[-LONGEST:]))
        self.touched.add(host)

    def note(self, host: str, text: str) -> None:
        """Something happened to a host that is neither call nor output."""
        self._notes.append((time.time(), host, text))

    # What is asked -----------------------------------------------------------------------------

    def events(self, clocks: Mapping[str, ClockTrack], mask: Callable[[str], str] = str) -> list[Event]:
        """What was noted.

        Args:
            clocks: Of the hosts, to correct the times of log records.
            mask: Takes secrets out of texts.
        """
        found = [
            Event(t, host, "call", mask(what if type(what) is str else _call_text(*what[1:])), span, level)
            for t, host, what, span, level in list(self._calls)
        ]
        found += [Event(t, host, "phase", mask(text)) for t, host, text in list(self._notes)]
        now = time.monotonic()
        for call in list(self._open.values()):
            text = f"{_described(call)} has not ended after {now - call.began:.1f} s"
            found.append(Event(call.began_at, call.host, "call", mask(text), None, "warning"))
        found += [
            Event(t, host, "output", mask(line), None, "stderr" if stream == "stderr" else None)
            for t, host, stream, line in _lines(list(self._pieces))
        ]
        for t, host, level, text in list(self._records):
            track = clocks.get(host)
            found.append(Event(track.from_wall(t) if track is not None else t, host, "log", mask(text), None, level))
        return found


class _Handler(logging.Handler):
    def __init__(self, records: deque[tuple[float, str, str, str]]) -> None:
        super().__init__(0)
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        """Note a record; what is wrong with it others say."""
        with contextlib.suppress(Exception):
            text = f"{record.name}: {record.getMessage()}"
            host = str(getattr(record, "ec_host", ""))
            self._records.append((record.created, host, record.levelname.lower(), text[:LONGEST]))


def _described(call: Call) -> str:
    """A call with its arguments, of which only plain ones are shown whole: others' texts are others' code."""
    kind = call.kind
    if kind in ("call", "method"):
        return _call_text(call.target, call.args, call.kwargs)
    if kind == "service":
        name = {"put_begin": "put", "get_begin": "get"}.get(call.target, call.target)
        return f"{name}({_value(call.args[0]) if call.args else ''})"
    if kind == "batch":
        return f"{call.name}: {call.arguments}"
    return call.name


def _is_plain(operation: tuple[Any, ...]) -> bool:
    if operation[3] or len(operation[2]) > MOST_SHOWN:
        return False
    for value in operation[2]:
        kind = type(value)
        if kind not in _PLAIN and (kind is not str or len(value) > SHORT):
            return False
    return True


def _call_text(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    words = [_value(one) for one in args[:MOST_SHOWN]]
    words += [f"{key}={_value(one)}" for key, one in list(kwargs.items())[:MOST_SHOWN]]
    return f"{name}({', '.join(words)})"


def _value(value: Any) -> str:
    kind = type(value)
    if kind in _PLAIN:
        return repr(value)
    if kind is str or kind is bytes:
        return repr(value if len(value) <= SHORT else value[:SHORT]) + ("..." if len(value) > SHORT else "")
    if kind in (list, tuple) and len(value) <= 6 and all(type(one) in _PLAIN or type(one) is str for one in value):
        return ("[{}]" if kind is list else "({})").format(", ".join(map(_value, value)))
    if kind in (list, tuple, dict, set, frozenset):
        return f"<{kind.__name__} of {len(value)}>"
    return f"<{kind.__name__}>"


def _error_text(error: BaseException) -> str:
    try:
        first = (str(error).splitlines() or [""])[0]
    except Exception:  # noqa: BLE001  # a user's __str__
        first = ""
    return f"{type(error).__name__}: {first}"[:SHOWN]


def _lines(pieces: list[tuple[float, str, str, str]]) -> Iterator[tuple[float, str, str, str]]:
    """Whole lines, each with the time at which its first part came."""
    begun: dict[tuple[str, str], tuple[float, str]] = {}
    for moment, host, stream, text in pieces:
        since, rest = begun.pop((host, stream), (moment, ""))
        *whole, last = (rest + text).split("\n")
        for line in whole:
            yield since, host, stream, line[:LONGEST]
            since = moment
        if last:
            begun[host, stream] = since, last[-LONGEST:]
    for (host, stream), (since, rest) in begun.items():
        yield since, host, stream, rest
