"""Waiting for another boot of a host, which is proved by its boot id; and what can go wrong with that."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from easycluster.errors import ConnectError
from easycluster.lab.hostfault import HostFault
from easycluster.lab.losses import boot_id

if TYPE_CHECKING:
    from easycluster.lab.connection import HostConnection

__all__ = ["Boot", "HostIsOff", "NeverCameBack", "NeverWentDown", "RebootFailed", "wait_for_boot"]

# systemd gives a service 90 s to end before it kills it.
DOWN_TIMEOUT: Final = 120.0
BOOT_TIMEOUT: Final = 600.0

# Seconds for one try to connect, which grow for hosts that are slow, and between two tries.
_FIRST_TRY, _GROWTH = 3.0, 1.5
_FIRST_PAUSE, _LAST_PAUSE = 0.3, 2.0
# A link that still stands is believed for so long: a system that ends closes it.
PATIENCE: Final = 2.0


class RebootFailed(HostFault):
    """The command that should have restarted a host did not work."""


class NeverWentDown(RebootFailed, TimeoutError):
    """A host was told to restart, and its old system still answers."""


class NeverCameBack(ConnectError, TimeoutError):
    """A host went down to restart, and does not answer.  Counts as lost."""


class HostIsOff(HostFault):
    """A host is used that this process has switched off."""


@dataclass(frozen=True)
class Boot:
    """A host's new boot.

    Attributes:
        host: Its name.
        seconds: From the command until it answered.
        down: For how many of them it did not answer.
        boot_id: The boot id it has now.
        before: The one it had, ``""`` if that is not known.
    """

    host: str
    seconds: float
    down: float
    boot_id: str
    before: str


def wait_for_boot(
    connection: HostConnection,
    before: str,
    old: Any,
    *,
    what: str,
    since: float,
    timeout: float,
    down_timeout: float,
    patience: float = PATIENCE,
) -> tuple[Any, Boot]:
    """Try again and again to connect until another boot than ``before`` answers.

    Args:
        connection: Of the host; nobody else may connect it meanwhile.
        before: The boot id that does not count.
        old: The client of that boot, None if it is gone.
        what: What was asked for, with the time, for messages: ``"reboot at 12:01"``.
        since: When, on the monotonic clock.
        timeout: Seconds until it has to answer.
        down_timeout: Seconds until the old boot must not answer any more.
        patience: For how long the old client is believed if it says that it is connected; power that was cut does not
            close a connection.

    Returns:
        The new client, and what there is to say about the boot.

    Raises:
        NeverWentDown: If the old boot still answers after ``down_timeout``.
        NeverCameBack: If nothing answers after ``timeout``.
    """
    lost: float | None = None
    pause, attempt, trouble = _FIRST_PAUSE, _FIRST_TRY, ""
    name = connection.name
    while True:
        now = time.monotonic() - since
        if old is not None and not old.connected:
            lost, old = now, None
        if lost is None and now > min(down_timeout, timeout):
            text = f"{name}: is still up {now:.0f} s after the {what}: its boot id is that of before, {before}"
            raise NeverWentDown(f"{text}; see what keeps its system from ending", name)
        if lost is not None and now > timeout:
            text = f"{name}: went down {lost:.0f} s after the {what}, and does not answer {now:.0f} s after it"
            raise NeverCameBack(text, name, trouble)
        if old is not None and now < patience:
            time.sleep(0.02)
            continue
        time.sleep(pause)
        pause = min(pause * _GROWTH, _LAST_PAUSE)
        try:
            client: Any = connection.redial(attempt)
        except Exception as exc:  # noqa: BLE001  # a host that comes up refuses in many ways; the last one is told
            lost = time.monotonic() - since if lost is None else lost
            trouble = str(exc)
            attempt *= _GROWTH
        else:
            found = boot_id(client)
            if found and found != before:
                ended = time.monotonic() - since
                return client, Boot(name, ended, ended - (now if lost is None else lost), found, before)
            client.close()
            if found:
                # The old boot, which ends its connections before it goes.
                lost = None
