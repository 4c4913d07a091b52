"""``easycluster labbox ...``: a laboratory of hosts on this machine."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from easycluster.labbox import BoxHost, LabBox, RunningBox

__all__ = ["add_parser", "run"]

# Only root writes to /run, so nobody can prepare the folder.
FOLDER: Final = "/run/easycluster-labbox"
HOSTS: Final = "gpu[01:02],san1,bench"
POWER: Final = ("on", "off", "soft", "cycle", "reset", "status")

_EPILOG: Final = """\
for a while:       easycluster labbox up --hosts gpu[01:04],san1
                   pytest --ec-inventory /run/easycluster-labbox/lab.yaml
                   easycluster labbox down
for one command:   easycluster labbox run -- pytest --ec-inventory {inventory}

A host has an address, an sshd, a disk, clocks and a boot id of its own, and
sees the programs of this machine. Needs root, iproute2 and openssh-server.
"""
_LINK_HELP: Final = """\
down pulls the cable, up plugs it in; delay=20ms, loss=5% and rate=10mbit make it a bad one, in both directions;
clear makes it a good one again"""
_UNITS: Final = {
    "delay": {"us": 1e-6, "ms": 1e-3, "s": 1.0},
    "loss": {"%": 0.01, "": 1.0},
    "rate": {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "bit": 1.0},
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``easycluster``."""
    parser = commands.add_parser(
        "labbox",
        help="make a laboratory of hosts on this machine",
        description="Make hosts on this machine that can be logged in to, rebooted, switched off and cut off.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True, prog=parser.prog)

    up = actions.add_parser("up", help="start a box, which runs until `down`")
    _add_box_options(up)
    _add_folder(up)
    _add_folder(actions.add_parser("down", help="end it; nothing is left of it"))
    _add_folder(actions.add_parser("status", help="say what its hosts do"))

    command = actions.add_parser("run", help="run a command with a box of its own, and end with its status")
    _add_box_options(command)
    command.add_argument(
        "words", metavar="COMMAND", nargs="+", help="{inventory}, {ssh_config} and {folder} stand for the box's files"
    )

    ssh = _add_host(actions, "ssh", "log in to a host, or run a command there")
    ssh.add_argument("words", metavar="COMMAND", nargs=argparse.REMAINDER)
    inside = _add_host(actions, "enter", "run a command or a shell there without the network")
    inside.add_argument("words", metavar="COMMAND", nargs=argparse.REMAINDER)
    _add_host(actions, "console", "show what its system says, and type there; Ctrl-] leaves")
    power = _add_host(actions, "power", "switch a host")
    power.add_argument(
        "what", choices=POWER, help="off, cycle and reset take the power away at once; soft lets the system end first"
    )
    link = _add_host(actions, "link", "do something to the cable of a host")
    link.add_argument("what", nargs="+", metavar="WHAT", type=_link, help=_LINK_HELP.replace("%", "%%"))
    for name, text in {
        "reboot": "shut a host down and start it again",
        "freeze": "stop all processes of a host",
        "thaw": "let them go on",
    }.items():
        _add_host(actions, name, text)


def _add_box_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hosts", default=HOSTS, metavar="NAMES", help="names and ranges (%(default)s)")
    parser.add_argument("--network", default="", metavar="NET", help="a /24 for them; by default one that is free")
    parser.add_argument("--disk", type=int, default=256, metavar="MB", help="most that each disk holds (%(default)s)")
    parser.add_argument(
        "--boot-seconds", type=float, default=0.1, metavar="S", help="how long a reboot takes (%(default)s)"
    )
    parser.add_argument(
        "--share", action="append", default=[], metavar="FOLDER", help="let hosts see a folder of /root, /home or /tmp"
    )


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", default=FOLDER, metavar="DIR", help="where the box's files are (%(default)s)")


def _add_host(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("host", metavar="HOST")
    _add_folder(parser)
    return parser


def run(opts: argparse.Namespace) -> int:
    """Do what the command line says.

    Raises:
        LabBoxError: If it cannot be done.
    """
    # Late, because the parser of every command imports this module.
    from easycluster.labbox import LabBoxError, RunningBox

    if opts.action == "up":
        return _up(opts)
    if opts.action == "run":
        return _run(opts)
    _take_folder(opts)
    if os.geteuid() != 0:
        raise LabBoxError("a box is root's; run this with sudo")
    box = RunningBox(opts.dir)
    if opts.action == "down":
        box.end()
        return 0
    if opts.action == "status":
        for host in box:
            print(f"{host.name}  {host.address}  {host.describe()}")
        return 0
    return _do(box, box[opts.host], opts)


def _do(box: RunningBox, host: BoxHost, opts: argparse.Namespace) -> int:
    if opts.action == "ssh":
        words: list[str] = opts.words
        _become(["ssh", "-F", str(box.ssh_config), *([] if words else ["-t"]), host.name, *words])
    if opts.action == "enter":
        _become([*host.entrance(), *(opts.words or ["sh"])])
    if opts.action == "console" and sys.stdin.isatty():
        return _console(box, host)
    if opts.action == "console":
        _become(["tail", "-n", "+1", "-F", str(host.console_file)])
    if opts.action == "power":
        return _power(host, opts.what)
    if opts.action == "link":
        _change_link(host, opts.what)
    else:
        {"reboot": host.reboot, "freeze": host.freeze, "thaw": host.thaw}[opts.action]()
    return 0


def _take_folder(opts: argparse.Namespace) -> None:
    """Find --dir behind the host, where argparse takes everything for the command's."""
    words = getattr(opts, "words", [])
    if words[:1] == ["--dir"] and len(words) > 1:
        opts.dir = words[1]
        del words[:2]
    if words[:1] == ["--"]:
        del words[:1]


def _console(box: RunningBox, host: BoxHost) -> int:
    from easycluster.cli.terminal import attach
    from easycluster.labbox.line import BoxLine

    line = BoxLine(str(box.folder), host.name)
    print(host.console, end="")
    print(f"\n(at the serial line of {host.name}; Enter for a prompt, Ctrl-] leaves)")
    try:
        attach(line)
    finally:
        line.close()
    return 0


def _become(words: list[str]) -> None:
    sys.stdout.flush()
    os.execvp(words[0], words)


def _power(host: BoxHost, what: str) -> int:
    if what == "status":
        print(host.power)
    elif what == "on":
        host.power_on(wait=False)
    elif what == "off":
        host.kill()
    elif what == "soft":
        host.power_off()
    else:
        host.reset(wait=False)
    return 0


def _link(text: str) -> tuple[str, float]:
    """What is to be done to a cable, and how much of it."""
    if text in ("up", "down", "clear"):
        return text, 0.0
    name, _, amount = text.partition("=")
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([a-z%]*)", amount)
    if name in _UNITS and found and found[2] in _UNITS[name]:
        return name, float(found[1]) * _UNITS[name][found[2]]
    raise argparse.ArgumentTypeError(f"{text!r} is none of up, down, clear, delay=20ms, loss=5%, rate=10mbit")


def _change_link(host: BoxHost, changes: Sequence[tuple[str, float]]) -> None:
    quality = {name: amount for name, amount in changes if name in _UNITS}
    names = [name for name, _ in changes]
    if quality or "clear" in names:
        host.link.shape(**quality)
    if "down" in names:
        host.link.down()
    if "up" in names:
        host.link.up()


def _make(opts: argparse.Namespace, folder: str | None) -> LabBox:
    from easycluster.labbox import LabBox

    return LabBox(
        opts.hosts.split(","),
        folder=folder,
        network=opts.network,
        disk=opts.disk << 20,
        boot_seconds=opts.boot_seconds,
        share=opts.share,
    )


def _up(opts: argparse.Namespace) -> int:
    began = time.monotonic()
    box = _make(opts, opts.dir)
    box.start(detached=True)
    where = "" if opts.dir == FOLDER else f" --dir {opts.dir}"
    names = [host.name for host in box]
    print(f"{len(names)} hosts answer ssh after {time.monotonic() - began:.1f} s: {' '.join(names)}")
    print(f"  easycluster labbox ssh {names[0]}{where}")
    print(f"  easycluster labbox power {names[0]} cycle{where}")
    print(f"  easycluster labbox link {names[0]} down{where}")
    print(f"  ssh -F {box.ssh_config} {names[0]}")
    print(f"  pytest --ec-inventory {box.inventory}")
    print(f"  easycluster labbox down{where}")
    return 0


def _run(opts: argparse.Namespace) -> int:
    with _make(opts, None) as box:
        files: dict[str, Any] = {"inventory": box.inventory, "ssh_config": box.ssh_config, "folder": box.folder}
        words = [_filled(word, files) for word in opts.words]
        # A Ctrl-C is for the command; the box ends with it.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with subprocess.Popen(words, preexec_fn=lambda: signal.signal(signal.SIGINT, before)) as command:
                signal.signal(signal.SIGTERM, lambda *_: command.terminate())
                status = command.wait()
        except FileNotFoundError as exc:
            raise FileNotFoundError(f"there is no command {words[0]!r}") from exc
        finally:
            signal.signal(signal.SIGINT, before)
    return status if status >= 0 else 128 - status


def _filled(word: str, files: dict[str, Path]) -> str:
    for name, path in files.items():
        word = word.replace(f"{{{name}}}", str(path))
    return word
