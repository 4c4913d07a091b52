"""What pytest-html shows of a test with hosts: a link to the page, and a lane for each host."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pytest

    from pytest_easycluster.reporting.evidence import Event
    from pytest_easycluster.reporting.records import Record

WIDTH, NAMES, LANE = 640, 110, 18
MOST_LANES: Final = 16
MOST_MARKS: Final = 300

_COLOURS: Final = {"ERROR": "#b3261e", "CRITICAL": "#b3261e", "WARNING": "#9a6700"}


def add(report: pytest.TestReport, record: Record, page: str) -> None:
    """Add the extras to the last report of a test.

    Args:
        report: Of the teardown, before pytest-html has seen it.
        record: The test.
        page: Address of the test on our page, ``""`` if there is none.
    """
    found: list[dict[str, Any]] = []
    if page and (record.hosts() or record.seen.events):
        found.append(_extra("url", escape(page, quote=True), "lab report"))
    picture = lanes(record)
    if picture:
        found.append(_extra("html", picture, "hosts"))
    if found:
        report.extras = [*getattr(report, "extras", []), *found]  # type: ignore[attr-defined]  # pytest-html's


def _extra(kind: str, content: str, name: str) -> dict[str, Any]:
    """As `pytest_html.extras` makes them."""
    return {"name": name, "format_type": kind, "content": content, "mime_type": None, "extension": None}


def paragraph(page: str) -> str:
    """What stands above pytest-html's table."""
    return f'<p>Hosts, calls and telemetry: <a href="{escape(page, quote=True)}">lab report</a></p>'


def lanes(record: Record) -> str:
    """A picture of what happened on which host, ``""`` if nothing is known."""
    events = [event for event in record.seen.events if event.host and event.kind in ("call", "log", "kernel")]
    hosts = list(dict.fromkeys([*record.hosts(), *(event.host for event in events)]))[:MOST_LANES]
    if not events or not hosts:
        return ""
    begin = min(event.time for event in events)
    span = max(max(event.time + (event.duration or 0.0) for event in events) - begin, 1e-6)
    height = LANE * len(hosts) + 16
    about = f"{len(events)} events on {len(hosts)} hosts within {span:.3g} s"
    size = f'width="{WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{about}"',
        ' font-family="sans-serif" font-size="11">',
    ]
    for at, host in enumerate(hosts):
        top = at * LANE
        mine = [event for event in events if event.host == host]
        parts.append(f'<text x="0" y="{top + 13}">{escape(host[:18])}</text>')
        parts.append(f'<rect x="{NAMES}" y="{top + 2}" width="{WIDTH - NAMES}" height="{LANE - 4}" fill="#8883"/>')
        parts += [_mark(event, top, begin, span) for event in mine[:MOST_MARKS]]
    parts.append(f'<text x="{NAMES}" y="{height - 3}">0 s</text>')
    parts.append(f'<text x="{WIDTH}" y="{height - 3}" text-anchor="end">{span:.3g} s</text></svg>')
    return "".join(parts)


def _mark(event: Event, top: int, begin: float, span: float) -> str:
    room = WIDTH - NAMES
    left = NAMES + room * (event.time - begin) / span
    title = f"<title>{escape(event.text[:200])}</title>"
    colour = _COLOURS.get(event.level or "", "#1f5fbf" if event.kind == "call" else "#555")
    if event.kind == "call":
        width = max(1.0, room * (event.duration or 0.0) / span)
        return (
            f'<rect x="{left:.1f}" y="{top + 4}" width="{width:.1f}" height="{LANE - 8}" fill="{colour}">{title}</rect>'
        )
    return f'<path d="M{left:.1f} {top + 1}l3 5h-6z" fill="{colour}">{title}</path>'
