"""Tries everything that `gpu_node` offers on a machine that has GPUs, and writes down what it saw.

    python -m tests.gpu_real                           on this machine
    python -m tests.gpu_real --connect ann@gpu7        on another one, by ssh
    python -m tests.gpu_real --emulated --no-transcript    here, on a processor: tries the suite, not a device

The transcript goes to docs/transcripts/gpu_BACKEND.txt.  A device is loaded for some seconds, and one test makes it
report a fault on purpose, so nobody else should be using it.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAB = """\
name: gpu_real
roles: {{gpu: {{}}}}
hosts:
  gpu:
    role: gpu
    connect: {connect}
    gpu: {{emulated: {emulated}{backend}}}
"""


def main() -> int:
    """Run the suite; gives pytest's exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu_real", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--connect", default="local", help="where the devices are: a connection spec, such as ann@gpu7")
    parser.add_argument("--backend", default="", help="nvidia, amd, opencl or cpu; by default the first that works")
    parser.add_argument("--emulated", action="store_true", help="accept a processor: tries the suite, not a device")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to load the devices (%(default)s)")
    parser.add_argument("--transcript", type=Path, help="where to write what was seen")
    parser.add_argument("--no-transcript", action="store_true", help="write nothing")
    opts = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gpu-real-") as folder:
        lab, found = Path(folder) / "lab.yaml", Path(folder) / "backend"
        backend = f", backend: {opts.backend}" if opts.backend else ""
        lab.write_text(LAB.format(connect=opts.connect, emulated=str(opts.emulated).lower(), backend=backend))
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-v",
            "-rA",
            "--noconftest",
            "-p",
            "no:cacheprovider",
            "--timeout=600",
        ]
        command += [f"--ec-inventory={lab}", str(Path(__file__).with_name("suite.py"))]
        environment = {"EC_GPU_SECONDS": str(opts.seconds), "EC_GPU_FOUND": str(found), "COLUMNS": "120"}
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=False
        )
        kind = found.read_text().strip() if found.exists() else "none"
    print(done.stdout)
    if not opts.no_transcript:
        path = opts.transcript or ROOT / "docs" / "transcripts" / f"gpu_{kind}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        today = datetime.datetime.now(datetime.timezone.utc).date()
        path.write_text(f"python -m tests.gpu_real, {today}\n\n{done.stdout.replace(str(ROOT), '.')}")
        print(f"written to {path}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
