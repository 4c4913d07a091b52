"""The GPUs of a host of the lab: what its lab file says of them, their locks, and their end with the lease."""

from __future__ import annotations

import contextlib
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

from easycluster.client.requests import deadline
from easycluster.devices.gpu.gpus import Gpus, station_of
from easycluster.errors import SessionError
from easycluster.lab.holders import LeaseError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from easycluster.lab.host import Host
    from easycluster.lab.lab import Lab

__all__ = ["accept_emulated", "gpu_names", "gpus_of"]

# Processes that run kernels are killed, so that takes a moment.
_CLOSE_TIME: Final = 30.0


@lru_cache(maxsize=1)
def gpu_names() -> frozenset[str]:
    """What the GPUs of a host can be asked for, and ``gpu_node`` too."""
    names = {name for name in dir(Gpus) if not name.startswith("_")}
    # It ends with the lease, and the rest is between us and reports.
    return frozenset(names - {"close", "begin_watch", "end_watch", "is_watched", "take_series"})


def gpus_of(host: Host) -> Gpus:
    """The GPUs of a host; they are looked at when something of them is used."""
    connection = host._connection
    if connection.gpu is None:
        settings = host._entry.settings.get("gpu", {})
        connection.gpu = Gpus(
            _station(host),
            host.name,
            backend=settings.get("backend", ""),
            locker=partial(_lock, host),
        )
    gpus: Gpus = connection.gpu
    gpus.accepts_emulated = _accepts(host)
    return gpus


def accept_emulated(lab: Lab, accepted: bool | None) -> None:
    """Say whether processors may stand in for GPUs from here on; None leaves it to the lab file."""
    for host in lab._every.values():
        host._connection.accepts_emulated = accepted
        if host._connection.gpu is not None:
            host._connection.gpu.accepts_emulated = _accepts(host)


def _accepts(host: Host) -> bool:
    said = host._connection.accepts_emulated
    return bool(host._entry.settings.get("gpu", {}).get("emulated", False)) if said is None else said


def _station(host: Host) -> Callable[..., Any]:
    """What has the station of the host do something; what it leaves there ends with the lease."""
    reach = station_of(lambda: host.remote)
    connection = host._connection

    def close() -> None:
        with deadline(_CLOSE_TIME), contextlib.suppress(SessionError):
            connection.gpu.close()

    def do(backend: str, operation: str, *arguments: Any) -> Any:
        if operation == "close":
            client = connection._client
            # With the worker everything of the station has gone.
            return reach(backend, operation) if client is not None and client.connected else None
        if close not in connection.at_release:
            connection.at_release.append(close)
        return reach(backend, operation, *arguments)

    return do


def _lock(
    host: Host, uuids: Sequence[str], count: int, label: str, wait: float | None
) -> tuple[list[str], Callable[[], object]]:
    """Lock some of several devices on the host; see :class:`easycluster.devices.gpu.Gpus`."""
    leases = host._lab.leases
    outer = leases.innermost(host)
    lease = leases.take(
        [host],
        shared=True,
        devices={"gpu": count},
        among={"gpu": uuids},
        label=label,
        wait=wait,
        restore=False,
    )

    # A lab that locks nothing picks nothing, either.
    taken = lease.devices(host).get("gpu") or list(uuids[:count])

    def end() -> None:
        """Somebody has forgotten it."""
        for one in list(host._connection.gpu._leases):
            if set(one.uuids) & set(taken):
                one.release()
        lease.release()

    lease.within, lease.end = outer, end

    def let_go() -> None:
        release = lease.release()
        if release.failures:
            raise LeaseError("; ".join(map(str, release.failures)), host.name)

    return taken, let_go
