"""The step summary of GitHub: a short table in Markdown of what somebody has to look at."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from pytest_easycluster.reporting.records import WORDS, WRONG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_easycluster.reporting.rows import Row

# All steps of a job share 1 MiB, and more than this nobody reads.
MOST_BYTES: Final = 32 * 1024
MOST_ROWS: Final = 40
LONGEST_CELL: Final = 160

_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]()#+!|~@$:])")


def deep_link(page: str, test: str) -> str:
    """The address of a test on the page."""
    if not page:
        return ""
    return f"{page}#test={quote(test, safe='')}" if test else page


def append(place: str, run: dict[str, Any], rows: Sequence[Row]) -> None:
    """Add the summary to the file.

    Raises:
        OSError: If it could not be written.
    """
    with open(place, "a", encoding="utf-8", errors="replace") as file:
        file.write(markdown(run, rows))


def markdown(run: dict[str, Any], rows: Sequence[Row]) -> str:
    """The summary."""
    counts = " · ".join(f"**{run['counts'][word]}** {word.lower()}" for word in WORDS if word in run["counts"])
    lines = [f"## {_cell(run['title'])}", "", counts or "no tests", ""]
    if run["state"] != "complete":
        lines += [f"⚠️ {_cell(run['state_text'])}", ""]
    wrong = sorted((row for row in rows if row.word in WRONG), key=lambda row: WRONG.index(row.word))
    if not wrong:
        return "\n".join(lines) + "\n"
    lines += ["| verdict | test | hosts | what went wrong |", "|---|---|---|---|"]
    size, shown = sum(len(line.encode()) + 1 for line in lines), 0
    for row in wrong[:MOST_ROWS]:
        at_fault = [host for host, word in row.hosts.items() if word == row.word]
        hosts = " ".join(at_fault[:8]) + (f" and {len(at_fault) - 8} more" if len(at_fault) > 8 else "")
        line = f"| {row.word} | {_cell(row.test, keep_end=True)} | {_cell(hosts)} | {_cell(row.message)} |"
        size += len(line.encode()) + 1
        if size > MOST_BYTES:
            break
        lines.append(line)
        shown += 1
    if shown < len(wrong):
        lines += ["", f"and {len(wrong) - shown} more"]
    return "\n".join(lines) + "\n"


def _cell(text: str, keep_end: bool = False) -> str:
    """A text as a cell shows it, and as nothing else: no markup, no link, nobody is notified."""
    text = " ".join(text.split())
    if len(text) > LONGEST_CELL:
        text = "..." + text[-LONGEST_CELL:] if keep_end else text[:LONGEST_CELL] + "..."
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(lambda found: f"&#{ord(found[1])};", text).replace("www.", "www&#46;")
