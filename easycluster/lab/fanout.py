"""The same call on several hosts at once, in one thread: started on all, then waited for together."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from easycluster.client.client import BaseClient
from easycluster.client.requests import _deadline
from easycluster.client.together import Together
from easycluster.lab.parallel import HostErrors, run_all
from easycluster.lab.progress import Progress
from easycluster.lab.results import HostResults
from easycluster.link.operations import CALLS, Op, called
from easycluster.objects.wrappers import take_keywords

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from easycluster.client.response import NonblockingResponse
    from easycluster.lab.barrier import Barrier
    from easycluster.lab.host import Host

__all__ = ["Call", "HostResult", "as_completed", "call_all", "clients_of", "distinct"]

# Seconds between looks at the progress.
LOOK = 0.5


class Call:
    """A far-side call, before it is sent.

    Args:
        target: Name of a far-side function, or a function of this side, which goes by value.
        args: Its arguments.
        kwargs: Its keyword arguments; ``threadid`` and ``origexc`` are taken out.

    Attributes:
        what: What is called, for messages.
        operation: As it is sent.
    """

    def __init__(self, target: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        named = dict(kwargs or {})
        nonblocking, oncomplete, onerror, self.threadid, _origexc = take_keywords(named)
        if nonblocking or oncomplete is not None or onerror is not None:
            raise TypeError(
                "nonblocking=, oncomplete= and onerror= are for one host; several have as_completed() and executor()"
            )
        if not (isinstance(target, str) or callable(target)):
            raise TypeError(f"what is called on the hosts is a name or a function, not {target!r}")
        self.barriers: list[Barrier] = [one for one in (*args, *named.values()) if hasattr(one, "_host_is_out")]
        self.operation: tuple[Any, ...]
        if isinstance(target, str):
            self.operation = (Op.CALL, target, tuple(args), named)
            self.what = target
        else:
            self.operation = (Op.SERVICE, CALLS[0], target, tuple(args), named)
            self.what = called(CALLS[0], target)

    def at(self, moment: float) -> tuple[Any, ...]:
        """What is sent for it to begin at a moment of the far side's monotonic clock."""
        *_, args, kwargs = self.operation
        target = self.operation[1] if self.operation[0] == Op.CALL else self.operation[2]
        return (Op.SERVICE, CALLS[1], target, moment, args, kwargs)

    def start(self, client: BaseClient, operation: tuple[Any, ...] | None = None) -> NonblockingResponse:
        """Send it."""
        response: NonblockingResponse = client._request(
            operation or self.operation, True, threadid=self.threadid, origexc="quiet"
        )
        return response

    def run_on(self, host: Host) -> Any:
        """Carry it out by whatever client a host has."""
        *_, args, kwargs = self.operation
        target = self.operation[1] if self.operation[0] == Op.CALL else self.operation[2]
        return host.call(target, *args, **kwargs)


class HostResult:
    """What one host's call came to.

    Attributes:
        host: The host.
        seconds: How long the call took, with the way there and back.
    """

    def __init__(self, host: Host, value: Any, error: Exception | None, seconds: float) -> None:
        self.host = host
        self.seconds = seconds
        self._value = value
        self._error = error
        self._seen = error is None

    def __repr__(self) -> str:
        what = f"failed: {self._error!r}" if self._error is not None else repr(self._value)
        return f"<HostResult of {self.host.name}: {what}>"

    @property
    def ok(self) -> bool:
        """Whether the call did not fail."""
        self._seen = True
        return self._error is None

    @property
    def error(self) -> Exception | None:
        """Its error, None if it did not fail."""
        self._seen = True
        return self._error

    @property
    def value(self) -> Any:
        """Its result; raises its error if it failed."""
        self._seen = True
        if self._error is not None:
            raise self._error
        return self._value


def distinct(hosts: Sequence[Host]) -> dict[str, Host]:
    """Hosts by name, each once."""
    return {host.name: host for host in hosts}


def clients_of(hosts: Mapping[str, Host]) -> tuple[dict[str, Any], dict[str, Exception]]:
    """The clients of hosts, connected at once where they are not; and the errors of those that cannot be."""
    clients, rest = {}, {}
    for name, host in hosts.items():
        connection = host._connection
        if connection.is_open and connection.before_use is None and not connection._is_new:
            rest[name] = connection.client
        else:
            clients[name] = connection.client
    # What is open gives its client at once, or says why not.
    opened, errors = run_all(clients) if clients else ({}, {})
    found: dict[str, Any] = dict(opened)
    for name, function in rest.items():
        try:
            found[name] = function()
        except Exception as exc:  # noqa: BLE001  # handed back as this host's error
            errors[name] = exc
    return found, errors


