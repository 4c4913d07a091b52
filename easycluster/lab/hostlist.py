"""``hosts:gpu1,ann@gpu2``: a lab on the command line, for a machine or two that no file describes.

Each item is a host name or a range, or a connection spec as ``from_spec`` takes it.  What has no user and no options
is reached by ssh, as a host of a lab file is; ``local`` is a Python on this machine.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from easycluster.lab.positions import Entry, Leaf, Table
from easycluster.lab.ranges import RangeError, expand

if TYPE_CHECKING:
    from easycluster.lab.positions import Node, Place, Problems

HOSTS_PREFIX: Final = "hosts:"

# The host in a connection spec: [user@]host[:...], where the host may be a range or an IPv6 address in brackets.
_ITEM = re.compile(r"(?:(?P<user>[^@:,]*)@)?(?P<host>\[[0-9A-Fa-f:.]*\](?=:|$)|(?:\[[^\]]*\]|[^:\[])+)(?P<rest>:.*)?")


def host_list(text: str, place: Place, problems: Problems) -> Table | None:
    """The tree of a lab with these hosts.

    Args:
        text: All of it, with the prefix.
        place: Where it stands.
        problems: Takes faults.
    """
    hosts: dict[str, Entry] = {}
    start = len(HOSTS_PREFIX)
    for item in text[start:].split(","):
        at = place.shifted(start + len(item) - len(item.lstrip()), max(1, len(item.strip())))
        start += len(item) + 1
        entry = _host(item.strip(), at, problems)
        if entry is None:
            continue
        if entry.key.text in hosts:
            problems.add(at, f"host {entry.key.text!r} is given twice")
        hosts[entry.key.text] = entry
    key = Leaf(place.shifted(0, len(HOSTS_PREFIX) - 1), "hosts")
    return Table(place, {"hosts": Entry(key, Table(place, hosts))})


def _host(item: str, at: Place, problems: Problems) -> Entry | None:
    if not item:
        problems.add(at, "the name of a host is missing", "write  hosts:gpu1,ann@gpu2")
        return None
    match = _ITEM.fullmatch(item)
    if match is None:
        problems.add(at, f"{item!r} is not a host", "write a name, a range such as gpu[01:04], or user@host")
        return None
    host = match["host"]
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", host).strip("-") if host.startswith("[") else host
    try:
        expand(name)
    except RangeError as exc:
        problems.add(at, str(exc), "write a name, a range such as gpu[01:04], or user@host")
        return None

    def leaf(text: str) -> Leaf:
        return Leaf(at, text)

    said: dict[str, Node] = {}
    if item == "local":
        said["connect"] = leaf("local")
    elif match["rest"] or host.startswith("["):
        # A range in a spec means each of its hosts.
        said["connect"] = leaf(item if name != host or "[" not in host else item.replace(host, "${host}", 1))
        if match["user"] is None and "=" not in (match["rest"] or ""):
            said["connect"] = _ssh(host, match["rest"], at)
    elif match["user"] is not None:
        said["user"] = leaf(match["user"])
    table = Table(at, {key: Entry(leaf(key), value) for key, value in said.items()})
    return Entry(Leaf(at, name), table)


def _ssh(host: str, rest: str | None, at: Place) -> Table:
    """``host:port`` without options: in a lab that is ssh, not the TCP server."""
    values = {"via": "ssh", "address": host.strip("[]") if ":" in host else "${host}"}
    if rest:
        values["port"] = rest[1:]
    return Table(at, {key: Entry(Leaf(at, key), Leaf(at, value)) for key, value in values.items()})
