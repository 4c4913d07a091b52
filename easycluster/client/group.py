"""Several clients at once: ``ClientGroup`` and the ``*_multi`` functions."""

from __future__ import annotations

import contextlib
import selectors
import time
from typing import TYPE_CHECKING, Any

from easycluster.link.operations import Op

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from easycluster.client.client import BaseClient
    from easycluster.objects.proxies import RemoteProxy

__all__ = ["ClientGroup", "call_method_multi", "call_multi", "eval_multi", "execblock_multi"]


# Seconds between looks at members that have been closed by another thread.
LOOK_AGAIN = 0.5


class ClientGroup:
    """Clients whose responses are read together.

    Args:
        clients: The first members.
    """

    def __init__(self, clients: Iterable[BaseClient] = ()) -> None:
        self._selector = selectors.DefaultSelector()
        self._clients: dict[int, BaseClient] = {}
        for client in clients:
            self.add_client(client)

    @property
    def clients(self) -> list[BaseClient]:
        """The members."""
        return list(self._clients.values())

    def add_client(self, client: BaseClient) -> None:
        """Add a client; does nothing if it is a member already.

        Raises:
            TypeError: For a ThreadedClient, which reads its responses by itself.
            SessionError: If the client is not connected.
        """
        from easycluster.client.threaded import ThreadingMixin

        if isinstance(client, ThreadingMixin):
            raise TypeError("a ThreadedClient reads its responses by itself and cannot be in a ClientGroup")
        if any(member is client for member in self._clients.values()):
            return
        fd = client.fileno()
        if fd in self._clients:
            # The number belonged to a client that has been closed since.
            self._forget(fd)
        self._selector.register(fd, selectors.EVENT_READ)
        self._clients[fd] = client

    def remove_client(self, client: BaseClient) -> None:
        """Remove a client; does nothing if it is no member."""
        for fd, member in list(self._clients.items()):
            if member is client:
                self._forget(fd)

    def _forget(self, fd: int) -> None:
        del self._clients[fd]
        # A closed descriptor has left the selector by itself.
        with contextlib.suppress(KeyError, ValueError, OSError):
            self._selector.unregister(fd)

    def read_responses(self, timeout: float | None = None, max: int = -1) -> int:
        """Read responses of all members and run their completion functions.

        Args:
            timeout: Seconds to go on for, None for no limit.
            max: How many responses to read; -1 for as many as come until the timeout.

        Returns:
            How many were read.

        Raises:
            ValueError: If there is no member, or neither a timeout nor a maximum.
            SessionError: If a member's session has ended.
        """
        if max < 0 and timeout is None:
            raise ValueError("read_responses() needs a timeout or a maximum, else it would never return")
        end = None if timeout is None else time.monotonic() + timeout
        count = 0
        while count != max:
            if not self._clients:
                raise ValueError("the group has no clients")
            remaining = LOOK_AGAIN if end is None else min(LOOK_AGAIN, end - time.monotonic())
            readable = [self._clients.get(key.fd) for key, _mask in self._selector.select(remaining)]
            # A client that was closed has no descriptor to be told by.
            readable += [client for client in self._clients.values() if not client.connected]
            for client in readable:
                while client is not None and count != max and client.read_response(False):
                    count += 1
            if end is not None and time.monotonic() >= end:
                break
        return count


def eval_multi(connections: Sequence[BaseClient], code: str) -> list[Any]:
    """Evaluate an expression on several far sides at once; return the results in their order."""
    responses = [client._start((Op.EVAL, code)) for client in connections]
    return [response.wait() for response in responses]


def execblock_multi(connections: Sequence[BaseClient], code: str) -> list[Any]:
    """Run a block on several far sides at once; return what each gave to ``exec_return``."""
    responses = [client._start((Op.EXEC, code)) for client in connections]
    return [response.wait() for response in responses]


def call_multi(connections: Sequence[BaseClient], func: str, /, *args: Any, **kwargs: Any) -> list[Any]:
    """Call a function on several far sides at once; return the results in their order."""
    responses = [client._start((Op.CALL, func, args, kwargs)) for client in connections]
    return [response.wait() for response in responses]


def call_method_multi(objects: Sequence[RemoteProxy], method: str, /, *args: Any, **kwargs: Any) -> list[Any]:
    """Call a method of several far-side objects at once; return the results in their order."""
    responses = [proxy.raw_call_method(method, args, kwargs, nonblocking=True) for proxy in objects]
    return [response.wait() for response in responses]
