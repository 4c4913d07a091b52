"""Clients and the life of their process: its forks, and its end."""

from __future__ import annotations

import os
import threading
import time
import warnings
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

from easycluster.client.monitor import close_monitor, monitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from easycluster.client.client import BaseClient
    from easycluster.client.endpoint import Endpoint
    from easycluster.client.monitor import Monitor

__all__ = ["Forked", "Weak", "close_all", "close_when_dropped", "is_ending", "live", "shielded", "sleep_on", "weakly"]

live: weakref.WeakSet[BaseClient] = weakref.WeakSet()
"""All clients of this process."""


class Forked:
    """Stands in a client for the endpoint that belongs to the parent process."""

    hello: ClassVar[dict[str, Any]] = {}
    keeper_lives = False


def _after_fork_in_child() -> None:
    """Leave the parent's sessions alone: they are not ours to use or to end."""
    null = os.open(os.devnull, os.O_RDWR)
    for client in list(live):
        session, endpoint = client._session, client._endpoint
        if endpoint is None:
            continue
        fds = set()
        if session is not None:
            # Responses still know it; what they wait for is the parent's to read.
            session.ended = ConnectionResetError("the session belongs to the parent of this process")
            fds |= {session.stream.fileno(), session.stream.write_fileno()}
        if not isinstance(endpoint, Forked) and endpoint.control.port is not None:
            fds.add(endpoint.control.port.fileno())
        # The far side knows by their ends that the parent has died: nobody else may hold them open.
        # The numbers stay taken, so that nobody closes a descriptor that means something else by then.
        for fd in fds:
            if fd >= 0:
                os.dup2(null, fd, inheritable=False)
        client._session = None
        client._endpoint = Forked()  # type: ignore[assignment]
        client._lock = threading.RLock()
        client._arrivals.forget()
    os.close(null)
    live.clear()


def shielded(function: Callable[[], None], undo: Callable[[], object] = lambda: None) -> None:
    """Run a function to its end although a signal handler may raise meanwhile.

    Opening and closing a session is many steps, and each of them would leave something behind if an
    exception came in the middle.  So the main thread, where handlers run, has them done by another.

    Args:
        function: What to run.
        undo: Called after it if the caller was interrupted; may be called twice.
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    finished, abandoned = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as exc:  # noqa: BLE001 - raised by the caller
            errors.append(exc)
        finished.set()
        if abandoned.is_set():
            undo()

    thread = threading.Thread(target=run, name="easycluster-shielded", daemon=True)
    try:
        try:
            thread.start()
        except RuntimeError:
            # No new threads at the very end of the interpreter, and no signals.
            return function()
        thread.join()
    except BaseException:
        abandoned.set()
        if finished.is_set():
            undo()
        raise
    if errors:
        raise errors[0]


class Weak:
    """An attribute that does not keep its value alive; None once that is gone."""

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = f"_weak_{name}"

    def __get__(self, instance: Any, _owner: type | None = None) -> Any:
        ref = getattr(instance, self._name)
        return None if ref is None else ref()

    def __set__(self, instance: Any, value: Any) -> None:
        setattr(instance, self._name, None if value is None else weakref.ref(value))


def weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls a bound method, and does nothing once its object is gone."""
    ref = weakref.WeakMethod(method)

    def call(*args: Any) -> Any:
        found = ref()
        return None if found is None else found(*args)

    return call


def close_when_dropped(client: BaseClient, endpoint: Endpoint) -> weakref.finalize[Any, Any]:
    """Have a session closed when the last reference to its client is gone, as that of a socket."""
    finalizer = weakref.finalize(client, _close_dropped, endpoint, monitor(), os.getpid())
    finalizer.atexit = False
    return finalizer


def _close_dropped(endpoint: Endpoint, monitor: Monitor, pid: int) -> None:
    # The garbage collector calls this in any thread, whatever locks that holds: nothing here waits.
    if endpoint.closed_because or _ending or pid != os.getpid():
        return
    monitor.errands.append(lambda: endpoint.close("its client was dropped"))
    monitor.wake()
    warnings.warn(f"unclosed client of {endpoint.label}: close() it, or use it in a with block", ResourceWarning, 2)


_ending = False


def is_ending() -> bool:
    """Whether the interpreter is ending, so that nobody is left to hear of anything."""
    return _ending


def sleep_on() -> None:
    """Keep a daemon thread from hearing that its call was cut off by the end of the interpreter."""
    if _ending and threading.current_thread().daemon:
        while True:
            time.sleep(3600)


def close_all(timeout: float = 2.0) -> None:
    """Close every connection of this process; run at its end."""
    global _ending
    _ending = True
    clients = [client for client in list(live) if client._endpoint is not None]
    threads = [
        threading.Thread(target=client.close, args=("the process is ending",), daemon=True) for client in clients
    ]
    started = []
    for thread, client in zip(threads, clients, strict=True):
        try:
            thread.start()
            started.append(thread)
        except RuntimeError:
            # No new threads at the very end of the interpreter.
            client.close("the process is ending")
    end = time.monotonic() + timeout
    for thread in started:
        thread.join(max(0.0, end - time.monotonic()))
    close_monitor()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
