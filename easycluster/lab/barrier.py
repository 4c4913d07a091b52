"""A barrier for hosts: far-side functions wait there until all have come.

Nobody waits in a far side's thread for callbacks, nor here: a host says that it has come and sleeps over there, and
once the last has come each is told to go on.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from easycluster.client.client import BaseClient
from easycluster.client.requests import SINGLE
from easycluster.far.meeting import FarBarrier, Place
from easycluster.lab.fanout import distinct
from easycluster.link.operations import Op
from easycluster.objects.exports import callback
from easycluster.wire.pickling import at_work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from easycluster.lab.host import Host
    from easycluster.wire.pickling import Dump

__all__ = ["Barrier"]

# Seconds between looks at hosts that have not come while others wait.
LOOK: Final = 0.2
HERE: Final = "this side"


class Barrier:
    """Lets far-side functions on all hosts wait for each other.

    Give it to them as an argument; there it has ``wait(timeout=None)``.  It can be used again and again.  It is broken,
    for all who wait and who come later, when one has waited too long, when a host is lost, and when a call on several
    hosts that it was given to ends on one of them while others wait; :meth:`reset` mends it.

    Args:
        hosts: Whose functions take part, once for each host.
        here: Whether this side takes part, too.
        timeout: Seconds that each wait takes at most unless it says otherwise, None for no limit.
    """

    def __init__(self, hosts: Sequence[Host], *, here: bool = False, timeout: float | None = 60.0) -> None:
        self._hosts = distinct(hosts)
        if not self._hosts:
            raise ValueError("a barrier needs hosts, and there are none")
        self._here = here
        self.timeout = timeout
        self._lock = threading.Lock()
        # Who has come, in order, and by which ticket each is told to go on.
        self._places: dict[str, int | Place] = {}
        # Why hosts do not come any more whose calls have ended, while those of other hosts go on.
        self._out: dict[str, str] = {}
        self._reason = ""
        self._watcher: threading.Thread | None = None

    def __repr__(self) -> str:
        state = f"broken: {self._reason}" if self._reason else f"{self.n_waiting} of {self.parties} have come"
        return f"<Barrier of {' '.join(self._hosts)}, {state}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        dump = at_work()
        if dump is None:
            raise TypeError("a barrier can only be sent to its hosts in a call; it cannot be pickled")
        return self._reduce_in_session(dump)

    def _reduce_in_session(self, dump: Dump) -> Any:
        name = dump.values.peer.host
        if name not in self._hosts:
            raise TypeError(f"the barrier of {' '.join(self._hosts)} cannot be sent to {name or 'another side'}")
        arrive = callback(lambda ticket: self._arrive(name, ticket))
        give_up = callback(lambda reason: self._give_up(name, reason))
        return FarBarrier, (name, arrive, give_up, self.timeout)

    @property
    def parties(self) -> int:
        """How many take part."""
        return len(self._hosts) + self._here

    @property
    def n_waiting(self) -> int:
        """How many have come."""
        return len(self._places)

    @property
    def broken(self) -> bool:
        """Whether it is broken."""
        return bool(self._reason)

    def wait(self, timeout: float | None = None) -> int:
        """Wait on this side until all hosts are there; return who we were, from 0 for the one that came first.

        Args:
            timeout: Seconds; without it, what the barrier has.

        Raises:
            threading.BrokenBarrierError: If one of them will not come.
            RuntimeError: If this side does not take part.
        """
        if not self._here:
            raise RuntimeError("this side does not take part in the barrier; make it with hosts.barrier(here=True)")
        span = self.timeout if timeout is None else timeout
        end = None if span is None else time.monotonic() + span
        for host in self._hosts.values():
            client: Any = host._connection._client
            if isinstance(client, BaseClient) and client._session is not None:
                # Whoever else reads the hosts' links may be us.
                client._watch(client._session)
        place = Place()
        try:
            number, was_last = self._arrive(HERE, place)
            while not was_last and not place.left.is_set():
                place.left.wait(LOOK if end is None else max(0.0, min(LOOK, end - time.monotonic())))
                if end is not None and time.monotonic() >= end:
                    # Whichever was first, all that have come or this, tells us.
                    self._give_up(HERE, f"{HERE} waited for {span:g} s")
        except BaseException as exc:
            # Ctrl-C, a test's time limit: the others wait in vain.
            self._give_up(HERE, f"{HERE} has left: {type(exc).__name__}")
            raise
        if place.reason:
            raise threading.BrokenBarrierError(place.reason)
        return number

    def abort(self, reason: str = "it was aborted") -> None:
        """Break it: all who wait, and who come later, get a ``threading.BrokenBarrierError``."""
        with self._lock:
            told = self._break(reason)
        self._tell(told, self._reason)

    def reset(self) -> None:
        """Make it whole again; those who wait get a ``threading.BrokenBarrierError``."""
        with self._lock:
            told = self._break("it was reset") if self._places else {}
            reason = self._reason
        self._tell(told, reason)
        with self._lock:
            self._reason = ""
            self._out.clear()

    # What the hosts say ----------------------------------------------------------------------------

    def _arrive(self, name: str, ticket: int | Place) -> tuple[int, bool]:
        with self._lock:
            if self._reason:
                raise threading.BrokenBarrierError(self._reason)
            self._out.pop(name, None)
            if self._out:
                # In the same call, so they do not come any more.
                self._reason = next(iter(self._out.values()))
                raise threading.BrokenBarrierError(self._reason)
            if name in self._places:
                raise ValueError(f"{name} waits at the barrier already; it is one of {self.parties}, once")
            number = len(self._places)
            self._places[name] = ticket
            is_last = len(self._places) == self.parties
            told = self._take_places(name) if is_last else {}
            if not is_last and self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="easycluster-barrier", daemon=True)
                self._watcher.start()
        self._tell(told, "")
        return number, is_last

    def _take_places(self, but: str = "") -> dict[str, int | Place]:
        places, self._places = self._places, {}
        places.pop(but, None)
        return places

    def _give_up(self, name: str, reason: str) -> bool:
        """Break it for one who waits no longer; return True if all had come by then."""
        with self._lock:
            if name not in self._places:
                return not self._reason
            missing = [one for one in [*self._hosts, *([HERE] if self._here else [])] if one not in self._places]
            told = self._break(f"{reason}, in vain for {' '.join(missing)}")
        self._tell(told, self._reason)
        return False

    def _break(self, reason: str) -> dict[str, int | Place]:
        self._reason = self._reason or reason
        return self._take_places()

    def _tell(self, told: dict[str, int | Place], reason: str) -> None:
        for name, ticket in told.items():
            if isinstance(ticket, Place):
                ticket.leave(reason)
                continue
            client: Any = self._hosts[name]._connection._client
            # One that is lost is told by that.
            with contextlib.suppress(OSError):
                client._request((Op.SERVICE, "release", ticket, reason), True, threadid=SINGLE, origexc="quiet")

    def _host_is_out(self, name: str, error: Exception | None) -> None:
        """A call that had us has ended on one of its hosts: others that wait for it there wait in vain."""
        with self._lock:
            if name in self._places and error is None:
                # Another call of it waits.
                return
            self._places.pop(name, None)
            why = f"failed: {type(error).__name__}: {error}" if error is not None else "has ended"
            self._out[name] = f"the call on {name} {why}"
            told = self._break(self._out[name]) if self._places else {}
        self._tell(told, self._reason)

    def _hosts_are_done(self) -> None:
        """A call that had us has ended on all of its hosts: whoever comes now comes from another."""
        with self._lock:
            self._out.clear()

    def _watch(self) -> None:
        """Look whether hosts are lost, as long as somebody waits."""
        while True:
            time.sleep(LOOK)
            with self._lock:
                if not self._places:
                    self._watcher = None
                    return
                lost = [name for name, host in self._hosts.items() if _is_lost(host)]
                told = self._break(f"{' '.join(lost)} was lost") if lost else {}
            self._tell(told, self._reason)


def _is_lost(host: Host) -> bool:
    client = host._connection._client
    return client is not None and not client.connected
