"""Calls spread over hosts: each goes to whichever host has least to do."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import BrokenExecutor
from typing import TYPE_CHECKING, Any, Final

from easycluster.client.client import BaseClient
from easycluster.client.requests import _deadline
from easycluster.client.together import Together
from easycluster.errors import ConnectError, EasyClusterError, SessionError
from easycluster.lab.fanout import LOOK, Call, clients_of, distinct, expire, result_of
from easycluster.lab.parallel import HostErrors
from easycluster.lab.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from easycluster.lab.host import Host
    from easycluster.lab.hosts import Hosts

__all__ = ["HostsLost", "ItemErrors", "Spread", "Task", "map_items"]

# Numbers of the far-side threads of calls that run beside the first: far from those of users.
THREADS: Final = 1 << 40


class HostsLost(BrokenExecutor, EasyClusterError):
    """All hosts that calls were spread over are lost; the call did not begin."""


class ItemErrors(HostErrors):
    """Some items failed.

    Attributes:
        by_item: The error of each item that failed, by its number from 0.
        results: The result of each item that did not.
    """

    by_item: dict[int, Exception]
    results: dict[int, Any]  # type: ignore[assignment]  # there it is by host


class Task:
    """One call, and what becomes of it.

    Args:
        call: The call.
        key: The caller's.
        moves: To how many other hosts it is given, one after the other, if the one that has it is lost.
    """

    def __init__(self, call: Call, key: Any, moves: int) -> None:
        self.call = call
        self.key = key
        self.moves = moves
        self.host = ""

    def begin(self) -> bool:
        """It is about to be sent; return whether it still is to be."""
        return True


class Spread:
    """Hosts, and the calls that they have or wait for; used in one thread.

    Args:
        hosts: The hosts; one that is there twice counts once.
        per_host: How many calls each has at once.

    Raises:
        ValueError: If there is no host, or ``per_host`` is not positive.
        HostErrors: If a host cannot be reached.
    """

    def __init__(self, hosts: Sequence[Host], per_host: int) -> None:
        if per_host < 1:
            raise ValueError(f"per_host says how many calls a host has at once, at least 1, not {per_host!r}")
        every = distinct(hosts)
        if not every:
            raise ValueError("there are no hosts to spread calls over")
        clients, errors = clients_of(every)
        for name, client in clients.items():
            if not isinstance(client, BaseClient):
                errors[name] = TypeError(f"{name}: calls are spread over sessions of easycluster.Client only")
        if errors:
            raise HostErrors.collect("connecting", errors, dict.fromkeys(clients))
        self._clients = {name: clients[name] for name in every}
        # The far-side threads that are free; the first of them is the main thread.
        self._free = {name: [0, *range(THREADS, THREADS + per_host - 1)][::-1] for name in every}
        self.lost: dict[str, Exception] = {}
        self.per_host = per_host
        self.waiting: deque[Task] = deque()
        self.together = Together()

    def busy(self) -> list[str]:
        """The hosts that have calls, each once for each."""
        return [task.host for task, _thread in self.together.waiting_for()]

    def next_host(self) -> str | None:
        """The host with least to do that can take one more, None if there is none."""
        for name, client in self._clients.items():
            if name not in self.lost and not client.connected and not client._must_replace():
                self.lost[name] = client._why_unusable()
        free = [name for name, threads in self._free.items() if threads and name not in self.lost]
        return max(free, key=lambda name: len(self._free[name]), default=None)

    @property
    def is_alive(self) -> bool:
        """Whether there is a host left."""
        return len(self.lost) < len(self._clients)

    def start_some(self, more: Iterator[Task]) -> Iterator[tuple[Task, Any, Exception]]:
        """Give waiting calls, then more, to hosts that are free; give those that failed at once."""
        while True:
            name = self.next_host()
            if name is None and self.is_alive:
                return
            task = self.waiting.popleft() if self.waiting else next(more, None)
            if task is None:
                return
            if not task.begin():
                continue
            if name is None:
                why = "; ".join(dict.fromkeys(str(exc) for exc in self.lost.values()))
                yield task, None, HostsLost(f"{task.call.what}: no host is left: {why}")
            else:
                error = self._start(task, name)
                if error is not None:
                    yield task, None, error

    def _start(self, task: Task, name: str) -> Exception | None:
        threads = self._free[name]
        task.host, thread = name, threads.pop()
        try:
            response = self._clients[name]._request(task.call.operation, True, threadid=thread, origexc="quiet")
        except Exception as exc:  # noqa: BLE001  # handed back as the error of this call
            threads.append(thread)
            return self._judged(task, exc)
        self.together.add(response, (task, thread))
        return None

    def _judged(self, task: Task, exc: Exception) -> Exception | None:
        """An error of a call; None if the call is given to another host instead."""
        if not is_loss(exc, task.host):
            return exc
        self.lost.setdefault(task.host, exc)
        if not task.moves or not self.is_alive:
            return exc
        task.moves -= 1
        self.waiting.appendleft(task)
        return None

    def finished(self, timeout: float | None) -> Iterator[tuple[Task, Any, Exception | None]]:
        """Wait until some calls have ended; give each with its result or error."""
        for (task, thread), response in self.together.finished(timeout):
            self._free[task.host].append(thread)
            value, error = result_of(response)
            if error is not None:
                error = self._judged(task, error)
                if error is None:
                    continue
            yield task, value, error


def is_loss(exc: Exception, host: str) -> bool:
    """Whether an error means that the host, or its session, is gone."""
    return isinstance(exc, (SessionError, ConnectError)) and exc.host == host


def map_items(hosts: Hosts, target: Any, items: Sequence[Iterable[Any]], per_host: int, moves: int) -> list[Any]:
    """See :meth:`easycluster.lab.Hosts.map`."""
    if not items:
        raise TypeError("map() needs items: hosts.map('f', [1, 2, 3])")
    what = Call(target).what
    try:
        total: int | None = min(len(each) for each in items)  # type: ignore[arg-type]  # asks for forgiveness
    except TypeError:
        total = None
    if total == 0:
        return []
    spread = Spread(list(hosts), per_host)
    tasks: Iterator[Task] = (
        Task(Call(target, args), number, moves) for number, args in enumerate(zip(*items, strict=False))
    )
    results: dict[int, Any] = {}
    failed: dict[int, tuple[str, Exception]] = {}
    limit = _deadline.get()
    spread.together.is_limited = limit is not None
    with spread.together, Progress(what, total, "items") as progress:
        more = True
        while more or len(spread.together):
            for task, _value, error in spread.start_some(tasks):
                failed[task.key] = task.host, error
                progress.note(failed=True)
            more = bool(spread.waiting)
            if limit is not None and time.monotonic() >= limit:
                expire(spread.together.responses())
                # What has not begun does not begin any more.
                tasks = iter(())
            span = LOOK if limit is None else max(0.0, min(LOOK, limit - time.monotonic()))
            for task, value, problem in spread.finished(span) if len(spread.together) else ():
                more = True
                progress.note(problem is not None)
                if problem is not None:
                    failed[task.key] = task.host, problem
                else:
                    results[task.key] = value
            more = more or bool(spread.waiting)
            progress.look(spread.busy)
    if failed:
        raise _item_errors(what, failed, results)
    return [results[number] for number in sorted(results)]


def _item_errors(what: str, failed: dict[int, tuple[str, Exception]], results: dict[int, Any]) -> ItemErrors:
    folded: dict[str, list[int]] = {}
    for number, (host, exc) in sorted(failed.items()):
        words = str(exc).removeprefix(f"{host}: ")
        folded.setdefault(f"{type(exc).__name__}: {words}", []).append(number)
    lines = []
    for text, numbers in folded.items():
        names = list(dict.fromkeys(failed[number][0] for number in numbers))
        listed = ", ".join(map(str, numbers)) if len(numbers) <= 10 else f"{len(numbers)} items"
        on = f" on {', '.join(names)}" if any(names) else ""
        lines.append(f"{'item' if len(numbers) == 1 else 'items'} {listed}{on}: {text}")
    head = f"{what} failed for {len(failed)} of {len(failed) + len(results)} items"
    group = ItemErrors("\n".join([head, *lines]), [exc for _host, exc in failed.values()])
    group.by_item = {number: exc for number, (_host, exc) in sorted(failed.items())}
    group.by_host = dict(failed.values())
    group.results, group.succeeded = results, {}
    return group
