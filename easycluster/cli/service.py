"""``easycluster -i``, ``-u``, ``--start``, ``--stop``: the server as a service of systemd."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from easycluster.keys import generate_key, key_from_options, write_key_file
from easycluster.transport.addresses import parse_allow
from easycluster.transport.keyring import KeyRing

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["install", "is_installed", "start", "stop", "uninstall", "unit_text"]

NAME = "easycluster"
UNIT_PATH = Path("/etc/systemd/system/easycluster.service")
KEYS_PATH = Path("/etc/easycluster/keys")
HOME_PATH = Path("/var/lib/easycluster")

# sd_booted(3): this directory exists if and only if systemd runs the machine.
_BOOTED = Path("/run/systemd/system")

_UNIT = """\
# Written by: easycluster --install
# The keys are in {keys_path}, a file for each client; clients need a copy of theirs.
# It listens on {where}.
# Sessions run any code of whoever holds a key, as the user below.
# Change settings with: systemctl edit easycluster
[Unit]
Description=EasyCluster server
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
User={user}
WorkingDirectory=/
Restart=on-failure
RestartSec=2
StandardOutput=journal
StandardError=journal
SyslogIdentifier=easycluster
KillMode=control-group
TimeoutStopSec=10
UMask=0077
{settings}
[Install]
WantedBy=multi-user.target
"""

# What no test needs that runs as an ordinary user: mostly what such a user may not do anyway, so
# that a hole in the kernel or in a setuid program is out of reach too.  docs/security.md says what
# is not here and why.
_SETTINGS = """\
StateDirectory={state}
StateDirectoryMode=0700

NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
PrivateTmp=yes
ProtectSystem=full
ProtectHome=yes
ProtectProc=invisible
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=~@clock @cpu-emulation @module @mount @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM
"""


def install(opts: argparse.Namespace) -> int:
    """Install the service; with ``--start`` start it as well."""
    _require_systemd("install a service")
    _require_root()
    parse_allow(opts.allow)
    given = _given_keys(opts)
    made_user = _provide_user(opts.user)
    _require_importable(opts.user)
    names = _provide_keys(given, opts)
    UNIT_PATH.write_text(unit_text(opts))
    UNIT_PATH.chmod(0o644)
    _systemctl("daemon-reload")
    _systemctl("enable", "--quiet", NAME)
    print(f"installed {UNIT_PATH}")
    print(f"keys: {', '.join(names)} in {KEYS_PATH}; copy each to its client by a safe way, such as scp")
    print(f"another client: easycluster -g {KEYS_PATH}/NAME.key; to withdraw its key, delete the file")
    print(f"listens on: {_where(opts)}")
    print(f"runs as: {opts.user}{made_user}, and so does the code of whoever holds a key")
    if opts.start:
        return start()
    print("starts with the machine; start it now with: easycluster --start")
    return 0


def uninstall() -> int:
    """Stop the service and remove it; keys, user and what sessions have written stay."""
    _require_systemd("uninstall a service")
    _require_root()
    _require_installed()
    _systemctl("disable", "--quiet", "--now", NAME)
    UNIT_PATH.unlink()
    _systemctl("daemon-reload")
    print(f"removed {UNIT_PATH}; the keys stay in {KEYS_PATH}")
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
    command = [sys.executable, "-m", "easycluster", "-S", "-k", str(KEYS_PATH), "-p", str(opts.port)]
    if opts.bind is not None:
        command += ["-b", opts.bind]
    if opts.no_ipv6:
        command.append("-N")
    for entry in opts.allow:
        command += ["-a", entry]
    command += ["-v"] * opts.verbose
    if opts.audit is not None:
        command += ["--audit", opts.audit if opts.audit == "-" else os.path.abspath(opts.audit)]
    return _UNIT.format(
        keys_path=KEYS_PATH,
        where=_where(opts),
        command=" ".join(_quote(word) for word in command),
        user=opts.user,
        # Who asks for root wants what these take away.
        settings="" if opts.user == "root" else _SETTINGS.format(state=HOME_PATH.name),
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


def _given_keys(opts: argparse.Namespace) -> dict[str, bytes]:
    """Return the keys of the command line by the names that their files will have."""
    if opts.keyfile is None:
        key = key_from_options(opts, warn=False)
        return {"lab": key} if key else {}
    ring = KeyRing(opts.keyfile)
    return {name: ring.key(name) for name in ring.names}


def _provide_user(name: str) -> str:
    """Make the user unless it is there; return what to say of it."""
    import pwd

    try:
        pwd.getpwnam(name)
    except KeyError:
        home = ["--home-dir", str(HOME_PATH), "--shell", shutil.which("nologin") or "/usr/sbin/nologin"]
        _do(["useradd", "--system", "--user-group", *home, name])
        return " (a new user)"
    return ""


def _provide_keys(given: dict[str, bytes], opts: argparse.Namespace) -> list[str]:
    """Put good keys into KEYS_PATH, for the service's user; return their names."""
    import pwd

    user = pwd.getpwnam(opts.user)
    KEYS_PATH.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    KEYS_PATH.mkdir(mode=0o700, exist_ok=True)
    # Key files belong to whom their folder does.
    os.chown(KEYS_PATH, user.pw_uid, user.pw_gid)
    for name, key in given.items():
        write_key_file(KEYS_PATH / f"{name}.key", key, overwrite=True)
    if not given and (opts.overwrite or not any(KEYS_PATH.glob("*.key"))):
        write_key_file(KEYS_PATH / "lab.key", generate_key(), overwrite=True)
    for path in KEYS_PATH.glob("*.key"):
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
    # As the service will read them; to root these are somebody else's.
    program = "import sys; from easycluster.transport.keyring import KeyRing; KeyRing(sys.argv[1])"
    done = _run_as(opts.user, program, str(KEYS_PATH))
    if done.returncode != 0:
        raise OSError(done.stderr.strip().splitlines()[-1].partition(": ")[2])
    return sorted(path.stem for path in KEYS_PATH.glob("*.key"))


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


def _require_importable(user: str) -> None:
    """Refuse what would fail at the next boot: a package found only through here and now, or by root only."""
    try:
        failed = _run_as(user, "import easycluster.cli, easycluster.server").returncode != 0
    except PermissionError:
        failed = True
    if failed:
        raise OSError(
            f"a service could not import easycluster with {sys.executable} as user {user}; install it first where that "
            "user can read it, with: pip install pytest-easycluster"
        )
    # The unit hides these from the service: ProtectHome= and PrivateTmp= in systemd.exec(5).
    hidden = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")
    places = [os.path.realpath(sys.executable), os.path.realpath(__file__), sys.executable]
    for place in places if user != "root" else []:
        if place.startswith(hidden):
            raise OSError(
                f"a service does not see {place}; install easycluster outside of {', '.join(hidden)}, or run the "
                "service as root with: --user root"
            )


def _run_as(user: str, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of this Python as the service would."""
    import pwd

    who = pwd.getpwnam(user)
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd="/",
        env={},
        user=who.pw_uid,
        group=who.pw_gid,
        extra_groups=[],
        capture_output=True,
        text=True,
    )


def _systemctl(*words: str) -> None:
    _do(["systemctl", *words])


def _do(command: Sequence[str]) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)} failed with status {done.returncode}: {done.stdout.strip()}")
