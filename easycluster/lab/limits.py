"""Time limits of calls, as the lab file or a test's marker has them: ``timeouts: {call, silence, transfer}``.

A call has no limit unless somebody says so, and looking at the clock in each call would cost all of them.  So a thread
looks every now and then at the calls that are waited for.  One that is over its time is stopped on its host, and
whoever waits for it gets a :class:`easycluster.errors.CallTimeout`.  A limit that a call was given by whoever made it
(``timeout=``, ``deadline()``) counts instead, and while a debugger is open nothing does.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from easycluster.client.debugger import is_open
from easycluster.client.inprogress import CallInProgress, calls_in_progress
from easycluster.errors import CallTimeout
from easycluster.link.operations import describe_operation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from easycluster.lab.host import Host
    from easycluster.lab.inventory import HostEntry

__all__ = ["CallLimits", "Limited"]

# Seconds between looks, and at most this share of the shortest limit.
LOOK: Final = 1.0
SHARE: Final = 0.1


class CallLimits:
    """The limits of a lab's calls, and the thread that looks at the clock.

    Args:
        hosts: Of the lab, by name.

    Attributes:
        overrides: Limits in seconds that hold for every host now, whatever the lab file says.
    """

    def __init__(self, hosts: Mapping[str, Host]) -> None:
        self._hosts = hosts
        self.overrides: dict[str, float] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        # When a call was first seen, and since when at least it has been silent.
        self._calls: dict[CallInProgress, tuple[float, float]] = {}
        self._looked = 0.0

    def of(self, entry: HostEntry, what: str) -> float | None:
        """A limit of a host in seconds, None if it has none."""
        return self.overrides.get(what, entry.timeouts.get(what))

    def merged(self, entry: HostEntry) -> dict[str, float]:
        """All limits of a host."""
        return {**entry.timeouts, **self.overrides}

    @contextlib.contextmanager
    def transfer(self, entry: HostEntry, what: str) -> Iterator[None]:
        """Limit the copying of a file, which is many calls."""
        from easycluster.client.requests import _deadline, deadline

        span = self.of(entry, "transfer")
        if span is None or _deadline.get() is not None:
            yield
            return
        try:
            with deadline(span):
                yield
        except CallTimeout as exc:
            raise CallTimeout(entry.name, what, span, exc.stack, exc.worker_replaced, "transfer") from None

    def start(self) -> None:
        """Begin to look, if there is anything to look for."""
        with self._lock:
            if self._thread is None and not self._stop.is_set() and self._shortest() is not None:
                self._thread = threading.Thread(target=self._run, name="easycluster-call-limits", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(LOOK)

    def _shortest(self) -> float | None:
        every = [span for host in self._hosts.values() for span in self._spans(host._entry)]
        return min(every, default=None)

    def _spans(self, entry: HostEntry) -> list[float]:
        return [span for span in (self.of(entry, "call"), self.of(entry, "silence")) if span is not None]

    def _run(self) -> None:
        while True:
            shortest = self._shortest()
            pause = LOOK if shortest is None else min(LOOK, max(0.02, SHARE * shortest))
            if self._stop.wait(pause):
                return
            self._look(time.monotonic())

    def _look(self, now: float) -> None:
        lost, self._looked = (now - self._looked if is_open() else 0.0), now
        known, self._calls = self._calls, {}
        for call in calls_in_progress():
            host = self._hosts.get(call.host)
            if host is None or call.is_limited:
                continue
            began, silent = known.get(call, (now, now))
            began = min(now, began + lost)
            silent = max(began, now if lost else silent, host._connection.last_output)
            self._calls[call] = (began, silent)
            for what, since in (("call", began), ("silence", silent)):
                span = self.of(host._entry, what)
                if span is not None and now - since >= span:
                    _stop(host, call, span, what)
                    break


def _stop(host: Host, call: CallInProgress, span: float, what: str) -> None:
    client: Any = host._connection._client
    if isinstance(client, Limited):
        client._stop_late(call, span, what)


class Limited:
    """The part of a client that tells a call that was stopped for its time from others.

    Nothing in it has a name without an underscore: those are names of the far side.
    """

    def __init__(self, **options: Any) -> None:
        # By number: what was called, its limit, and which that is.
        self._overdue: dict[int, tuple[str, float, str]] = {}
        super().__init__(**options)

    def _stop_late(self: Any, call: CallInProgress, span: float, what: str) -> None:
        """Stop a call on the far side, once; its caller is told why."""
        if call.request not in self._overdue and self._endpoint is not None:
            self._overdue[call.request] = (call.call, span, what)
            self._endpoint.cancel(call.request)

    def _use(self: Any, endpoint: Any) -> None:
        self._overdue.clear()
        super()._use(endpoint)  # type: ignore[misc]  # of the client

    def _await_until(self: Any, session: Any, pending: Any, limit: Any, timeout: Any) -> Any:
        value, error = super()._await_until(session, pending, limit, timeout)  # type: ignore[misc]  # of the client
        late = self._overdue.pop(pending.request, None) if self._overdue else None
        if late is None or error is None:
            return value, error
        call, span, what = late
        raise CallTimeout(self.peername, call, span, "".join(error.text[1:-1]), limit=what)

    def _explained(self: Any, session: Any, pending: Any) -> Exception:
        error: Exception = super()._explained(session, pending)  # type: ignore[misc]  # of the client
        called = describe_operation(pending.operation)
        late = next((one for one in self._overdue.values() if one[0] == called), None)
        died = self._endpoint.control.died if self._endpoint is not None and late is not None else None
        if late is None or died is None or not died.killed:
            return error
        call, span, what = late
        # Only this call could not be stopped: the next one finds a fresh worker.
        self._respawn_due = True
        return CallTimeout(self.peername, call, span, died.stack, worker_replaced=True, limit=what)
