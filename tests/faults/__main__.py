"""``python -m tests.faults``: put every fault to us, and print what came of it.

Exit status 0 if every row is as promised, 1 if one is not or was not proved, 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

import pytest

from .matrix import Seen, lines_of, problems_of, render
from .outcome import PROPERTY
from .rows import ROWS

BEGIN, END = "<!-- fault matrix: begin -->", "<!-- fault matrix: end -->"

TESTS = Path(__file__).parents[1]


class Collector:
    """A plugin of pytest that chooses the tests and keeps what they noted.

    Args:
        rows: Names of the rows to prove.
    """

    def __init__(self, rows):
        self.seen = {name: Seen() for name in rows}
        self.broken = []

    def pytest_collection_modifyitems(self, config, items):
        """Leave only the tests of our rows."""
        chosen = {True: [], False: []}
        for item in items:
            names = {value[0] for key, value in item.user_properties if key == PROPERTY}
            chosen[bool(names & self.seen.keys())].append(item)
        config.hook.pytest_deselected(items=chosen[False])
        items[:] = chosen[True]

    def pytest_collectreport(self, report):
        """Keep which files could not be read: their tests are missing, whatever they prove."""
        if report.failed:
            self.broken.append(f"{report.nodeid} could not be collected")

    def pytest_runtest_logreport(self, report):
        """Keep what a test noted; a test that was skipped, or failed at any stage, proved nothing."""
        noted = [value for key, value in report.user_properties if key == PROPERTY and value[0] in self.seen]
        if report.when != "call" and report.passed:
            return
        away = {value[0] for value in noted if value[2] == "not here"} if report.skipped else set()
        for name, transport, kind, value in noted:
            seen = self.seen[name]
            if name in away:
                seen.not_here[transport] = value or seen.not_here.get(transport, "")
            elif report.passed:
                seen.take(transport, kind, value)
            elif report.failed and kind == "row":
                seen.failed.append(f"{report.nodeid} failed in {report.when}")
            elif kind == "row":
                seen.failed.append(f"{report.nodeid} was skipped: {report.longrepr[2]}")


def main(words=None):
    """Run the faults; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Prove the fault matrix.")
    parser.add_argument("--long", action="store_true", help="the full sizes and counts")
    parser.add_argument("--rows", metavar="A,B", help=f"only these rows: {', '.join(ROWS)}")
    parser.add_argument(
        "--markdown",
        metavar="FILE",
        help="write the matrix between the two comments in FILE; what it says of rows that are not tried now stays",
    )
    parser.add_argument("pytest", nargs="*", metavar="-- ARGS", help="passed on to pytest")
    options = parser.parse_args(words)
    names = options.rows.split(",") if options.rows else list(ROWS)
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        parser.error(f"there is no row {', '.join(unknown)}")

    if options.long:
        os.environ["EASYCLUSTER_FAULTS"] = "long"
    collector = Collector(names)
    timeout = ["-o", "timeout=600"] if options.long else []
    pytest.main(
        ["-m", "fault", "-q", "--continue-on-collection-errors", *timeout, *options.pytest, *marked()],
        plugins=[collector],
    )

    rows = [ROWS[name] for name in names]
    matrix = render(rows, collector.seen)
    print(f"\n{matrix}\n")
    wrong = [f"{row.name}: {problem}" for row in rows for problem in problems_of(row, collector.seen[row.name])]
    for line in (*collector.broken, *wrong):
        print(line)
    kept = len(rows) - len({line.partition(":")[0] for line in wrong})
    print(f"{kept} of {len(rows)} rows are as promised")
    if options.markdown:
        page = Path(options.markdown)
        earlier = lines_of(page.read_text(encoding="utf-8"))
        write(page, render(list(ROWS.values()), collector.seen, earlier))
    return 1 if wrong or collector.broken else 0


def marked():
    """Return the files that may have tests of faults: to collect the others takes longer than many a row."""
    return [str(path) for path in sorted(TESTS.rglob("test_*.py")) if "mark.fault(" in path.read_text(encoding="utf-8")]


def write(page, matrix):
    """Put the matrix between the two comments of a page."""
    text = page.read_text(encoding="utf-8")
    pattern = f"{re.escape(BEGIN)}.*?{re.escape(END)}"
    new, count = re.subn(pattern, lambda _: f"{BEGIN}\n\n{matrix}\n\n{END}", text, flags=re.DOTALL)
    if count != 1:
        sys.exit(f"{page} must have {BEGIN!r} and {END!r} once")
    page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
