"""What each key of the lab file is for, in a sentence: for the JSON Schema, whose editors show it, and the reference.

What a key may hold is in :mod:`easycluster.lab.schema`; a test compares the keys of both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from easycluster.lab import schema

if TYPE_CHECKING:
    from easycluster.lab.shapes import Shape

__all__ = ["EXPLAINED", "explain", "key_texts"]

_SETTINGS: Final = {
    "address": "host name or address; by default the host's name in the lab",
    "connect": "how the host is reached: `ssh`, `tcp`, `local`, a connection spec, or a mapping",
    "user": "who logs in over ssh",
    "port": "the port of ssh or of the TCP server",
    "python": "the Python there; of several the first that is there and new enough",
    "vars": "variables: for `${...}`, for conditions, and for role code as `machine.vars`",
    "capabilities": "what the host can do, for conditions; `devices` among them are locks of their own",
    "tags": "words that patterns and conditions find the host by",
    "timeouts": "limits of what is done with the host",
    "keepalive": "how often a heartbeat is sent; three that nobody answers mean that the host is lost",
    "on_lost": "what becomes of a test whose host is lost",
    "lock": "how a lease locks the host",
    "artifacts": "what is fetched from the host as evidence",
    "restore": "a function of role code that sets the host back at the end of each lease",
    "power": "how the host is switched",
    "reboot": "the command that restarts it",
    "console": "where the host's console is",
    "faults": "how the host is broken on purpose",
    "gpu": "what drives its GPUs",
    "san": "the storage target that the host is",
    "become": "become root there through `sudo -n`",
    "runs_on": "the host whose Python runs the code of this one, which has none",
}

EXPLAINED: Final[dict[str, dict[str, str]]] = {
    "file": {
        "version": "of the format: 1",
        "name": "of the lab, in messages",
        "include": "files that come first; this one is laid over them",
        "vars": "variables for `${NAME}`, secrets among them as `!secret ...`",
        "defaults": "settings of every host, unless something further in says otherwise",
        "roles": "what hosts can be: code, conditions, settings",
        "groups": "hosts that share settings",
        "hosts": "the hosts, or ranges such as `gpu[01:04]`",
        "fixtures": "fixtures of the suite's own that give hosts",
        "quarantine": "tests and hosts that are kept apart for now",
        "simulate": "what stands in for a role in a run without its hosts",
    },
    "settings": _SETTINGS,
    "host": {
        "role": "its role, or several",
        "roles": "the same",
        "enabled": "`false` takes it out of the lab",
        "reason": "why it is out, for those who read that tests were skipped",
    },
    "role": {
        "code": "Python that runs on the hosts of this role",
        "code_files": "files with such code, relative to the lab file",
        "requires": "conditions that each of its hosts has to meet",
        "probe": "a function of its code that finds out capabilities in a host's first session",
    },
    "group": {"hosts": "names and ranges of its hosts", "children": "groups inside it"},
    "fixture": {
        "role": "of its hosts",
        "count": "how many; 1 gives a host, more a `Hosts`",
        "where": "a condition on them",
        "distinct": "capabilities or variables in which its hosts differ",
        "scope": "pytest's scope, `function` by default",
        "description": "its text in `pytest --fixtures`",
    },
    "quarantine": {
        "tests": "patterns of test names; all tests without it",
        "hosts": "patterns of hosts; all hosts without it",
        "reason": "why, in the reason of the skip",
        "how": "keep the tests off the hosts (`skip`), or run them and expect failures (`xfail`)",
        "until": "the last day on which it holds",
    },
    "simulate": {
        "code": "Python that runs instead of the role's code",
        "code_files": "files with such code",
        "capabilities": "what the stand-in can do",
    },
    "timeouts": {
        "connect": "until a session is there",
        "call": "a call, or `run()`",
        "silence": "a call that prints nothing",
        "transfer": "`put()` or `get()` of one file",
        "test": "a test with the setup of its fixtures",
        "teardown": "its teardown",
        "reboot": "until a host that was restarted answers",
    },
    "artifacts": {
        "when": "after which tests",
        "paths": "files of the host, with wildcards, and whole directories",
        "commands": "whose output is kept",
        "call": "a function of role code that returns more",
        "limit": "the most bytes of each that are fetched: its end",
        "timeout": "for each of it",
    },
    "lock": {
        "mode": "alone, with others, or not at all",
        "slots": "how many may share it",
        "name": "of the lock, if two lab files call the same machine differently",
    },
    "power": {
        "driver": "who switches; without it commands do",
        "box": "folder of a running labbox, for `driver: labbox`",
        "address": "of the management controller, for `driver: ipmi`",
        "port": "of the management controller",
        "user": "of the management controller",
        "password": "of the management controller",
        "interface": "of ipmitool, such as `lanplus`",
        "cipher": "cipher suite of ipmitool",
        "privilege": "privilege level of ipmitool",
        "url": "of the management controller, for `driver: redfish`",
        "system": "which system of the controller, if it has several",
        "auth": "log in for a session, or send the password with every request",
        "verify": "`yes`, `no`, or a file with the certificate to trust",
        "on": "the host of the lab that runs the commands; else they run where pytest runs",
        "start": "the command that switches the host on",
        "off": "the command that switches it off",
        "cycle": "the command that switches it off and on",
        "reset": "the command that resets it",
        "status": "the command that prints `on` or `off`",
        "env": "environment of the commands",
        "boot": "until the host has to answer after it was switched on",
        "timeout": "of each command, 60 s by default",
    },
    "chap": {
        "user": "of the initiator",
        "password": "of the initiator",
        "target_user": "with which the target proves itself, for mutual CHAP",
        "target_password": "with which the target proves itself",
    },
    "lun": {
        "size": "such as `64M` or `1G`",
        "block_size": "bytes of a block, 512 by default",
        "thin": "whether blocks take room only once they are written",
    },
    "gpu": {
        "backend": "what drives them; by default what is found",
        "emulated": "`true` lets a processor stand in for a GPU",
    },
    "san": {
        "driver": "`embedded`: ours, in Python; `tgt`: a private tgtd; `external`: a target that is there",
        "iqn": "its name",
        "portals": "addresses and ports; two at the host's address by default",
        "chap": "who may log in",
        "luns": "sizes of its units; of an external target the numbers of those to use",
        "directory": "where units are files; else they are in memory",
        "initiators": "hosts that do the I/O; else the machine where pytest runs",
    },
    "console": {
        "command": "a program whose terminal the console is",
        "socket": "`host:port` of a terminal server, or the path of a socket",
        "serial": "a serial port",
        "speed": "of the serial port",
        "box": "folder of a running labbox",
        "on": "the host of the lab that opens it; else the machine where pytest runs",
        "env": "environment of the command",
        "log": "a file that everything is appended to",
    },
    "faults": {
        "driver": "the host breaks itself, or its labbox does",
        "box": "folder of a running labbox",
        "interface": "the interface to break; else the one that has the host's address",
    },
    "connect": {
        "via": "`ssh`, `tcp` or `local`",
        "address": _SETTINGS["address"],
        "port": _SETTINGS["port"],
        "user": _SETTINGS["user"],
        "key_file": "ssh's identity, or the key file of the TCP server",
        "jump": "hosts on the way, as for `ssh -J`",
        "become": _SETTINGS["become"],
        "compress": "compress what is sent",
        "ssh": "another ssh program",
        "ssh_config": "another configuration file for ssh; `none` reads none",
        "ssh_args": "more arguments for ssh",
        "ask": "let ssh ask at the terminal",
        "ssh_master": "share one ssh login with all sessions at the host",
        "timeouts": _SETTINGS["timeouts"],
    },
}

# The tables of the schema by the name that they have here.
_TABLES: Final[tuple[tuple[Shape | None, str], ...]] = (
    (schema.HOST, "host"),
    (schema.DEFAULTS, "settings"),
    (schema.GROUP, "group"),
    (schema.ROLE, "role"),
    (schema.FIXTURE, "fixture"),
    (schema.QUARANTINE, "quarantine"),
    (schema.SIMULATE, "simulate"),
    (schema.TIMEOUTS, "timeouts"),
    (schema.ARTIFACTS, "artifacts"),
    (schema.POWER, "power"),
    (schema.CHAP, "chap"),
    (schema.GPU, "gpu"),
    (schema.SAN, "san"),
    (schema.FAULTS, "faults"),
    *((way, "connect") for way in schema.CONNECT.values()),
    *((one.table, name) for one, name in ((schema.LOCK, "lock"), (schema.LUN, "lun"), (schema.CONSOLE, "console"))),
)


def key_texts(table: Shape) -> dict[str, str]:
    """What the keys of a table of the schema are for; ``{}`` if it is none of those that are explained."""
    name = next((name for one, name in _TABLES if one is table), "")
    own = EXPLAINED.get(name, {})
    return {**_SETTINGS, **own} if name in ("host", "group", "role") else own


def explain(table: Shape, key: str) -> str:
    """What a key is for, ``""`` if nobody has said."""
    return key_texts(table).get(key, "")
