"""What is looked for on a host after a failure: files, output of commands, kernel log, journal, core files.

The text of this module is sent to the host: standard library of Python 3.8 only.  Nothing here changes anything there.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import selectors
import signal
import stat
import subprocess
import time
from typing import Any

# Files that one pattern, or one directory, may stand for.
MOST_FILES = 100
# Where systems put core files, besides what core_pattern says.
CORE_FOLDERS = ("/var/lib/systemd/coredump", "/var/crash", "/var/lib/apport/coredump")
LEVELS = ("emergency", "alert", "critical", "error", "warning", "notice", "info", "debug")
MOST_LINES = 4000
# Of a kernel log whose clock nobody knows.
LAST_LINES = 100

_open: dict[int, int] = {}


def look(patterns: list[str]) -> list[dict[str, Any]]:
    """The files that patterns stand for: path and size, or why there is none."""
    found: dict[str, dict[str, Any]] = {}
    for pattern in patterns:
        path = os.path.expanduser(pattern)
        names = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else [path]
        if not names:
            found[pattern] = {"path": pattern, "why": "no file by this pattern"}
        some = 0
        for name in names:
            for one in _below(name):
                some += 1
                if some > MOST_FILES:
                    found[f"{pattern} ..."] = {"path": pattern, "why": f"only the first {MOST_FILES} files are kept"}
                    break
                found.setdefault(one, _state(one))
    return list(found.values())


def _below(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    found = []
    for folder, folders, files in os.walk(path):
        folders.sort()
        found += [os.path.join(folder, name) for name in sorted(files)]
        if len(found) > MOST_FILES:
            break
    return found or [path]


def _state(path: str) -> dict[str, Any]:
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return {"path": path, "why": "an empty directory"}
        if not stat.S_ISREG(status.st_mode):
            return {"path": path, "why": "not a regular file"}
    except OSError as exc:
        return {"path": path, "why": exc.strerror or str(exc)}
    return {"path": path, "size": status.st_size}


def begin(path: str, limit: int) -> tuple[int, int, int]:
    """Open a file; its handle, its size, and where its last ``limit`` bytes begin."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise OSError(f"{path} is not a regular file")
    _open[fd] = fd
    # Files of /proc and /sys have no size; they are read from their beginning.
    return fd, status.st_size, max(0, status.st_size - limit)


def piece(handle: int, offset: int, size: int) -> bytes:
    """Bytes of a file, none at its end."""
    return os.pread(_open[handle], size, offset)


def end(handle: int) -> None:
    """Close it."""
    os.close(_open.pop(handle))


def command(words: str, seconds: float, limit: int) -> dict[str, Any]:
    """Run a command in a session of its own: the last of its output, how much there was, and its exit code."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    until, data, size, late = time.monotonic() + seconds, bytearray(), 0, False
    try:
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                left = until - time.monotonic()
                if left <= 0:
                    late = True
                    break
                # In slices: what it started may hold the pipe after it has ended.
                if not selector.select(min(left, 0.2)):
                    if process.poll() is not None:
                        break
                    continue
                more = os.read(process.stdout.fileno(), 65536)
                if not more:
                    break
                size += len(more)
                data += more
                if len(data) > 2 * limit:
                    del data[:-limit]
        if not late:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                late = True
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.stdout is not None:
            process.stdout.close()
        process.wait()
    return {"data": bytes(data[-limit:]), "size": size, "code": None if late else process.returncode}


def kernel(since: float, ahead: float | None) -> dict[str, Any]:
    """What the kernel said since a time of the monotonic clock: seconds, level and text of each line.

    Args:
        since: That time.
        ahead: How far that clock is ahead of the kernel log's; None if nobody knows.
    """
    records: list[tuple[float, str, str]] = []
    try:
        records = _kmsg()
    except OSError as exc:
        why = exc.strerror or str(exc)
        try:
            records = _dmesg()
        except (OSError, subprocess.SubprocessError) as other:
            return {"why": f"/dev/kmsg: {why}; dmesg: {getattr(other, 'strerror', '') or other}"}
    if ahead is None and (not records or records[-1][0] <= time.monotonic() + 1.0):
        ahead = 0.0  # as far as can be seen, and but for what the two have drifted apart
    if ahead is None:
        return {"unknown": [f"{level}: {text}" for _, level, text in records[-LAST_LINES:]]}
    lines = [(moment + ahead, level, text) for moment, level, text in records if moment + ahead >= since]
    return {"lines": lines[-MOST_LINES:], "left_out": max(0, len(lines) - MOST_LINES)}


def _kmsg() -> list[tuple[float, str, str]]:
    """The records of the kernel's own device."""
    found: list[tuple[float, str, str]] = []
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while True:
            try:
                record = os.read(fd, 8192)
            except BlockingIOError:
                return found
            except BrokenPipeError:
                continue  # it was overwritten meanwhile
            if not record:
                return found
            head, _, text = record.decode("utf-8", "replace").partition(";")
            words = head.split(",")
            found.append((int(words[2]) / 1e6, LEVELS[int(words[0]) & 7], text.split("\n", 1)[0]))
    finally:
        os.close(fd)


