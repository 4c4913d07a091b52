"""Pictures as SVG text: dots beside names, and lines over a logarithmic axis.  Numbers in, text out.

Small on purpose: what a table of figures needs, readable on a light and on a dark page, the same text for the same
numbers, so that a picture changes in the repository only when a figure has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WIDTH = 760
# Of letters, in pixels; the width is what a sans-serif letter takes on average.
TEXT = 12
LETTER = 7.0
ROW = 22
MARGIN = 16

FONT = f'font-family="Helvetica, Arial, sans-serif" font-size="{TEXT}" fill="#1F2933"'

# Told apart by people who do not see all colours: the palette of Okabe and Ito, ours first.
OURS = "#0072B2"
OTHERS = "#9AA5B1"
GOAL = "#D55E00"
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B7280", "#000000")


@dataclass(frozen=True)
class Bar:
    """A bar: what it is, how long, whether it is ours."""

    label: str
    value: float
    ours: bool = False


@dataclass(frozen=True)
class Line:
    """A line through points; broken ones are floors."""

    label: str
    points: tuple[tuple[float, float], ...]
    broken: bool = False


def shown(value: float) -> str:
    """Return a number in few letters."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def document(height: float, title: str, body: Iterable[str]) -> str:
    """Return a picture of so many pixels, with its title for those who do not see it."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" {FONT}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height:g}" rx="6" fill="#FFFFFF"/>',
        text(MARGIN, MARGIN + TEXT, title, weight="bold"),
        *body,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def text(x: float, y: float, words: str, anchor: str = "start", weight: str = "normal", colour: str = "#1F2933") -> str:
    """Return words at a place."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}">'
        f"{escape(words)}</text>"
    )


def rule(x1: float, y1: float, x2: float, y2: float, colour: str = "#E4E7EB", dash: str = "", width: float = 1) -> str:
    """Return a straight line."""
    broken = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"'
        f' stroke-width="{width:g}"{broken}/>'
    )


def decades(low: float, high: float) -> list[float]:
    """Return the powers of ten from below the lowest to above the highest, at least two."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def bars(title: str, found: Sequence[Bar], goal: float | None = None, goal_label: str = "goal") -> str:
    """Return dots over a logarithmic axis, in the order given, and a goal as a line across them.

    Raises:
        ValueError: If there is nothing to show, or something that is not above zero.
    """
    values = [bar.value for bar in found] + ([goal] if goal else [])
    if not found or min(values) <= 0:
        raise ValueError(f"no bars to draw for {title!r}")
    marks = decades(min(values) * 0.8, max(values))
    left = MARGIN + LETTER * max(len(bar.label) for bar in found) + 8
    right = WIDTH - MARGIN - 56
    top = MARGIN + TEXT + 20
    bottom = top + ROW * len(found)

    def across(value: float) -> float:
        share = (math.log10(value) - math.log10(marks[0])) / (math.log10(marks[-1]) - math.log10(marks[0]))
        return left + share * (right - left)

    body = []
    for mark in marks:
        body.append(rule(across(mark), top - 4, across(mark), bottom))
        body.append(text(across(mark), bottom + TEXT + 4, shown(mark), "middle", colour="#616E7C"))
    if goal:
        body.append(rule(across(goal), top - 4, across(goal), bottom, GOAL, "5 3", 1.5))
        body.append(text(across(goal), top - 8, f"{goal_label} {shown(goal)}", "middle", colour=GOAL))
    for number, bar in enumerate(found):
        y = top + ROW * number
        colour = OURS if bar.ours else OTHERS
        body.append(text(left - 8, y + 15, bar.label, "end", "bold" if bar.ours else "normal"))
        # The place counts on such an axis, not a length: a dot, and a line that leads to it.
        body.append(rule(left, y + 11, across(bar.value), y + 11, colour, width=2))
        body.append(f'<circle cx="{across(bar.value):.1f}" cy="{y + 11:.1f}" r="5" fill="{colour}"/>')
        body.append(text(across(bar.value) + 10, y + 15, shown(bar.value)))
    return document(bottom + TEXT + MARGIN, title, body)


def lines(title: str, found: Sequence[Line], x_label: str, y_label: str) -> str:
    """Return lines with both axes logarithmic, each named at its end.

    Raises:
        ValueError: If there is nothing to show, or something that is not above zero.
    """
    xs = [x for line in found for x, _ in line.points]
    ys = [y for line in found for _, y in line.points]
    if not xs or min(xs) <= 0 or min(ys) <= 0:
        raise ValueError(f"no lines to draw for {title!r}")
    across_marks = sorted(set(xs))
    up_marks = decades(min(ys), max(ys))
    left, top, bottom = MARGIN + 48.0, MARGIN + TEXT + 30.0, 360.0
    right = WIDTH - MARGIN - LETTER * max(len(line.label) for line in found) - 10
    low, high = math.log10(across_marks[0]), math.log10(across_marks[-1])

    def across(value: float) -> float:
        return left + (math.log10(value) - low) / ((high - low) or 1.0) * (right - left)

    def up(value: float) -> float:
        share = (math.log10(value) - math.log10(up_marks[0])) / (math.log10(up_marks[-1]) - math.log10(up_marks[0]))
        return bottom - share * (bottom - top)

    body = [text(MARGIN, top - 12, y_label, colour="#616E7C")]
    for mark in up_marks:
        body.append(rule(left, up(mark), right, up(mark)))
        body.append(text(left - 6, up(mark) + 4, shown(mark), "end", colour="#616E7C"))
    for mark in across_marks:
        body.append(rule(across(mark), bottom, across(mark), bottom + 4, "#9AA5B1"))
        body.append(text(across(mark), bottom + TEXT + 6, shown(mark), "middle", colour="#616E7C"))
    body.append(text((left + right) / 2, bottom + 2 * TEXT + 14, x_label, "middle", colour="#616E7C"))
    for number, line in enumerate(found):
        colour = LINES[number % len(LINES)]
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line.points)
        broken = ' stroke-dasharray="6 4"' if line.broken else ""
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{broken}/>')
        body += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="2.5" fill="{colour}"/>' for x, y in line.points]
    for number, y in enumerate(apart([up(line.points[-1][1]) for line in found], TEXT + 3.0)):
        line = found[number]
        end = across(line.points[-1][0])
        body.append(text(max(end + 8, right + 8), y + 4, line.label, colour=LINES[number % len(LINES)]))
    return document(bottom + 2 * TEXT + MARGIN + 14, title, body)


def apart(places: Sequence[float], least: float) -> list[float]:
    """Return places moved down just as far as keeps them apart, in the order given."""
    found = list(places)
    last = -math.inf
    for index in sorted(range(len(places)), key=lambda each: places[each]):
        last = found[index] = max(places[index], last + least)
    return found
