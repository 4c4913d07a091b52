"""A trace of a test in the format that Perfetto and Chromium's own viewer open: one file a test.

A process is a host, in the order in which the test had them; the first one is the run itself, with the phases of the
test.  Calls are complete events, on as many threads as there were at once; output, logs and lines of the kernel are
instants on a thread for each kind; series are counters.  Times are microseconds from the beginning of the test, which
``otherData`` gives in seconds since 1970.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from pytest_easycluster.reporting import targets
from pytest_easycluster.reporting.rows import beginning

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from easycluster.lab import Lab
    from pytest_easycluster.reporting.evidence import Event
    from pytest_easycluster.reporting.records import Record

LONGEST_NAME: Final = 100

# Threads of a host; those of calls are counted from 100.
_THREADS: Final = {"log": 1, "kernel": 2, "output": 3, "artifact": 4, "phase": 5}
_CALLS: Final = 100
_RUN: Final = 1


class Folder:
    """Where traces go, one file for each test that had a host.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._taken: set[str] = set()
        self._last = ""
        self._faults: Counter[str] = Counter()

    def write(self, record: Record, lab: Lab | None) -> None:
        """Write the trace of a test, if it had hosts; what goes wrong is said in the end."""
        self._last = ""
        if not record.attempts or not (record.hosts() or record.seen.events):
            return
        name = self._name(record.test)
        text = json.dumps(events_of(record, lab), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        try:
            targets.write(self._path / name, [text.encode("ascii")])
        except OSError as exc:
            self._faults[exc.strerror or str(exc)] += 1
        else:
            self._last = name

    def address(self, page: Path) -> str:
        """The address of the trace that was written last, as seen from a page."""
        return targets.link(self._path / self._last, page.parent) if self._last else ""

    def said(self) -> list[tuple[str, bool]]:
        """What there is to say in the end, and whether it is bad."""
        count = len(self._taken) - sum(self._faults.values())
        lines = [(f"traces of {count} test{'s' * (count != 1)}: {self._path}", False)]
        for why, many in self._faults.items():
            lines.append(
                (f"traces of {many} test{'s' * (many != 1)} could not be written to {self._path}: {why}", True)
            )
        return lines

    def _name(self, test: str) -> str:
        """A name that every file system takes, and no other test has."""
        plain = re.sub(r"[^\w.\[\]-]+", "_", test, flags=re.ASCII).strip("._") or "test"
        if plain != test.replace("/", "_").replace("::", "_") or len(plain) > LONGEST_NAME:
            mark = hashlib.sha256(test.encode("utf-8", "replace")).hexdigest()[:8]
            plain = f"{plain[-LONGEST_NAME:]}-{mark}"
        name, number = plain, 1
        while name.casefold() in self._taken:
            number += 1
            name = f"{plain}-{number}"
        self._taken.add(name.casefold())
        return f"{name}.json"


def events_of(record: Record, lab: Lab | None = None) -> dict[str, Any]:
    """The trace of a test as JSON has it."""
    seen = record.seen
    begin = beginning(record)
    end = max([record.start + record.duration, *(event.time + (event.duration or 0.0) for event in seen.events)])
    names = [*record.hosts(), *(one.host for one in seen.events), *(one.host for one in seen.series)]
    hosts = [host for host in dict.fromkeys(names) if host]
    process = {"": _RUN, **{host: at for at, host in enumerate(hosts, _RUN + 1)}}
    found = _named(_RUN, "pytest", record.word, 0)
    for host in hosts:
        entry = lab.inventory.hosts.get(host) if lab is not None else None
        roles = " ".join(entry.roles) if entry is not None else seen.hosts.get(host, ("", ""))[0]
        found += _named(process[host], host, roles, process[host])
    for attempt in record.attempts:
        found += [
            _complete(phase.when, "phase", phase.start - begin, phase.duration, _RUN, 1, {"verdict": phase.word})
            for phase in attempt.phases
            if phase.start
        ]
    for host, number in process.items():
        # The phases of the run are known from its own reports.
        mine = [event for event in seen.events if event.host == host and not _is_known_phase(event)]
        found += _of_host(mine, number, begin, end)
    for series in seen.series:
        what = series.unit or "value"
        found += [
            {
                "name": series.metric,
                "cat": "counter",
                "ph": "C",
                "ts": _us(time - begin),
                "pid": process[series.host],
                "tid": 0,
                "args": {what: value},
            }
            for time, value in series.points
        ]
    about = {"test": record.test, "verdict": record.word, "begin": begin, "message": record.message}
    if seen.clocks:
        about["clocks"] = {host: {"offset": offset, "error": error} for host, (offset, error) in seen.clocks.items()}
    return {"traceEvents": found, "displayTimeUnit": "ms", "otherData": about}


def _named(pid: int, name: str, label: str, order: int) -> list[dict[str, Any]]:
    meta = [("process_name", {"name": name}), ("process_sort_index", {"sort_index": order})]
    if label:
        meta.append(("process_labels", {"labels": label}))
    return [{"name": what, "ph": "M", "ts": 0, "pid": pid, "tid": 0, "args": args} for what, args in meta]


def _is_known_phase(event: Event) -> bool:
    return event.kind == "phase" and not event.host and event.duration is not None


def _of_host(events: list[Event], pid: int, begin: float, end: float) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    threads: dict[int, str] = {}
    # A call that had not ended lasts until everything has.
    unended = {event for event in events if event.kind == "call" and event.duration is None}
    events = [event._replace(duration=max(0.0, end - event.time)) if event in unended else event for event in events]
    spans = [event for event in events if event.duration is not None]
    for event, row in beside(spans):
        thread = _CALLS + row if event.kind == "call" else _THREADS[event.kind] * 10_000 + row
        threads[thread] = f"{event.kind}s" if not row else f"{event.kind}s {row + 1}"
        args = {"level": event.level} if event.level else {}
        found.append(_complete(event.text, event.kind, event.time - begin, event.duration or 0.0, pid, thread, args))
    for event in events:
        if event.duration is None:
            thread = _THREADS.get(event.kind, 6)
            threads[thread] = {"output": "output", "kernel": "kernel"}.get(event.kind, f"{event.kind}s")
            found.append(
                {
                    "name": event.text or event.kind,
                    "cat": event.kind,
                    "ph": "i",
                    "s": "t",
                    "ts": _us(event.time - begin),
                    "pid": pid,
                    "tid": thread,
                    "args": {"level": event.level} if event.level else {},
                }
            )
    if pid == _RUN:
        threads[1] = "phases"
    meta = [
        {"name": "thread_name", "ph": "M", "ts": 0, "pid": pid, "tid": thread, "args": {"name": name}}
        for thread, name in sorted(threads.items())
    ]
    return meta + sorted(found, key=lambda event: float(event["ts"]))


def beside(spans: Iterable[Event]) -> list[tuple[Event, int]]:
    """Spans with rows in which none of them overlaps another: viewers nest what overlaps on one thread."""
    rows: list[float] = []
    found = []
    for event in sorted(spans, key=lambda one: (one.time, -(one.duration or 0.0))):
        row = next((at for at, end in enumerate(rows) if end <= event.time), len(rows))
        end = event.time + (event.duration or 0.0)
        rows[row : row + 1] = [end]
        found.append((event, row))
    return found


def _complete(
    name: str, kind: str, start: float, duration: float, pid: int, tid: int, args: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": name or kind,
        "cat": kind,
        "ph": "X",
        "ts": _us(start),
        "dur": max(0, _us(duration)),
        "pid": pid,
        "tid": tid,
        "args": args,
    }


def _us(seconds: float) -> float:
    value = round(seconds * 1e6, 1)
    return int(value) if value == int(value) else value
