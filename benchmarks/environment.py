"""A private virtual environment for EasyCluster 0.22.3, which has our import name; made once, kept in a cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ORIGINAL = "EasyCluster==0.22.3"
INSTALL_TIMEOUT = 300.0


def cache_directory() -> Path:
    """Return the directory of this benchmark in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "easycluster-benchmarks"


def original_python() -> Path:
    """Return a Python that has EasyCluster 0.22.3, of the same version as this one; installs it on first use.

    Raises:
        RuntimeError: If it cannot be installed; the message has the end of what pip said.
    """
    folder = cache_directory() / "original-{}.{}.{}".format(*sys.version_info[:3])
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if complete.exists() and python.exists():
        return python
    print(f"installing {ORIGINAL} into {folder} (once)", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ORIGINAL]
    for command in ([sys.executable, "-m", "venv", str(folder)], install):
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False
        )
        if done.returncode != 0:
            said = (done.stdout + done.stderr).strip()[-1500:]
            raise RuntimeError(f"{ORIGINAL} could not be installed: {' '.join(command)} said:\n{said}")
    complete.touch()
    return python
