"""The kernel's log from a moment on.

A *cursor* is a text.  The log is read from ``/dev/kmsg``, whose records are numbered, where we may; else by
``journalctl -k``, which has cursors of its own.  Both want root, or a group that the system names.

::

    kmsg:BOOT:50986        everything after record 50986 of that boot
    journal:s=0639f8;...   everything after that entry
    none:why               the log cannot be read here
"""

from __future__ import annotations

import os
import re
from typing import Callable, List, NamedTuple

from easycluster.devices.gpu.errors import GpuError
from easycluster.devices.gpu.tools import find_tool, run_tool

__all__ = ["News", "cursor_now", "news_since"]

KMSG = "/dev/kmsg"
# A record is at most so long (CONSOLE_EXT_LOG_MAX).
_RECORD = 8192


class News(NamedTuple):
    """What the log has since a cursor.

    Attributes:
        lines: Those that were wanted.
        cursor: Where it ends.
        unread: Why it could not be read, or not all of it; ``""`` if it was.
    """

    lines: List[str]
    cursor: str
    unread: str = ""


def cursor_now() -> str:
    """Where the log ends now."""
    return news_since("", lambda line: False).cursor


def news_since(cursor: str, wanted: Callable[[str], bool]) -> News:
    """The wanted lines of the log since a cursor; without one, where it ends."""
    if cursor.startswith("journal:"):
        return _journal(cursor, wanted)
    try:
        fd = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        return _journal(cursor, wanted, f"{KMSG}: {exc.strerror}")
    try:
        return _kmsg(fd, cursor, wanted)
    finally:
        os.close(fd)


def _kmsg(fd: int, cursor: str, wanted: Callable[[str], bool]) -> News:
    boot = _boot()
    known = re.fullmatch(r"kmsg:([^:]*):(-?\d+)", cursor)
    # Another boot numbers from 0 again, so all of it is new.
    last = int(known.group(2)) if known and known.group(1) == boot else -1
    seen, lines, overwritten = last, [], False
    while True:
        try:
            record = os.read(fd, _RECORD)
        except BlockingIOError:
            break
        except BrokenPipeError:
            # Overwritten under our eyes: the next read has what is left.
            overwritten = last >= 0
            continue
        head, _, text = record.decode("utf-8", "replace").partition(";")
        fields = head.split(",")
        number = int(fields[1]) if len(fields) > 1 and fields[1].isdigit() else seen + 1
        if number <= last:
            continue
        if last >= 0 and seen == last and number > last + 1:
            overwritten = True
        seen = number
        # Lines that begin with a space are properties of the record.
        line = text.split("\n", 1)[0]
        if cursor and wanted(line):
            lines.append(line)
    unread = "it had to be overwritten before it was read" if overwritten else ""
    return News(lines, f"kmsg:{boot}:{seen}", unread)


def _journal(cursor: str, wanted: Callable[[str], bool], why: str = "") -> News:
    program = find_tool("journalctl")
    if program is None:
        return News([], f"none:{why}", why)
    words = [program, "-k", "-q", "--no-pager", "--show-cursor", "-o", "cat"]
    # Without a cursor its end is wanted, and the last entry has it.
    words += [f"--after-cursor={cursor[8:]}"] if cursor.startswith("journal:") else ["-n", "1"]
    try:
        said = run_tool(words, 20.0)
    except GpuError as exc:
        return News([], f"none:{exc}", str(exc))
    *lines, end = said.out.splitlines() or [""]
    match = re.match(r"-- cursor: (.*)", end)
    if match is None:
        if cursor.startswith("journal:") and said.status == 0 and not said.out.strip():
            return News([], cursor)
        text = f"{why}; journalctl -k: {said.text or 'shows nothing to this account'}".lstrip("; ")
        return News([], f"none:{text}", text)
    return News([line for line in lines if cursor and wanted(line)], f"journal:{match.group(1)}")


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return "?"
