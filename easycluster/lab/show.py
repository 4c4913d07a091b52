"""``easycluster show``: what a host is once defaults, roles, groups and overlays are laid over each other."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from easycluster.lab.tables import lines
from easycluster.lab.variables import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from easycluster.lab.inventory import HostEntry, Inventory
    from easycluster.lab.target import Target

# Values that are spans of time, by the last part of their name.
_SPANS: Final = ("keepalive", "boot", "timeout")

# What stands where no file says anything.
UNSAID: Final = "default"


LAB_COLUMNS: Final = ("host", "roles", "reached by", "groups", "")


def show_lab(inventory: Inventory) -> str:
    """:func:`lab_rows` as aligned text."""
    return "\n".join(lines([LAB_COLUMNS, *lab_rows(inventory)]))


def lab_rows(inventory: Inventory) -> list[list[str]]:
    """A row for each host: name, roles, how it is reached, groups, and why it is not used if it is not."""
    rows = []
    for host in inventory.hosts.values():
        state = "" if host.enabled else f"disabled: {host.reason}" if host.reason else "disabled"
        through = host.settings.get("runs_on")
        way = f"code on {through}" if through else str(host.target)
        row = (host.name, " ".join(host.roles), way, " ".join(host.groups), state)
        rows.append([inventory.mask(text) for text in row])
    return rows


def show_host(inventory: Inventory, name: str, *, origin: bool = False) -> str:
    """Every value of one host, a line each.

    Args:
        inventory: The lab.
        name: Name of the host.
        origin: Whether each line ends with the file, line and column that the value comes from.
    """
    host = inventory.hosts[name]
    rows = [(f"  {key}", _text(key, value), _origin(host, key) if origin else "") for key, value in values(host)]
    return inventory.mask("\n".join([name, *lines(rows)]))


def values(host: HostEntry) -> Iterator[tuple[str, Any]]:
    """Every value of a host by dotted name, in the order of the documentation."""
    yield ("roles" if "roles" in host.origin else "role"), list(host.roles)
    if host.groups:
        yield "groups", list(host.groups)
    if not host.enabled:
        yield "enabled", False
    if host.reason:
        yield "reason", host.reason
    yield from _connect(host.target)
    for key, nested in (
        ("capabilities", host.capabilities),
        ("vars", host.variables),
        ("timeouts", host.timeouts),
    ):
        for inner, value in nested.items():
            yield f"{key}.{inner}", value
    if host.tags:
        yield "tags", list(host.tags)
    for key, value in host.settings.items():
        yield from _flat(key, value)


def _connect(target: Target) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(target):
        value = getattr(target, field.name)
        if field.name in ("via", "address") or value != field.default:
            yield ("python" if field.name == "python" else f"connect.{field.name}"), value


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for inner, one in value.items():
            yield from _flat(f"{key}.{inner}", one)
    else:
        yield key, value


def _text(key: str, value: Any) -> str:
    if isinstance(value, Secret):
        return repr(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and (key.startswith("timeouts.") or key.rpartition(".")[2] in _SPANS):
        return f"{value:g}s"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_text('', one) for one in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_text('', one)}" for name, one in value.items()) + "}"
    return "null" if value is None else str(value)


def _origin(host: HostEntry, key: str) -> str:
    if key == "groups":
        return ""
    if key == "tags":
        places = dict.fromkeys(str(host.origin[f"tags.{tag}"]) for tag in host.tags if f"tags.{tag}" in host.origin)
        return " ".join(places)
    if f"connect.{key}" in host.origin:  # timeouts, which stand in connect too
        return str(host.origin[f"connect.{key}"])
    name = key
    while name:
        # A list, a spec or a short form such as  connect: ssh  has one place for all that it says.
        if name in host.origin and (name in (key, "python") or _says(host, name, key)):
            return str(host.origin[name])
        name = name.rpartition(".")[0]
    if key == "python" and "connect" in host.origin:
        return str(host.origin["connect"])
    return UNSAID


def _says(host: HostEntry, name: str, key: str) -> bool:
    """Whether what stands under ``name`` says ``key``: a mapping that is written out would have it by its own name."""
    written_out = any(one.startswith(f"{name}.") for one in host.origin)
    return not written_out or key == "connect.via"
