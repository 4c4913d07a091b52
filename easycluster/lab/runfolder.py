"""Folders that processes of one run share; one that was left by a run that was killed goes with the next.

::

    /tmp/easycluster-simulated-4711-x2k9q_3a/       for what, whose process, and something nobody can guess
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["run_folder"]


def run_folder(what: str) -> Path:
    """Make a folder of mode 0700, and remove those of the same kind whose processes are gone.

    Args:
        what: What it is for, a word.
    """
    prefix = f"easycluster-{what}-"
    parent = Path(tempfile.gettempdir())
    for path in parent.glob(f"{prefix}*-*"):
        owner = path.name.removeprefix(prefix).partition("-")[0]
        with contextlib.suppress(OSError, ValueError):
            is_mine = not hasattr(os, "getuid") or path.lstat().st_uid == os.getuid()
            if is_mine and not _lives(int(owner)):
                shutil.rmtree(path, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-"))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
