"""Every Python that can be a far side on this machine."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST = (3, 8)


@functools.cache
def interpreters() -> dict[str, str]:
    """Return version ("3.8") to path of each interpreter from 3.8 on: ours, those on PATH, those of pyenv."""
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    found = {ours: sys.executable}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [str(path) for path in sorted(pyenv.glob("3.*/bin/python"))]
    candidates += [path for minor in range(8, 20) if (path := shutil.which(f"python3.{minor}"))]
    for path in candidates:
        version = _version(path)
        if version is not None and version >= OLDEST:
            found.setdefault(f"{version[0]}.{version[1]}", path)
    return dict(sorted(found.items(), key=lambda item: int(item[0].split(".")[1])))


def _version(path: str) -> tuple[int, int] | None:
    # A shim of pyenv exists for every version and fails for those that are not selected.
    answer = subprocess.run([path, "-V"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    match = re.match(r"Python (\d+)\.(\d+)", answer.stdout)
    return (int(match[1]), int(match[2])) if match and answer.returncode == 0 else None
