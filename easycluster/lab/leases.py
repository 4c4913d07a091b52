"""Leases: the hosts of a test locked, and set back when it ends.

A lease holds the locks of several hosts or of none.  They are asked for in the order of names; if one is taken, those
before it are let go at once, so nobody waits while holding, and nobody waits for each other.  What this process holds
already is not waited for: a test uses the hosts of its module's fixture, with the stricter of both modes.

At the end of a lease: what was registered for undoing is undone, what was left behind is listed, the worker ends with
all that it started, and only then the locks go.  If this process cannot do that any more, the hosts do it themselves.
"""

from __future__ import annotations

import itertools
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from easycluster.errors import EasyClusterError, SessionError
from easycluster.lab import between, overboot, picking
from easycluster.lab.companions import end_devices
from easycluster.lab.holders import Holder, LeaseError, LockRule, Mode
from easycluster.lab.occupancy import ANSWER_TIME, Occupancy, who_we_are
from easycluster.lab.parallel import run_all
from easycluster.lab.releases import Failure, Leftover, Release
from easycluster.lab.taking import Wish, take

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from easycluster.lab.host import Host
    from easycluster.lab.lab import Lab
    from easycluster.lab.lease import Lease, Part, Wanted

__all__ = ["Leases"]

DEFAULT_WAIT: Final = 600.0
# Undoing has a time limit of its own for each action.
UNDO_TIME: Final = 600.0


