"""What this machine must have for a box."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Final

__all__ = ["missing"]

_PACKAGES: Final = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "pivot_root": "util-linux",
}
_PLACES: Final = os.pathsep.join((os.defpath, "/usr/sbin", "/sbin", "/usr/local/sbin"))


def missing() -> str:
    """Say in one sentence what is missing for a box here, ``""`` if nothing is."""
    if sys.platform != "linux":
        return f"a box needs Linux; this is {sys.platform}"
    if os.geteuid() != 0:
        return "a box needs root, for namespaces and mounts; run it with sudo"
    lacking = [tool for tool in _PACKAGES if not (shutil.which(tool) or shutil.which(tool, path=_PLACES))]
    if lacking:
        packages = sorted({_PACKAGES[tool] for tool in lacking})
        return f"a box needs {' and '.join(lacking)}: apt-get install {' '.join(packages)}"
    if not os.path.exists("/proc/self/ns/time"):
        return "a box needs Linux 5.6 or newer, for clocks of each host's own"
    spaces = ("--mount", "--net", "--pid", "--uts", "--ipc", "--time", "--fork")
    done = subprocess.run(["unshare", *spaces, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        return f"a box needs namespaces, which this machine does not allow ({said}); in a container, --privileged helps"
    return ""
