"""From the reports of tests to the matrix: what was seen of each fault, beside what we promise and what others did."""

from __future__ import annotations

from dataclasses import dataclass, field

from .row import NOTHING, Row

__all__ = ["Seen", "lines_of", "problems_of", "render"]

HEADINGS = (
    "fault",
    "transports",
    "exception",
    "seconds (promised)",
    "cleaned up",
    "ok",
    "EasyCluster 0.22",
    "its ThreadedClient",
    "RPyC 6.0.2",
    "execnet 2.1.2",
)


@dataclass
class Seen:
    """What the tests of one row saw.

    Attributes:
        passed: The transports over which tests passed, "" for those that need none, in their order.
        failed: The tests that did not pass, a sentence each.
        exceptions: Names of the exceptions that callers saw.
        seconds: How long the slowest took, None if no test measured it.
        cleaned: What tests found put in order.
        not_here: The transports over which this machine cannot have the fault, and why.
    """

    passed: dict[str, None] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    exceptions: dict[str, None] = field(default_factory=dict)
    seconds: float | None = None
    cleaned: dict[str, None] = field(default_factory=dict)
    not_here: dict[str, str] = field(default_factory=dict)

    def take(self, transport: str, kind: str, value: str | float) -> None:
        """Take one thing that a test noted that passed."""
        if kind == "row":
            self.passed[transport] = None
        elif kind == "exception":
            self.exceptions[str(value)] = None
        elif kind == "seconds":
            self.seconds = max(self.seconds or 0.0, float(value))
        elif kind == "cleaned":
            self.cleaned[str(value)] = None


def problems_of(row: Row, seen: Seen) -> list[str]:
    """Return what is wrong with a row; nothing if every promise was kept over every transport."""
    found = list(seen.failed)
    missing = [name for name in row.transports if name not in seen.passed and name not in seen.not_here]
    if missing:
        found.append(f"not proved over {', '.join(missing)}")
    if not seen.passed and not missing and not seen.not_here:
        found.append("no test proved it")
    if seen.passed and not seen.exceptions:
        found.append("no test noted what the caller saw")
    broken = [name for name in seen.exceptions if name not in row.exceptions]
    if broken:
        found.append(f"{', '.join(broken)} was not promised")
    if row.within is not None and seen.passed:
        if seen.seconds is None:
            found.append("no test measured the time")
        elif seen.seconds > row.within:
            found.append(f"took {seen.seconds:.2f} s, promised are {row.within:g} s")
    if row.cleaned and seen.passed and not seen.cleaned:
        found.append("no test looked at what is cleaned up")
    return found


def render(rows: list[Row], seen: dict[str, Seen], earlier: dict[str, tuple[str, ...]] | None = None) -> str:
    """Return the matrix as a table in Markdown, which is also what the terminal shows.

    Args:
        rows: Those to show, in this order.
        seen: What was seen of them.
        earlier: Lines of a table for rows of which nothing was seen now, see :func:`lines_of`.
    """
    table = [HEADINGS]
    for row in rows:
        if row.name in seen:
            table.append(cells_of(row, seen[row.name]))
        elif earlier and title_of(row) in earlier:
            table.append(earlier[title_of(row)])
    widths = [max(len(line[at]) for line in table) for at in range(len(HEADINGS))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in table
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def lines_of(table: str) -> dict[str, tuple[str, ...]]:
    """Return the lines of a table that :func:`render` made, by their first cells."""
    found = {}
    for line in table.strip().splitlines():
        cells = tuple(cell.strip() for cell in line.strip("|").split(" | "))
        if len(cells) == len(HEADINGS) and cells != HEADINGS:
            found[cells[0]] = cells
    return found


def title_of(row: Row) -> str:
    """Return what the table calls a row."""
    return row.fault + (f" ({row.condition})" if row.condition else "")


def cells_of(row: Row, seen: Seen) -> tuple[str, ...]:
    """Return the cells of one line."""
    seconds = "" if seen.seconds is None else f"{seen.seconds:.2f}"
    promised = "" if row.within is None else f"({row.within:g})"
    return (
        title_of(row),
        ", ".join(name or "any" for name in seen.passed) or "none",
        ", ".join(name if name != NOTHING else "none" for name in seen.exceptions),
        f"{seconds} {promised}".strip(),
        "; ".join(seen.cleaned) or row.cleaned or NOTHING,
        "no" if problems_of(row, seen) else "yes" if seen.passed else "not here",
        *(text or NOTHING for text in row.peers),
    )
