"""One lease: what it has of each host, and what is given to whoever asked for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from easycluster.lab.holders import LeaseError
from easycluster.lab.hosts import Hosts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from easycluster.lab.host import Host
    from easycluster.lab.leases import Leases
    from easycluster.lab.releases import Release

__all__ = ["Lease", "LeasedHosts", "Part", "Wanted"]

Wanted = dict[str, Any]


@dataclass
class Part:
    """One host's share of a lease.

    Attributes:
        client: The session that the locks hang on; another one does not hold them.
        wanted: Locks by name: mode and slots.
        level: How much was to be undone when it began.
        baseline: Number of the state that it began with, kept by the host.
        begun: Whether there are level and baseline.
        seen: What tests left behind that is still there, with the test that left it.
        kinds: How many devices of each kind are wanted, any that are free.
        among: Which devices come into question, where that is not what the lab file says.
        picked: Which these are.
        boots: Whether the lease is there for a reboot.
    """

    host: Host
    client: Any
    wanted: dict[str, Wanted]
    level: int = 0
    baseline: int = 0
    begun: bool = False
    boots: bool = False
    seen: dict[tuple[str, str], str] = field(default_factory=dict)
    kinds: dict[str, int | None] = field(default_factory=dict)
    among: dict[str, list[str]] = field(default_factory=dict)
    picked: dict[str, list[str]] = field(default_factory=dict)


class Lease:
    """Several hosts, held until :meth:`release`; usable in ``with``.

    Attributes:
        label: What it is for.
        hosts: Those that were asked for.
    """

    def __init__(self, leases: Leases, label: str, hosts: Hosts) -> None:
        self._leases = leases
        self.label = label
        self.hosts = hosts
        self._parts: dict[str, Part] = {}
        self._released: Release | None = None
        # What this one ends with, if it was not released before, and how.
        self.within: Lease | None = None
        self.end: Callable[[], object] = self.release

    def __enter__(self) -> Lease:  # noqa: PYI034  # typing.Self needs 3.11
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()

    @property
    def names(self) -> list[str]:
        """The hosts that it has locks on."""
        return sorted(self._parts)

    def devices(self, host: Host) -> dict[str, list[str]]:
        """The devices of a host that it has for itself, by kind."""
        part = self._parts.get(host.name)
        return {} if part is None else {kind: list(names) for kind, names in part.picked.items()}

    def release(self) -> Release:
        """Set the hosts back and let them go; a second call gives the same answer."""
        if self._released is None:
            self._released = self._leases._release(self)
        return self._released


class LeasedHosts(Hosts):
    """Hosts and their lease: given back by :meth:`release`, or at the end of ``with``."""

    __slots__ = ("lease",)

    def __init__(self, hosts: Iterable[Host], lease: Lease) -> None:
        super().__init__(hosts)
        self.lease = lease

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give them back; undos that failed are an error, unless there is one already."""
        release = self.lease.release()
        if release.failures and exc is None:
            raise LeaseError("; ".join(map(str, release.failures)))

    def release(self) -> Release:
        """Set the hosts back and give them to others."""
        return self.lease.release()
