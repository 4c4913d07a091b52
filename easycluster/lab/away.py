"""Which hosts processes of this user, on this machine, have just told to restart or switched off.

A worker of pytest-xdist that connects to a host while another one reboots it would find it lost.  So who does that
leaves a note here, and who cannot connect looks for one, and tries again until it is gone::

    /tmp/easycluster-1000/away-DIGEST     mode 0600 in a directory of mode 0700: {"pid": ..., "until": ...}

A note counts as long as its process lives.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from easycluster.lab.target import Target

__all__ = ["announce", "is_away", "returned"]


def announce(target: Target, seconds: float) -> None:
    """Let others know that a host will not answer for a while; where that cannot be done they find it lost."""
    with contextlib.suppress(OSError):
        path = _note(target)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if _is_ours(path.parent):
            fresh = path.with_name(f"{path.name}.{os.getpid()}")
            fresh.write_text(json.dumps({"pid": os.getpid(), "until": time.time() + seconds}))
            fresh.replace(path)


def returned(target: Target) -> None:
    """Take the note away."""
    with contextlib.suppress(OSError):
        _note(target).unlink()


def is_away(target: Target) -> bool:
    """Whether somebody has left a note that holds."""
    path = _note(target)
    try:
        note = json.loads(path.read_text()) if _is_ours(path.parent) else {}
        os.kill(int(note["pid"]), 0)
        return bool(time.time() < float(note["until"]))
    except ProcessLookupError:
        returned(target)
        return False
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _note(target: Target) -> Path:
    digest = hashlib.sha256(str(target).encode()).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir(), f"easycluster-{user}", f"away-{digest}")


def _is_ours(path: Path) -> bool:
    status = os.lstat(path)
    return stat.S_ISDIR(status.st_mode) and (not hasattr(os, "getuid") or status.st_uid == os.getuid())
