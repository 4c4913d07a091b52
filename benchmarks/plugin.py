"""``python -m benchmarks.plugin``: what the plugin costs a pytest run without a lab, in processor time.

One test that passes is run again and again, in turn with ``-p no:easycluster`` and without, each in a process of its
own; byte code is there, as it is for anybody who runs pytest twice.  The cost is the median of the differences of
neighbours: whatever else the machine does hits both.  pytest finds the plugin by its entry point, as where it is
installed: ``-p pytest_easycluster.plugin`` would have it look through all that is installed, which costs more.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# What a run without a lab may pay, in milliseconds.
MOST_MS = 5.0
ROUNDS = 25

# What says that the plugin is there, for a checkout that is not installed.
INSTALLED = {
    "METADATA": "Metadata-Version: 2.1\nName: easycluster-checkout\nVersion: 1\n",
    "entry_points.txt": "[pytest11]\neasycluster = pytest_easycluster.plugin\n",
}


def run_once(folder: Path, options: list[str]) -> float:
    """Run pytest in ``folder`` and return the processor time that it took, in milliseconds."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "PYTHON", "EC_"))}
    environment.update(PYTHONPATH=os.pathsep.join([str(ROOT), str(folder)]))
    others = {each.name for each in entry_points(group="pytest11")} - {"easycluster"}
    left_out = [word for name in ("cacheprovider", *sorted(others)) for word in ("-p", f"no:{name}")]
    command = [sys.executable, "-m", "pytest", "-q", *left_out, *options]
    child = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"pytest ended with {child.returncode}")
    return (used.ru_utime + used.ru_stime) * 1e3


def measure(rounds: int = ROUNDS) -> tuple[float, float, float]:
    """Measure; returns the medians without the plugin and with it, and that of their differences, in milliseconds."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "test_one.py").write_text("def test_one():\n    pass\n")
        (folder / "checkout-1.dist-info").mkdir()
        for name, text in INSTALLED.items():
            (folder / "checkout-1.dist-info" / name).write_text(text)
        ways: tuple[list[str], list[str]] = (["-p", "no:easycluster"], [])
        for way in ways:
            run_once(folder, way)  # writes byte code
        without, with_it = [], []
        for _ in range(rounds):
            without.append(run_once(folder, ways[0]))
            with_it.append(run_once(folder, ways[1]))
    differences = [after - before for before, after in zip(without, with_it, strict=True)]
    return statistics.median(without), statistics.median(with_it), statistics.median(differences)


def target(rounds: int = ROUNDS) -> tuple[bool, str]:
    """Whether the plugin costs no more than it may, and a sentence with the figures."""
    without, with_it, cost = measure(rounds)
    text = f"a pytest run without a lab pays {cost:.1f} ms of processor time for the plugin, at most {MOST_MS:g} "
    return cost <= MOST_MS, f"{text}({without:.0f} ms without it, {with_it:.0f} with it, medians of {rounds})"


if __name__ == "__main__":
    met, sentence = target()
    print(f"{'met' if met else 'MISSED'}: {sentence}")
    sys.exit(0 if met else 1)
