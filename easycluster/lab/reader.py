"""From the text of a lab file to an :class:`Inventory`; all problems of all files at once."""

from __future__ import annotations

import datetime
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from easycluster.lab import schema
from easycluster.lab.files import InventoryFiles, leaf_entries
from easycluster.lab.inventory import DEFAULT_FIXTURES, FixtureEntry, HostEntry, Inventory, Quarantine, Role
from easycluster.lab.positions import Items, Leaf, Place, Problems, Table, did_you_mean
from easycluster.lab.ranges import RangeError, RangeName, expand, is_range
from easycluster.lab.rolecode import CodeBlock, check_names, file_block, inline_block
from easycluster.lab.shapes import BAD, Fields, Reading, Value, check_keys, described, is_empty
from easycluster.lab.target import make_target, merge_connect, resolve_paths
from easycluster.lab.variables import Scope
from easycluster.lab.where import UnlikeTypes, Where, WhereError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Settings in which an inner layer adds to an outer one; the others replace it.
_ADDED_MAPPINGS: Final = ("vars", "capabilities", "timeouts", "power")
_ADDED_LISTS: Final = ("tags",)
# Settings that are about the connection, and may stand beside `connect` as well as in it.
_REACH: Final = ("address", "user", "port", "become")
_SETTINGS: Final = Fields(schema.SETTINGS)
# Fixtures that the plugin itself defines, and one of pytest's that many would hit.
_TAKEN_FIXTURES: Final = ("ec", "ec_host", "ec_inventory", "remote_hosts", "request")


@dataclass(frozen=True)
class _Layer:
    """One place that says something about a host: defaults, a role, a group, a range, the host itself."""

    table: Table
    where: str


@dataclass(frozen=True)
class _Written:
    """One key under ``hosts:``, with one of the names it stands for."""

    name: RangeName
    key: Leaf
    table: Table

    @property
    def where(self) -> str:
        return f"host {self.key.text!r}"


def read_inventory(path: Path | str, environ: Mapping[str, str] | None = None) -> Inventory:
    """Read a lab file and check everything that can be checked without connecting.

    Args:
        path: The file; messages name it as it is given here.
        environ: Stands in for ``os.environ``.

    Raises:
        InventoryError: With every problem, if there is any.
    """
    problems = Problems()
    reader = _Reader(Path(path), os.environ if environ is None else environ, problems)
    inventory = reader.read()
    problems.raise_if_any()
    assert inventory is not None
    return inventory


