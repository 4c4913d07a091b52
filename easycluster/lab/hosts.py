"""Several hosts: a sequence, a mapping by name, and the same call on all of them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from easycluster.lab.parallel import on_each, run_all
from easycluster.lab.positions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime, timedelta
    from types import TracebackType

    from typing_extensions import Self

    from easycluster.lab.barrier import Barrier
    from easycluster.lab.clocks import Clock, TimedResults
    from easycluster.lab.executor import HostsExecutor
    from easycluster.lab.fanout import HostResult
    from easycluster.lab.fleet import Attempt
    from easycluster.lab.host import Host
    from easycluster.lab.results import HostResults


class Hosts:
    """Hosts of the lab, in order: ``hosts[0]``, ``hosts["gpu01"]``, ``for host in hosts``, ``a, b = hosts``.

    ``hosts.f(x)`` calls the far-side function ``f`` on all of them at once.  The names below, and ``names`` and
    ``attempt``, are ours; ``hosts.call("map")`` calls a far-side function that is named like one of them.

    Args:
        hosts: The hosts.
        labels: What else ``hosts[...]`` knows them by, in the same order; ``""`` for nothing.
    """

    __slots__ = ("_hosts", "_labels")

    def __init__(self, hosts: Iterable[Host], labels: Iterable[str] = ()) -> None:
        self._hosts = tuple(hosts)
        self._labels = dict(zip(labels, self._hosts, strict=False))
        self._labels.pop("", None)

    def __repr__(self) -> str:
        return f"<Hosts {' '.join(self.names) or '(none)'}>"

    def __len__(self) -> int:
        return len(self._hosts)

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts)

    def __contains__(self, item: object) -> bool:
        return item in self._hosts or item in self.names

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hosts) and self._hosts == other._hosts

    def __hash__(self) -> int:
        return hash(self._hosts)

    @overload
    def __getitem__(self, key: int | str) -> Host: ...

    @overload
    def __getitem__(self, key: slice) -> Hosts: ...

    def __getitem__(self, key: int | str | slice) -> Host | Hosts:
        if isinstance(key, slice):
            return Hosts(self._hosts[key])
        if isinstance(key, str):
            for host in self._hosts:
                if host.name == key:
                    return host
            if key in self._labels:
                return self._labels[key]
            names = [*self.names, *self._labels]
            hint = did_you_mean(key, names) or f"there are: {' '.join(names) or 'none'}"
            raise KeyError(f"no host {key!r} here; {hint}")
        return self._hosts[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """The hosts stay connected until the lab is closed."""

    @property
    def names(self) -> list[str]:
        """Their names, in order."""
        return [host.name for host in self._hosts]

    def connect(self) -> Hosts:
        """Connect to all that are not connected yet, at once; lost connections are made anew.

        Raises:
            HostErrors: If that fails for some; one host alone raises its own error.
        """
        on_each({host.name: host._connection.renew for host in self._hosts}, "connecting")
        return self

    def __getattr__(self, name: str) -> Any:
        # Python, pytest and debuggers probe any object for names like these; none is a reason to connect.
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        from easycluster.lab.fleet import FleetName

        return FleetName(self, name)

    def call(self, target: Any, *args: Any, **kwargs: Any) -> HostResults:
        """Call the same far-side function on every host at once; ``hosts.f(x)`` is ``hosts.call("f", x)``.

        Args:
            target: Its name, or a function of this side, which goes by value.
            args: Its arguments.
            kwargs: Its keyword arguments; ``threadid`` is ours.

        Returns:
            The results by host.  A host that is there twice is called once.

        Raises:
            HostErrors: If it fails on some; it has their errors and the other hosts' results.  One host alone raises
                its own error.
        """
        return self.attempt.call(target, *args, **kwargs).raise_()

    @property
    def attempt(self) -> Attempt:
        """The same calls, which raise nothing: ``hosts.attempt.f(x)`` and ``hosts.attempt.call("f", x)``.

        The errors are in what comes back: ``.failed``, ``.ok``, ``.raise_()``.
        """
        from easycluster.lab.fleet import Attempt

        return Attempt(self)

    def run(self, command: Any, **options: Any) -> HostResults:
        """Run the same command on every host at once; results and errors as with :meth:`call`."""
        return self.attempt.run(command, **options).raise_()

    def each(self, what: Any, named: Any = "") -> Any:
        """Do something that differs from host to host on all at once; results and errors as with :meth:`call`.

        ``hosts.each(function)`` calls ``function(host)`` here for every host, each in a thread.
        ``hosts.each({"gpu01": 1, "gpu02": (2, 3)}).f()`` calls ``f(1)`` and ``f(2, 3)`` on these hosts, and so does
        ``hosts.each("f", {...})``: a tuple has all arguments, everything else is the only one.

        Args:
            what: A function of this side, arguments by host, or the name of a far-side function.
            named: For a function of this side, what messages call it; for a name, arguments by host.

        Raises:
            HostErrors: If it fails on some.
            KeyError: If the arguments name a host that is not here.
        """
        from easycluster.lab.fleet import each

        return each(self, what, named)

    def as_completed(self, target: Any, /, *args: Any, **kwargs: Any) -> Iterator[HostResult]:
        """Call the same far-side function on every host at once, and give what each came to as it comes.

        A loop that is left early stops the calls that have not finished.

        Returns:
            An iterator over objects with ``host``, ``value``, ``error``, ``ok`` and ``seconds``.

        Raises:
            HostErrors: At the end of the loop, with the errors that nobody has looked at.
        """
        from easycluster.lab.fanout import Call, as_completed, distinct

        return as_completed(distinct(self._hosts), Call(target, args, kwargs))

    def map(self, target: Any, /, *items: Iterable[Any], per_host: int = 1, moves: int = 0) -> list[Any]:
        """Call a far-side function once for each item, on whichever host has least to do, and wait for all.

        Args:
            target: Its name, or a function of this side, which goes by value.
            items: The arguments, as of the builtin ``map``; they are taken as hosts become free.
            per_host: How many calls a host has at once, each in a far-side thread of its own.
            moves: To how many other hosts an item is given, one after the other, if the host that has it is lost.  The
                call may have begun there.

        Returns:
            The results in the order of the items.

        Raises:
            ItemErrors: If any item failed, after all have ended; it has the other items' results.
        """
        from easycluster.lab.spread import map_items

        return map_items(self, target, items, per_host, moves)

    def executor(self, per_host: int = 1, moves: int = 0) -> HostsExecutor:
        """Return a ``concurrent.futures.Executor`` that runs what is submitted on these hosts.

        Args:
            per_host: How many calls a host has at once, each in a far-side thread of its own.
            moves: As in :meth:`map`.

        Raises:
            ValueError: If there is no host.
            HostErrors: If a host cannot be reached.
        """
        from easycluster.lab.executor import HostsExecutor

        return HostsExecutor(self, per_host, moves)

    def barrier(self, *, here: bool = False, timeout: float | None = 60.0) -> Barrier:
        """Return a barrier for all hosts: give it to far-side functions, which call its ``wait()``.

        Args:
            here: Whether this side takes part, too, with :meth:`Barrier.wait`.
            timeout: Seconds that each wait takes at most unless it says otherwise, None for no limit.

        Raises:
            ValueError: If there is no host.
        """
        from easycluster.lab.barrier import Barrier

        return Barrier(self._hosts, here=here, timeout=timeout)

    def clocks(self) -> dict[str, Clock]:
        """How the clocks of the hosts differ from ours, and how sure that is."""
        from easycluster.lab.clocks import clocks_of

        return clocks_of(self._hosts)

    def at(self, when: float | datetime | timedelta, target: Any, /, *args: Any, **kwargs: Any) -> TimedResults:
        """Call the same far-side function on every host at the same moment.

        Args:
            when: The moment: as of ``time.time()``, a ``datetime``, or a ``timedelta`` from now.
            target: Name of the function, or one of this side, which goes by value.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            Results as of :meth:`call`, with what was reached: ``skew``, ``uncertainty``, ``starts``, ``table()``.

        Raises:
            ValueError: If the moment is over before all hosts could be told.
            HostErrors: If it fails on some; a host that was told too late raises a ``TimeoutError``.
        """
        from easycluster.lab.clocks import start_at

        return start_at(self._hosts, when, target, args, kwargs)

    def close(self, timeout: float) -> list[str]:
        """Close their connections at once; the names of those that did not end in time come back."""
        hosts = [host for host in self._hosts if host._connection.is_open]
        for host in self._hosts:
            if host not in hosts:
                host._connection.close()
        done, failed = run_all({host.name: host._connection.close for host in hosts}, timeout)
        return [host.name for host in hosts if host.name not in done and host.name not in failed]
