"""Private virtual environments for peers: made once, kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

# What each needs, and what it may do without.  EasyCluster 0.22.3 has our import name and must be alone.
REQUIRED = {
    "original": ("EasyCluster==0.22.3",),
    "main": ("rpyc>=6,<7", "plumbum", "Pyro5", "msgpack", "mitogen>=0.3,<0.4"),
    "zerorpc": ("zerorpc",),
    "cluster": ("ipyparallel>=9", "distributed"),
    "ray": ("ray",),
    "ssh": ("paramiko", "fabric>=3", "asyncssh", "pytest-testinfra"),
}
WISHED = {"original": ("numpy",), "main": ("numpy",), "cluster": ("numpy",), "ray": ("numpy",)}

INSTALL_TIMEOUT = 400.0


class NotInstalled(Exception):
    """An environment could not be made; the message has the end of what pip said."""


def cache_directory() -> Path:
    """Return the directory of this benchmark in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "easycluster-benchmarks"


def folder_of(name: str) -> Path:
    """Return where an environment is kept; other requirements or another Python are another folder."""
    mark = hashlib.sha256(repr((REQUIRED[name], WISHED.get(name), sys.version, sys.prefix)).encode()).hexdigest()[:8]
    return cache_directory() / "{}-{}.{}.{}-{}".format(name, *sys.version_info[:3], mark)


def python_of(name: str, install: bool = True) -> Path:
    """Return the Python of an environment, installed on first use.

    Args:
        name: A key of REQUIRED, or ``"here"``.
        install: Whether to make it if it is not there.

    Raises:
        NotInstalled: If it is not there and cannot or shall not be made.
    """
    if name == "here":
        return Path(sys.executable)
    folder = folder_of(name)
    python = folder / "bin" / "python"
    complete, failed = folder / "complete", folder.with_suffix(".failed")
    if complete.exists() and python.exists():
        return python
    if not install:
        raise NotInstalled("not installed, and not to be")
    if failed.exists():
        # Not again for each run; remove the file to try again.
        raise NotInstalled(f"could not be installed, see {failed}: {last_line(failed.read_text())}")
    print(f"installing {', '.join(REQUIRED[name])} into {folder} (once)", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        run([sys.executable, "-m", "venv", str(folder)])
        run([*pip, *REQUIRED[name]])
    except NotInstalled as exc:
        failed.parent.mkdir(parents=True, exist_ok=True)
        failed.write_text(f"{exc}\n")
        raise NotInstalled(f"could not be installed: {last_line(str(exc))}") from exc
    try:
        run([*pip, "--only-binary", ":all:", *WISHED.get(name, ("pip",))])
    except NotInstalled as exc:
        print(f"{name} does without {', '.join(WISHED[name])}: {exc}", file=sys.stderr)
    complete.touch()
    return python


def run(command: list[str]) -> None:
    """Run a step of an installation.

    Raises:
        NotInstalled: If it fails.
    """
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"{' '.join(command)} took over {INSTALL_TIMEOUT:g} s") from None
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()[-1500:]
        raise NotInstalled(f"{' '.join(command)} said:\n{said}")


def last_line(text: str) -> str:
    """Return the last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[:160]


def versions(name: str) -> dict[str, str]:
    """Return what is installed in an environment, by name."""
    show = (
        "import importlib.metadata as m, json\n"
        "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
    )
    done = subprocess.run(
        [str(python_of(name)), "-c", show], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    import json

    found: dict[str, str] = json.loads(done.stdout)
    return found
