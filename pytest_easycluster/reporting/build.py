"""Puts the page together: one file that needs no other, and lets nothing in it run that was not written here.

Whatever hosts have said is data: JSON in blocks that a browser does not run, in which no tag can end.  A policy in the
page allows one script and one style by their hashes, and no address at all: even a mistake of ours could load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from pytest_easycluster.reporting.records import WRONG

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_easycluster.reporting.rows import Row

# In this order they are one script.
SCRIPTS: Final = (
    "base.js",
    "data.js",
    "state.js",
    "overview.js",
    "list.js",
    "time.js",
    "lanes.js",
    "plots.js",
    "timeline.js",
    "detail.js",
    "keys.js",
    "main.js",
)

# Rows for those whose browser runs no script.
MOST_STATIC: Final = 300

_PLACE: Final = re.compile(r"@@([A-Z]+)@@")


def embedded(value: object) -> str:
    """JSON that can stand in a script element: no tag, no comment and no entity can begin in it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def squeezed(value: object) -> bytes:
    """The same, small enough to be kept for thousands of tests."""
    return zlib.compress(embedded(value).encode("ascii"), 1)


def page(run: dict[str, Any], rows: Sequence[Row], details: Iterable[bytes]) -> Iterator[bytes]:
    """The parts of the page, in order.

    Args:
        run: What it says of the run as a whole, its tests included.
        rows: The tests, for the part that needs no script.
        details: Of each test, as :func:`squeezed` makes them.
    """
    folder = files("pytest_easycluster.reporting") / "page"
    script = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'(() => {{\n"use strict";\n{script}\n}})();'
    style = folder.joinpath("style.css").read_text(encoding="utf-8")
    template = folder.joinpath("page.html").read_text(encoding="utf-8")
    values = {
        "POLICY": (
            f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
            "base-uri 'none'; form-action 'none'"
        ),
        "TITLE": escape(str(run["title"])),
        "STYLE": style,
        "SCRIPT": script,
        "RUN": embedded(run),
        "STATIC": _static(run, rows),
    }
    # Nothing that is put in is looked through again: it may hold what looks like a place.
    for at, part in enumerate(_PLACE.split(template)):
        if at % 2 and part == "DETAILS":
            for number, data in enumerate(details):
                yield b'<script type="application/json" id="d%d">' % number
                yield zlib.decompress(data)
                yield b"</script>\n"
        else:
            yield (values[part] if at % 2 else part).encode("utf-8", "replace")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _static(run: dict[str, Any], rows: Sequence[Row]) -> str:
    """What is seen where scripts do not run, as in the pages of a Jenkins: the counts, and what went wrong."""
    counts = ", ".join(f"{count} {word}" for word, count in run["counts"].items())
    lines = [f"<p>{escape(run['state_text'])}</p>", f"<p>{escape(counts)}</p>"]
    wrong = [row for row in rows if row.word in WRONG]
    if wrong:
        lines.append("<table><tr><th>Verdict</th><th>Test</th><th>Hosts</th><th>What went wrong</th></tr>")
        for row in wrong[:MOST_STATIC]:
            cells = (row.word, row.test, " ".join(row.hosts), row.message)
            lines.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
        lines.append("</table>")
    if len(wrong) > MOST_STATIC:
        lines.append(f"<p>and {len(wrong) - MOST_STATIC} more</p>")
    return "\n".join(lines)
