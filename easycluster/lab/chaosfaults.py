"""The faults of :mod:`easycluster.lab.chaos`: done to real links and real processes, and over by themselves."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

from easycluster.client.requests import SINGLE
from easycluster.errors import ConnectionLost, SessionError, Unsupported
from easycluster.lab.power import driver_for

if TYPE_CHECKING:
    from easycluster.lab.host import Host

__all__ = ["FAULTS", "begin_fault"]

# Each with whether it takes a span of time.
FAULTS: Final = {
    "drop": "allowed",
    "kill": "none",
    "crash": "none",
    "freeze": "needed",
    "slow": "needed",
    "reboot": "none",
}

# Seconds until both sides know that a link or process is gone.
_KNOWN: Final = 10.0

# Run on the far side, in a thread of its own.
_END: Final = {
    "kill": "__import__('os').kill(__import__('os').getpid(), 9)",
    "crash": "__import__('ctypes').string_at(0)",
}
# A process that wakes the worker is started before it is stopped, and needs neither it nor us.
_FREEZE: Final = (
    "__import__('subprocess').Popen(['/bin/sh', '-c', "
    "'sleep 0.1; kill -STOP $1; sleep $2; kill -CONT $1', 'sh', str(__import__('os').getpid()), '{seconds:g}'], "
    "stdin=-3, stdout=-3, stderr=-3, start_new_session=True) and None"
)
_STOPPED: Final = 0.3


def begin_fault(host: Host, what: str, span: float) -> None:
    """Break a host's connection, or what is behind it; returns when that can be felt.

    Args:
        host: Which; it is connected.
        what: A key of :data:`FAULTS`.
        span: Its seconds.

    Raises:
        EasyClusterError: If it cannot be done to this host.
    """
    client: Any = host._connection.session()
    if what == "drop":
        client._endpoint.cut()
        _wait_until_gone(client)
    elif what in _END:
        with contextlib.suppress(SessionError):
            client._request((_eval(), _END[what]), threadid=SINGLE, timeout=_KNOWN)
        _wait_until_gone(client)
        # Whoever calls next is to hear of his own call, not of ours.
        client._ended_error = None
    elif what == "freeze":
        client._request((_eval(), _FREEZE.format(seconds=span)), threadid=SINGLE, timeout=_KNOWN)
        time.sleep(_STOPPED)
    elif what == "reboot":
        _reboot(host)
        _wait_until_gone(client)
    else:
        raise AssertionError(what)


def _eval() -> int:
    from easycluster.link.operations import Op

    return Op.EVAL


def _reboot(host: Host) -> None:
    lab = host._lab
    lab.leases.need_exclusive(host, "chaos reboot")
    if host._entry.settings.get("runs_on") or host._entry.target.via == "local":
        raise Unsupported("reboot", f"{host.name} has no power of its own")
    if lab.simulation is not None:
        lab.simulation.restart(host.name)
    else:
        driver_for(lab, host).cycle()


def _wait_until_gone(client: Any) -> None:
    end = time.monotonic() + _KNOWN
    while client.connected:
        if time.monotonic() > end:
            raise ConnectionLost(f"the link is still there {_KNOWN:g} s after it was to be cut", client.peername)
        time.sleep(0.005)
