"""Short sessions on hosts that a command looks at: nobody's code is sent, no probe runs, nothing is locked."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from easycluster.errors import EasyClusterError
from easycluster.lab.approach import way_to
from easycluster.lab.dial import dial
from easycluster.lab.losses import name_host
from easycluster.lab.occupancy import Occupancy, who_we_are
from easycluster.lab.parallel import run_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from easycluster.lab.inventory import HostEntry

__all__ = ["Visit", "visit", "visit_all", "without_host"]

T = TypeVar("T")


@dataclass(frozen=True)
class Visit:
    """A session on a host.

    Attributes:
        entry: The host.
        client: Its client.
        occupancy: Its locks.
    """

    entry: HostEntry
    client: Any
    occupancy: Occupancy


@contextlib.contextmanager
def visit(
    hosts: Mapping[str, HostEntry],
    entry: HostEntry,
    *,
    definitions: Sequence[str] = (),
    directory: str = "",
    timeout: float | None = None,
) -> Iterator[Visit]:
    """Connect to a host until the end of ``with``.

    Args:
        hosts: All of the lab, for one that is reached through another.
        entry: Which.
        definitions: Names of definitions modules to send.
        directory: The lock directory there, ``""`` for the usual one.
        timeout: Seconds to connect, instead of what the lab file says.

    Raises:
        ConnectError: If it cannot be reached.
    """
    dialled, own = way_to(hosts, entry)
    if timeout is not None:
        dialled = replace(dialled, timeouts={**dialled.timeouts, "connect": timeout})
    try:
        client: Any = dial(dialled, [*own, *definitions], lambda _stream, _text: None)
    except Exception as exc:
        name_host(exc, entry.name)
        raise
    try:
        yield Visit(entry, client, Occupancy(entry, client._ask_keeper, who_we_are(), directory))
    finally:
        client.close()


def visit_all(
    hosts: Mapping[str, HostEntry],
    entries: Iterable[HostEntry],
    do: Callable[[Visit], T],
    *,
    directory: str = "",
    timeout: float,
) -> tuple[dict[str, T], dict[str, str]]:
    """Do something on several hosts at once.

    Args:
        hosts: All of the lab.
        entries: Which.
        do: What.
        directory: As for :func:`visit`.
        timeout: Seconds for all of it.

    Returns:
        The results, and why there is none, by host.
    """

    def one(entry: HostEntry) -> T:
        with visit(hosts, entry, directory=directory) as session:
            return do(session)

    wanted = list(entries)
    results, errors = run_all({entry.name: partial(one, entry) for entry in wanted}, timeout)
    missing = {entry.name for entry in wanted} - set(results) - set(errors)
    troubles = {name: _sentence(name, exc) for name, exc in errors.items()}
    troubles.update(dict.fromkeys(missing, f"no answer within {timeout:g} s"))
    return results, troubles


def _sentence(name: str, exc: Exception) -> str:
    if not isinstance(exc, (EasyClusterError, OSError, ValueError)):
        return f"{type(exc).__name__}: {exc}"
    return without_host(name, str(exc))


def without_host(name: str, text: str) -> str:
    """An error's text where the table has the host in front."""
    return re.sub(rf"^{re.escape(name)}( \(\S*\))?: ", "", text)
