"""What hosts were like when their tests were last green, and how long tests took: a file, or pytest's cache.

::

    {"version": 1,
     "hosts": {"bench/gpu01": {"at": "2026-11-20T21:00:00+00:00", "facts": {"kernel": "6.1.0-18-amd64"}}},
     "tests": {"bench/test_gpu.py::test_clock": [31.2, 30.8]}}
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
from typing import TYPE_CHECKING, Any, Final

from easycluster.errors import EasyClusterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["GreenError", "GreenRuns", "changes", "read_green", "slower", "write_green"]

VERSION: Final = 1
# Of each test, the last ones; more say nothing more.
MOST_TIMES: Final = 5
# So much longer than usual is clearly off: the factor, and seconds.
FACTOR, LEAST = 2.0, 1.0
MOST_SHOWN: Final = 12


class GreenError(EasyClusterError, ValueError):
    """A file of facts cannot be used."""


class GreenRuns:
    """What was green.

    Args:
        lab: Name of the lab: several may share a file.
        data: What the file has, None for nothing.

    Raises:
        GreenError: If it is something else.
    """

    def __init__(self, lab: str, data: Any = None) -> None:
        self._lab = lab
        self.data: dict[str, Any] = data if data is not None else {"version": VERSION}
        if not isinstance(self.data, dict) or self.data.get("version") != VERSION:
            raise GreenError(f"it is not of version {VERSION}; remove it, and the next green run makes it anew")
        for section in ("hosts", "tests"):
            if not isinstance(self.data.setdefault(section, {}), dict):
                raise GreenError(f"{section!r} in it is no mapping; remove it, and the next green run makes it anew")

    def facts_of(self, host: str) -> tuple[dict[str, str], str]:
        """Facts about a host at its last green end, and when that was; nothing if there is none."""
        kept = self.data["hosts"].get(f"{self._lab}/{host}", {})
        return dict(kept.get("facts", {})), str(kept.get("at", ""))

    def times_of(self, test: str) -> list[float]:
        """How long a test took when it was last green, the last one last."""
        return [float(one) for one in self.data["tests"].get(f"{self._lab}/{test}", [])]

    def add(self, facts: Mapping[str, Mapping[str, str]], times: Mapping[str, float]) -> None:
        """A run has ended, with hosts that were green and tests that have passed."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        for host, found in facts.items():
            self.data["hosts"][f"{self._lab}/{host}"] = {"at": now, "facts": dict(found)}
        for test, seconds in times.items():
            kept = [*self.times_of(test), round(seconds, 3)]
            self.data["tests"][f"{self._lab}/{test}"] = kept[-MOST_TIMES:]


def read_green(path: Path, lab: str) -> GreenRuns:
    """Read a file; one that is not there has nothing.

    Raises:
        GreenError: If it cannot be used.
    """
    try:
        return GreenRuns(lab, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return GreenRuns(lab)
    except OSError as exc:
        raise GreenError(f"{path} cannot be read: {exc.strerror}") from None
    except GreenError as exc:
        raise GreenError(f"{path} cannot be used: {exc}") from None
    except ValueError as exc:
        raise GreenError(f"{path} cannot be used: it is not JSON ({exc})") from None


def write_green(path: Path, lab: str, facts: Mapping[str, Mapping[str, str]], times: Mapping[str, float]) -> None:
    """Add what was green to a file that others may write, too.

    Raises:
        GreenError: If that cannot be done.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_name(f"{path.name}.lock"), "a") as lock:
            # Where the file system has no locks, whoever is last wins.
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            green = read_green(path, lab)
            green.add(facts, times)
            fresh = path.with_name(f"{path.name}.{os.getpid()}")
            fresh.write_text(json.dumps(green.data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            fresh.replace(path)
    except OSError as exc:
        raise GreenError(f"{path} cannot be written: {exc.strerror}") from None


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What has changed, in few words each; nothing if one of them is empty."""
    if not before or not now:
        return []
    found = []
    for name in [*before, *(one for one in now if one not in before)]:
        if name not in now:
            found.append(f"{name} {before[name]} is gone")
        elif name not in before:
            found.append(f"{name} {now[name]} is new")
        elif before[name] != now[name]:
            found.append(f"{name} {before[name]} -> {now[name]}")
    more = len(found) - MOST_SHOWN
    return [*found[:MOST_SHOWN], f"and {more} more"] if more > 0 else found


def slower(seconds: float, times: Iterable[float]) -> str:
    """What there is to say of a test that took so long, ``""`` if it is not clearly longer than it was."""
    known = list(times)
    if not known:
        return ""
    # Of an even number the longer one: it is about what is clearly off.
    usual = sorted(known)[len(known) // 2]
    if seconds <= max(usual, max(known)) + LEAST or seconds <= usual * FACTOR:
        return ""
    runs = f"the last {len(known)} green runs" if len(known) > 1 else "the last green run"
    return f"it took {seconds:.3g} s, and {usual:.3g} s in {runs}"
