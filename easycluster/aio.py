"""``AsyncClient``: a session for coroutines.

    async with AsyncClient(host="gpu01", ssh=True) as gpu:
        print(await gpu.os.getpid())

It is a :class:`easycluster.Client` that an event loop reads; ``host.aio`` is the same for a host of a lab.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from easycluster.client.aio import Asking, LoopError, asking_of, running_loop
from easycluster.client.aionames import AsyncFace, AsyncName, AsyncProxy
from easycluster.errors import ConnectionClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from typing_extensions import Self

    from easycluster.client.client import BaseClient
    from easycluster.lab.connection import HostConnection

__all__ = ["AsyncClient", "AsyncFace", "AsyncHost", "AsyncName", "AsyncProxy", "LoopError"]


class AsyncClient(AsyncFace):
    """A session with a far side for coroutines; ``async with`` connects and closes, as ``connect`` and ``close`` do.

    It belongs to the event loop that it is used in.  Attributes that are not listed here are far-side globals.

    Args:
        args: As of :class:`easycluster.Client`.
        options: As of :class:`easycluster.Client`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._make: Callable[[], BaseClient] = partial(_connected, args, options)
        self._has_host = len(args) > 1 or options.get("host") is not None
        self._client: BaseClient | None = None
        self._args, self._options = args, options

    @classmethod
    def from_spec(cls, spec: str, *args: Any, **options: Any) -> Self:
        """A client for what a connection spec says, not connected yet; see :meth:`easycluster.Client.from_spec`."""
        from easycluster.connect import Client

        return cls._made_by(partial(Client.from_spec, spec, *args, **options))

    @classmethod
    def spawn_local(cls, python: str | Sequence[str] | None = None, **options: Any) -> Self:
        """A client for a far side on this machine, not started yet; see :func:`easycluster.server.spawn_local`."""
        from easycluster.connect import Client, spawn_local

        return cls._made_by(partial(spawn_local, Client, python=python, **options))

    @classmethod
    def over(cls, client: BaseClient) -> Self:
        """A client that shares the session of one of the usual kind, which goes on working."""
        made = cls._made_by(lambda: client)
        made._client = client
        return made

    @classmethod
    def _made_by(cls, make: Callable[[], Any]) -> Self:
        made = cls()
        made._make, made._has_host = make, True
        return made

    def __repr__(self) -> str:
        state = "connected" if self.connected else "not connected"
        return f"<{type(self).__name__} {self.peername or '?'}, {state}>"

    @property
    def connected(self) -> bool:
        """Whether calls can be made."""
        return self._client is not None and self._client.connected

    @property
    def peername(self) -> str:
        """The far side as messages name it."""
        return "" if self._client is None else self._client.peername

    @property
    def client(self) -> BaseClient:
        """The client of the usual kind; its calls block the loop.

        Raises:
            ConnectionClosed: If there is none yet.
        """
        if self._client is None:
            raise ConnectionClosed("not connected; await connect(), or use it in 'async with'")
        return self._client

    async def connect(self, host: str | None = None, port: int | None = None, **options: Any) -> Self:
        """Connect; without a host, to what the class was told.

        Args:
            host: Name or address.
            port: TCP port.
            options: As of :meth:`easycluster.Client.connect`.

        Raises:
            ConnectError: If the far side does not come up.
        """
        running_loop()
        if host is not None:
            self._make = partial(_connected_to, self._args, self._options, host, port, options)
            self._has_host = True
        elif not self._has_host:
            raise ValueError("connect() needs a host, or AsyncClient(host=...)")
        if self._client is None or host is not None:
            await self._close()
            self._client = await _in_thread(self._make, undo=lambda client: client.close())
        return self

    async def close(self) -> None:
        """Close the connection; calls that wait get a ConnectionClosed.  A second call does nothing."""
        await self._close()

    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            self._last = client
            await _in_thread(client.close)
            asking_of(client)._wake_late()
            asking_of(client)._deafen()

    # What was closed last, so that calls say why.
    _last: BaseClient | None = None

    async def reconnect(self) -> None:
        """Start with a fresh far side: new globals; proxies from before are stale."""
        await _in_thread(self.client.reconnect)

    async def update_definitions(self) -> None:
        """Send what ``define_common`` got since the last time."""
        await _in_thread(self.client.update_definitions)

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(self, *_exc: object) -> None:
        await self._close()

    def __await__(self) -> Generator[Any, Any, Self]:
        return self.connect().__await__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"{self!r} cannot be pickled: a connection belongs to its process")

    async def _ready(self) -> Asking:
        running_loop()
        client = self._client or self._last
        if client is None:
            raise ConnectionClosed("not connected; await connect(), or use it in 'async with'")
        return asking_of(client)


class AsyncHost(AsyncFace):
    """A host of a lab for coroutines: ``await host.aio.f(x)``; the first call connects."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection

    def __repr__(self) -> str:
        return f"<AsyncHost {self._connection.name}>"

    async def _ready(self) -> Asking:
        running_loop()
        connection = self._connection
        if connection.is_open and connection.before_use is None and not connection._is_new:
            return asking_of(connection.client())  # type: ignore[arg-type]  # checked right away
        return asking_of(await _in_thread(connection.client))


def _connected(args: Any, options: Any) -> BaseClient:
    from easycluster.connect import Client

    return Client(*args, **options)


def _connected_to(args: Any, options: Any, host: str, port: int | None, more: Any) -> BaseClient:
    from easycluster.connect import Client

    client = Client(*args[:1], **{name: value for name, value in options.items() if name not in ("host", "port")})
    client.connect(host, port, **more)
    return client


async def _in_thread(function: Callable[[], Any], undo: Callable[[Any], object] | None = None) -> Any:
    """Run in a thread what blocks; if the caller is cancelled, it goes on and is then undone."""
    done = asyncio.get_running_loop().run_in_executor(None, function)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        if undo is not None:
            done.add_done_callback(partial(_undone, undo))
        raise


def _undone(undo: Callable[[Any], object], done: asyncio.Future[Any]) -> None:
    if not done.cancelled() and done.exception() is None:
        undo(done.result())
