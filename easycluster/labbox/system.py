"""The system of a host: what its first process does, from an empty mount namespace to the last signal.

The root is an overlay: the host's own disk over everything this machine has installed.  Homes and places for temporary
files are the host's own; /tmp, /run and /dev/shm are gone after a reboot, the rest of the disk is not.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from easycluster.labbox import getty, kernel, network
from easycluster.labbox.errors import LabBoxError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from easycluster.labbox.layout import Folder, Plan
    from easycluster.labbox.network import Range

# Of these nothing of this machine is seen.
_OWN: Final = {"root": 0o700, "home": 0o755, "tmp": 0o1777, "run": 0o755, "var/tmp": 0o1777, "mnt": 0o755, "srv": 0o755}
_DEVICES: Final = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
# Shown as they are, where this machine has them.
_SHOWN_DEVICES: Final = ("fuse", "net/tun")

_SCRIPT: Final = """\
#!/bin/sh
# Tells the first process, as a system's own program would.
case " $* " in
    *" -f "*|*" --force "*) exec kill -s {forced} 1 ;;
    *) exec kill -s {signal} 1 ;;
esac
"""
_SHUTDOWN: Final = """\
#!/bin/sh
case " $* " in
    *" -r "*|*" --reboot "*) exec kill -s INT 1 ;;
    *) exec kill -s TERM 1 ;;
esac
"""
_PROGRAMS: Final = {
    "reboot": _SCRIPT.format(signal="INT", forced="USR1"),
    "poweroff": _SCRIPT.format(signal="TERM", forced="USR2"),
    "halt": _SCRIPT.format(signal="TERM", forced="USR2"),
    "shutdown": _SHUTDOWN,
}
# signal: what reboot(2) is told, and whether processes are asked to end before
_ENDINGS: Final = {
    signal.SIGINT: (kernel.RESTART, True),
    signal.SIGTERM: (kernel.POWER_OFF, True),
    signal.SIGUSR1: (kernel.RESTART, False),
    signal.SIGUSR2: (kernel.POWER_OFF, False),
}
# Far above those of a machine's own accounts.
_FIRST_USER: Final = 50001
# A disk that is being written to may have more on it than a moment ago.
_ATTEMPTS: Final = 100
# What a process gets between SIGTERM and SIGKILL; systemd's 90 s are for databases.
_GRACE: Final = 2.0


def prepare_disk(plan: Plan, folder: Folder, name: str) -> None:
    """Make a host's disk, in the supervisor."""
    disk = folder.disks / name
    disk.mkdir()
    kernel.mount("tmpfs", disk, "tmpfs", options=f"size={plan.disk},mode=755")
    for part in ("upper", "work", "root"):
        (disk / part).mkdir(mode=0o755)
    for path, mode in _OWN.items():
        own = disk / "upper" / path
        own.mkdir(mode=mode, parents=True)
        own.chmod(mode)
        # Hides what the lower folder has.
        os.setxattr(own, "trusted.overlay.opaque", b"y")


def limit_disk(plan: Plan, folder: Folder, name: str, room: int | None) -> None:
    """Let a host's disk have so many bytes left, or as many as it was ordered with; in the supervisor.

    Raises:
        LabBoxError: If more is written to it meanwhile, again and again.
    """
    disk = folder.disks / name
    for _ in range(_ATTEMPTS):
        state = os.statvfs(disk)
        used = (state.f_blocks - state.f_bfree) * state.f_frsize
        # To a tmpfs 0 means no limit.
        size = plan.disk if room is None else min(plan.disk, max(used + room, state.f_frsize))
        try:
            kernel.mount("tmpfs", disk, "tmpfs", kernel.REMOUNT, f"size={size}")
            return
        except OSError:
            # Smaller than what is there by now.
            continue
    raise LabBoxError(f"the disk of {name} is written to faster than it can be filled")


def run(plan: Plan, folder: Folder, box: Range, number: int, boot_id: str) -> None:
    """Be the first process of a host; returns only if the system does not come up."""
    name = plan.hosts[number]
    kernel.set_name("init")
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_ENDINGS, signal.SIGCHLD})
    _log(f"{name} starts, boot id {boot_id}")
    network.configure(box, number, len(plan.hosts))
    _log(f"eth0 is up with address {box.address(number)}")
    socket.sethostname(name)
    _mount(plan, folder, name, boot_id)
    os.chdir(folder.disks / name / "root")
    # The old root comes to lie upon the new one, from where it is taken away: pivot_root(2).
    subprocess.run(["pivot_root", ".", "."], check=True)
    kernel.detach(".")
    os.chdir("/")
    sshd = _start(_become_sshd)
    _log("sshd is started")
    _start(lambda: getty.become(1, name))
    _attend(sshd)


