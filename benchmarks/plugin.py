"""``python -m benchmarks.plugin``: what the plugin costs a pytest run without a lab, in processor time.

One test that passes is run again and again, each time in a process of its own: without the plugin, with it, and with
it as a wheel installs it.  Byte code is there, as it is for anybody who runs pytest twice.  A cost is the median of the
differences of neighbours: whatever else the machine does hits both.  pytest finds the plugin by its entry point, as
where it is installed: ``-p pytest_easycluster.plugin`` would have it look through all that is installed, which costs
more.

What a wheel adds is pytest's own: it reads the list of files of every distribution that has a plugin, whether that is
used or not, and since Python 3.12 that looks for each of them on the disk.  An editable installation has a short list.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("easycluster", "pytest_easycluster")

# What a run without a lab may pay, in milliseconds.
MOST_MS = 5.0
ROUNDS = 25

# What says that the plugin is there, for a checkout that is not installed.
INSTALLED = {
    "METADATA": "Metadata-Version: 2.1\nName: easycluster-checkout\nVersion: 1\n",
    "entry_points.txt": "[pytest11]\neasycluster = pytest_easycluster.plugin\n",
}


class Costs(NamedTuple):
    """Medians, in milliseconds.

    Attributes:
        without: A run without the plugin.
        with_it: One with it.
        cost: The difference.
        listed: What a run pays more where a wheel was installed.
    """

    without: float
    with_it: float
    cost: float
    listed: float


def run_once(folder: Path, options: list[str]) -> float:
    """Run pytest in ``folder`` and return the processor time that it took, in milliseconds."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "PYTHON", "EC_"))}
    environment.update(PYTHONPATH=os.pathsep.join([str(ROOT), str(folder)]))
    others = {each.name for each in entry_points(group="pytest11")} - {"easycluster"}
    left_out = [word for name in ("cacheprovider", *sorted(others)) for word in ("-p", f"no:{name}")]
    command = [sys.executable, "-m", "pytest", "-q", *left_out, *options, "test_one.py"]
    child = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"pytest ended with {child.returncode}")
    return (used.ru_utime + used.ru_stime) * 1e3


def install(folder: Path, *, listed: bool) -> Path:
    """Make a folder in which the plugin is installed; returns it.

    Args:
        folder: Which.
        listed: Whether all files are listed, as after the installation of a wheel.
    """
    information = folder / "checkout-1.dist-info"
    information.mkdir(parents=True)
    for name, text in INSTALLED.items():
        (information / name).write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_one.py").write_text("def test_one():\n    pass\n")
    if listed:
        names: list[str] = []
        for package in PACKAGES:
            for path in sorted((ROOT / package).rglob("*.py")):
                source = path.relative_to(ROOT)
                names += [str(source), importlib.util.cache_from_source(str(source))]
        for name in names:
            # What is in them does not matter: they are looked for, and not read.
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (information / "RECORD").write_text("".join(f"{name},sha256={'x' * 43},1234\n" for name in names))
    return folder


def measure(rounds: int = ROUNDS) -> Costs:
    """Measure; see the module."""
    with tempfile.TemporaryDirectory() as temporary:
        short = install(Path(temporary, "short"), listed=False)
        long = install(Path(temporary, "long"), listed=True)
        ways: tuple[tuple[Path, list[str]], ...] = ((short, ["-p", "no:easycluster"]), (short, []), (long, []))
        taken: tuple[list[float], ...] = ([], [], [])
        for way in ways:
            run_once(*way)  # writes byte code
        for _ in range(rounds):
            for times, way in zip(taken, ways, strict=True):
                times.append(run_once(*way))
    without, with_it, listed = taken
    return Costs(
        statistics.median(without),
        statistics.median(with_it),
        statistics.median([after - before for before, after in zip(without, with_it, strict=True)]),
        statistics.median([after - before for before, after in zip(with_it, listed, strict=True)]),
    )


def target(rounds: int = ROUNDS) -> tuple[bool, str]:
    """Whether the plugin costs no more than it may, and a sentence with the figures."""
    costs = measure(rounds)
    text = f"a pytest run without a lab pays {costs.cost:.1f} ms of processor time for the plugin, at most {MOST_MS:g} "
    text += f"({costs.without:.0f} ms without it, {costs.with_it:.0f} with it, medians of {rounds}); "
    return costs.cost <= MOST_MS, f"{text}installed from a wheel, {costs.listed:.1f} ms more for its list of files"


if __name__ == "__main__":
    met, sentence = target()
    print(f"{'met' if met else 'MISSED'}: {sentence}")
    sys.exit(0 if met else 1)
