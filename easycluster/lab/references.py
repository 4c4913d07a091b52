"""What refers to hosts and roles: requirements, fixtures, quarantine, and settings that name another host."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from easycluster.lab import schema
from easycluster.lab.fakes import Fakes, check_fakes
from easycluster.lab.inventory import DEFAULT_FIXTURES, FixtureEntry, Quarantine
from easycluster.lab.positions import Items, did_you_mean
from easycluster.lab.rolecode import check_names
from easycluster.lab.sections import Sections
from easycluster.lab.shapes import BAD, described, is_empty
from easycluster.lab.sizes import read_size
from easycluster.lab.where import UnlikeTypes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from easycluster.lab.inventory import HostEntry, Role
    from easycluster.lab.positions import Place
    from easycluster.lab.where import Where

# Fixtures that the plugin itself defines, and one of pytest's that many would hit.
_TAKEN_FIXTURES: Final = ("ec", "ec_host", "ec_inventory", "remote_hosts", "request")


# What a driver of power or faults cannot do without, and what a console may be.
_NEEDED: Final = {"ipmi": "address", "redfish": "url", "labbox": "box"}
_LINES: Final = ("command", "socket", "serial", "box")


class References(Sections):
    """Reads and checks the sections that refer to hosts, once these are known."""

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
        """Settings that name another host, or a function of the role's code."""
        for host in hosts.values():
            who = self._written[host.name][-1].where
            power = host.settings.get("power", {})
            console = host.settings.get("console", "")
            through = console.get("on", "") if isinstance(console, dict) else ""
            named = {"runs_on": host.settings.get("runs_on", ""), "power": power.get("on", ""), "console": through}
            for key, name in named.items():
                if name and name not in hosts:
                    text = f"{key} of {who} names host {name!r}, which is not under hosts:"
                    self._problems.add(host.origin[key], text, self._host_hint(name))
            self._check_runs_on(host, hosts, who)
            self._check_san(host, hosts, who)
            self._check_drivers(host, who)
            artifacts = host.settings.get("artifacts", {})
            self._check_code_has(host, "restore", host.settings.get("restore", "none"), who)
            self._check_code_has(host, "artifacts.call", artifacts.get("call", "none"), who)
            if host.target.become and host.target.via == "tcp":
                text = f"become of {who} does not go with via: tcp; the server's user is who it is"
                self._problems.add(host.origin.get("connect.become", host.place), text)

    def _check_runs_on(self, host: HostEntry, hosts: Mapping[str, HostEntry], who: str) -> None:
        through = hosts.get(host.settings.get("runs_on", ""))
        if through is None:
            return
        if through is host:
            self._problems.add(host.origin["runs_on"], f"runs_on of {who} names the host itself")
        elif through.settings.get("runs_on"):
            text = f"runs_on of {who} names host {through.name!r}, which has no Python of its own either"
            self._problems.add(
                host.origin["runs_on"], text, f"name the host that it runs on: {through.settings['runs_on']}"
            )

    def _check_drivers(self, host: HostEntry, who: str) -> None:
        """Power, console and faults have what their drivers need."""
        for key in ("power", "faults"):
            settings = host.settings.get(key) or {}
            needed = _NEEDED.get(settings.get("driver", ""), "")
            if needed and needed not in settings:
                at = host.origin.get(f"{key}.driver", host.origin[key])
                self._problems.add(at, f"{key} of {who} has driver {settings['driver']} and no {needed}")
        console = host.settings.get("console")
        if isinstance(console, dict):
            kinds = [kind for kind in _LINES if kind in console]
            if len(kinds) != 1:
                text = f"has {' and '.join(kinds)}" if kinds else "says nowhere what it is"
                self._problems.add(
                    host.origin["console"], f"console of {who} {text}", f"give it one of {', '.join(_LINES)}"
                )

    def _check_san(self, host: HostEntry, hosts: Mapping[str, HostEntry], who: str) -> None:
        """What a target is made of goes together, and the hosts that do its I/O are there."""
        san = host.settings.get("san")
        if san is None:
            return

        def wrong(key: str, text: str, hint: str = "") -> None:
            self._problems.add(host.origin.get(f"san.{key}", host.origin["san"]), f"{key} of san of {who} {text}", hint)

        for name in san.get("initiators", ()):
            if name not in hosts:
                wrong("initiators", f"names host {name!r}, which is not under hosts:", self._host_hint(name))
            elif hosts[name].settings.get("runs_on"):
                wrong("initiators", f"names host {name!r}, which has no Python of its own")
        external = san.get("driver") == "external"
        if external and not (san.get("portals") and san.get("iqn")):
            wrong("driver", "is external, so it takes portals and iqn")
        for lun in san.get("luns", ()):
            if external and not (isinstance(lun, str) and lun.isdigit()):
                wrong("luns", f"are numbers of units of an external target, not {described(lun)}")
            elif not external and read_size(str(lun["size"] if isinstance(lun, dict) else lun)) is None:
                wrong("luns", f"has {described(lun)}", "write a size: 64M, 1G or bytes")
        chap = san.get("chap", {})
        if ("target_user" in chap) != ("target_password" in chap):
            wrong("chap", "has one of target_user and target_password; mutual CHAP takes both")

    def _check_code_has(self, host: HostEntry, key: str, function: str, who: str) -> None:
        """Whether a setting names a function that one of the host's roles defines."""
        if function == "none":
            return
        place = host.origin.get(key, host.place)
        if not any(self._roles[one].code for one in host.roles):
            self._problems.add(place, f"{key} of {who} is {function!r}, but none of its roles has code")
            return
        defined = {name: at for one in host.roles for name, at in self._defined.get(one, {}).items()}
        # Code that defines nothing visible may get its names from elsewhere (`from x import *`).
        if defined and function not in defined:
            text = f"{key} of {who} is {function!r}, which the code of its roles does not define"
            self._problems.add(place, text, did_you_mean(function, list(defined)))

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
            hosts = tuple(self._known_hosts(read.get("hosts", ()), "quarantine"))
            tests, reason = read.get("tests", ()), read.get("reason", "")
            if not tests and "hosts" not in read:
                text = "quarantine names neither tests nor hosts"
                self._problems.add(item.place, text, "write  tests: 'test_nvlink*'  or  hosts: [gpu03]  or both")
            found.append(Quarantine(tests, hosts, reason, self._until(read, item), read.get("how", "skip")))
        return tuple(found)

    def _until(self, read: Mapping[str, Any], item: Any) -> datetime.date | None:
        if "until" not in read:
            return None
        try:
            return datetime.date.fromisoformat(read["until"])
        except ValueError as exc:
            self._problems.add(item.entries["until"].value.place, f"until of quarantine is {read['until']!r}: {exc}")
            return None

    def _simulate(self) -> dict[str, Fakes]:
        found: dict[str, Fakes] = {}
        for name, (key, table) in self._tables("simulate", "simulated role").items():
            self._known_role(name, key.place, "simulate")
            read = schema.SIMULATE.read(table, self._at(f"simulate {name!r}", self._scope()))
            if read is BAD:
                continue
            blocks = self._code(read)
            check_names(name, blocks, self._problems)
            if name in self._roles:
                check_fakes(name, self._roles[name].code, blocks, self._problems)
            found[name] = Fakes(tuple(blocks), read.get("capabilities", {}))
        return found


def with_carriers(hosts: dict[str, HostEntry]) -> dict[str, HostEntry]:
    """Take out machines whose code would run on a host that is taken out."""
    found = {}
    for name, host in hosts.items():
        through = hosts.get(host.settings.get("runs_on", ""))
        if host.enabled and through is not None and not through.enabled:
            why = f"runs on {through.name}, which is disabled" + (f": {through.reason}" if through.reason else "")
            found[name] = replace(host, enabled=False, reason=why)
        else:
            found[name] = host
    return found