def _mount(plan: Plan, folder: Folder, name: str, boot_id: str) -> None:
    disk = folder.disks / name
    root = disk / "root"
    kernel.mount("overlay", root, "overlay", options=f"lowerdir=/,upperdir={disk / 'upper'},workdir={disk / 'work'}")
    safe = kernel.NO_SUID | kernel.NO_DEV | kernel.NO_EXEC
    kernel.mount("proc", root / "proc", "proc", safe)
    # The machine's own settings, and its emergency exit, are not a host's to change.
    for path in ("proc/sys", "proc/sysrq-trigger"):
        if (root / path).exists():
            kernel.bind(root / path, root / path, read_only=True)
    kernel.mount("sysfs", root / "sys", "sysfs", safe | kernel.READ_ONLY)
    kernel.mount("tmpfs", root / "run", "tmpfs", kernel.NO_SUID | kernel.NO_DEV, "mode=755")
    kernel.mount("tmpfs", root / "tmp", "tmpfs", kernel.NO_SUID | kernel.NO_DEV, "mode=1777")
    _make_devices(root / "dev")
    for path in ("run/sshd", "run/lock", "run/labbox"):
        (root / path).mkdir(mode=0o755)
    written = root / "run/labbox/boot_id"
    written.write_text(boot_id + "\n")
    kernel.bind(written, root / "proc/sys/kernel/random/boot_id")
    _install(plan, folder, box_name=name, root=root)
    for path in plan.share:
        inside = root / path.lstrip("/")
        inside.mkdir(parents=True, exist_ok=True)
        kernel.bind(path, inside, read_only=True)


def _make_devices(dev: Path) -> None:
    kernel.mount("tmpfs", dev, "tmpfs", kernel.NO_SUID, "mode=755")
    mask = os.umask(0)
    for name, (major, minor) in _DEVICES.items():
        os.mknod(dev / name, 0o020666, os.makedev(major, minor))
    os.umask(mask)
    for path in _SHOWN_DEVICES:
        if os.path.exists(f"/dev/{path}"):
            (dev / path).parent.mkdir(exist_ok=True)
            (dev / path).touch()
            kernel.bind(f"/dev/{path}", dev / path)
    for name, target in {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}.items():
        (dev / name).symlink_to(f"/proc/self/{target}")
    for name in ("pts", "shm"):
        (dev / name).mkdir()
    kernel.mount("devpts", dev / "pts", "devpts", kernel.NO_SUID | kernel.NO_EXEC, "newinstance,ptmxmode=0666,mode=620")
    (dev / "ptmx").symlink_to("pts/ptmx")
    kernel.mount("tmpfs", dev / "shm", "tmpfs", kernel.NO_SUID | kernel.NO_DEV, "mode=1777")


def _install(plan: Plan, folder: Folder, box_name: str, root: Path) -> None:
    """Put our files on a new disk; later boots find them, and what has been made of them."""
    ours = root / "etc/labbox"
    if ours.exists():
        return
    shutil.copytree(folder.machine(box_name), ours)
    (ours / "host_key").chmod(0o600)
    _replace(root / "etc/hosts", (folder.path / "hosts").read_text())
    _replace(root / "etc/hostname", box_name + "\n")
    _replace(root / "etc/machine-id", (ours / "machine-id").read_text())
    # There is no name server in a box, and asking one must not take time.
    _replace(root / "etc/resolv.conf", "")
    _make_accounts(plan, root)
    for name, text in _PROGRAMS.items():
        for place in ("usr/local/sbin", "usr/sbin"):
            _replace(root / place / name, text, 0o755)


def _make_accounts(plan: Plan, root: Path) -> None:
    shadow = root / "etc/shadow"
    lines = shadow.read_text().splitlines() if shadow.exists() else []
    # "!" locks an account, for sshd also against keys; "*" is only no password.
    lines = [re.sub(r"^root:![^:]*", "root:*", line) for line in lines]
    known = {line.partition(":")[0] for line in (root / "etc/passwd").read_text().splitlines()}
    for number, name in enumerate(plan.users, _FIRST_USER):
        if name in known:
            raise ValueError(f"{name!r} is an account of this machine already")
        lines.append(f"{name}:*:19000:0:99999:7:::")
        for file, line in (
            ("passwd", f"{name}:x:{number}:{number}::/home/{name}:/bin/sh"),
            ("group", f"{name}:x:{number}:"),
        ):
            with (root / "etc" / file).open("a") as accounts:
                accounts.write(line + "\n")
        home = root / "home" / name
        home.mkdir(mode=0o700)
        os.chown(home, number, number)
    if lines:
        _replace(shadow, "\n".join(lines) + "\n", 0o600)


def _replace(path: Path, text: str, mode: int = 0o644) -> None:
    # Often a link to a file that is not there, or to a program that does much more.
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _log(text: str) -> None:
    """Say something at the console, with the seconds since the host's start, as a kernel does."""
    with contextlib.suppress(OSError):
        os.write(1, f"[{time.clock_gettime(time.CLOCK_BOOTTIME):12.6f}] {text}\n".encode())


def _start(become: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.setsid()
            become()
        finally:
            os._exit(1)
    return pid


def _become_sshd() -> None:
    program = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin") or "sshd"
    os.execv(program, [program, "-D", "-e", "-f", "/etc/labbox/sshd_config"])


def _attend(sshd: int) -> None:
    """Bury orphans until a signal says that the system is to end; sshd may die as it would elsewhere."""
    while True:
        got = signal.sigwaitinfo({*_ENDINGS, signal.SIGCHLD}).si_signo
        _bury()
        ending = _ENDINGS.get(signal.Signals(got))
        if ending is not None:
            command, gently = ending
            _log(f"the system is going down for {'reboot' if command == kernel.RESTART else 'power off'}")
            if gently:
                # First, so that nobody logs in any more.
                _tell(sshd, signal.SIGTERM)
                _tell(-1, signal.SIGTERM)
                _tell(-1, signal.SIGCONT)
                end = time.monotonic() + _GRACE
                while _bury() and time.monotonic() < end:
                    time.sleep(0.005)
            kernel.reboot(command)
            sys.exit(1)


def _tell(pid: int, what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, what)


def _bury() -> bool:
    """Wait for children that have ended; whether there are others."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
