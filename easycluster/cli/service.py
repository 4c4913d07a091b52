"""``easycluster -i``, ``-u``, ``--start``, ``--stop``: the server as a service of systemd."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from easycluster.keys import generate_key, key_from_options, read_key_file, write_key_file
from easycluster.transport.listener import parse_allow

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["install", "is_installed", "start", "stop", "uninstall", "unit_text"]

NAME = "easycluster"
UNIT_PATH = Path("/etc/systemd/system/easycluster.service")
KEY_PATH = Path("/etc/easycluster.key")

# sd_booted(3): this directory exists if and only if systemd runs the machine.
_BOOTED = Path("/run/systemd/system")

_UNIT = """\
# Written by: easycluster --install
# The key is in {key_path}; clients need a copy of it.
# It listens on {where}.
# Sessions run any code of whoever holds the key, as the user below.
[Unit]
Description=EasyCluster server
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={command}
User=root
WorkingDirectory=/
Restart=on-failure
RestartSec=2

[Install]
WantedBy=multi-user.target
"""


def install(opts: argparse.Namespace) -> int:
    """Install the service; with ``--start`` start it as well."""
    _require_systemd("install a service")
    _require_root()
    _require_importable()
    parse_allow(opts.allow)
    made = _provide_key(opts)
    UNIT_PATH.write_text(unit_text(opts))
    UNIT_PATH.chmod(0o644)
    _systemctl("daemon-reload")
    _systemctl("enable", "--quiet", NAME)
    print(f"installed {UNIT_PATH}")
    print(f"key: {KEY_PATH} ({made}; copy it to the clients by a safe way, such as scp)")
    print(f"listens on: {_where(opts)}")
    print("runs as: root, and so does the code of whoever holds the key")
    if opts.start:
        return start()
    print("starts with the machine; start it now with: easycluster --start")
    return 0


def uninstall() -> int:
    """Stop the service and remove it; the key stays."""
    _require_systemd("uninstall a service")
    _require_root()
    _require_installed()
    _systemctl("disable", "--quiet", "--now", NAME)
    UNIT_PATH.unlink()
    _systemctl("daemon-reload")
    print(f"removed {UNIT_PATH}; the key stays in {KEY_PATH}")
    return 0


def start() -> int:
    """Start the service."""
    _require_systemd("start a service")
    _require_root()
    _require_installed()
    _systemctl("start", NAME)
    print(f"started; its messages: journalctl -u {NAME}")
    return 0


def stop() -> int:
    """Stop the service; it stays installed."""
    _require_systemd("stop a service")
    _require_root()
    _require_installed()
    _systemctl("stop", NAME)
    print("stopped")
    return 0


def is_installed() -> bool:
    """Tell whether the service is installed."""
    return UNIT_PATH.exists()


def unit_text(opts: argparse.Namespace) -> str:
    """Return the systemd unit for a command line."""
    command = [sys.executable, "-m", "easycluster", "-S", "-k", str(KEY_PATH), "-p", str(opts.port)]
    if opts.bind is not None:
        command += ["-b", opts.bind]
    if opts.no_ipv6:
        command.append("-N")
    for entry in opts.allow:
        command += ["-a", entry]
    command += ["-v"] * opts.verbose
    return _UNIT.format(
        key_path=KEY_PATH,
        where=_where(opts),
        command=" ".join(_quote(word) for word in command),
    )


def _where(opts: argparse.Namespace) -> str:
    if opts.bind is None:
        return f"port {opts.port} of this machine only; install again with -b ADDRESS to let others connect"
    address = "every address" if opts.bind in ("", "*", "::") else opts.bind
    allowed = f", for {', '.join(opts.allow)} only" if opts.allow else ""
    return f"port {opts.port} of {address}{allowed}"


def _quote(word: str) -> str:
    """Quote one word of ExecStart=; systemd.service(5), COMMAND LINES."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return word if word and not set(word) & set(" \t'\";*\\") else f'"{word}"'


def _provide_key(opts: argparse.Namespace) -> str:
    """Put a good key into KEY_PATH and say where it is from."""
    key = key_from_options(opts, warn=False)
    if key:
        write_key_file(KEY_PATH, key, overwrite=True)
        return f"copied from {opts.keyfile}" if opts.keyfile else "as given"
    if write_key_file(KEY_PATH, generate_key(), opts.overwrite):
        return "new"
    read_key_file(KEY_PATH)
    return "as it was"


def _require_systemd(what: str) -> None:
    if shutil.which("systemctl") is None or not _BOOTED.is_dir():
        raise OSError(
            f"cannot {what}: this machine is not run by systemd, the only service manager that easycluster knows; "
            "have your own start: easycluster -S -k FILE -b ADDRESS -d -P PIDFILE"
        )


def _require_root() -> None:
    if os.geteuid() != 0:
        raise OSError("services belong to root; run this again with sudo")


def _require_installed() -> None:
    if not is_installed():
        raise OSError("the service is not installed; install it with: easycluster -i")


def _require_importable() -> None:
    """Refuse what would fail at the next boot: a package found only through here and now."""
    check = subprocess.run([sys.executable, "-c", "import easycluster.cli"], cwd="/", env={}, capture_output=True)
    if check.returncode != 0:
        raise OSError(
            f"a service could not import easycluster with {sys.executable}; "
            "install it first with: pip install pytest-easycluster"
        )


def _systemctl(*words: str) -> None:
    done = _run(["systemctl", *words])
    if done.returncode != 0:
        raise OSError(f"systemctl {' '.join(words)} failed with status {done.returncode}: {done.stdout.strip()}")


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