def result_of(response: NonblockingResponse) -> tuple[Any, Exception | None]:
    """The result or the error of a call that has finished."""
    # Not by wait(), which raises: the traceback would hold its frames, these the response, and that the arguments.
    value, error, failure = response._wait(None)
    if error is not None:
        failure = response.client._chosen(error, "quiet")
    if failure is not None and not isinstance(failure, Exception):
        raise failure
    return value, failure


def expire(responses: Sequence[NonblockingResponse]) -> None:
    """Stop calls at their deadline, all at once, and wait for each to have ended."""
    late = [response for response in responses if not response.have_response]
    for response in late:
        response.client._stop(response._session, response.request_id)
    for response in late:
        response._pending.taken = True
        response._settle((None, None, response.client._timed_out(response._session, response._pending, None)))


def outcomes(
    hosts: Mapping[str, Host], calls: Mapping[str, tuple[Call, tuple[Any, ...] | None]], what: str
) -> Generator[tuple[str, Any, Exception | None], None, None]:
    """Make a call on each host; give name, result and error of each as they come.

    Left before its end, it stops the calls that have not finished.
    """
    clients, errors = clients_of({name: hosts[name] for name in calls})
    limit = _deadline.get()
    with Progress(what, len(calls)) as progress, Together() as together, _told_when_done(calls):
        together.is_limited = limit is not None
        others: dict[str, Callable[[], Any]] = {}
        for name, client in clients.items():
            call, operation = calls[name]
            if not isinstance(client, BaseClient):
                # A dialer of somebody else's has clients of its own, which can only be called.
                others[name] = _caller(call, hosts[name])
                continue
            try:
                together.add(call.start(client, operation), name)
            except Exception as exc:  # noqa: BLE001  # handed back as this host's error
                errors[name] = exc
        values, failed = run_all(others) if others else ({}, {})
        for name in calls:
            error = errors.get(name) or failed.get(name)
            if error is not None or name in values:
                yield _told(calls[name][0], name, values.get(name), error, progress)
        while len(together):
            left = LOOK if limit is None else max(0.0, min(LOOK, limit - time.monotonic()))
            for name, response in together.finished(left):
                value, error = result_of(response)
                yield _told(calls[name][0], name, value, error, progress)
            progress.look(together.waiting_for)
            if limit is not None and time.monotonic() >= limit:
                expire(together.responses())


@contextlib.contextmanager
def _told_when_done(calls: Mapping[str, tuple[Call, Any]]) -> Iterator[None]:
    """Tell barriers when the calls that have them have ended everywhere."""
    try:
        yield
    finally:
        for barrier in {id(one): one for call, _ in calls.values() for one in call.barriers}.values():
            barrier._hosts_are_done()


def _caller(call: Call, host: Host) -> Callable[[], Any]:
    return lambda: call.run_on(host)


def _told(
    call: Call, name: str, value: Any, error: Exception | None, progress: Progress
) -> tuple[str, Any, Exception | None]:
    progress.note(error is not None)
    for barrier in call.barriers:
        barrier._host_is_out(name, error)
    return name, value, error


def call_all(hosts: Mapping[str, Host], calls: Mapping[str, Call], what: str) -> HostResults:
    """Make a call on each host at once and wait for all; errors are in what comes back."""
    values: dict[str, Any] = {}
    errors: dict[str, Exception] = {}
    with contextlib.closing(outcomes(hosts, {name: (call, None) for name, call in calls.items()}, what)) as coming:
        for name, value, error in coming:
            if error is None:
                values[name] = value
            else:
                errors[name] = error
    return HostResults(what, values, errors, calls)


def as_completed(hosts: Mapping[str, Host], call: Call) -> Iterator[HostResult]:
    """Make a call on all hosts at once; give what each came to as it comes.

    Raises:
        HostErrors: At the end, with the errors that nobody has looked at.
    """
    began = time.monotonic()
    given: list[HostResult] = []
    with contextlib.closing(outcomes(hosts, dict.fromkeys(hosts, (call, None)), call.what)) as coming:
        for name, value, error in coming:
            given.append(HostResult(hosts[name], value, error, time.monotonic() - began))
            yield given[-1]
    unseen = {one.host.name: one._error for one in given if not one._seen and one._error is not None}
    if unseen:
        raise HostErrors.collect(call.what, unseen, {one.host.name: one._value for one in given if one._error is None})
