"""Fuzz what strangers and peers may send:  python -m tests.fuzz --runs 1000000

Every target runs in a process of its own, as many at a time as there are processors.  The end says how
many inputs there were, how many of them were malformed, and what was found; a finding is kept with the
command that shows it again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
# Shared parts of the tests are imported as ``support``.
sys.path.insert(0, str(TESTS))

from .engine import COUNTS, Counts, has_atheris, run, run_one  # noqa: E402

# Share of the inputs: where strangers come first, and where a target is quick, there are more.
SHARES = {"strangers": 5, "server": 5, "frames": 3, "records": 2, "client": 3, "control": 2, "references": 2}
SHARES |= {"call": 1, "serve": 1}


def parse(arguments):
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200_000, help="inputs of all targets together")
    parser.add_argument("--target", action="append", metavar="NAME", help=f"one of {', '.join(SHARES)}; default: all")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same inputs (1)")
    parser.add_argument("--plain", action="store_true", help="mutate seeds, even where atheris is installed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at a time")
    parser.add_argument("--input", type=Path, metavar="FILE", help="run one target over this file only")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where findings go (a new temporary folder)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file, too")
    parser.add_argument("--alone", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    targets = options.target or list(SHARES)
    guided = has_atheris() and not options.plain
    if options.input is not None:
        print("made sense" if run_one(targets[0], options.input.read_bytes()) else "refused, or not whole")
        return 0
    if options.alone is not None:
        run(targets[0], options.runs, options.seed, options.alone, guided)
        return 0
    if not has_atheris():
        print("atheris is not installed: seeds are mutated without looking at what they reach")
    keep = options.keep or Path(tempfile.mkdtemp(prefix="ec-fuzz-"))
    keep.mkdir(parents=True, exist_ok=True)
    whole = sum(SHARES.get(name, 1) for name in targets)
    begin = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(
            pool.map(
                lambda name: run_alone(name, -(-options.runs * SHARES.get(name, 1) // whole), options, keep / name),
                targets,
            )
        )
    seconds = time.monotonic() - begin
    total = {count: sum(result[count] for result in results) for count in COUNTS}
    found = [result["target"] for result in results if result["finding"]]
    for result in results:
        print("{target:11} {inputs:8} inputs {malformed:8} malformed {armed:8} with tripwires".format(**result))
        if result["finding"]:
            print(result["finding"])
    print(
        f"{total['inputs']} inputs, {total['malformed']} malformed, {len(found)} findings in {seconds:.1f} s"
        f"{' (atheris)' if guided else ' (plain mutation)'}"
    )
    if options.json is not None:
        options.json.write_text(json.dumps({**total, "found": found, "seconds": seconds, "guided": guided}))
    if not found and options.keep is None:
        subprocess.run(["rm", "-rf", str(keep)], check=True)
    return 1 if found else 0


def run_alone(name, runs, options, folder):
    """Run one target in a process of its own."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz", "--target", name, "--runs", str(runs), "--seed", str(options.seed)]
    command += ["--alone", str(folder), *(["--plain"] if options.plain else [])]
    environ = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(TESTS)}
    with (folder / "log").open("wb") as log:
        status = subprocess.run(command, cwd=TESTS.parent, env=environ, stdout=log, stderr=log, check=False).returncode
    counts = Counts(folder / "counts").read()
    finding = ""
    if status or counts["inputs"] < runs:
        said = (folder / "log").read_text(errors="replace").strip().splitlines()
        inputs = [str(path) for path in folder.glob("*-*") if path.is_file()]
        finding = "\n".join(
            [
                f"  ended with status {status} after {counts['inputs']} of {runs} inputs:",
                *(f"    {line[:300]}" for line in said[-25:]),
                *(f"  again:  python -m tests.fuzz --target {name} --input {path}" for path in inputs),
            ]
        )
    return {"target": name, **counts, "finding": finding}


if __name__ == "__main__":
    sys.exit(main())
