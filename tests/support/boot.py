"""A machine that systemd runs, for tests of services: namespaces, and an overlay over this machine's files.

Nothing reaches this machine: files are written to memory, processes have their own process and network
namespaces, and all end with the first.  Only the cgroups of systemd's are made beside ours, and removed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["Machine", "why_no_machine"]

SYSTEMD = "/lib/systemd/systemd"
CGROUPS = Path("/sys/fs/cgroup")
PYTHON = "/opt/ec/bin/python"

# As process 1 of its namespaces: $1 is a folder to work in, the others are packages to have there.
INIT = f"""
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/up" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" "$1/root"
cd "$1/root"
shift
mkdir -p opt/packages
# Now, since systemd may put an empty /tmp over what is there.
cp -r "$@" opt/packages
mount -t proc proc proc
mount -t tmpfs tmpfs run
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs sys/fs/cgroup
mkdir sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
mount --rbind /dev dev
mkdir old
pivot_root . old
umount -l old
ip link set lo up
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin {SYSTEMD} --system --unit=basic.target --show-status=0
"""


def _base_python():
    """Return a Python 3.10 or newer that every user may run."""
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        program = "import sys; sys.exit(sys.version_info < (3, 10))"
        with contextlib.suppress(OSError):
            if subprocess.run([python, "-c", program], cwd="/", user="nobody", env={}).returncode == 0:
                return python
    return None


def why_no_machine():
    """Return why there cannot be one here, None if there can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "needs root on Linux"
    if not os.path.exists(SYSTEMD) or not all(map(shutil.which, ("unshare", "nsenter", "ip", "pivot_root"))):
        return "needs systemd, util-linux and iproute2"
    if os.path.isdir("/run/systemd/system"):
        return "this machine's own systemd has the cgroups"
    if not os.access(CGROUPS / "systemd", os.W_OK):
        return "needs a cgroup hierarchy for systemd"
    if _base_python() is None:
        return "needs a Python that every user may run"
    return None


class Machine:
    """Boots; ``close`` ends it."""

    def __init__(self, folder):
        self.folder = folder
        self._cgroups = set(CGROUPS.glob("*/*/"))
        needed = [importlib.util.find_spec(name) for name in ("easycluster", "yaml", "execnet", "cloudpickle")]
        packages = [os.path.dirname(spec.origin) for spec in needed]
        words = ["unshare", "-mpfCuin", "--kill-child", "bash", "-c", INIT, "init", str(folder), *packages]
        with open(folder.parent / "boot.log", "wb") as log:
            self._unshare = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.wait(self._init_pid)
            self.wait(self._is_up)
            self._install_package()
        except BaseException:
            self.close()
            raise

    def _init_pid(self):
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text().split()
        if children and SYSTEMD.encode() in Path(f"/proc/{children[0]}/cmdline").read_bytes():
            return int(children[0])
        return None

    def _is_up(self):
        return self.run("systemctl", "is-system-running", check=False).stdout in ("running\n", "degraded\n")

    def _install_package(self):
        self.run(_base_python(), "-m", "venv", "--without-pip", "/opt/ec")
        target = self.run(PYTHON, "-c", "import site; print(site.getsitepackages()[0])").stdout.strip()
        self.run("cp", "-r", "/opt/packages/.", target)
        self.run("chmod", "-R", "a+rX", target)

    def wait(self, condition, timeout=60.0):
        """Wait until a condition holds and return its value."""
        end = time.monotonic() + timeout
        while not (value := condition()):
            assert time.monotonic() < end, (self.folder.parent / "boot.log").read_text()
            assert self._unshare.poll() is None, (self.folder.parent / "boot.log").read_text()
            time.sleep(0.05)
        return value

    def run(self, *words, check=True, **options):
        """Run a command on the machine, as root."""
        enter = ["nsenter", "-t", str(self._init_pid()), "-m", "-p", "-C", "-u", "-i", "-n", "--wd=/", "--"]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        done = subprocess.run(
            [*enter, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, **options
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    def close(self):
        """End everything that runs on the machine."""
        self._unshare.kill()
        self._unshare.wait()
        for made in set(CGROUPS.glob("*/*/")) - self._cgroups:
            end = time.monotonic() + 10
            while made.exists() and time.monotonic() < end:
                for folder, _, _ in os.walk(made, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(folder)
