"""What lies between a host of the inventory and the session that stands for it: ``runs_on`` and ``probe``.

A machine with ``runs_on: HOST`` has no Python.  Its role's code runs in a session of its own on HOST, reached as HOST
is, and finds the machine there::

    from easycluster_machine import machine

    def ports():
        return ask(machine.address, machine.vars["password"])

``machine`` has ``name``, ``address``, ``port``, ``user``, ``vars``, ``capabilities`` and ``tags``; secrets among the
variables are there as plain texts.  The first session of a host whose role has a ``probe`` calls that function; what
it returns overrides the capabilities of the lab file from then on, and has to meet the role's ``requires``.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from easycluster.lab.hostfault import HostFault
from easycluster.lab.shapes import described
from easycluster.lab.variables import Secret
from easycluster.lab.where import UnlikeTypes, lookup

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from easycluster.lab.choose import Need
    from easycluster.lab.dial import Client, Dialer, TakeOutput
    from easycluster.lab.inventory import HostEntry, Inventory, Role
    from easycluster.lab.limits import CallLimits

# A probe that reads hardware takes seconds; one that hangs must not take the night.
PROBE_TIMEOUT: Final = 60.0

MACHINE_MODULE: Final = "easycluster_machine"

# An expression, so that the module it stands in gets no names of its own.
_MACHINE_SOURCE: Final = (
    "(lambda sys, types, module, facts: (module.__dict__.update(machine=types.SimpleNamespace(**facts)), "
    "sys.modules.__setitem__(module.__name__, module)))"
    "(__import__('sys'), __import__('types'), __import__('types').ModuleType({name!r}), {facts!r})\n"
)


_lock = threading.Lock()
_defined: set[str] = set()


class UnfitHost(HostFault):
    """A host turned out not to be what the lab file says: its probe failed, or it does not meet a requirement."""


class Approach:
    """Opens clients as ``dialer`` does, and knows the way to machines without Python and what probes found out.

    Args:
        inventory: The lab.
        hosts: Its hosts by name; entries are replaced as probes find things out.
        dialer: Opens the clients.

    Attributes:
        limits: Time limits that hold now.
    """

    def __init__(self, inventory: Inventory, hosts: dict[str, HostEntry], dialer: Dialer) -> None:
        self._roles = inventory.roles
        self._hosts = hosts
        self._dialer = dialer
        self._lock = threading.Lock()
        self._asked: set[str] = set()
        self.limits: CallLimits | None = None

    def __call__(self, entry: HostEntry, definitions: Sequence[str], take_output: TakeOutput) -> Client:
        """Connect; see :class:`easycluster.lab.dial.Dialer`.

        Raises:
            UnfitHost: If the host's probe says that it is not what the lab file says.
        """
        dialled, own = way_to(self._hosts, entry)
        if self.limits is not None:
            dialled = replace(dialled, timeouts=self.limits.merged(dialled))
            self.limits.start()
        client = self._dialer(dialled, [*own, *definitions], take_output)
        try:
            self.probe(entry.name, client)
        except BaseException:
            client.close()
            raise
        return client

    def unasked(self, names: Iterable[str]) -> list[str]:
        """Those of these hosts that have a probe and were never asked; they count as asked from now on."""
        with self._lock:
            found = [one for one in names if one not in self._asked and self._probes(self._hosts[one])]
            self._asked.update(found)
        return found

    def candidates(self, needs: Iterable[Need]) -> list[str]:
        """Hosts of which only their probe can say whether they fit: a condition names what the file does not."""
        found: dict[str, None] = {}
        for need in needs:
            names = [*([name for name, _ in need.where.names()] if need.where is not None else ()), *need.distinct]
            for host in self._hosts.values():
                values = host.values()
                if need.role in host.roles and host.enabled and any(not lookup(values, one)[0] for one in names):
                    found[host.name] = None
        return list(found)

    def _probes(self, entry: HostEntry) -> list[Role]:
        return [self._roles[name] for name in entry.roles if self._roles[name].probe]

    def probe(self, name: str, client: Any) -> None:
        """Have a host say what it can do, through a client that has its roles' code, and hold that against the file.

        Raises:
            UnfitHost: If it is not what the lab file says.
        """
        entry = self._hosts[name]
        roles = self._probes(entry)
        if not roles or entry.probed:
            return
        from easycluster import deadline

        capabilities = dict(entry.capabilities)
        for role in roles:
            with deadline(min(PROBE_TIMEOUT, entry.timeouts.get("call", PROBE_TIMEOUT))):
                answer = client.call(role.probe)
            if not isinstance(answer, dict) or not all(isinstance(key, str) for key in answer):
                text = f"{name}: probe {role.probe!r} of role {role.name!r} returned {described(answer)}"
                raise UnfitHost(f"{text}; a mapping of capabilities is wanted, such as {{'gpus': 8}}", name)
            capabilities.update(answer)
        probed = replace(entry, capabilities=capabilities, probed=True)
        for role in roles:
            _check(probed, role)
        with self._lock:
            self._hosts[name] = probed
            self._asked.add(name)


def way_to(hosts: Mapping[str, HostEntry], entry: HostEntry) -> tuple[HostEntry, list[str]]:
    """What to dial to reach a host, and the definitions modules that its session needs to find it from there.

    Args:
        hosts: All of the lab, for machines that are reached from another host.
        entry: The host.
    """
    through = entry.settings.get("runs_on")
    if not through:
        return entry, []
    host = hosts[through]
    timeouts = {**host.timeouts, **entry.timeouts}
    return replace(entry, target=host.target, timeouts=timeouts), [_machine_module(entry)]


def _check(entry: HostEntry, role: Role) -> None:
    """Hold what the host really has against the role's ``requires``."""
    for where, place in role.requires:
        rule = f"role {role.name!r} requires {where} ({place.file}:{place.line})"
        try:
            outcome = where.evaluate(entry.values())
        except UnlikeTypes as exc:
            raise UnfitHost(f"{entry.name}: {rule}, but {exc}", entry.name) from None
        if not outcome.holds:
            raise UnfitHost(f"{entry.name}: {rule}, but its probe found: {outcome.why}", entry.name)


def _machine_module(entry: HostEntry) -> str:
    """Name of the definitions module that brings ``machine`` to the far side."""
    from easycluster.definitions import definitions_module

    facts = {
        "name": entry.name,
        "address": entry.target.address,
        "port": entry.target.port,
        "user": entry.target.user,
        "vars": _plain(dict(entry.variables)),
        "capabilities": _plain(dict(entry.capabilities)),
        "tags": list(entry.tags),
    }
    source = _MACHINE_SOURCE.format(name=MACHINE_MODULE, facts=facts)
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    # One for each set of facts: another lab of this process may have a machine of the same name.
    name = f"easycluster_machine_{digest}"
    with _lock:
        if name not in _defined:
            module = definitions_module(name)
            module.define(source, local="lazy", filename=f"<machine {entry.name}>", first_line=1)
            _defined.add(name)
    return name


def _plain(value: Any) -> Any:
    """The value with secrets as they are, for the code that needs them."""
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
