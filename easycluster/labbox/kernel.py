"""What Linux offers and Python 3.10 does not: namespaces, mounts, reboot(2).

Called directly rather than through ``unshare`` and ``mount``, because a host is a dozen mounts and each program costs
some milliseconds: eight hosts are up in half a second.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# <linux/sched.h>
NEW_TIME: Final = 0x00000080
NEW_MOUNTS: Final = 0x00020000
NEW_UTS: Final = 0x04000000
NEW_IPC: Final = 0x08000000
NEW_PIDS: Final = 0x20000000
NEW_NETWORK: Final = 0x40000000

# <linux/mount.h>
READ_ONLY: Final = 0x1
NO_SUID: Final = 0x2
NO_DEV: Final = 0x4
NO_EXEC: Final = 0x8
REMOUNT: Final = 0x20
BIND: Final = 0x1000
RECURSIVE: Final = 0x4000
PRIVATE: Final = 0x40000
_DETACH: Final = 0x2

# <linux/reboot.h>
RESTART: Final = 0x01234567
POWER_OFF: Final = 0x4321FEDC

# <linux/prctl.h>
_SET_PARENT_DEATH_SIGNAL: Final = 1
_SET_NAME: Final = 15

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Leave the parent's namespaces; new pids and a new time are for children only."""
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str | Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Put a filesystem in a place.

    Raises:
        OSError: If the kernel refuses, with the target's name.
    """
    result = _libc.mount(
        source.encode(), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None
    )
    _check(result, str(target))


def bind(source: str | Path, target: str | Path, read_only: bool = False) -> None:
    """Show a folder or file at a second place."""
    mount(str(source), target, flags=BIND)
    if read_only:
        mount("none", target, flags=BIND | REMOUNT | READ_ONLY)


def detach(target: str | Path) -> None:
    """Unmount now what nobody uses, and the rest as soon as it is not used any more."""
    _check(_libc.umount2(os.fsencode(target), _DETACH), str(target))


def reboot(command: int) -> None:
    """End this pid namespace; its parent learns how from the signal that its first process ended by."""
    _libc.reboot(command)


def die_with_parent() -> None:
    """Let the kernel kill this process when the thread that made it ends."""
    _check(_libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "prctl")


def set_name(name: str) -> None:
    """Give this process a name for ``ps`` and ``/proc/PID/comm``."""
    _libc.prctl(_SET_NAME, name.encode(), 0, 0, 0)


def start_clocks_anew() -> None:
    """Let uptime begin with 0 in the time namespace that the next child will have."""
    clocks = {"monotonic": time.CLOCK_MONOTONIC, "boottime": time.CLOCK_BOOTTIME}
    lines = []
    for name, clock in clocks.items():
        # The fraction counts upwards from the second below.
        seconds, fraction = divmod(-time.clock_gettime_ns(clock), 10**9)
        lines.append(f"{name} {seconds} {fraction}\n")
    Path("/proc/self/timens_offsets").write_text("".join(lines))


@contextmanager
def inside_network(fd: int) -> Iterator[None]:
    """Do something in another network namespace, and come back."""
    here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(fd)
        yield
    finally:
        enter(here)
        os.close(here)


def enter(fd: int) -> None:
    """Enter a namespace."""
    _check(_libc.setns(fd, 0), "setns")


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
