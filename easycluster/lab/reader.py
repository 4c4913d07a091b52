"""From the text of a lab file to an :class:`Inventory`; all problems of all files at once."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any, Final

from easycluster.lab import schema
from easycluster.lab.changes import read_changes
from easycluster.lab.inventory import HostEntry, Inventory, Role
from easycluster.lab.origins import ADDED_LISTS, ADDED_MAPPINGS, REACH, Origins
from easycluster.lab.positions import Items, Leaf, Place, Problems, Table, did_you_mean
from easycluster.lab.ranges import RangeError, RangeName, expand, is_range
from easycluster.lab.references import References, with_carriers
from easycluster.lab.rolecode import check_names
from easycluster.lab.sections import Layer, Written
from easycluster.lab.shapes import BAD, Fields, Reading, Value, check_keys, is_empty
from easycluster.lab.target import make_target, merge_connect, resolve_paths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from easycluster.lab.variables import Scope

_SETTINGS: Final = Fields(schema.SETTINGS)
_HOST_ONLY: Final = ("role", "roles", "enabled", "reason")


def read_inventory(
    path: Path | str | Sequence[Path | str],
    environ: Mapping[str, str] | None = None,
    *,
    changes: Sequence[str] = (),
) -> Inventory:
    """Read a lab file and check everything that can be checked without connecting.

    Args:
        path: The file; messages name it as it is given here.  ``hosts:gpu1,ann@gpu2`` stands for a file with these
            hosts, ``ansible:FILE`` for an inventory of Ansible.  Of several, later ones are laid over earlier ones.
        environ: Stands in for ``os.environ``.
        changes: ``host.key=value``, laid over everything else, with the same checks.

    Raises:
        InventoryError: With every problem, if there is any.
    """
    sources = [path] if isinstance(path, (str, os.PathLike)) else path
    names = [os.fspath(one) for one in sources]
    if not names:
        raise ValueError("no lab file is given")
    overlay = ["--overlay"] if len(names) > 1 else []
    problems = Problems([*overlay, *names, *(word for one in changes for word in ("--set", one))])
    reader = _Reader(names, os.environ if environ is None else environ, problems)
    reader.changes = changes
    inventory = reader.read()
    problems.raise_if_any()
    assert inventory is not None
    return inventory


class _Reader(References):
    """The steps in their order: roles and names first, then each host's settings, then what refers to hosts."""

    changes: Sequence[str] = ()

    def read(self) -> Inventory | None:
        root = self._files.read(self._sources)
        if root is None:
            return None
        self._root = root
        at = self._at("", self._scope())
        check_keys(root, list(schema.SECTIONS), at)
        self._version(at)
        name = self._text("name", at) or self._path.name
        self._check_variables()
        self._hosts()
        self._changes = read_changes(self.changes, self._written, self._problems)
        for layer in dict.fromkeys(one for layers in self._changes.values() for one in layers):
            check_keys(layer.table, list(schema.HOST.fields), self._at(layer.where, self._scope()))
        self._read_roles()
        self._groups()
        hosts = with_carriers({name: self._host(name) for name in self._written})
        self._check_requirements(hosts)
        self._check_links(hosts)
        inventory = Inventory(
            path=self._path,
            sources=tuple(self._sources),
            name=name,
            hosts=hosts,
            roles=self._roles,
            groups={group: tuple(names) for group, names in self._members.items()},
            fixtures=self._fixtures(hosts),
            quarantine=self._quarantine(),
            simulate=self._simulate(),
            _secrets=frozenset(self._secrets),
        )
        self._check_unused_layers()
        return inventory

    def _version(self, at: Reading) -> None:
        entry = self._root.entries.get("version")
        if entry is not None and Value(scalar=True).read(entry.value, at.inside("version")) not in (1, BAD):
            self._problems.add(entry.value.place, "version is not 1, the only one there is")

    def _check_variables(self) -> None:
        """Expand every variable once, so that a missing one is known even if nothing uses it yet."""
        entry = self._root.entries.get("vars")
        if entry is not None:
            # As for some host: ${host} and ${n} may be part of a variable.
            scope = self._scope(host=RangeName("host", "1"))
            read = schema.SETTINGS["vars"].read(entry.value, self._at("vars", scope))
            for name in ("host", "inventory_dir"):
                if isinstance(read, dict) and name in read:
                    assert isinstance(entry.value, Table)
                    place = entry.value.entries[name].key.place
                    self._problems.add(place, f"variable {name!r} cannot be set: every host brings its own")

    def _hosts(self) -> None:
        entry = self._root.entries.get("hosts")
        if entry is None:
            self._problems.add(self._root.place, "lacks 'hosts'", "the smallest lab is  hosts: {gpu1: {role: gpu}}")
            return
        if isinstance(entry.value, Items):
            for item in entry.value.items:
                if isinstance(item, Leaf):
                    self._host_key(item, Table(item.place, {}))
                else:
                    self._problems.add(item.place, "a list of hosts holds names only", "write  hosts: {gpu1: {...}}")
        else:
            for key, table in self._tables("hosts", "host").values():
                self._host_key(key, table)
        for name, written in self._written.items():
            ranges = [one for one in written if is_range(one.key.text)]
            if len(ranges) > 1:
                first, second = ranges[0].key, ranges[1].key
                text = f"host {name!r} belongs to both {first.text!r} and {second.text!r}"
                self._problems.add(second.place, text, f"{first.text!r} is at line {first.place.line}")
            written.sort(key=lambda one: not is_range(one.key.text))

    def _host_key(self, key: Leaf, table: Table) -> None:
        try:
            names = expand(key.text)
        except RangeError as exc:
            offset = exc.position + (not key.plain)
            self._problems.add(key.place.shifted(offset, exc.width), str(exc))
            return
        check_keys(table, list(schema.HOST.fields), self._at(f"host {key.text!r}", self._scope()))
        for name in names:
            self._written.setdefault(name.name, []).append(Written(name, key, table))

    def _read_roles(self) -> None:
        at_scope = self._scope()
        for name, (key, table) in self._tables("roles", "role").items():
            where = f"role {name!r}"
            check_keys(table, list(schema.ROLE.fields), self._at(where, at_scope))
            if not name.replace("-", "_").isidentifier():
                self._problems.add(key.place, f"{name!r} cannot be the name of a role (letters, digits, '-' and '_')")
            self._role_tables[name] = table
            self._roles[name] = self._role(name, key, table)

    def _role(self, name: str, key: Leaf, table: Table) -> Role:
        at = self._at(f"role {name!r}", self._scope())
        only = Fields(schema.ROLE_ONLY).read(
            Table(table.place, {key: entry for key, entry in table.entries.items() if key in schema.ROLE_ONLY}), at
        )
        assert isinstance(only, dict)
        blocks = self._code(only)
        defined = self._defined[name] = check_names(name, blocks, self._problems)
        requires = []
        for text, place in only.get("requires", ()):
            where = self._where(text, place)
            if where is not None:
                requires.append((where, place))
        probe, place = only.get("probe", ("", key.place))
        self._check_function(probe, place, defined, name)
        return Role(name, key.place, tuple(blocks), tuple(requires), probe)

    def _check_function(self, name: str, place: Place, defined: Mapping[str, Place], role: str) -> None:
        # Code that defines nothing visible may get its names from elsewhere (`from x import *`).
        if name and defined and name not in defined:
            hint = did_you_mean(name, defined)
            self._problems.add(place, f"the code of role {role!r} does not define {name!r}", hint)

    def _roles_of(self, name: str) -> list[str]:
        """Names of a host's roles; those not defined are problems, unless the file defines none at all."""
        named: list[tuple[str, Place]] = []
        where = ""
        for layer in self._own_layers(name):
            entries = layer.table.entries
            if "role" in entries and "roles" in entries:
                self._problems.add(entries["roles"].key.place, f"{layer.where} has both 'role' and 'roles'; keep one")
            at = self._at(layer.where, self._scope())
            for key in ("role", "roles"):
                if key in entries:
                    value = schema.HOST.fields[key].read(entries[key].value, at.inside(key))
                    named, where = ([] if value is BAD else list(value)), layer.where
        for role, place in named:
            if role in self._roles:
                continue
            if "roles" in self._root.entries:
                places = {one: found.place for one, found in self._roles.items()}
                hint = did_you_mean(role, places) or (f"defined: {' '.join(places)}" if places else "")
                self._problems.add(place, f"{where} has role {role!r}, which is not defined", hint)
            else:
                self._roles[role] = Role(role, place)
        return [role for role in dict.fromkeys(role for role, _ in named) if role in self._roles]

    def _groups(self) -> None:
        tables = self._tables("groups", "group")
        children: dict[str, list[str]] = {}
        places = {name: key.place for name, (key, _) in tables.items()}
        for name, (key, table) in tables.items():
            where = f"group {name!r}"
            at = self._at(where, self._scope())
            check_keys(table, list(schema.GROUP.fields), at)
            if name in self._written:
                self._problems.add(key.place, f"{where} has the name of a host (line {self._host_places()[name].line})")
            read = {
                part: schema.GROUP.fields[part].read(table.entries[part].value, at.inside(part))
                for part in ("hosts", "children")
                if part in table.entries
            }
            self._members[name] = self._known_hosts(read.get("hosts", ()), where)
            children[name] = []
            for child, place in () if read.get("children", BAD) is BAD else read["children"]:
                if child in tables:
                    children[name].append(child)
                else:
                    text = f"{where} names group {child!r}, which is not under groups:"
                    self._problems.add(place, text, did_you_mean(child, places))
        self._join_children(children, places)

    def _join_children(self, children: dict[str, list[str]], places: Mapping[str, Place]) -> None:
        depth = dict.fromkeys(children, 0)
        rings: set[frozenset[str]] = set()

        def visit(group: str, above: tuple[str, ...]) -> list[str]:
            """Every host below ``group``; notes how deep each group lies."""
            if group in above:
                ring = above[above.index(group) :]
                if frozenset(ring) not in rings:
                    rings.add(frozenset(ring))
                    text = f"group {group!r} is below itself: {' > '.join([*ring, group])}"
                    self._problems.add(places[group], text)
                return []
            depth[group] = max(depth[group], len(above))
            found = list(self._members[group])
            for child in children[group]:
                found += visit(child, (*above, group))
            return found

        below = {group: visit(group, ()) for group in children}
        self._members = {group: list(dict.fromkeys(names)) for group, names in below.items()}
        # Deep wins, so it comes last; groups of one depth stay in the order of the file.
        for group in sorted(children, key=lambda one: depth[one]):
            for name in self._members[group]:
                self._memberships.setdefault(name, []).append(group)

    def _layers(self, name: str, roles: list[str]) -> list[Layer]:
        """Outermost first: defaults, roles, groups (deep ones last), the range, the host itself, changes."""
        layers = []
        defaults = self._section("defaults")
        if defaults is not None:
            layers.append(Layer(defaults, "defaults"))
        layers += [Layer(self._role_tables[one], f"role {one!r}") for one in roles if one in self._role_tables]
        groups = self._tables("groups", "group")
        layers += [Layer(groups[one][1], f"group {one!r}") for one in self._memberships.get(name, ())]
        return layers + self._own_layers(name)

    def _own_layers(self, name: str) -> list[Layer]:
        """The range, the host itself, and what is changed for this run."""
        written = [Layer(one.table, one.where) for one in self._written[name]]
        return written + self._changes.get(name, [])

    def _host(self, name: str) -> HostEntry:
        written = self._written[name]
        roles = self._roles_of(name)
        layers = self._layers(name, roles)
        scope = self._scope(layers, written[0].name)
        settings: dict[str, Any] = {}
        origins = Origins()
        connect: dict[str, Any] = {}
        for layer in layers:
            read = self._settings(layer, scope)
            own = [key for key in _HOST_ONLY if key in layer.table.entries] if layer in self._own_layers(name) else []
            origins.add(layer, read, own)
            connect = merge_connect(connect, self._reach(layer, read))
            _merge(settings, read)
        if "key" in connect:
            self._secrets.add(connect["key"].reveal())
        capabilities = {}
        for key, (value, place) in settings.pop("capabilities", {}).items():
            capabilities[key] = value
            self._capability_places[name, key] = place
        enabled, reason = self._enabled(name, scope)
        timeouts = {**settings.pop("timeouts", {}), **connect.get("timeouts", {})}
        return HostEntry(
            name=name,
            place=written[-1].key.place,
            roles=tuple(roles),
            groups=tuple(self._memberships.get(name, ())),
            target=make_target(name, connect, tuple(settings.pop("python", ()))),
            capabilities=capabilities,
            variables=settings.pop("vars", {}),
            tags=tuple(settings.pop("tags", ())),
            timeouts=timeouts,
            enabled=enabled,
            reason=reason,
            settings=settings,
            origin=origins.places,
        )

    def _settings(self, layer: Layer, scope: Scope) -> dict[str, Any]:
        entries = {key: entry for key, entry in layer.table.entries.items() if key in schema.SETTINGS}
        value = _SETTINGS.read(Table(layer.table.place, entries), self._at(layer.where, scope))
        assert isinstance(value, dict)
        return value

    def _reach(self, layer: Layer, read: dict[str, Any]) -> dict[str, Any]:
        """Takes ``connect`` and what belongs to it out of one layer's settings."""
        reach: dict[str, Any] = {key: read.pop(key) for key in REACH if key in read}
        connect, place = read.pop("connect", ({}, None))
        if place is not None:
            written = layer.table.entries["connect"].value
            keys = written.entries if isinstance(written, Table) else {}
            # With overlays, each key of one mapping may be of another file.
            connect = resolve_paths(
                connect, lambda key: self._files.folder(keys[key].value.place if key in keys else place)
            )
        for text in connect.get("ssh_args", ()):
            try:
                shlex.split(text)
            except ValueError as exc:
                self._problems.add(place, f"ssh_args {text!r} cannot be split as a shell does: {exc}")
                connect = {key: value for key, value in connect.items() if key != "ssh_args"}
        if "via" in connect:
            # What stands beside `connect` belongs to this layer's way, not to the one of an outer layer.
            return merge_connect(merge_connect({"via": connect.get("via", "ssh")}, reach), connect)
        return merge_connect(reach, connect)

    def _enabled(self, name: str, scope: Scope) -> tuple[bool, str]:
        enabled, reason = True, ""
        for one in self._own_layers(name):
            at = self._at(one.where, scope)
            for key in ("enabled", "reason"):
                if key not in one.table.entries:
                    continue
                value = schema.HOST.fields[key].read(one.table.entries[key].value, at.inside(key))
                if value is BAD:
                    continue
                if key == "enabled":
                    enabled = bool(value)
                else:
                    reason = str(value)
        return enabled, reason

    def _check_unused_layers(self) -> None:
        """Read what no host has, too: its faults are faults."""
        scope = self._scope(host=RangeName("host", "1"), strict=False)
        used = {role for written in self._written for role in self._roles_of(written)}
        unused = [(name, table, "role") for name, table in self._role_tables.items() if name not in used]
        groups = self._tables("groups", "group")
        unused += [(name, table, "group") for name, (_, table) in groups.items() if not self._members.get(name)]
        defaults = self._section("defaults")
        if defaults is not None:
            check_keys(defaults, list(schema.DEFAULTS.fields), self._at("defaults", scope))
        elif "defaults" in self._root.entries and not is_empty(self._root.entries["defaults"].value):
            self._problems.add(self._root.entries["defaults"].value.place, "'defaults' is not a mapping")
        for name, table, what in unused:
            self._settings(Layer(table, f"{what} {name!r}"), scope)


def _merge(settings: dict[str, Any], read: Mapping[str, Any]) -> None:
    """Lay one layer's settings over those of the outer ones."""
    for key, value in read.items():
        have = settings.get(key)
        if have is not None and key in ADDED_MAPPINGS:
            settings[key] = {**have, **value}
        elif have is not None and key in ADDED_LISTS:
            settings[key] = tuple(dict.fromkeys([*have, *value]))
        elif isinstance(have, dict) and key == "artifacts":
            settings[key] = {**have, **value}
            for one in ("paths", "commands"):
                if have.get(one):
                    settings[key][one] = tuple(dict.fromkeys([*have[one], *value.get(one, ())]))
        else:
            settings[key] = value