class _Reader:
    def __init__(self, path: Path, environ: Mapping[str, str], problems: Problems) -> None:
        self._path = path
        self._environ = environ
        self._problems = problems
        self._files = InventoryFiles(problems, environ)
        self._secrets: set[str] = set()
        self._root = Table(Place(str(path), 1, 1), {})
        # Filled step by step by read(); later steps look names up in what earlier ones found.
        self._role_tables: dict[str, Table] = {}
        self._roles: dict[str, Role] = {}
        self._written: dict[str, list[_Written]] = {}
        self._memberships: dict[str, list[str]] = {}
        self._members: dict[str, list[str]] = {}
        self._capability_places: dict[tuple[str, str], Place] = {}

    def read(self) -> Inventory | None:
        root = self._files.read(self._path)
        if root is None:
            return None
        self._root = root
        at = self._at("", self._scope())
        check_keys(root, list(schema.SECTIONS), at)
        self._version(at)
        name = self._text("name", at) or self._path.name
        self._check_variables()
        self._hosts()
        self._read_roles()
        self._groups()
        hosts = {name: self._host(name) for name in self._written}
        self._check_requirements(hosts)
        self._check_links(hosts)
        inventory = Inventory(
            path=self._path,
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

    # ------------------------------------------------------------ small things

    def _at(self, where: str, scope: Scope) -> Reading:
        return Reading(self._problems, scope, where)

    def _scope(self, layers: list[_Layer] | None = None, host: RangeName | None = None, strict: bool = True) -> Scope:
        variables = leaf_entries(self._section("vars"))
        for layer in layers or []:
            if "vars" in layer.table.entries:
                variables.update(leaf_entries(layer.table.entries["vars"].value))
        brought = {"inventory_dir": str(self._path.absolute().parent)}
        if host is not None:
            brought |= {"host": host.name, **({"n": host.n} if host.n else {})}
        return Scope(variables, brought, self._environ, strict, self._secrets)

    def _section(self, key: str) -> Table | None:
        entry = self._root.entries.get(key)
        return entry.value if entry is not None and isinstance(entry.value, Table) else None

    def _tables(self, key: str, what: str) -> dict[str, tuple[Leaf, Table]]:
        """The entries of a section whose values are mappings; nothing counts as an empty one."""
        entry = self._root.entries.get(key)
        if entry is None or is_empty(entry.value):
            return {}
        if not isinstance(entry.value, Table):
            self._problems.add(entry.value.place, f"{key!r} is not a mapping; write  {key}: {{name: {{...}}}}")
            return {}
        found: dict[str, tuple[Leaf, Table]] = {}
        for name, one in entry.value.entries.items():
            if name.startswith("x-"):
                continue
            if isinstance(one.value, Table):
                found[name] = (one.key, one.value)
            elif is_empty(one.value):
                found[name] = (one.key, Table(one.key.place, {}))
            else:
                self._problems.add(one.value.place, f"{what} {name!r} is not a mapping", f"write  {name}: {{...}}")
        return found

    def _text(self, key: str, at: Reading) -> str:
        entry = self._root.entries.get(key)
        value = BAD if entry is None else schema.text.read(entry.value, at.inside(key))
        return value if isinstance(value, str) else ""

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

    # ------------------------------------------------------------ hosts: names

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
            self._written.setdefault(name.name, []).append(_Written(name, key, table))

    def _host_places(self) -> dict[str, Place]:
        return {name: written[0].key.place for name, written in self._written.items()}

    def _host_hint(self, name: str) -> str:
        return did_you_mean(name, self._host_places()).replace("defined at line", "line")

    def _known_hosts(self, names: tuple[tuple[str, Place], ...] | Any, what: str) -> list[str]:
        """The hosts that a list of names and ranges stands for; unknown ones are problems."""
        found: list[str] = []
        for text, place in () if names is BAD else names:
            try:
                expanded = [one.name for one in expand(text)]
            except RangeError as exc:
                self._problems.add(place, str(exc))
                continue
            for name in expanded:
                if name in self._written:
                    found.append(name)
                else:
                    inside = f" (of {text!r})" if name != text else ""
                    text = f"{what} names host {name!r}{inside}, which is not under hosts:"
                    self._problems.add(place, text, self._host_hint(name))
        return list(dict.fromkeys(found))

    # ------------------------------------------------------------ roles

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
        defined = check_names(name, blocks, self._problems)
        requires = []
        for text, place in only.get("requires", ()):
            where = self._where(text, place)
            if where is not None:
                requires.append((where, place))
        probe, place = only.get("probe", ("", key.place))
        self._check_function(probe, place, defined, name)
        return Role(name, key.place, tuple(blocks), tuple(requires), probe)

    def _code(self, only: Mapping[str, Any]) -> list[CodeBlock]:
        blocks: list[CodeBlock | None] = [
            file_block(name, place, self._files.folder(place), self._problems)
            for name, place in only.get("code_files", ())
        ]
        if "code" in only:
            blocks.append(inline_block(only["code"], self._problems))
        return [block for block in blocks if block is not None]

    def _check_function(self, name: str, place: Place, defined: Mapping[str, Place], role: str) -> None:
        # Code that defines nothing visible may get its names from elsewhere (`from x import *`).
        if name and defined and name not in defined:
            hint = did_you_mean(name, defined)
            self._problems.add(place, f"the code of role {role!r} does not define {name!r}", hint)

    def _where(self, text: str, place: Place) -> Where | None:
        try:
            return Where(text)
        except WhereError as exc:
            self._problems.add(self._within(place, text, exc.position, exc.width), str(exc))
            return None

    def _within(self, place: Place, text: str, position: int, width: int) -> Place:
        """Where character ``position`` of ``text`` stands, if it is written in one piece at ``place``."""
        column = self._problems.line(place).find(text, place.column - 1)
        return place if column < 0 else place.shifted(column + 1 - place.column + position, width)

    def _roles_of(self, name: str) -> list[str]:
        """Names of a host's roles; those not defined are problems, unless the file defines none at all."""
        named: list[tuple[str, Place]] = []
        where = ""
        for written in self._written[name]:
            entries = written.table.entries
            if "role" in entries and "roles" in entries:
                self._problems.add(entries["roles"].key.place, f"{written.where} has both 'role' and 'roles'; keep one")
            at = self._at(written.where, self._scope())
            for key in ("role", "roles"):
                if key in entries:
                    value = schema.HOST.fields[key].read(entries[key].value, at.inside(key))
                    named, where = ([] if value is BAD else list(value)), written.where
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

    # ------------------------------------------------------------ groups

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

    # ------------------------------------------------------------ hosts: settings

    def _layers(self, name: str, roles: list[str]) -> list[_Layer]:
        """Outermost first: defaults, roles, groups (deep ones last), the range, the host itself."""
        layers = []
        defaults = self._section("defaults")
        if defaults is not None:
            layers.append(_Layer(defaults, "defaults"))
        layers += [_Layer(self._role_tables[one], f"role {one!r}") for one in roles if one in self._role_tables]
        groups = self._tables("groups", "group")
        layers += [_Layer(groups[one][1], f"group {one!r}") for one in self._memberships.get(name, ())]
        return layers + [_Layer(one.table, one.where) for one in self._written[name]]

    def _host(self, name: str) -> HostEntry:
        written = self._written[name]
        roles = self._roles_of(name)
        layers = self._layers(name, roles)
        scope = self._scope(layers, written[0].name)
        settings: dict[str, Any] = {}
        origin: dict[str, Place] = {}
        connect: dict[str, Any] = {}
        for layer in layers:
            read = self._settings(layer, scope)
            for key in read:
                origin[key] = layer.table.entries[key].key.place
            connect = merge_connect(connect, self._reach(read))
            _merge(settings, read)
        if "key" in connect:
            self._secrets.add(connect["key"].reveal())
        capabilities = {}
        for key, (value, place) in settings.pop("capabilities", {}).items():
            capabilities[key] = value
            self._capability_places[name, key] = place
        enabled, reason = self._enabled(written, scope)
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
            origin=origin,
        )

    def _settings(self, layer: _Layer, scope: Scope) -> dict[str, Any]:
        entries = {key: entry for key, entry in layer.table.entries.items() if key in schema.SETTINGS}
        value = _SETTINGS.read(Table(layer.table.place, entries), self._at(layer.where, scope))
        assert isinstance(value, dict)
        return value

    def _reach(self, read: dict[str, Any]) -> dict[str, Any]:
        """Takes ``connect`` and what belongs to it out of one layer's settings."""
        reach: dict[str, Any] = {key: read.pop(key) for key in _REACH if key in read}
        connect, place = read.pop("connect", ({}, None))
        if place is not None:
            connect = resolve_paths(connect, self._files.folder(place))
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

    def _enabled(self, written: list[_Written], scope: Scope) -> tuple[bool, str]:
        enabled, reason = True, ""
        for one in written:
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
        used = {role for written in self._written for role in self._used_roles(written)}
        unused = [(name, table, "role") for name, table in self._role_tables.items() if name not in used]
        groups = self._tables("groups", "group")
        unused += [(name, table, "group") for name, (_, table) in groups.items() if not self._members.get(name)]
        defaults = self._section("defaults")
        if defaults is not None:
            check_keys(defaults, list(schema.DEFAULTS.fields), self._at("defaults", scope))
        elif "defaults" in self._root.entries and not is_empty(self._root.entries["defaults"].value):
            self._problems.add(self._root.entries["defaults"].value.place, "'defaults' is not a mapping")
        for name, table, what in unused:
            self._settings(_Layer(table, f"{what} {name!r}"), scope)

    def _used_roles(self, name: str) -> list[str]:
        return self._roles_of(name)

    # ------------------------------------------------------------ across hosts

    def _check_requirements(self, hosts: Mapping[str, HostEntry]) -> None:
        for host in hosts.values():
            for role in (self._roles[one] for one in host.roles):
                for where, place in role.requires:
                    self._check_requirement(host, role, where, place)

    def _check_requirement(self, host: HostEntry, role: Role, where: Where, place: Place) -> None:
        values = host.values()
        missing = [name for name, _ in where.names() if name.partition(".")[0] not in values]
        who = self._written[host.name][-1].where
        if missing and role.probe:
            return  # the host itself will say
        rule = f"(line {place.line}: {where})"
        try:
            outcome = where.evaluate(values)
        except UnlikeTypes as exc:
            at = self._capability_places.get((host.name, exc.name), host.place)
            text = (
                f"capability {exc.name!r} is {described(exc.value)}; role {role.name!r} compares it with a {exc.wanted}"
            )
            self._problems.add(at, f"{text} {rule}")
            return
        if outcome.holds:
            return
        if missing:
            known = list(host.capabilities)
            text = f"{who} has no capability {missing[0]!r}, which role {role.name!r} requires {rule}"
            self._problems.add(host.place, text, did_you_mean(missing[0], known))
            return
        names = [name for name, _ in where.names()]
        at = next(
            (self._capability_places[host.name, one] for one in names if (host.name, one) in self._capability_places),
            host.place,
        )
        self._problems.add(at, f"{who} does not meet what role {role.name!r} requires {rule}: {outcome.why}")

    def _check_links(self, hosts: Mapping[str, HostEntry]) -> None:
        """Settings that name another host."""
        for host in hosts.values():
            power = host.settings.get("power", {})
            for key, name in (("runs_on", host.settings.get("runs_on", "")), ("power", power.get("on", ""))):
                if name and name not in hosts:
                    text = (
                        f"{key} of {self._written[host.name][-1].where} names host {name!r}, which is not under hosts:"
                    )
                    self._problems.add(host.origin[key], text, self._host_hint(name))
            restore = host.settings.get("restore", "none")
            codes = [self._roles[one].code for one in host.roles]
            if restore != "none" and not any(codes):
                text = f"restore of {self._written[host.name][-1].where} is {restore!r}, but none of its roles has code"
                self._problems.add(host.origin["restore"], text)

    def _known_role(self, name: str, place: Place, what: str) -> None:
        if name in self._roles:
            return
        places = {one: role.place for one, role in self._roles.items()}
        hint = did_you_mean(name, places) or (f"roles: {' '.join(places)}" if places else "")
        self._problems.add(place, f"{what} has role {name!r}, which is not defined", hint)

    def _fixtures(self, hosts: Mapping[str, HostEntry]) -> dict[str, FixtureEntry]:
        found = dict(DEFAULT_FIXTURES)
        for name, (key, table) in self._tables("fixtures", "fixture").items():
            what = f"fixture {name!r}"
            read = schema.FIXTURE.read(table, self._at(what, self._scope()))
            if not name.isidentifier() or name in _TAKEN_FIXTURES:
                why = "is one of our own" if name in _TAKEN_FIXTURES else "is not a Python name"
                self._problems.add(key.place, f"{name!r} cannot be the name of a fixture: it {why}")
            if read is BAD or "role" not in read:
                continue
            role, place = read["role"]
            self._known_role(role, place, what)
            if name in DEFAULT_FIXTURES and read.get("count", 1) != 1:
                self._problems.add(table.entries["count"].value.place, f"{name} is always exactly one host")
            where = None
            if "where" in read:
                where = self._where(*read["where"])
                if where is not None:
                    self._check_fixture_where(where, read["where"][1], role, what, hosts)
            found[name] = FixtureEntry(
                name=name,
                role=role,
                place=key.place,
                count=read.get("count", 1),
                where=where,
                distinct=read.get("distinct", ()),
                scope=read.get("scope", "function"),
                description=read.get("description", ""),
            )
        return found

    def _check_fixture_where(
        self, where: Where, place: Place, role: str, what: str, hosts: Mapping[str, HostEntry]
    ) -> None:
        members = [host for host in hosts.values() if role in host.roles]
        for host in members:
            try:
                where.evaluate(host.values())
            except UnlikeTypes as exc:
                at = self._capability_places.get((host.name, exc.name), place)
                text = f"capability {exc.name!r} is {described(exc.value)}; {what} compares it with a {exc.wanted}"
                self._problems.add(at, f"{text} (line {place.line}: {where})")
        if not members or (role in self._roles and self._roles[role].probe):
            return
        known = {key for host in members for key in host.values()}
        for name, position in where.names():
            if name.partition(".")[0] not in known:
                at = self._within(place, where.text, position, len(name))
                self._problems.add(at, f"no host of role {role!r} has a capability {name!r}", did_you_mean(name, known))

    def _quarantine(self) -> tuple[Quarantine, ...]:
        entry = self._root.entries.get("quarantine")
        if entry is None or is_empty(entry.value):
            return ()
        if not isinstance(entry.value, Items):
            self._problems.add(entry.value.place, "'quarantine' is not a list")
            return ()
        found = []
        for item in entry.value.items:
            read = schema.QUARANTINE.read(item, self._at("quarantine", self._scope()))
            if read is BAD:
                continue
            hosts = self._known_hosts(read.get("hosts", ()), "quarantine")
            found.append(
                Quarantine(read.get("tests", ()), tuple(hosts), read.get("reason", ""), self._until(read, item))
            )
        return tuple(found)

    def _until(self, read: Mapping[str, Any], item: Any) -> datetime.date | None:
        if "until" not in read:
            return None
        try:
            return datetime.date.fromisoformat(read["until"])
        except ValueError as exc:
            self._problems.add(item.entries["until"].value.place, f"until of quarantine is {read['until']!r}: {exc}")
            return None

    def _simulate(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, (key, table) in self._tables("simulate", "simulated role").items():
            self._known_role(name, key.place, "simulate")
            found[name] = schema.SIMULATE.read(table, self._at(f"simulate {name!r}", self._scope()))
        return found


def _merge(settings: dict[str, Any], read: Mapping[str, Any]) -> None:
    """Lay one layer's settings over those of the outer ones."""
    for key, value in read.items():
        have = settings.get(key)
        if have is not None and key in _ADDED_MAPPINGS:
            settings[key] = {**have, **value}
        elif have is not None and key in _ADDED_LISTS:
            settings[key] = tuple(dict.fromkeys([*have, *value]))
        elif isinstance(have, dict) and key == "artifacts":
            paths = tuple(dict.fromkeys([*have.get("paths", ()), *value.get("paths", ())]))
            settings[key] = {**have, **value, **({"paths": paths} if paths else {})}
        else:
            settings[key] = value
