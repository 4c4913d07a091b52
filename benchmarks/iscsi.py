"""``python -m benchmarks.iscsi``: our initiator against ``iscsi-perf``, and our target against ``tgtd``.

The first table has reads with many commands in flight, by our initiator and by ``iscsi-perf`` of libiscsi in turn, on
the same unit in the same run, so what counts is the ratio.  ``--conformance`` has ``iscsi-test-cu`` judge both targets.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from easycluster.devices.san import open_san
from easycluster.devices.san.conformance import compare

if TYPE_CHECKING:
    from easycluster.devices.san import SanTarget

MIB = 1 << 20
# Of the disks: none, a page; several commands in one packet; more than a packet holds.
SIZES = (4096, 65536, 262144)
DEPTH = 16


class Row(NamedTuple):
    """Medians of all rounds: commands in a second."""

    target: str
    size: int
    theirs: float
    ours: float

    def __str__(self) -> str:
        mb = self.ours * self.size / 1e6
        ratio = self.ours / self.theirs if self.theirs else 0.0
        return f"{self.target:>8}  {self.size:>7}  {self.theirs:>10.0f}  {self.ours:>8.0f}  {mb:>6.0f}  {ratio:>5.2f}"


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
            theirs, ours = [], []
            for _ in range(rounds):
                theirs.append(iscsi_perf(url, size, seconds))
                ours.append(session.perf(seconds, size=size, depth=DEPTH, shuffled=False).iops)
            rows.append(Row(name, size, statistics.median(theirs), statistics.median(ours)))
    san.delete_lun(lun)
    return rows


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.iscsi", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="time of one measurement (%(default)s)")
    parser.add_argument("--drivers", default="tgt,embedded", help="targets, of: %(default)s")
    parser.add_argument("--conformance", action="store_true", help="have iscsi-test-cu judge them instead")
    options = parser.parse_args()
    names = options.drivers.split(",")
    if options.conformance:
        tables = {}
        for name in names:
            with open_san(name) as san:
                tables[name] = san.conformance()
        print(compare(tables))
        return
    print(f"{'target':>8}  {'bytes':>7}  {'iscsi-perf':>10}  {'ours':>8}  {'MB/s':>6}  {'ratio':>5}")
    for name in names:
        with open_san(name) as san:
            for row in measure(name, san, options.rounds, options.seconds):
                print(row, flush=True)


if __name__ == "__main__":
    main()
