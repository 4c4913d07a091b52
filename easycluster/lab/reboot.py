"""Restarting a host: asked for, proved by its boot id, and with the lease as it was."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

from easycluster.errors import SessionError, StaleProxy, Unsupported
from easycluster.lab import overboot
from easycluster.lab.boots import (
    BOOT_TIMEOUT,
    DOWN_TIMEOUT,
    PATIENCE,
    Boot,
    NeverCameBack,
    NeverWentDown,
    RebootFailed,
    wait_for_boot,
)
from easycluster.lab.holders import clock
from easycluster.lab.target import RECORDED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from easycluster.lab.connection import HostConnection
    from easycluster.lab.host import Host
    from easycluster.lab.leases import Leases

__all__ = ["boot_timeout", "bury", "come_back", "reboot"]

# A host stays ours for so much longer than its boot may take.
MARGIN: Final = 60.0
# Seconds for a restart that answers; one that works may never answer.
_ANSWER_TIME: Final = 10.0
# Of a link that is dead, nobody says goodbye.
_GOODBYE: Final = 0.2


def boot_timeout(host: Host) -> float:
    """How long a host may take to come back, as the lab file says it."""
    entry = host._entry
    boot = entry.settings.get("power", {}).get("boot")
    return float(host._lab.limits.of(entry, "reboot") or boot or BOOT_TIMEOUT)


def reboot(
    host: Host,
    leases: Leases,
    *,
    timeout: float | None = None,
    command: str | Sequence[str] | None = None,
    down_timeout: float = DOWN_TIMEOUT,
) -> Boot:
    """Restart a host; see :meth:`easycluster.lab.Host.reboot`."""
    entry, connection = host._entry, host._connection
    refuse(host, "reboot()")
    leases.need_exclusive(host, "reboot()")
    seconds = boot_timeout(host) if timeout is None else timeout
    client: Any = connection.client()
    overboot.refuse_others(leases, host, "reboot()")
    before = overboot.carry(leases, host, seconds + MARGIN)
    what, since = f"reboot at {clock(time.time())}", time.monotonic()
    with connection.expected():
        try:
            simulation = leases._lab.simulation
            if simulation is not None:
                # Whatever the command, it would be this machine that it restarts.
                simulation.restart(host.name)
                error = ""
            else:
                error = _start(client, command if command is not None else entry.settings.get("reboot", ""))
        except BaseException:
            overboot.resume(leases, host)
            raise
        if error:
            overboot.resume(leases, host)
            raise RebootFailed(f"{host.name}: cannot be rebooted: {leases._lab.inventory.mask(error)}", host.name)
        try:
            down = min(down_timeout, seconds)
            return come_back(host, leases, before, client, what=what, since=since, timeout=seconds, down_timeout=down)
        except BaseException:
            give_up(leases, host, client)
            raise


def give_up(leases: Leases, host: Host, client: Any) -> None:
    """There was no reboot, as far as we have seen: nobody is to wait for one any more."""
    if client.connected:
        overboot.resume(leases, host)


def refuse(host: Host, what: str) -> None:
    """Refuse for hosts whose system is not theirs.

    Raises:
        Unsupported: With the reason.
    """
    entry = host._entry
    through = entry.settings.get("runs_on")
    if through:
        raise Unsupported(what, f"{host.name} has no system of its own here, its code runs on {through}")
    if entry.target.via == RECORDED:
        raise Unsupported(what, f"{host.name} is {entry.target}")
    if entry.target.via == "local":
        raise Unsupported(what, f"{host.name} is this machine, where the tests run")


def _start(client: Any, command: str | Sequence[str]) -> str:
    """Have the host restart; return what was wrong with the command."""
    words = command if isinstance(command, str) else [str(word) for word in command]
    try:
        answer = client._ask_keeper({"op": "restart", "command": words}, _ANSWER_TIME)
    except (SessionError, TimeoutError):
        # It is so quick that it goes before it answers.
        return ""
    return str(answer.get("fault") or answer["error"])


def come_back(
    host: Host,
    leases: Leases,
    before: str,
    old: Any,
    *,
    what: str,
    since: float,
    timeout: float,
    down_timeout: float,
    patience: float = PATIENCE,
) -> Boot:
    """Wait for the next boot of a host, and make everything as it was: connection, definitions, locks, undo.

    Args:
        host: Which.
        leases: Those of this process.
        before: Its boot id so far, ``""`` if that is not known.
        old: The client so far, None if there is none.
        what: What was asked for, for messages.
        since: When, on the monotonic clock.
        timeout: How long it may take, in seconds.
        down_timeout: How long the old boot may take to end.
        patience: How long to believe that an old client is connected.

    Raises:
        NeverWentDown: If it does not end.
        NeverCameBack: If it does not come up.
        HostBusy: If somebody else got it meanwhile.
    """
    connection = host._connection
    with connection.replacing() as use:
        try:
            client, boot = wait_for_boot(
                connection,
                before,
                old,
                what=what,
                since=since,
                timeout=timeout,
                down_timeout=down_timeout,
                patience=patience,
            )
        except NeverCameBack as exc:
            connection.memory.remember(exc, counts=True)
            _bury_all(connection, old, f"of before the {what}")
            raise
        except NeverWentDown:
            if old is not None and not old.connected:
                _bury_all(connection, old, f"of before the {what}")
            raise
        _bury_all(connection, old, f"of before the {what}")
        use(client, boot.boot_id)
    leases.take_again(host)
    return boot


def _bury_all(connection: HostConnection, old: Any, epitaph: str) -> None:
    if old is not None:
        bury(old, connection.name, epitaph)
        connection.let_go(old)


def bury(client: Any, name: str, epitaph: str) -> None:
    """Close a client of an earlier boot; whatever is left of it says so when it is used.

    Args:
        client: Which.
        name: Of its host.
        epitaph: ``"of before the reboot at 12:01"``.
    """
    text = f"it is {epitaph.replace(' at ', f' of {name} at ', 1)}"
    endpoint: Any = getattr(client, "_endpoint", None)
    session: Any = getattr(endpoint, "session", None)
    if session is not None:
        session.values.proxies.detach_all(text)
        with contextlib.suppress(OSError):
            endpoint.close(text, _GOODBYE)
    client.close()
    if endpoint is not None:
        client._ended_error = StaleProxy(text, name)
        client._way_out = "take from the host anew what is needed"
