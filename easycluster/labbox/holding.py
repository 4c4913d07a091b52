"""Faults that last as long as somebody holds them: his connection to the supervisor, or his life.

Whoever breaks something keeps the connection that he asked by, and gives a pidfd of himself: a process that he has
forked could keep the connection open when he is dead.  When either ends the fault does, so nothing has to be said by
somebody who was killed.  Who ends it himself shuts his half of the connection, and reads a line when it is over.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import traceback
from typing import TYPE_CHECKING, Any

from easycluster.labbox.errors import LabBoxError
from easycluster.labbox.layers import Layer
from easycluster.labbox.relay import Quality

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Mapping

    from easycluster.labbox.machine import Machine

__all__ = ["Held", "read_faults"]

# A machine and what is wrong with it.
Broken = tuple["Machine", Layer]


def read_faults(faults: Iterable[Mapping[str, Any]], machines: Mapping[str, Machine]) -> list[Broken]:
    """Begin all these faults, or none.

    Args:
        faults: Each with ``host`` and fields of :class:`Layer`; of ``quality`` those of :class:`Quality`, where
            ``without`` has names of hosts.
        machines: All hosts by name.

    Raises:
        LabBoxError: If one of them cannot be.
    """
    broken: list[Broken] = []
    try:
        for fault in faults:
            machine, layer = _machine(fault["host"], machines), _layer(fault, machines)
            machine.break_(layer)
            broken.append((machine, layer))
    except BaseException:
        _mend(broken)
        raise
    return broken


def _layer(fault: Mapping[str, Any], machines: Mapping[str, Machine]) -> Layer:
    quality = dict(fault.get("quality", {}))
    quality["without"] = tuple(_machine(name, machines).hardware() for name in quality.get("without", ()))
    own = {key: value for key, value in fault.items() if key not in ("host", "quality")}
    return Layer(quality=Quality(**quality), **own)


def _machine(name: str, machines: Mapping[str, Machine]) -> Machine:
    if name not in machines:
        raise LabBoxError(f"the box has no host {name!r}; it has {', '.join(machines)}")
    return machines[name]


def _mend(broken: list[Broken]) -> None:
    """End faults, the last first, whatever becomes of one of them."""
    while broken:
        machine, layer = broken.pop()
        try:
            machine.mend(layer)
        except Exception:  # noqa: BLE001  # the others are ended all the same
            traceback.print_exc()
            sys.stderr.flush()


class Held:
    """Faults, and who holds them.

    Args:
        broken: The faults.
        connection: Of who holds them.
        pidfds: Of who holds them.
        selector: Of the supervisor.
    """

    def __init__(
        self, broken: list[Broken], connection: socket.socket, pidfds: list[int], selector: selectors.BaseSelector
    ) -> None:
        self._broken = broken
        self._connection = connection
        self._pidfds = pidfds
        self._selector = selector
        connection.setblocking(False)
        ends: list[int] = [connection.fileno(), *pidfds]
        for end in ends:
            selector.register(end, selectors.EVENT_READ, self._end)

    def _end(self) -> None:
        # Both may have come in one look.
        if self._connection.fileno() < 0:
            return
        _mend(self._broken)
        for end in (self._connection.fileno(), *self._pidfds):
            self._selector.unregister(end)
        with contextlib.suppress(OSError):
            self._connection.send(b'{"value": null}\n')
        self._connection.close()
        for fd in self._pidfds:
            os.close(fd)
