"""Names of far-side functions on several hosts: ``hosts.f(x)``, ``hosts.attempt.f(x)``, ``hosts.each({...}).f()``."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from easycluster.lab.fanout import Call, call_all, distinct
from easycluster.lab.parallel import run_all
from easycluster.lab.positions import did_you_mean
from easycluster.lab.results import HostResults
from easycluster.lab.rolecode import HOST_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from easycluster.lab.host import Host
    from easycluster.lab.hosts import Hosts

__all__ = ["Attempt", "Each", "FleetName", "each"]

# Of the names of every host that are ours, those that are done on each from here.
_OURS = ("put", "power", "reboot", "undo")


class FleetName:
    """A name on several hosts: call it, or go on with a dot."""

    __slots__ = ("_hosts", "_name", "_raises")

    def __init__(self, hosts: Hosts, name: str, *, raises: bool = True) -> None:
        first = name.partition(".")[0]
        if first in HOST_NAMES and first not in _OURS:
            raise AttributeError(
                f"{first!r} is a name of one host; ask each: [host.{first} for host in hosts], "
                f"or hosts.each(lambda host: host.{first} ...)"
            )
        self._hosts, self._name, self._raises = hosts, name, raises

    def __getattr__(self, name: str) -> FleetName:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(f"name {self._name!r} of {self._hosts!r} has no attribute {name!r} here")
        if name == "value":
            raise AttributeError(
                f"{self._name}.value is one host's; ask each: hosts.each(lambda host: host.remote.{self._name}.value)"
            )
        return FleetName(self._hosts, f"{self._name}.{name}", raises=self._raises)

    def __repr__(self) -> str:
        return f"<name {self._name} of {self._hosts!r}>"

    def __call__(self, *args: Any, **kwargs: Any) -> HostResults:
        """Call it on every host at once."""
        hosts = distinct(list(self._hosts))
        first = self._name.partition(".")[0]
        if first in _OURS or any(host._is_device(first) for host in hosts.values()):
            function = attrgetter(self._name)
            results = _on_each(hosts, lambda host: function(host)(*args, **kwargs), self._name)
        else:
            call = Call(self._name, args, kwargs)
            results = call_all(hosts, dict.fromkeys(hosts, call), call.what)
        return results.raise_() if self._raises else results


class Attempt:
    """Calls on several hosts whose errors are in what comes back: ``hosts.attempt.f(x)``."""

    __slots__ = ("_hosts",)

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    def call(self, target: Any, /, *args: Any, **kwargs: Any) -> HostResults:
        """Call a far-side function by name, or a function of this side by value, on every host at once."""
        hosts = distinct(list(self._hosts))
        call = Call(target, args, kwargs)
        return call_all(hosts, dict.fromkeys(hosts, call), call.what)

    def run(self, command: Any, **options: Any) -> HostResults:
        """Run the same command on every host at once."""
        return _on_each(distinct(list(self._hosts)), lambda host: host.run(command, **options), "run")

    def __getattr__(self, name: str) -> FleetName:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return FleetName(self._hosts, name, raises=False)

    def __repr__(self) -> str:
        return f"<attempt on {self._hosts!r}>"


class Each:
    """Arguments by host: ``hosts.each({"gpu01": 1}).f()`` calls ``f(1)`` there."""

    __slots__ = ("_arguments", "_hosts")

    def __init__(self, hosts: Hosts, arguments: Mapping[Any, Any]) -> None:
        every = distinct(list(hosts))
        self._arguments: dict[str, tuple[Any, ...]] = {}
        for key, value in arguments.items():
            name = key if isinstance(key, str) else getattr(key, "name", repr(key))
            if name not in every:
                hint = did_you_mean(name, list(every)) or f"there are: {' '.join(every) or 'none'}"
                raise KeyError(f"no host {name!r} here; {hint}")
            self._arguments[name] = value if isinstance(value, tuple) else (value,)
        self._hosts = every

    def call(self, target: Any, /, *args: Any, **kwargs: Any) -> HostResults:
        """Call a function on these hosts, each with its own arguments, then ``args`` and ``kwargs``."""
        calls = {name: Call(target, (*own, *args), kwargs) for name, own in self._arguments.items()}
        what = next(iter(calls.values())).what if calls else str(target)
        return call_all(self._hosts, calls, what).raise_()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return partial(self.call, name)

    def __repr__(self) -> str:
        return f"<arguments for {' '.join(self._arguments) or 'no host'}>"


def each(hosts: Hosts, what: Any, named: Any) -> Any:
    """See :meth:`easycluster.lab.Hosts.each`."""
    from collections.abc import Mapping

    if isinstance(what, Mapping):
        return Each(hosts, what)
    if isinstance(what, str):
        if not isinstance(named, Mapping):
            raise TypeError(f"hosts.each({what!r}, ...) takes arguments by host: {{'gpu01': 1}}, not {named!r}")
        return Each(hosts, named).call(what)
    if not callable(what):
        raise TypeError(f"hosts.each() takes a function of a host, or arguments by host, not {what!r}")
    text = named or getattr(what, "__name__", "the function")
    return _on_each(distinct(list(hosts)), what, text).raise_()


def _on_each(hosts: dict[str, Host], function: Callable[[Host], Any], what: str) -> HostResults:
    values, errors = run_all({name: partial(function, host) for name, host in hosts.items()})
    return HostResults(what, values, errors, hosts)
