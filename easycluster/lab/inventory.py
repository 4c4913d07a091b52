"""The inventory as values: what a lab file says, checked and worked out for every host.  Nothing here connects."""

from __future__ import annotations

import fnmatch
import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from easycluster.lab.variables import HIDDEN

if TYPE_CHECKING:
    import datetime
    from collections.abc import Mapping
    from pathlib import Path

    from easycluster.lab.fakes import Fakes
    from easycluster.lab.positions import Place
    from easycluster.lab.rolecode import CodeBlock
    from easycluster.lab.target import Target
    from easycluster.lab.where import Where

# A secret of one or two characters would blot out half of every text.
SHORTEST_MASKED: Final = 3
SHORTEST_LINE: Final = 12


@dataclass(frozen=True)
class Role:
    """What a host can be.

    Attributes:
        name: As hosts name it.
        place: Where it is defined, or first used if the file has no ``roles:``.
        code: Its blocks of code, in order.
        requires: Conditions that its hosts must meet, with their places.
        probe: Name of the function that finds out capabilities, ``""`` if none.
    """

    name: str
    place: Place
    code: tuple[CodeBlock, ...] = ()
    requires: tuple[tuple[Where, Place], ...] = ()
    probe: str = ""


@dataclass(frozen=True)
class HostEntry:
    """One host, with everything that defaults, roles, groups and ranges say about it.

    Attributes:
        name: Its name in the lab.
        place: Where it, or its range, is defined.
        roles: Names of its roles, in order.
        groups: Names of the groups it is in, outermost first.
        target: How it is reached.
        capabilities: What it can do.
        variables: The file's variables as they hold for it.
        tags: Its tags.
        timeouts: Spans in seconds by name: ``connect``, ``call``, ``silence``, ``transfer``, ``test`` ...
        enabled: False if the file takes it out.
        reason: Why.
        probed: Whether the host itself has said what it can do.
        left_out: Why this run does not use it although the file has it, ``""`` if it does.
        settings: Every other setting by key: ``lock``, ``power``, ``console``, ``artifacts``, ``restore`` ...
        origin: Where each value comes from, by dotted name: ``timeouts.call``, ``connect.user``, ``tags.nightly``.
    """

    name: str
    place: Place
    roles: tuple[str, ...]
    groups: tuple[str, ...]
    target: Target
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    timeouts: Mapping[str, float] = field(default_factory=dict)
    enabled: bool = True
    reason: str = ""
    left_out: str = ""
    probed: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Place] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """What conditions can ask for: capabilities, then variables, then the host's own words."""
        own = {
            "name": self.name,
            "address": self.target.address,
            "roles": list(self.roles),
            "groups": list(self.groups),
            "tags": list(self.tags),
        }
        return {**own, **self.variables, **self.capabilities}


@dataclass(frozen=True)
class FixtureEntry:
    """One entry of ``fixtures:``.

    Attributes:
        name: Name of the pytest fixture.
        role: Role of its hosts.
        place: Where it is defined, or None for one that every lab has.
        count: How many hosts; 1 gives a host, more give a ``Hosts``.
        where: Condition on them, or None.
        distinct: Capabilities or variables in which its hosts must differ.
        scope: pytest's scope.
        description: Its docstring, ``""`` for a made one.
    """

    name: str
    role: str
    place: Place | None = None
    count: int = 1
    where: Where | None = None
    distinct: tuple[str, ...] = ()
    scope: str = "function"
    description: str = ""


@dataclass(frozen=True)
class Quarantine:
    """Tests that must not run on certain hosts for now.

    Attributes:
        tests: Patterns of test names; empty means every test.
        hosts: Names of hosts; empty means every host.
        reason: Why.
        until: The last day it holds, or None.
        how: ``"skip"``: the tests keep off the hosts; ``"xfail"``: they run there, and may fail.
    """

    tests: tuple[str, ...]
    hosts: tuple[str, ...]
    reason: str
    until: datetime.date | None
    how: str = "skip"

    def __str__(self) -> str:
        return f'quarantined "{self.reason}"' + (f" until {self.until}" if self.until else "")

    def is_over(self, today: datetime.date) -> bool:
        """Whether its last day has passed."""
        return self.until is not None and today > self.until

    def concerns(self, test: str) -> bool:
        """Whether a test is meant, its parameters apart; one without a name is meant by entries for every test."""
        names = {test, test.partition("[")[0]} - {""}
        return not self.tests or any(fnmatch.fnmatchcase(name, one) for name in names for one in self.tests)

    def applies(self, host: str, test: str, today: datetime.date) -> bool:
        """Whether ``test`` must keep off ``host``; a test without a name only minds entries for every test."""
        if self.how != "skip" or self.is_over(today):
            return False
        return (not self.hosts or host in self.hosts) and self.concerns(test)


# What every lab has, unless its file says otherwise.
DEFAULT_FIXTURES: Final = {
    name: FixtureEntry(name, role) for name, role in (("gpu_node", "gpu"), ("san_target", "san"))
}


@lru_cache(maxsize=16)
def _forms(secrets: frozenset[str]) -> tuple[str, ...]:
    """Every text that would show a secret, the longest first: one secret may contain another."""
    found: set[str] = set()
    for secret in secrets:
        found |= {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]}
        # A key of several lines is printed line by line; a short line may be a word of any text.
        found |= {line for line in secret.splitlines() if len(line) >= SHORTEST_LINE}
    return tuple(sorted((one for one in found if len(one) >= SHORTEST_MASKED), key=len, reverse=True))


@dataclass(frozen=True)
class Inventory:
    """A whole lab file.

    Attributes:
        path: The file; the first of several.
        sources: Everything that was given, later ones laid over earlier ones.
        name: The lab's name; the file's if it gives none.
        hosts: Every host by name, in the order of the file.
        roles: Every role by name.
        groups: Names of the hosts of every group.
        fixtures: Entries of ``fixtures:`` and the two that every lab has.
        quarantine: Entries of ``quarantine:``.
        simulate: Entries of ``simulate:``, by role.
    """

    path: Path
    name: str
    hosts: Mapping[str, HostEntry]
    roles: Mapping[str, Role] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fixtures: Mapping[str, FixtureEntry] = field(default_factory=dict)
    quarantine: tuple[Quarantine, ...] = ()
    simulate: Mapping[str, Fakes] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    _secrets: frozenset[str] = field(default_factory=frozenset, repr=False)

    @property
    def has_secrets(self) -> bool:
        """Whether there is anything to mask."""
        return bool(_forms(self._secrets))

    def mask(self, text: str) -> str:
        """``text`` with every secret of the file replaced by ``***``, also as ``repr()`` and JSON write it."""
        for secret in _forms(self._secrets):
            text = text.replace(secret, HIDDEN)
        return text

    def summary(self) -> str:
        """How many hosts there are of which role: ``3 hosts (1 disabled); gpu 2, san 1``."""
        disabled = sum(not host.enabled for host in self.hosts.values())
        hosts = f"{len(self.hosts)} host{'s' * (len(self.hosts) != 1)}" + (
            f" ({disabled} disabled)" if disabled else ""
        )
        counts = {role: sum(role in host.roles for host in self.hosts.values()) for role in self.roles}
        roles = ", ".join(f"{role} {count}" for role, count in counts.items() if count)
        return f"{hosts}; {roles}" if roles else hosts

    def known_names(self) -> dict[str, Place]:
        """Every name that a condition can use in this lab, with the place of a host that has it."""
        names: dict[str, Place] = {}
        for host in self.hosts.values():
            for name in host.values():
                names.setdefault(name, host.place)
        return names
