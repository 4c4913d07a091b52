"""Every option of the ``easycluster`` command."""

from __future__ import annotations

import argparse
import re
from importlib import import_module

from easycluster.keys import add_key_options
from easycluster.transport.addresses import DEFAULT_PORT
from easycluster.version import VERSION

__all__ = ["COMMANDS", "make_parser"]

# Each is a module beside this one with add_parser(commands) and run(opts), and imports nothing heavy before run().
COMMANDS = ("check", "show", "doctor", "status", "reserve", "release", "schema", "stubs", "labbox")

_EPILOG = """\
A lab is a file of hosts (docs/lab_inventory.md). Commands on it take patterns
of hosts and the file, in any order; without a file it is EC_INVENTORY, or the
ec_inventory of pytest's configuration here:

  easycluster check lab.yaml           is the file right?
  easycluster doctor lab.yaml          can its hosts be used, and if not, why?
  easycluster status gpu lab.yaml      who has those with role gpu?
  easycluster reserve gpu07 --for 4h lab.yaml
  easycluster release gpu07 lab.yaml

A server is for hosts without ssh. Begin with a key, and copy it to the machines
of both sides:

  easycluster -g lab.key
  easycluster -S -k lab.key -b 192.0.2.10

or one for each client, in a folder; what is deleted there is withdrawn:

  easycluster -g keys/alice.key
  easycluster -S -k keys -b 192.0.2.10

The key proves who is there; it does not encrypt. Whoever holds it runs any code
as the server's user. Where there is ssh, use that: it needs no server.

It ends with 0 if all is well, 1 if something could not be done, 2 for a wrong
command line, 4 for a lab file with faults.
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the ``easycluster`` command."""
    parser = argparse.ArgumentParser(
        prog="easycluster",
        usage="%(prog)s [options]\n       %(prog)s COMMAND ...",
        description="Look after the hosts of a lab; make keys for the EasyCluster server, run it, and install it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"easycluster {VERSION}")

    keys = parser.add_argument_group("keys")
    keys.add_argument("-g", "--generate", metavar="FILE", help="write a new random key to FILE, readable by you only")
    keys.add_argument("-O", "--overwrite", action="store_true", help="let -g and -i replace an existing key")
    add_key_options(keys)

    server = parser.add_argument_group("server")
    server.add_argument(
        "-S",
        "--serve",
        action="store_true",
        help="run the server; needs -k, which may name a folder of key files",
    )
    server.add_argument(
        "-p", "--port", type=_port, default=DEFAULT_PORT, help="TCP port to listen on; 0 takes a free one (%(default)s)"
    )
    server.add_argument(
        "-b",
        "--bind",
        metavar="ADDRESS",
        help="address to listen on, '*' for all; by default only this machine can connect",
    )
    server.add_argument("-N", "--no-ipv6", action="store_true", help="do not use IPv6")
    server.add_argument(
        "-a",
        "--allow",
        metavar="NET",
        action="append",
        default=[],
        help="let only this address or subnet connect, e.g. 192.168.0.0/24; may be given again",
    )
    server.add_argument(
        "-v", "--verbose", action="count", default=0, help="report connections; -vv reports every call as well"
    )
    server.add_argument("-d", "--daemonize", action="store_true", help="go on in the background")
    server.add_argument("-P", "--pidfile", metavar="FILE", help="write the process id to FILE")
    server.add_argument(
        "--audit",
        metavar="FILE",
        help="append who connected and what was called to FILE, as lines of JSON; - prints it",
    )
    server.add_argument("--profile", metavar="FILE", help="profile the far-side workers into FILE and their process id")
    # 0.22 had a QuietServer; every server is quiet unless told, so its scripts get what they want.
    server.add_argument("-c", "--class", dest="svrclass", help=argparse.SUPPRESS)

    service = parser.add_argument_group("service (systemd)")
    service.add_argument(
        "-i",
        "--install",
        action="store_true",
        help="start the server with the machine, with -k, -p, -b, -N, -a, -v and --audit",
    )
    service.add_argument(
        "--user",
        metavar="NAME",
        type=_user,
        default="easycluster",
        help="whom -i lets the server and its sessions run as; made if missing (%(default)s)",
    )
    service.add_argument("-u", "--uninstall", action="store_true", help="stop the service and remove it")
    service.add_argument("--start", action="store_true", help="start the service; also after -i")
    service.add_argument("--stop", action="store_true", help="stop the service until the next start of the machine")
    service.add_argument(
        "--query-installed", action="store_true", help="exit with 0 if the service is installed, with 1 if not"
    )

    # prog, because argparse would begin the usage of a command with ours.
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", prog="easycluster")
    for name in COMMANDS:
        import_module(f"easycluster.cli.{name}").add_parser(commands)
    return parser


def _user(text: str) -> str:
    if re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not a login; give one such as easycluster")


def _port(text: str) -> int:
    if text.isdecimal() and int(text) < 1 << 16:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port; give a number up to 65535")
