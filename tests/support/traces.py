"""Whether a trace is what viewers of Chrome's trace event format open: its fields, and how spans lie in each other."""

from __future__ import annotations

from typing import Any

import jsonschema

__all__ = ["check_trace"]

NUMBER = {"type": "number", "minimum": 0}
COMMON = {
    "name": {"type": "string", "minLength": 1},
    "cat": {"type": "string"},
    "ts": NUMBER,
    "pid": {"type": "integer"},
    "tid": {"type": "integer"},
    "args": {"type": "object"},
}


def _event(phase: str, required: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    return {
        "properties": {**COMMON, "ph": {"const": phase}, **more},
        "required": ["name", "ph", "ts", "pid", "tid", *required],
        "additionalProperties": False,
    }


# "Trace Event Format", Google 2016: sections on the JSON object format, complete, instant, counter and metadata events.
SCHEMA = {
    "type": "object",
    "required": ["traceEvents", "displayTimeUnit", "otherData"],
    "additionalProperties": False,
    "properties": {
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "otherData": {"type": "object"},
        "traceEvents": {
            "type": "array",
            "items": {
                "oneOf": [
                    _event("X", ("dur",), dur=NUMBER),
                    _event("i", ("s",), s={"enum": ["g", "p", "t"]}),
                    _event(
                        "C",
                        ("args",),
                        args={"type": "object", "minProperties": 1, "additionalProperties": {"type": "number"}},
                    ),
                    _event(
                        "M",
                        ("args",),
                        name={
                            "enum": ["process_name", "process_labels", "process_sort_index", "thread_name"],
                        },
                    ),
                ]
            },
        },
    },
}


def check_trace(trace: dict[str, Any]) -> None:
    """Raise if it is not; spans of one thread have to lie within or beside each other."""
    jsonschema.validate(trace, SCHEMA)
    events = trace["traceEvents"]
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    processes = {event["pid"] for event in events if event["name"] == "process_name"}
    for event in events:
        assert event["pid"] in processes, event
        assert event["ph"] not in ("X", "i") or (event["pid"], event["tid"]) in named, event
    threads: dict[tuple[int, int], list[Any]] = {}
    for event in events:
        if event["ph"] == "X":
            threads.setdefault((event["pid"], event["tid"]), []).append(event)
    for spans in threads.values():
        ends: list[float] = []
        for event in sorted(spans, key=lambda one: (one["ts"], -one["dur"])):
            # A tenth of a microsecond is what numbers are rounded to.
            while ends and ends[-1] <= event["ts"] + 0.2:
                ends.pop()
            end = event["ts"] + event["dur"]
            assert not ends or end <= ends[-1] + 0.2, event
            ends.append(end)
