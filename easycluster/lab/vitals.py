"""What a host says of itself; nothing here changes anything on it.

The text of this module is sent to the host: standard library of Python 3.8 only.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from typing import Any

# Where locks are of no use: the kernels of two machines do not know of each other's.
NETWORK_DISKS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "fuse.sshfs", "fuse.glusterfs", "lustre", "afs")
SSHD_TIME = 5.0


def vitals(lock_directory: str) -> dict[str, Any]:
    """Everything at once; what cannot be found out is None."""
    return {
        "temp": _temp(),
        "limits": _limits(),
        "memory": _memory(),
        "sshd": _sshd(),
        "locks": _locks(lock_directory),
        "subreaper": _subreaper(),
        "cgroup": _cgroup(),
        "user": _user(),
        "system": " ".join(os.uname()[i] for i in (0, 2, 4)) if hasattr(os, "uname") else sys.platform,
    }


def _temp() -> dict[str, Any]:
    # Not tempfile.gettempdir(): it tries to write, and where that fails goes elsewhere in silence.
    folder = next((os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)), "/tmp")
    return dict(_disk(folder), writable=os.access(folder, os.W_OK | os.X_OK))


def _disk(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = {"path": folder, "free": None, "inodes": None, "noexec": False, "kind": _kind(folder)}
    try:
        status = os.statvfs(folder)
    except OSError as exc:
        found["error"] = exc.strerror
        return found
    found["free"] = status.f_bavail * status.f_frsize
    # File systems without a fixed number of inodes say 0 of 0.
    found["inodes"] = status.f_favail if status.f_files else None
    found["noexec"] = bool(status.f_flag & getattr(os, "ST_NOEXEC", 8))
    found["readonly"] = bool(status.f_flag & getattr(os, "ST_RDONLY", 1))
    return found


def _kind(folder: str) -> str:
    """The kind of file system that a folder lies on, ``""`` if that is not known."""
    best, kind = "", ""
    real = os.path.realpath(folder)
    for words in _lines("/proc/self/mounts"):
        if len(words) > 2:
            place = words[1].replace("\\040", " ")
            if (real + "/").startswith(place.rstrip("/") + "/") and len(place) >= len(best):
                best, kind = place, words[2]
    return kind


def _lines(path: str) -> list[list[str]]:
    try:
        with open(path, errors="replace") as file:
            return [line.split() for line in file]
    except OSError:
        return []


def _limits() -> dict[str, Any]:
    try:
        import resource
    except ImportError:
        return {}
    names = {"files": "RLIMIT_NOFILE", "processes": "RLIMIT_NPROC", "address_space": "RLIMIT_AS"}
    found = {}
    for name, constant in names.items():
        if hasattr(resource, constant):
            soft = resource.getrlimit(getattr(resource, constant))[0]
            found[name] = None if soft == resource.RLIM_INFINITY else soft
    return found


def _memory() -> int | None:
    """Bytes that can be had: of the machine, or less where a cgroup says so."""
    found = [int(words[1]) << 10 for words in _lines("/proc/meminfo") if words and words[0] == "MemAvailable:"]
    for words in _lines("/proc/self/cgroup"):
        path = words[0].rpartition(":")[2] if words else ""
        folder = os.path.normpath("/sys/fs/cgroup/" + path)
        most, used = (_lines(os.path.join(folder, name)) for name in ("memory.max", "memory.current"))
        if most and used and most[0][0].isdigit():
            found.append(int(most[0][0]) - int(used[0][0]))
    return min(found) if found else None


def _sshd() -> dict[str, Any]:
    """MaxSessions and MaxStartups of the sshd that we came through."""
    config = _sshd_config()
    if config is None:
        return {}
    program = next((path for path in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if os.path.exists(path)), "sshd")
    try:
        # sshd(8): says its effective configuration and does nothing else; needs root, for it reads the host keys.
        done = subprocess.run(
            [program, "-T", "-f", config],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SSHD_TIME,
            check=False,
        )
        text = done.stdout.decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError):
        text = ""
    if not text:
        try:
            with open(config, errors="replace") as file:
                text = file.read()
        except OSError:
            return {"config": config, "error": "cannot be read; log in as root to see it"}
    found: dict[str, Any] = {"config": config}
    for name in ("MaxSessions", "MaxStartups"):
        match = re.search(r"^\s*" + name + r"\s+(\S+)", text, re.IGNORECASE | re.MULTILINE)
        if match:
            found[name.lower()] = match.group(1)
    return found


def _sshd_config() -> str | None:
    """The configuration of the outermost sshd above us, None if there is none."""
    pid, found = os.getppid(), None
    while pid > 0:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().replace(b"\0", b" ").decode("utf-8", "replace")
            with open(f"/proc/{pid}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
        if re.search(r"(^|/)sshd\b", words):
            match = re.search(r"\s-f\s*(\S+)", words)
            found = match.group(1) if match else "/etc/ssh/sshd_config"
        pid = parent
    return found


def _locks(directory: str) -> dict[str, Any]:
    """Whether the lock directory can be used, or made; see easycluster.far.locks, which makes it when it is needed."""
    parent = os.path.dirname(directory) or "/"
    exists = os.path.lexists(directory)
    found = dict(_disk(directory if exists else parent), path=directory, exists=exists, trouble="")
    found["network"] = found["kind"] in NETWORK_DISKS
    if not exists:
        if not os.path.isdir(parent):
            found["trouble"] = f"{parent} does not exist"
        elif not os.access(parent, os.W_OK | os.X_OK):
            found["trouble"] = f"it is missing, and {parent} may not be written to"
        return found
    status = os.lstat(directory)
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISDIR(status.st_mode):
        found["trouble"] = "it is no directory"
    elif mode & 0o1003 != 0o1003 and status.st_uid != os.geteuid():
        found["trouble"] = f"it has mode {mode:04o}, so accounts cannot share it"
        found["fix"] = f"chmod 1777 {directory}"
    elif not os.access(directory, os.W_OK | os.X_OK):
        found["trouble"] = "it may not be written to"
    return found


def _subreaper() -> bool | None:
    """Whether the kernel lets a process inherit orphans (prctl(2), PR_GET_CHILD_SUBREAPER)."""
    try:
        import ctypes

        value = ctypes.c_int()
        return bool(ctypes.CDLL(None).prctl(37, ctypes.byref(value), 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return None


def _cgroup() -> str:
    """``v2``, ``v1`` or ``""``."""
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return "v2"
    return "v1" if os.path.isdir("/sys/fs/cgroup/memory") else ""


def _user() -> tuple[str, int]:
    uid = os.geteuid() if hasattr(os, "geteuid") else -1
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name, uid
    except (ImportError, KeyError):
        return str(uid), uid
