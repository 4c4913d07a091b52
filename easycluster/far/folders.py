"""Private folders, without ``tempfile``: that and what it imports would be a tenth of a far side's start.

This module is shipped to the far side.
"""

from __future__ import annotations

import os
import stat

__all__ = ["make_private", "remove"]


def make_private() -> str:
    """Make a folder that only this user can enter, where ``tempfile`` would; return its path.

    Raises:
        OSError: If there is no place for it.
    """
    places = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    failure = None
    for place in filter(None, [*places, "/tmp", "/var/tmp", "/usr/tmp", os.getcwd()]):
        path = os.path.join(os.path.abspath(place), "ec-" + os.urandom(6).hex())
        try:
            os.mkdir(path, 0o700)
        except OSError as exc:
            failure = failure or exc
            continue
        return path
    assert failure is not None
    raise failure


def remove(path: str) -> None:
    """Remove a folder of ours and the files in it, as far as they are there."""
    try:
        # The path may be known to others: what is there by now is followed nowhere.
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            return
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)
    except OSError:
        pass
