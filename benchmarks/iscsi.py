"""``python -m benchmarks.iscsi``: our initiator against ``iscsi-perf``, and our target against ``tgtd``.

The first table has reads with many commands in flight, by our initiator and by ``iscsi-perf`` of libiscsi in turn, on
the same unit in the same run, so what counts is the ratio; and the processor time that a command costs our initiator.
``--conformance`` has ``iscsi-test-cu`` judge both targets; with ``--page FILE`` the table is written into a page of the
documentation, between the lines that say so.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from easycluster.devices.san import open_san
from easycluster.devices.san.conformance import compare

if TYPE_CHECKING:
    from easycluster.devices.san import SanTarget
    from easycluster.devices.san.conformance import Conformance

MIB = 1 << 20
# Of the disks: none, a page; several commands in one packet; more than a packet holds.
SIZES = (4096, 65536, 262144)
DEPTH = 16

# Of a page, what stands between these lines is made here.
BEGIN, END = "<!-- python -m benchmarks.iscsi --conformance --page -->", "<!-- end -->"


class Row(NamedTuple):
    """Medians of all rounds: commands in a second, and microseconds of processor time for one of ours."""

    target: str
    size: int
    theirs: float
    ours: float
    cost: float

    def __str__(self) -> str:
        mb = self.ours * self.size / 1e6
        ratio = self.ours / self.theirs if self.theirs else 0.0
        rates = f"{self.theirs:>10.0f}  {self.ours:>8.0f}  {mb:>6.0f}  {ratio:>5.2f}"
        return f"{self.target:>8}  {self.size:>7}  {rates}  {self.cost:>5.1f}"


def iscsi_perf(url: str, size: int, seconds: float) -> float:
    """Return commands in a second, as ``iscsi-perf`` measures them.

    Raises:
        RuntimeError: If it says nothing.
    """
    # Whole seconds only; wrapped, because it outlives its own limit when a target goes away.
    words = ["iscsi-perf", "-m", str(DEPTH), "-b", str(size // 512), "-t", str(max(1, round(seconds))), url]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds + 30, check=False)
    found = re.findall(rb"iops average (\d+)", done.stdout + done.stderr)
    if not found:
        raise RuntimeError(f"iscsi-perf said no figures: {(done.stdout + done.stderr).decode('utf-8', 'replace')}")
    return float(found[-1])


def measure(name: str, san: SanTarget, rounds: int, seconds: float) -> list[Row]:
    """Measure one target, both initiators in turn."""
    lun = san.create_lun(64 * MIB)
    url = f"iscsi://{san.portals[0]}/{san.iqn}/{lun.number}"
    rows = []
    with san.login(0, lun=lun.number) as session:
        session.fill(1)
        for size in SIZES:
            theirs, ours, costs = [], [], []
            for _ in range(rounds):
                theirs.append(iscsi_perf(url, size, seconds))
                used = time.process_time()
                found = session.perf(seconds, size=size, depth=DEPTH, shuffled=False)
                costs.append((time.process_time() - used) / found.commands * 1e6)
                ours.append(found.iops)
            rows.append(Row(name, size, *map(statistics.median, (theirs, ours, costs))))
    san.delete_lun(lun)
    return rows


def suites(tables: dict[str, Conformance]) -> str:
    """Return a table of Markdown: how the tests of each suite ended, and what was said of those that failed with us."""
    names = list(dict.fromkeys(result.name.split(".")[0] for table in tables.values() for result in table.results))
    lines = ["| suite | " + " | ".join(tables) + " |", "|---" * (len(tables) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(_ended(table, name) for table in tables.values()) + " |" for name in names]
    lines.append("| **all** | " + " | ".join(f"**{table}**" for table in tables.values()) + " |")
    return "\n".join(lines) + "\n"


def _ended(table: Conformance, suite: str) -> str:
    outcomes = [result.outcome for result in table.results if result.name.split(".")[0] == suite]
    counts = ((outcomes.count(word), word) for word in ("passed", "failed", "skipped"))
    return ", ".join(f"{count} {word}" for count, word in counts if count) or "-"


def write_page(path: Path, text: str) -> None:
    """Put a text between the marks of a page.

    Raises:
        ValueError: If the page has none.
    """
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no lines {BEGIN!r} and {END!r}")
    path.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.iscsi", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="time of one measurement (%(default)s)")
    parser.add_argument("--drivers", default="tgt,embedded", help="targets, of: %(default)s")
    parser.add_argument("--conformance", action="store_true", help="have iscsi-test-cu judge them instead")
    parser.add_argument("--page", type=Path, help="write the table of --conformance into this page")
    options = parser.parse_args()
    names = options.drivers.split(",")
    if options.conformance:
        tables = {}
        for name in names:
            with open_san(name) as san:
                tables[name] = san.conformance()
        print(compare(tables))
        if options.page is not None:
            write_page(options.page, suites(tables))
        return
    print(f"{'target':>8}  {'bytes':>7}  {'iscsi-perf':>10}  {'ours':>8}  {'MB/s':>6}  {'ratio':>5}  {'us':>5}")
    for name in names:
        with open_san(name) as san:
            for row in measure(name, san, options.rounds, options.seconds):
                print(row, flush=True)


if __name__ == "__main__":
    main()
