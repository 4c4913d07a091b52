"""The format of the inventory: which keys there are, and what each may hold.

These tables are the one definition of the format.  Some keys are read now and acted upon by later parts of the lab
(locks, power, console, evidence, undo); they are checked all the same, so that a file stays right.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from easycluster.errors import SpecError
from easycluster.lab.positions import Items, Table, did_you_mean
from easycluster.lab.shapes import (
    BAD,
    Bad,
    Choice,
    Code,
    Duration,
    Fields,
    Flag,
    Free,
    ListOf,
    OneOf,
    Placed,
    Text,
    Value,
    Whole,
)
from easycluster.lab.variables import Secret
from easycluster.spec import ConnectionSpec

if TYPE_CHECKING:
    from easycluster.lab.positions import Node
    from easycluster.lab.shapes import Reading, Shape

IDENTIFIER: Final = r"[A-Za-z_][A-Za-z0-9_]*"
VIAS: Final = ("ssh", "tcp", "local")

text = Text()
texts = ListOf(text)
some_texts = ListOf(text, single=True)
function_name = Text("the name of a function in the role's code is wanted", pattern=IDENTIFIER)
port = Whole(1, 65535, "a port from 1 to 65535 is wanted")

TIMEOUTS = Fields({key: Duration() for key in ("connect", "call", "silence", "transfer", "test", "teardown", "reboot")})

ARTIFACTS = Fields(
    {
        "when": Choice(("failure", "always", "never")),
        "paths": some_texts,
        "commands": some_texts,
        "call": function_name,
        "limit": Text("a size is wanted, such as 64K or 10M", pattern=r"[1-9][0-9]{0,17}[KMGT]?"),
        "timeout": Duration(),
    }
)

LOCK = OneOf(
    leaf=Choice(("exclusive", "shared", "none")),
    table=Fields({"mode": Choice(("exclusive", "shared", "none")), "slots": Whole(1, 1000), "name": text}),
    wanted="write exclusive, shared, none, or  {mode: shared, slots: 2}",
)

command = Text("a command is wanted", secret=True)
password = Text("a password is wanted", secret=True)
# `on` names the host that runs the commands; the command that switches power on is therefore `start`.
POWER = Fields(
    {
        "driver": Choice(("command", "ipmi", "redfish", "labbox")),
        "box": text,
        "address": text,
        "port": port,
        "user": text,
        "password": password,
        "interface": text,
        "cipher": Whole(0, 17),
        "privilege": Choice(("USER", "OPERATOR", "ADMINISTRATOR")),
        "url": text,
        "system": text,
        "auth": Choice(("basic", "session")),
        "verify": text,
        "on": text,
        "start": command,
        "off": command,
        "cycle": command,
        "reset": command,
        "status": command,
        "env": Free(Text(secret=True)),
        "boot": Duration(),
        "timeout": Duration(),
    }
)
CHAP = Fields(
    {"user": text, "password": password, "target_user": text, "target_password": password},
    required=("user", "password"),
)
LUN = OneOf(
    leaf=text,
    table=Fields({"size": text, "block_size": Whole(512, 65536), "thin": Flag()}, required=("size",)),
    wanted="write a size such as 64M, or  {size: 64M, block_size: 4096}",
)
# The words of easycluster.devices.gpu.open_gpus; a processor that stands in for a GPU has to be accepted.
GPU = Fields({"backend": Choice(("nvidia", "amd", "opencl", "cpu")), "emulated": Flag()})
# The words of easycluster.devices.san.open_san.
SAN = Fields(
    {
        "driver": Choice(("embedded", "tgt", "external")),
        "iqn": text,
        "portals": some_texts,
        "chap": CHAP,
        "luns": ListOf(LUN),
        "directory": text,
        "initiators": ListOf(text, single=True),
    }
)
# One of command, socket, serial and box says what it is.
CONSOLE = OneOf(
    leaf=command,
    table=Fields(
        {
            "command": command,
            "socket": text,
            "serial": text,
            "speed": Whole(50, 4_000_000),
            "box": text,
            "on": text,
            "env": Free(Text(secret=True)),
            "log": text,
        }
    ),
    wanted="write a command, or  {command: ...}, {socket: ...}, {serial: ...}",
)
# How links, disks and power are broken on purpose.
FAULTS = Fields({"driver": Choice(("host", "labbox")), "box": text, "interface": text})

# What each way to reach a host can be told.
CONNECT: Final[dict[str, Fields]] = {
    "ssh": Fields(
        {
            "via": Choice(VIAS),
            "address": text,
            "port": port,
            "user": text,
            "key_file": text,
            "jump": text,
            "become": Choice(("sudo", "none")),
            "compress": Flag(),
            "ssh": text,
            "ssh_config": text,
            "ssh_args": some_texts,
            "ask": Flag(),
            "ssh_master": Flag(),
            "timeouts": TIMEOUTS,
        }
    ),
    "tcp": Fields(
        {
            "via": Choice(VIAS),
            "address": text,
            "port": port,
            "key_file": text,
            "compress": Flag(),
            "timeouts": TIMEOUTS,
        }
    ),
    "local": Fields({"via": Choice(VIAS), "timeouts": TIMEOUTS}),
}


class Connect:
    """``connect:``, read into a dictionary with keys of :data:`CONNECT`.

    A mapping without ``via`` adds to what the host would have otherwise, so its keys are those of every way.  A
    connection spec says everything by itself: it has ``whole``, and perhaps ``key`` and ``python``.
    """

    def read(self, node: Node, at: Reading) -> dict[str, Any] | Bad:
        """See Shape."""
        if isinstance(node, Table):
            return self._table(node, at)
        wanted = "write ssh, tcp, local, a connection spec or a mapping"
        if isinstance(node, Items):
            at.problems.add(node.place, f"{at.where} is a list; {wanted}")
            return BAD
        value = Text(wanted, secret=True).read(node, at)
        if isinstance(value, Bad):
            return BAD
        text = value.reveal() if isinstance(value, Secret) else value
        if text in VIAS:
            return {"via": text}
        try:
            return spec_connect(ConnectionSpec.parse(text))
        except SpecError as exc:
            written = at.problems.line(node.place)[node.place.column - 1 :]
            offset = written.find(text)
            hidden = isinstance(value, Secret)
            place = node.place if offset < 0 or hidden else node.place.shifted(offset + exc.position, 1)
            words = "is not a connection spec" if hidden else f"{exc.problem} in the connection spec"
            hint = did_you_mean(text, VIAS) or ("" if hidden else exc.advice)
            at.problems.add(place, f"{at.where}: {words}", hint)
            return BAD

    def _table(self, node: Table, at: Reading) -> dict[str, Any] | Bad:
        if "via" not in node.entries:
            every = {key: shape for way in CONNECT.values() for key, shape in way.fields.items()}
            return Fields(every).read(node, at)
        via: object = CONNECT["ssh"].fields["via"].read(node.entries["via"].value, at.inside("via"))
        if not isinstance(via, str):
            return BAD
        way = CONNECT[via]
        elsewhere = {key for other in CONNECT.values() for key in other.fields} - set(way.fields)
        odd = [key for key in node.entries if key in elsewhere]
        for key in odd:
            text = f"{key!r} in {at.where} does not go with via: {via}"
            at.problems.add(node.entries[key].key.place, text, f"known: {' '.join(way.fields)}")
        rest = {key: entry for key, entry in node.entries.items() if key not in odd}
        value: dict[str, Any] | Bad = way.read(Table(node.place, rest), at)
        return value


class RoleNames:
    """``role: gpu`` or ``roles: [gpu, san]``: pairs of name and place."""

    def read(self, node: Node, at: Reading) -> Any:
        """See Shape."""
        return ListOf(Placed(Text("the name of a role is wanted")), single=True).read(node, at)


def spec_connect(spec: ConnectionSpec) -> dict[str, Any]:
    """A connection spec in the keys of ``connect:``."""
    said = {
        "whole": True,
        "via": "ssh" if spec.ssh or (spec.user is not None) else "tcp",
        "address": spec.host,
        "port": spec.port,
        "user": spec.user,
        "key_file": spec.keyfile,
        "key": None if spec.key is None else Secret(spec.key),
        "compress": spec.enable_compression,
        "ssh": spec.ssh if isinstance(spec.ssh, str) else None,
        "ssh_args": (shlex.join(spec.extra_args),) if spec.extra_args else None,
        "python": (spec.rpython,) if spec.rpython else None,
        "ask": spec.ask or None,
        "ssh_master": spec.ssh_master or None,
    }
    return {key: value for key, value in said.items() if value is not None}


# What a host may be told; groups, roles and `defaults` may say the same for many.
SETTINGS: Final[dict[str, Shape]] = {
    "address": text,
    "connect": Placed(Connect()),
    "user": text,
    "port": port,
    "python": some_texts,
    "vars": Free(Value()),
    "capabilities": Free(Placed(Value())),
    "tags": some_texts,
    "timeouts": TIMEOUTS,
    "keepalive": Duration(),
    "on_lost": Choice(("error", "retry-elsewhere", "fail")),
    "lock": LOCK,
    "artifacts": ARTIFACTS,
    "restore": function_name,
    "power": POWER,
    "reboot": Text("a command is wanted"),
    "console": CONSOLE,
    "faults": FAULTS,
    "gpu": GPU,
    "san": SAN,
    "become": Choice(("sudo", "none")),
    "runs_on": text,
}

HOST = Fields({"role": RoleNames(), "roles": RoleNames(), "enabled": Flag(), "reason": text, **SETTINGS})
DEFAULTS = Fields({key: shape for key, shape in SETTINGS.items() if key not in ("vars",)})
GROUP = Fields({"hosts": ListOf(Placed(text), single=True), "children": ListOf(Placed(text), single=True), **SETTINGS})
ROLE_ONLY: Final[dict[str, Shape]] = {
    "code": Code(),
    "code_files": ListOf(Placed(text), single=True),
    "requires": ListOf(Placed(text), single=True),
    "probe": Placed(function_name),
}
ROLE = Fields({**ROLE_ONLY, **SETTINGS})
FIXTURE = Fields(
    {
        "role": Placed(text),
        "count": Whole(1, 10_000),
        "where": Placed(text),
        "distinct": some_texts,
        "scope": Choice(("function", "class", "module", "package", "session")),
        "description": text,
    },
    required=("role",),
)
QUARANTINE = Fields(
    {
        "tests": some_texts,
        "hosts": ListOf(Placed(text), single=True),
        "reason": text,
        "how": Choice(("skip", "xfail")),
        "until": Text("a date is wanted, such as 2027-01-31", pattern=r"\d{4}-\d\d-\d\d"),
    },
    required=("reason",),
)
SIMULATE = Fields({"code": Code(), "code_files": ListOf(Placed(text), single=True), "capabilities": Free(Value())})

SECTIONS: Final = (
    "version",
    "name",
    "include",
    "vars",
    "defaults",
    "roles",
    "groups",
    "hosts",
    "fixtures",
    "quarantine",
    "simulate",
)
