"""The same thing on many hosts at once, with a result or an error from every one of them."""

from __future__ import annotations

import math
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from easycluster.client.inprogress import stop_calls_of

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from easycluster.lab.results import HostResults

T = TypeVar("T")

# Connecting costs processor time here: more threads than this were slower, not faster.
MAX_AT_ONCE: Final = 16

# Seconds after which a wait is begun anew.  A signal that comes after Python has let go of its lock and before the
# kernel has put the thread to sleep wakes nobody, so Ctrl-C would be seen at the end of the wait only.
LOOK_UP: Final = 0.2


class HostErrors(ExceptionGroup[Exception]):  # type: ignore[misc, unused-ignore]  # the backport need not be here
    """Some hosts failed; each error is here under its host.

    Attributes:
        by_host: The error of each host that failed.
        succeeded: The result of each host that did not.
        results: Both, as a call on several hosts gives them; None for other errors of several hosts.
    """

    by_host: dict[str, Exception]
    succeeded: dict[str, Any]
    results: HostResults | None = None

    @classmethod
    def collect(
        cls, what: str, by_host: Mapping[str, Exception], succeeded: Mapping[str, Any] | None = None
    ) -> HostErrors:
        """Make the group; its message has every host, those with the same error together."""
        results = dict(succeeded or {})
        folded: dict[str, list[str]] = {}
        for name, exc in by_host.items():
            # A message often begins with the host; without it, equal faults of many hosts are one line.
            words = str(exc).removeprefix(f"{name}: ")
            folded.setdefault(f"{type(exc).__name__}: {words}", []).append(name)
        lines = [f"{', '.join(names)}: {text}" for text, names in folded.items()]
        head = f"{what} failed on {len(by_host)} of {len(by_host) + len(results)} hosts"
        group = cls("\n".join([head, *lines]), list(by_host.values()))
        group.by_host, group.succeeded = dict(by_host), results
        return group

    def __str__(self) -> str:
        # Without "(2 sub-exceptions)", which would stand behind the error of the last host.
        return str(self.message)

    def derive(self, excs: Sequence[Exception]) -> HostErrors:
        """The part of the group with these errors, for ``except*`` and ``split``."""
        group = type(self)(self.message, excs)
        group.by_host = {name: exc for name, exc in self.by_host.items() if exc in excs}
        group.succeeded, group.results = self.succeeded, self.results
        return group


def on_each(hosts: Mapping[str, Callable[[], T]], what: str) -> dict[str, T]:
    """Call one function per host, at most :data:`MAX_AT_ONCE` at a time, and wait for all.

    Returns:
        The results by host, in the order given.

    Raises:
        HostErrors: If any failed, after all have ended.  One host alone raises its own error.
    """
    results, errors = run_all(hosts)
    if len(hosts) == 1 and errors:
        raise next(iter(errors.values()))
    if errors:
        raise HostErrors.collect(what, errors, results)
    return results


def run_all(
    hosts: Mapping[str, Callable[[], T]], timeout: float | None = None
) -> tuple[dict[str, T], dict[str, Exception]]:
    """Like :func:`on_each`, with results and errors side by side; both lack hosts that need longer than ``timeout``."""
    if len(hosts) == 1 and timeout is None:
        # The usual case stays in this thread, where Ctrl-C and time limits of tests reach it.
        (name, function), *_ = hosts.items()
        try:
            return {name: function()}, {}
        except Exception as exc:  # noqa: BLE001  # handed back as this host's error
            return {}, {name: exc}
    results: dict[str, T] = {}
    errors: dict[str, Exception] = {}
    # pytest.fail() and the like, which are no Exception: they end what called us, as they would without threads.
    outcomes: list[BaseException] = []
    waiting = list(hosts.items())[::-1]
    # Not is_alive(): a join() that is interrupted takes the thread for dead, before Python 3.13.
    busy: set[int] = set()

    def work() -> None:
        ident = threading.get_ident()
        busy.add(ident)
        while waiting:
            try:
                name, function = waiting.pop()
            except IndexError:  # another thread was faster
                break
            try:
                results[name] = function()
            except Exception as exc:  # noqa: BLE001  # handed back as this host's error
                errors[name] = exc
            except BaseException as exc:  # noqa: BLE001  # raised below
                outcomes.append(exc)
        busy.discard(ident)

    # Daemons: a host that never answers must not keep the interpreter from ending.
    count = min(MAX_AT_ONCE, len(hosts))
    threads = [threading.Thread(target=work, name=f"easycluster hosts {i + 1}", daemon=True) for i in range(count)]
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive() and time.monotonic() < deadline:
                thread.join(min(LOOK_UP, max(0.0, deadline - time.monotonic())))
    except BaseException:
        # Ctrl-C, a test's time limit: what the hosts do for us is to end, too.
        waiting.clear()
        stop_calls_of(list(busy))
        raise
    finally:
        waiting.clear()
    if outcomes:
        raise outcomes[0]
    ordered = {name: results[name] for name in hosts if name in results}
    return ordered, {name: errors[name] for name in hosts if name in errors}
