"""The lab: hosts of an inventory, connected when they are first used."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from easycluster.client.inprogress import CallInProgress, calls_in_progress
from easycluster.definitions import DEFAULT_MODULE
from easycluster.lab.approach import Approach
from easycluster.lab.choose import LabRequestError, Need, NoHostFits, choose, make_need, reason_against
from easycluster.lab.connection import HostConnection
from easycluster.lab.dial import dial
from easycluster.lab.faults import Faulty
from easycluster.lab.host import Host, host_class
from easycluster.lab.hosts import Hosts
from easycluster.lab.lease import LeasedHosts
from easycluster.lab.leases import Leases
from easycluster.lab.limits import CallLimits
from easycluster.lab.overboot import was_asked
from easycluster.lab.parallel import run_all
from easycluster.lab.patterns import narrowed
from easycluster.lab.reader import read_inventory
from easycluster.lab.rolecode import define_module, names_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from easycluster.client.observing import Observer
    from easycluster.lab.dial import Dialer
    from easycluster.lab.faults import Fault, FaultDriver
    from easycluster.lab.inventory import HostEntry, Inventory
    from easycluster.lab.losses import Aftermath
    from easycluster.lab.simulate import Simulation
    from easycluster.lab.where import Where

CLOSE_TIMEOUT = 5.0


class Lab(Faulty):
    """Hosts that an inventory describes.

    ``with lab.link("san01").down():`` and its like break something for the length of a block; see
    :class:`easycluster.lab.faults.Faulty`.

    Args:
        inventory: The lab file, read.
        dialer: Opens connections; by default as the inventory says.
        live: Called with host, stream and text whenever a far side writes something, from a thread of ours.
        simulation: Hosts on this machine that stand in for those of the inventory; ends with the lab.

    Attributes:
        inventory: As given.
        simulation: As given.
        limits: Time limits of calls; see :class:`easycluster.lab.limits.CallLimits`.
        leases: Who has which host for how long; see :class:`easycluster.lab.leases.Leases`.
        hosts: All hosts that are neither disabled nor left out of this run.
    """

    def __init__(
        self,
        inventory: Inventory,
        *,
        dialer: Dialer = dial,
        live: Callable[[str, str, str], None] | None = None,
        simulation: Simulation | None = None,
    ) -> None:
        if simulation is not None:
            inventory, dialer = simulation.inventory, simulation.dial
        self.simulation = simulation
        # Probes find things out about hosts; whoever gave us the inventory keeps it as it was.
        entries = dict(inventory.hosts)
        self.inventory = inventory = replace(inventory, hosts=entries)
        self._approach = dialer = Approach(inventory, entries, dialer)
        self._modules = {name: define_module(name, role.code) for name, role in inventory.roles.items() if role.code}
        self._every = {
            name: host_class(entry)(
                self, entry, HostConnection(entry, self._definitions_of(entry), dialer, self._masked(live))
            )
            for name, entry in inventory.hosts.items()
        }
        self.limits = self._approach.limits = CallLimits(self._every)
        self.leases = Leases(self)
        if simulation is not None:
            self.leases.directory = simulation.locks
        for host in self._every.values():
            host._connection.after_open = partial(self.leases.take_again, host)
            host._connection.was_asked = partial(was_asked, self.leases)
        self.hosts = Hosts(
            self._every[name] for name, entry in inventory.hosts.items() if entry.enabled and not entry.left_out
        )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        environ: Mapping[str, str] | None = None,
        *,
        changes: Sequence[str] = (),
        simulate: bool = False,
    ) -> Lab:
        """Read a lab file; nothing is connected.

        Args:
            path: The file, or what else ``--ec-inventory`` takes; of several, later ones are laid over earlier ones.
            environ: Stands in for ``os.environ`` where the file says ``${NAME}``.
            changes: ``host.key=value``, as ``--ec-set`` has it, laid over everything.
            simulate: Whether sessions on this machine stand in for its hosts; see
                :mod:`easycluster.lab.simulate`.

        Raises:
            InventoryError: If anything is wrong with it; the message lists everything.
        """
        paths = [path] if isinstance(path, (str, os.PathLike)) else path
        inventory = read_inventory([os.fspath(one) for one in paths], environ, changes=changes)
        if not simulate:
            return cls(inventory)
        from easycluster.lab.simulate import Simulation

        return cls(inventory, simulation=Simulation(inventory))

    def __repr__(self) -> str:
        return f"<Lab {self.inventory.name!r}: {len(self._every)} hosts>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def select(
        self, needs: Iterable[Need], test: str = "", prefer: Sequence[str] = (), avoid: Iterable[str] = ()
    ) -> Hosts:
        """The hosts for several needs, each host once, in the order of the needs.

        Nothing is connected, except where a condition depends on what a role's ``probe`` finds out: those hosts are
        asked first, all at once.

        Args:
            needs: See :func:`easycluster.lab.make_need`.
            test: Name of the test, for the quarantine list.
            prefer: Names of hosts to take first where they fit; if there are none, those leased already.
            avoid: Names of hosts to take only if others do not suffice, such as those that somebody else has.

        Raises:
            LabRequestError: If a need names a role or capability that the lab does not have.
            NoHostFits: If there are not enough hosts; the message names each and why not.
        """
        refused = [name for name, host in self._every.items() if host._connection.refusal is not None]
        held = [name for name in self.leases.held if name not in refused]
        wanted, first, others = list(needs), list(prefer) or held, [*avoid, *refused]
        self.ask_probes(self._approach.candidates(wanted))
        while True:
            picked = choose(self.inventory, wanted, test, first, others)
            # A host that is not what the file says may make way for another.
            if not any(need.where or need.distinct for need in wanted):
                break
            if not self.ask_probes(entry.name for entry in picked):
                break
        labels = [need.label for need in wanted for _ in range(need.count)]
        return Hosts((self._every[entry.name] for entry in picked), labels)

    def preview(self, needs: Iterable[Need], test: str = "", among: Sequence[str] = ()) -> Hosts:
        """What :meth:`select` would pick as far as the lab file says; nothing is connected and nobody is asked.

        Args:
            needs: As there.
            test: As there.
            among: Names of the only hosts to choose from, best first, if there are any.

        Raises:
            LabRequestError: As there.
            NoHostFits: As there.
        """
        wanted = list(needs)
        picked = choose(narrowed(self.inventory, ",".join(among)), wanted, test)
        return Hosts(self._every[entry.name] for entry in picked)

    def only_quarantine(self, needs: Iterable[Need], test: str = "") -> bool:
        """Whether nothing but the quarantine list stands between a test and its hosts."""
        try:
            choose(replace(self.inventory, quarantine=()), needs, test)
        except (LabRequestError, NoHostFits):
            return False
        return True

    def ask_probes(self, names: Iterable[str]) -> list[str]:
        """Have those of these hosts that have a probe say what they can do, each once, all at the same time.

        A host that cannot be asked stays as the file describes it; its error comes when it is used.

        Returns:
            The names of those that were asked now.
        """
        asked = self._approach.unasked(names)
        if asked:
            run_all({name: self._every[name]._connection.client for name in asked})
        return asked

    def fitting(self, need: Need, test: str = "") -> Hosts:
        """Every host that fits a need, in the order of the file; its ``count`` is the least there must be.

        Raises:
            LabRequestError: If it names a role or capability that the lab does not have.
            NoHostFits: If there are too few; the message names each host and why not.
        """
        choose(self.inventory, [need], test)
        entries = self.inventory.hosts.values()
        return Hosts(self._every[one.name] for one in entries if not reason_against(one, need, self.inventory, test))

    def only(self, *names: str) -> Hosts:
        """Hosts by name, also disabled ones."""
        return Hosts(self._every[name] for name in names)

    def lease(
        self,
        role: str,
        count: int = 1,
        where: str | Where | None = None,
        distinct: str | Sequence[str] = (),
        *,
        shared: bool = False,
        destructive: bool = False,
        label: str = "",
        wait: float | None = None,
        devices: Mapping[str, int] | None = None,
    ) -> LeasedHosts:
        """Pick hosts of one role, connect to them at once and lock them: until the end of ``with``, or ``release()``.

        Args:
            role: Name of the role.
            count: How many hosts.
            where: A condition on each, such as ``"gpus >= 4"``.
            distinct: Capabilities or variables in which they must differ, such as ``"rack"``.
            shared: Whether others may use them at the same time.
            destructive: Whether nobody may, whatever the lab file says: for ``reboot()`` and ``power()``.
            label: What it is for, for others who wait.
            wait: How long to wait for hosts that others have, in seconds; 10 minutes if nothing else was said.
            devices: How many devices of which kind to have for oneself on each, such as ``{"gpu": 1}``; the hosts are
                shared then, unless ``destructive``.

        Raises:
            HostBusy: If others have them for longer than that.
            LabRequestError: If the lab knows no such role or capability.
            NoHostFits: If there are not enough hosts.
            ConnectError: If the only host cannot be reached.
            HostErrors: If some of several cannot.
        """
        needs = [make_need(role, count, where, distinct)]
        lease = self.leases.take(
            self.select(needs).connect(),
            instead=lambda busy: self.select(needs, avoid=busy).connect(),
            shared=shared or bool(devices),
            destructive=destructive,
            label=label,
            wait=wait,
            devices=devices,
        )
        return LeasedHosts(lease.hosts, lease)

    def devices(self, host: Host) -> dict[str, list[str]]:
        """The devices of a host that this process has for itself, by kind: ``{"gpu": ["GPU-5a1f"]}``."""
        return self.leases.devices(host)

    def _break(self, name: str, what: str, begin: Callable[[FaultDriver], Callable[[], None]]) -> Fault:
        from easycluster.lab.breaking import begin_fault

        return begin_fault(self, self.only(name)[0], what, begin)

    def kill(self, host: Host | str) -> Fault:
        """Take the power of a host away; it is switched on again in the end, and waited for.

        As after :meth:`easycluster.lab.Host.power`, its lease goes on, and using it meanwhile is a ``HostIsOff``.
        """
        from easycluster.lab.breaking import begin_kill

        return begin_kill(self, self.only(host)[0] if isinstance(host, str) else host)

    def _address_of(self, name: str) -> str:
        return self.only(name)[0].address

    def take_output(self, timeout: float = 1.0) -> dict[str, dict[str, str]]:
        """What far sides wrote since the last time, by host and stream; secrets are masked."""
        found = {}
        for name, host in self._every.items():
            if host._connection.has_output:
                texts = {
                    stream: self.inventory.mask(text) for stream, text in host._connection.take_output(timeout).items()
                }
                if texts:
                    found[name] = texts
        return found

    def after_losses(self, names: Iterable[str]) -> dict[str, Aftermath]:
        """What became of hosts whose connections were lost; connects to them anew, at once, each loss once."""
        return run_all({name: self._every[name]._connection.after_loss for name in names if name in self._every})[0]

    def drop_lost(self) -> None:
        """Let go of connections that were lost: the next use of their hosts makes new ones."""
        run_all({host.name: host._connection.drop_lost for host in self._every.values() if host._connection.is_open})

    def take_reboots(self) -> dict[str, list[str]]:
        """Kernel logs of reboots nobody asked for, by host, since the last time."""
        found = {name: host._connection.take_reboots() for name, host in self._every.items()}
        return {name: [self.inventory.mask(text) for text in texts] for name, texts in found.items() if texts}

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Have an observer told of all calls to all hosts, over reconnects and reboots.

        Args:
            observer: Who is told, see :class:`easycluster.client.observing.Observer`; ``call.host`` is the host's name.

        Returns:
            A function that has it told no more.
        """
        leave = [host._connection.observe(observer) for host in self._every.values()]

        def remove() -> None:
            for one in leave:
                one()

        return remove

    def calls_in_progress(self) -> list[CallInProgress]:
        """The calls to hosts of this lab that threads of this process wait for now."""
        return [call for call in calls_in_progress() if call.host in self._every]

    def last_output(self, name: str) -> float:
        """When a host last wrote something, on the monotonic clock."""
        return self._every[name]._connection.last_output if name in self._every else 0.0

    def close(self, timeout: float = CLOSE_TIMEOUT) -> list[str]:
        """Close every connection.

        Args:
            timeout: For all of them together, in seconds.

        Returns:
            Names of hosts whose connection did not end in time; it ends with this process.
        """
        self.limits.close()
        left = Hosts(self._every.values()).close(timeout)
        if self.simulation is not None:
            self.simulation.close()
        return left

    def _definitions_of(self, entry: HostEntry) -> Callable[[], Sequence[str]]:
        """Roles' modules first: a host's attribute is its role's code before anything else."""
        own = [self._modules[role] for role in entry.roles if role in self._modules]
        return lambda: [*own, DEFAULT_MODULE]

    def defined_names(self, entry: HostEntry) -> frozenset[str]:
        """What the code of a host's roles defines."""
        return frozenset().union(*(names_of(self.inventory.roles[role].code) for role in entry.roles))

    def _masked(self, live: Callable[[str, str, str], None] | None) -> Callable[[str, str, str], None] | None:
        if live is None:
            return None

        def show(host: str, stream: str, text: str) -> Any:
            live(host, stream, self.inventory.mask(text))

        return show