class Leases:
    """The leases of one lab, as one process has them.

    Args:
        lab: The lab.

    Attributes:
        wait: How long to wait for hosts that others have, in seconds.
        label: What others see that a lease is for, where it says nothing itself.
        tell: Called with a line while we wait.
        enabled: False to lock nothing.
        directory: The lock directory on the hosts, ``""`` for the usual one.
        watched: Directories whose new files count as left behind.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.wait = DEFAULT_WAIT
        self.label = ""
        self.tell: Callable[[str], None] = lambda line: None
        self.enabled = True
        self.directory = os.environ.get("EC_LOCK_DIRECTORY", "")
        self.watched: Sequence[str] = ("/tmp", "/dev/shm")  # of the hosts
        self._lock = threading.RLock()
        self._open: list[Lease] = []
        # Hosts that were lost when an inner lease ended: from which level on there is something to be undone.
        self._owed: dict[str, int] = {}
        self._info = who_we_are()
        self._tickets = itertools.count(1)
        self._between = between.Between(self)

    # Taking ----------------------------------------------------------------------------------------

    def take(
        self,
        hosts: Iterable[Host],
        *,
        instead: Callable[[list[str]], Iterable[Host]] | None = None,
        shared: bool = False,
        destructive: bool = False,
        usually: Mode = "exclusive",
        locks: Iterable[str] = (),
        devices: Mapping[str, int | None] | None = None,
        among: Mapping[str, Iterable[str]] | None = None,
        label: str = "",
        wait: float | None = None,
        restore: bool = True,
    ) -> Lease:
        """Lock hosts, which have to be connected, and begin to keep account of what is done to them.

        Args:
            hosts: Which.
            instead: Gives other hosts that would do as well, connected, if there are any: called with the names of
                those that somebody has.  If there are none, it is waited for whichever of them is free first.
            shared: Whether others may use them at the same time, see :meth:`LockRule.mode_for`.
            destructive: Whether nobody may, whatever the lab file says.
            usually: The mode where neither says anything.
            locks: Names of locks of the whole lab, exclusive.
            devices: How many devices of which kind to have exclusively on each host, such as ``{"gpu": 1}``; None
                stands for all that it has, which may be none.  See :mod:`easycluster.lab.picking`.
            among: Which devices these may be, by kind; by default those that the lab file or a probe names.
            label: What it is for.
            wait: How long to wait, in seconds, instead of :attr:`wait`.
            restore: Whether the ``restore:`` functions of the lab file run at the end.

        Raises:
            HostBusy: If somebody else has one of them, and of those that would do, for longer than that.
            LeaseError: If locks cannot be had at all.
            SessionError: If a host is lost meanwhile.
        """
        wish = Wish(shared, destructive, usually, tuple(locks), devices or {}, among or {}, label)
        lease = take(self, hosts, wish, self.wait if wait is None else wait, instead)
        try:
            self._begin(lease, restore)
        except BaseException:
            self._release(lease)
            raise
        return lease

    def _try(self, lease: Lease, ticket: int) -> list[Holder]:
        """Lock everything, or nothing; return who is in the way."""
        done: list[Part] = []
        info = self._info_of(lease)
        try:
            for name in lease.names:
                part = lease._parts[name]
                answer = self._take_part(part, info, ticket)
                if answer["in_the_way"]:
                    self._take_back(done)
                    return [Holder.from_record(name, record) for record in answer["in_the_way"]]
                if part.wanted:
                    done.append(part)
        except BaseException:
            # It may have been taken all the same: Ctrl-C came before the answer.
            self._take_back([*done, part])
            raise
        return []

    def _take_part(self, part: Part, info: dict[str, Any], ticket: int) -> dict[str, Any]:
        """Ask for all that a lease wants of one host, and note which devices it got."""
        wanted = self._wanted_with_choices(part)
        if not wanted:
            return {"in_the_way": []}
        try:
            answer = self._ask(part, {"op": "take", "wanted": wanted, "info": info, "ticket": ticket})
        except BaseException:
            # Any of them may have been taken: Ctrl-C came before the answer.
            picking.note(part, {one["kind"]: one["any"] for one in wanted if "any" in one})
            raise
        picking.note(part, answer.get("picked", {}))
        return answer

    def _info_of(self, lease: Lease) -> dict[str, Any]:
        """What others see, and whether they may come first: not where they might wait for us, who hold something."""
        holding = any(part.wanted for other in self._open for part in other._parts.values())
        boots = any(part.boots for part in lease._parts.values())
        return {**self._info, "label": lease.label or self.label, "holding": holding, "boots": boots}

    def _wanted_with_choices(self, part: Part) -> list[Wanted]:
        """What a lease that has nothing of one host yet wants there, any of several devices included."""
        choices = picking.choices(self, part)
        return [*self._wanted_in_all(part), *choices]

    def _wanted_in_all(self, part: Part) -> list[Wanted]:
        return sorted((self._strictest(part, one) for one in part.wanted.values()), key=_by_name)

    def _strictest(self, part: Part, wanted: Wanted) -> Wanted:
        """What this process needs of a lock in all, with what outer leases have."""
        for other in self._others(part):
            have = other.wanted.get(wanted["name"])
            if have is not None and have["mode"] == "exclusive":
                return have
        return wanted

    def _others(self, part: Part) -> list[Part]:
        """The same host in other leases, on the same session."""
        parts = [lease._parts.get(part.host.name) for lease in self._open]
        return [one for one in parts if one is not None and one is not part and one.client is part.client]

    def _take_back(self, parts: Iterable[Part]) -> None:
        """Have only what other leases need."""
        for part in parts:
            kept: dict[str, Wanted] = {}
            for other in self._others(part):
                for one in other.wanted.values():
                    if kept.get(one["name"], {}).get("mode") != "exclusive":
                        kept[one["name"]] = one
            names = [name for name in part.wanted if name not in kept]
            lowered = [kept[name] for name in part.wanted if name in kept]
            try:
                if names:
                    self._ask(part, {"op": "release", "names": names})
                if lowered:
                    self._ask(part, {"op": "take", "wanted": lowered, "info": {**self._info, "label": self.label}})
            except (SessionError, LeaseError):
                pass  # the host is gone, and the locks with its keeper

    def _begin(self, lease: Lease, restore: bool) -> None:
        parts = {name: partial(self._begin_part, part, restore) for name, part in lease._parts.items()}
        _, errors = run_all(parts)
        for error in errors.values():
            raise error

    def _begin_part(self, part: Part, restore: bool) -> None:
        entry = part.host._entry
        # This machine is never anybody's alone: its mounts, ports and files are not the test's doing.
        ours = part.wanted.get(LockRule.of(entry).name, {}).get("mode") == "exclusive"
        alone = ours and not entry.target.is_here
        begun = overboot.begin(self, part, {"op": "begin", "directories": list(self.watched), "alone": alone})
        part.level, part.baseline, part.begun = begun["level"], begun["baseline"], True
        function = entry.settings.get("restore")
        if restore and function and function != "none" and not self._others(part):
            part.host.undo(getattr(part.client, function))

    # Releasing -------------------------------------------------------------------------------------

    def innermost(self, host: Host) -> Lease | None:
        """The lease of a host that was taken last and is still held."""
        return next((lease for lease in reversed(self._open) if host.name in lease._parts), None)

    def _release(self, lease: Lease) -> Release:
        forgotten = self._end_inner(lease)
        # First, because coming back takes the lock, too.
        off = [host for host in self._lab._every.values() if host._connection.switched_off]
        trouble = overboot.bring_back(self._lab, [host for host in off if host.name in lease._parts]) if off else []
        # What stands on several hosts, such as a target and its initiators, before any of them is set back.
        trouble += forgotten
        trouble += end_devices([part.host for part in lease._parts.values() if not self._others(part)])
        with self._lock:
            if lease in self._open:
                self._open.remove(lease)
            parts = {name: part for name, part in lease._parts.items() if part.begun or part.wanted}
            release = Release(failures=trouble)
            results, errors = run_all({name: partial(self._release_part, part) for name, part in parts.items()})
            for found in results.values():
                release.failures += found.failures
                release.leftovers += found.leftovers
                release.lost += found.lost
            for name, exc in errors.items():
                release.failures.append(Failure(name, "the end of the lease", str(exc)))
            return release

    def _end_inner(self, lease: Lease) -> list[Failure]:
        """End leases that were taken within this one and never released."""
        failures: list[Failure] = []
        for inner in [one for one in self._open if one.within is lease]:
            try:
                inner.end()
            except (EasyClusterError, OSError) as exc:
                failures += [Failure(name, "the end of a lease within it", str(exc)) for name in inner.names]
        return failures

    def _release_part(self, part: Part) -> Release:
        release, name = Release(), part.host.name
        last = not self._others(part)
        try:
            if part.begun:
                undone = self._ask(part, {"op": "undo", "level": part.level}, UNDO_TIME)
                release.failures = [
                    Failure(name, one["what"], one["error"], one["output"]) for one in undone["failures"]
                ]
                left = self._ask(part, {"op": "leaks", "baseline": part.baseline})["leaks"]
                since = part.seen
                release.leftovers = [
                    Leftover(name, one["kind"], one["what"], since.get((one["kind"], one["what"]), "")) for one in left
                ]
                if last:
                    self._between.judge(part.host, release.failures)
            if last:
                part.client._retire_worker()
        except SessionError:
            release.lost.append(name)
            if part.begun and not last:
                self._owed[name] = min(part.level, self._owed.get(name, part.level))
        finally:
            self._take_back([part])
        return release

    # Between tests ---------------------------------------------------------------------------------

    def begin_test(self) -> None:
        """A test begins: note which hosts are used from here on."""
        self._between.begin()

    def end_test(self, test: str, hosts: Iterable[str] = ()) -> list[Failure]:
        """A test has ended: set back the hosts that it has touched and that are still leased for others.

        Args:
            test: Its name, for what it has left behind.
            hosts: Names of hosts that count as touched, besides those that were.

        Returns:
            What went wrong.  A host whose ``restore:`` failed is not used any more in this run.
        """
        return self._between.end(test, hosts)

    def devices(self, host: Host) -> dict[str, list[str]]:
        """The devices of a host that this process has for itself, by kind."""
        found: dict[str, list[str]] = {}
        for part in self._parts_of(host):
            for kind, names in part.picked.items():
                found.setdefault(kind, []).extend(name for name in names if name not in found.get(kind, ()))
        rule = LockRule.of(host._entry)
        modes = [part.wanted[rule.name]["mode"] for part in self._parts_of(host) if rule.name in part.wanted]
        # Who has the host alone has all of them.
        return picking.devices_of(self._lab, host) if "exclusive" in modes else found

    def _parts_of(self, host: Host) -> list[Part]:
        return [lease._parts[host.name] for lease in self._open if host.name in lease._parts]

    # Others ----------------------------------------------------------------------------------------

    def need_exclusive(self, host: Host, what: str) -> None:
        """Refuse something that would hit others who use the host.

        Args:
            host: Which.
            what: What is to be done, such as ``"reboot()"``.

        Raises:
            LeaseError: If it is held, but not exclusively.
        """
        if host._connection.before_use is not None:
            # A host that is leased with its first use: this is one.
            host._connection.client()
        rule = LockRule.of(host._entry)
        parts = [lease._parts[host.name] for lease in self._open if host.name in lease._parts]
        modes = {part.wanted[rule.name]["mode"] for part in parts if rule.name in part.wanted}
        if self.enabled and rule.mode != "none" and "exclusive" not in modes:
            have = "shared with others" if modes else "not leased"
            advice = "mark the test ec_destructive" if modes else "lease it: with lab.lease(..., destructive=True)"
            raise LeaseError(f"{what} needs the host exclusively, and it is {have}; {advice}", host.name)

    @property
    def held(self) -> list[str]:
        """Names of the hosts that this process has leased, the first leased first."""
        with self._lock:
            parts = [(name, part) for lease in self._open for name, part in lease._parts.items()]
        # Not those on which only a lock of the whole lab is kept.
        return list(dict.fromkeys(name for name, part in parts if LockRule.of(part.host._entry).name in part.wanted))

    def has(self, names: Iterable[str]) -> bool:
        """Whether this process holds all of these locks, or need not."""
        held = {name for lease in self._open for part in lease._parts.values() for name in part.wanted}
        return not self.enabled or held.issuperset(names)

    def holders(self, host: Host) -> list[Holder]:
        """Who holds or has reserved what on a host, which is connected for this if need be."""
        return self._occupancy(host).holders()

    def reserve(self, host: Host, seconds: float, label: str = "", *, force: bool = False) -> None:
        """Keep a host for this user; it stays so when this process has ended.

        Args:
            host: Which.
            seconds: How long; 0 gives it back.
            label: What for.
            force: Whether to take it from whoever has reserved it.

        Raises:
            HostBusy: If somebody else has reserved it.
        """
        info = {key: self._info[key] for key in ("user", "host", "owner")}
        self._occupancy(host).reserve(seconds, {**info, "label": label or self.label}, force=force)

    def force_release(self, host: Host, timeout: float = 10.0) -> list[Holder]:
        """End everybody's sessions on a host, and reservations; see :meth:`Occupancy.force_release`."""
        return self._occupancy(host).force_release(timeout)

    def keep_over_reboot(self, host: Host, seconds: float) -> None:
        """Leave word on a host that goes down with our locks that nobody else gets it meanwhile.

        Args:
            host: Which.
            seconds: How long until that expires.
        """
        names = self._names_on(host)
        if names:
            info = {**self._info, "label": self.label, "once": True}
            self._occupancy(host).reserve(seconds, info, names)

    def take_again(self, host: Host) -> None:
        """Lock a host anew that was lost or has rebooted, for all leases that have it, on its new session.

        Raises:
            HostBusy: If somebody else has it after all.
        """
        overboot.take_again(self, host)

    def _names_on(self, host: Host) -> list[str]:
        parts = [lease._parts[host.name] for lease in self._open if host.name in lease._parts]
        return sorted({name for part in parts for name in part.wanted})

    def _occupancy(self, host: Host) -> Occupancy:
        client: Any = host._connection.client()
        return Occupancy(host._entry, client._ask_keeper, self._info, self.directory)

    def _ask_later(
        self, part: Part, question: dict[str, Any], told: Callable[[dict[str, Any] | Exception], object]
    ) -> Callable[[], None]:
        """Ask without waiting; see :meth:`easycluster.client.monitor.Control.ask_later`."""
        client: Any = part.client
        forget: Callable[[], None] = client._ask_keeper_later({**question, "directory": self.directory}, told)
        return forget

    def _ask(self, part: Part, question: dict[str, Any], timeout: float = ANSWER_TIME) -> dict[str, Any]:
        answer: dict[str, Any] = part.client._ask_keeper({**question, "directory": self.directory}, timeout)
        if "fault" in answer:
            raise LeaseError(answer["fault"], part.host.name)
        return answer


def _by_name(wanted: Wanted) -> str:
    return str(wanted["name"])