def _dmesg() -> list[tuple[float, str, str]]:
    """The same by the program, for accounts that the device is closed to."""
    done = subprocess.run(["dmesg", "-r"], stdin=subprocess.DEVNULL, capture_output=True, timeout=5)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise OSError(said[-1] if said else f"exit code {done.returncode}")
    found = []
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        match = re.match(r"<(\d+)>\[\s*(\d+\.\d+)\] ?(.*)", line)
        if match:
            found.append((float(match[2]), LEVELS[int(match[1]) & 7], match[3]))
    return found


def journal(since: float, seconds: float) -> dict[str, Any]:
    """What the journal got since a time of the wall clock, without the kernel's: seconds, level, who and text."""
    try:
        # ``-n`` counts from the end, so that a test of a week costs no more.
        words = f"exec journalctl -q --no-pager -o json -n {MOST_LINES} --since=@{int(since)} 2>&1"
        done = command(words, seconds, 8 << 20)
    except OSError as exc:
        return {"why": f"journalctl: {exc.strerror or exc}"}
    if done["code"] is None:
        return {"why": f"journalctl did not end within {seconds:g} s"}
    if done["code"]:
        said = done["data"].decode("utf-8", "replace").strip().splitlines()
        return {"why": "there is no journalctl" if done["code"] == 127 else f"journalctl: {said[-1] if said else ''}"}
    lines = []
    for line in done["data"].splitlines():
        try:
            one = json.loads(line)
            moment = int(one["__REALTIME_TIMESTAMP"]) / 1e6
        except (ValueError, KeyError, TypeError):
            continue
        if moment >= since and one.get("_TRANSPORT") != "kernel":
            text = one.get("MESSAGE")
            if isinstance(text, list):  # not UTF-8: journalctl gives numbers
                text = bytes(text).decode("utf-8", "backslashreplace")
            level = str(one.get("PRIORITY", "6"))
            who = one.get("SYSLOG_IDENTIFIER") or one.get("_COMM") or ""
            lines.append((moment, LEVELS[int(level)] if level in "01234567" else "info", str(who), str(text or "")))
    return {"lines": lines}


def cores(since: float) -> list[dict[str, Any]]:
    """Core files made since a time of the wall clock, by the places that this system has for them."""
    try:
        with open("/proc/sys/kernel/core_pattern") as file:
            pattern = file.read().strip()
    except OSError:
        pattern = ""
    places = [os.path.join(folder, "*") for folder in CORE_FOLDERS]
    if pattern and not pattern.startswith("|"):
        path = pattern if pattern.startswith("/") else os.path.join(os.getcwd(), pattern)
        folder, name = os.path.split(re.sub(r"%%", "%", re.sub(r"%[^%]", "*", path)))
        places.append(os.path.join(folder, name + ("" if name.endswith("*") else "*")))
    found = []
    for place in places:
        for path in sorted(glob.glob(place))[-10 * MOST_FILES :]:
            try:
                status = os.stat(path)
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode) and status.st_mtime >= since:
                found.append({"path": path, "size": status.st_size, "made": status.st_mtime})
    return found[:MOST_FILES]
