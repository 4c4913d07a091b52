"""Several hosts: a sequence, a mapping by name, and the same call on all of them at once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, overload

from easycluster.lab.parallel import on_each, run_all
from easycluster.lab.positions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from typing_extensions import Self

    from easycluster.lab.host import Host


class Hosts:
    """Hosts of the lab, in order: ``hosts[0]``, ``hosts["gpu01"]``, ``for host in hosts``, ``a, b = hosts``.

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

    def call(self, target: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Call the same far-side function on every host at once.

        Returns:
            The results by host.

        Raises:
            HostErrors: If it fails on some; it has their errors and the other hosts' results.
        """
        what = target if isinstance(target, str) else getattr(target, "__name__", repr(target))
        return self.each(lambda host: host.call(target, *args, **kwargs), what)

    def run(self, command: Any, **options: Any) -> dict[str, Any]:
        """Run the same command on every host at once; results and errors as with :meth:`call`."""
        return self.each(lambda host: host.run(command, **options), "run")

    def each(self, function: Callable[[Host], Any], what: str = "") -> dict[str, Any]:
        """Call ``function(host)`` here for every host at once; results and errors as with :meth:`call`."""
        named = what or getattr(function, "__name__", "the function")
        return on_each({host.name: partial(function, host) for host in self._hosts}, named)

    def close(self, timeout: float) -> list[str]:
        """Close their connections at once; the names of those that did not end in time come back."""
        hosts = [host for host in self._hosts if host._connection.is_open]
        for host in self._hosts:
            if host not in hosts:
                host._connection.close()
        done, failed = run_all({host.name: host._connection.close for host in hosts}, timeout)
        return [host.name for host in hosts if host.name not in done and host.name not in failed]
