"""Tables of the commands: Rich draws them on a terminal where it is installed, elsewhere they are aligned text.

Colours are for terminals only, and not where ``NO_COLOR`` is set (no-color.org) or the terminal is a dumb one.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Cell", "lines", "paint", "show"]

# What kinds of cells look like: the code of ECMA-48 (SGR), and Rich's word.
_LOOKS: Final = {"ok": (32, "green"), "warn": (33, "yellow"), "fail": (31, "bold red"), "dim": (2, "dim")}
_GAP: Final = "  "
# A column that is to be folded keeps at least so many characters.
_NARROWEST: Final = 20


@dataclass(frozen=True)
class Cell:
    """A text with a meaning.

    Attributes:
        text: The text.
        kind: ``"ok"``, ``"warn"``, ``"fail"``, ``"dim"`` or ``""``.
    """

    text: str
    kind: str = ""


def show(
    rows: Iterable[Sequence[str | Cell]],
    header: Sequence[str] = (),
    *,
    title: str = "",
    file: TextIO | None = None,
    indent: int = 0,
) -> None:
    """Write a table; the last column is folded to fit a terminal.

    Args:
        rows: All of the same length.
        header: Names of the columns, none for a table without.
        title: A line above it.
        file: Where to; standard output by default.
        indent: Blanks before each line.
    """
    stream = sys.stdout if file is None else file
    every = [[one if isinstance(one, Cell) else Cell(one) for one in row] for row in rows]
    if is_terminal(stream) and _show_rich(every, header, title, stream, indent):
        return
    width = shutil.get_terminal_size().columns if is_terminal(stream) else None
    if title:
        stream.write(paint(title, "title", stream) + "\n")
    named = [[Cell(name, "dim") for name in header]] if header else []
    for text in _laid_out([*named, *every], width, stream, indent):
        stream.write(text + "\n")


def lines(rows: Iterable[Sequence[str | Cell]]) -> list[str]:
    """A table as aligned text without colours, however wide."""
    return _laid_out([[one if isinstance(one, Cell) else Cell(one) for one in row] for row in rows], None, None, 0)


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody looks at it now."""
    return stream.isatty()


def has_colours(stream: TextIO) -> bool:
    """Whether colours are welcome."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, kind: str, stream: TextIO | None) -> str:
    """``text`` in the colour of a kind, if the stream shows colours."""
    code = 1 if kind == "title" else _LOOKS.get(kind, (0, ""))[0]
    if not code or not text or stream is None or not has_colours(stream):
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


def _laid_out(rows: Sequence[Sequence[Cell]], width: int | None, stream: TextIO | None, indent: int) -> list[str]:
    if not rows:
        return []
    widths = [max(len(row[number].text) for row in rows) for number in range(len(rows[0]))]
    before = indent + sum(widths[:-1]) + len(_GAP) * (len(widths) - 1)
    last = widths[-1] if width is None else max(_NARROWEST, width - before)
    found = []
    for row in rows:
        first = _GAP.join(
            paint(cell.text, cell.kind, stream) + " " * (size - len(cell.text))
            for cell, size in zip(row[:-1], widths[:-1], strict=True)
        )
        head = " " * indent + first + (_GAP if len(row) > 1 else "")
        for part in _folded(row[-1].text, last):
            found.append((head + paint(part, row[-1].kind, stream)).rstrip())
            head = " " * before
    return found


def _folded(text: str, width: int) -> list[str]:
    """Lines of at most that width, broken between words; what has no blank is not torn."""
    parts = [
        part
        for line in text.splitlines()
        for part in textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
    ]
    return parts or [""]


def _show_rich(rows: Sequence[Sequence[Cell]], header: Sequence[str], title: str, stream: TextIO, indent: int) -> bool:
    """Have Rich draw it; False where it is not installed."""
    if os.environ.get("TERM") == "dumb":
        return False
    try:
        from rich import box
        from rich.console import Console
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    console = Console(file=stream, no_color=not has_colours(stream), highlight=False)
    table = Table(box=box.SIMPLE_HEAD if header else None, show_header=bool(header), pad_edge=False, show_edge=False)
    count = len(rows[0]) if rows else len(header)
    for number in range(count):
        # The last one is folded; names, times and verdicts are not.
        table.add_column(header[number] if header else "", no_wrap=number < count - 1, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell.text, _LOOKS.get(cell.kind, (0, ""))[1]) for cell in row))
    if title:
        console.print(Text(title, "bold"))
    console.print(Padding(table, (0, 0, 0, indent)))
    return True
