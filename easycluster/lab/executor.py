"""Hosts as a ``concurrent.futures.Executor``."""

from __future__ import annotations

import concurrent.futures
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from easycluster.lab.fanout import Call
from easycluster.lab.spread import Spread, Task

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from easycluster.lab.hosts import Hosts

__all__ = ["HostFuture", "HostsExecutor"]

# Seconds between looks at whether the interpreter is ending.
LOOK = 1.0


class HostFuture(concurrent.futures.Future[Any]):
    """The future of a call on one of the hosts.

    Attributes:
        host: Name of the host that has it, or had it; ``""`` while it waits.
    """

    host = ""


class _Submitted(Task):
    """A call and its future."""

    def begin(self) -> bool:
        """Return whether nobody has cancelled it; from now on nobody can."""
        future: HostFuture = self.key
        return future.running() or future.set_running_or_notify_cancel()


class HostsExecutor(concurrent.futures.Executor):
    """Runs what is submitted on hosts, each call on the host that has least to do.

    It behaves as those of the standard library.  ``submit`` also takes the name of a far-side function; a function goes
    by value.  A ``with`` block that ends with Ctrl-C stops what runs on the hosts; any other end waits for it.  All
    calls are served by one thread, which ends when there are none.

    Args:
        hosts: The hosts.
        per_host: How many calls a host has at once.
        moves: To how many other hosts a call is given, one after the other, if its host is lost; it may have begun
            there.
    """

    def __init__(self, hosts: Hosts, per_host: int = 1, moves: int = 0) -> None:
        self._spread = Spread(list(hosts), per_host)
        self._moves = moves
        self._lock = threading.Lock()
        self._submitted: deque[_Submitted] = deque()
        self._thread: threading.Thread | None = None
        self._is_shut = self._is_stopped = False

    def __repr__(self) -> str:
        state = ", shut down" if self._is_shut else ""
        return f"<HostsExecutor on {' '.join(self._spread._clients)}{state}>"

    @property
    def _max_workers(self) -> int:
        # As in the standard library's, where others look how much they can submit at once.
        return len(self._spread._clients) * self._spread.per_host

    def submit(self, fn: str | Callable[..., Any], /, *args: Any, **kwargs: Any) -> HostFuture:
        """Have a call made on some host.

        Args:
            fn: Name of a far-side function, or a function of this side, which goes by value.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Raises:
            RuntimeError: After :meth:`shutdown`.
        """
        future = HostFuture()
        task = _Submitted(Call(fn, args, kwargs), future, self._moves)
        with self._lock:
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._submitted.append(task)
            if self._thread is None:
                # No daemon: like those of the standard library, the interpreter waits for what was submitted.
                self._thread = threading.Thread(target=self._serve, name="easycluster-executor", daemon=False)
                self._thread.start()
        self._spread.together.wake()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls.

        Args:
            wait: Whether to return only once all calls have ended.
            cancel_futures: Whether to cancel those that have not begun.
        """
        with self._lock:
            self._is_shut = True
            thread = self._thread
            if cancel_futures:
                for task in self._submitted:
                    task.key.cancel()
            if thread is None:
                self._spread.together.close()
        self._spread.together.wake()
        if wait and thread is not None and thread is not threading.current_thread():
            while thread.is_alive():
                # In slices: a signal that comes just before the thread sleeps would be seen at the end only.
                thread.join(0.2)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self.stop()
        self.shutdown(wait=True)

    def stop(self) -> None:
        """Stop what runs on the hosts, cancel what waits, and take no more calls."""
        self._is_stopped = True
        self.shutdown(wait=False, cancel_futures=True)

    # In the thread -----------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            self._serve_all()
        except BaseException as exc:
            # No future is left without an answer, whatever is wrong here.
            with self._lock:
                self._is_shut = True
                tasks = [*(task for task, _thread in self._spread.together.waiting_for()), *self._spread.waiting]
                tasks += self._submitted
            self._spread.together.close()
            for task in tasks:
                if task.key.running() or task.key.set_running_or_notify_cancel():
                    task.key.set_exception(concurrent.futures.BrokenExecutor(f"the executor broke: {exc!r}"))
            raise

    def _serve_all(self) -> None:
        spread = self._spread
        while True:
            with self._lock:
                if not (self._submitted or spread.waiting or len(spread.together)):
                    self._thread = None
                    if self._is_shut:
                        spread.together.close()
                    return
            if self._is_stopped or _is_interrupted():
                spread.together.stop_all_in_place()
                with self._lock:
                    for task in self._submitted:
                        task.key.cancel()
            for begun, _value, error in spread.start_some(self._more()):
                _settle(begun, None, error)
            if len(spread.together):
                for ended, value, problem in spread.finished(LOOK):
                    _settle(ended, value, problem)

    def _more(self) -> Any:
        while self._submitted:
            yield self._submitted.popleft()


def _is_interrupted() -> bool:
    """Whether the script has ended with Ctrl-C, and the interpreter waits for us."""
    return not threading.main_thread().is_alive() and getattr(sys, "last_type", None) is KeyboardInterrupt


def _settle(task: Task, value: Any, error: Exception | None) -> None:
    future: HostFuture = task.key
    future.host = task.host
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)
