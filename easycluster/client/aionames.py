"""What coroutines call: names of the far side, and proxies, whose calls are awaited."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from easycluster.link.items import Pace, discard_entry, load_entry
from easycluster.link.operations import Op
from easycluster.objects.proxies import DefaultRemoteProxy, RemoteProxy
from easycluster.objects.wrappers import take_keywords
from easycluster.wire.pickling import at_work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Generator, Iterable
    from types import TracebackType

    from easycluster.client.aio import Asking
    from easycluster.wire.pickling import Dump

__all__ = ["AsyncFace", "AsyncName", "AsyncProxy"]


class AsyncFace:
    """The far side as coroutines see it: ``await face.f(x)``, ``await face.os.getpid()``, ``await face.limit.value``.

    With ``nonblocking=True`` a call is begun at once, and an ``asyncio.Task`` comes back.  A call that is cancelled,
    also by ``asyncio.timeout``, is stopped on the far side.  Proxies that come back are awaited, too: ``await
    proxy.step()``, ``await proxy.count``, ``async for item in proxy``.
    """

    async def _ready(self) -> Asking:
        raise NotImplementedError

    def __getattr__(self, name: str) -> AsyncName:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return AsyncName(self, name)

    async def _ask(self, operation: tuple[Any, ...], threadid: int | None = None, origexc: bool | str = "quiet") -> Any:
        asking = await self._ready()
        return wrapped(asking, await asking.ask(operation, threadid, origexc))

    def _begin(self, make: Any, keywords: tuple[Any, ...]) -> Any:
        """Return a coroutine for an operation, or a task if it is to begin at once."""
        nonblocking, oncomplete, onerror, threadid, origexc = keywords
        if oncomplete is not None or onerror is not None:
            raise TypeError("oncomplete= and onerror= are not for coroutines; await the call, or add_done_callback()")
        call = self._ask(make, threadid, "quiet" if origexc is True else origexc)
        return asyncio.get_running_loop().create_task(call) if nonblocking else call

    def call(self, func: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a far-side function by name, or a function of this side by value.

        ``nonblocking``, ``threadid`` and ``origexc`` are taken out of ``kwargs``, as with :meth:`Client.call`.
        """
        keywords = take_keywords(kwargs)
        if isinstance(func, str):
            return self._begin((Op.CALL, func, args, kwargs), keywords)
        return self._begin((Op.SERVICE, "apply", func, args, kwargs), keywords)

    async def eval(self, expr: str, *, threadid: int | None = None) -> Any:
        """Evaluate an expression among the definitions."""
        return await self._ask((Op.EVAL, expr), threadid)

    async def execblock(self, code: str, *, threadid: int | None = None) -> Any:
        """Run statements among the definitions; returns what they give to ``exec_return``."""
        return await self._ask((Op.EXEC, code), threadid)

    async def import_modules(self, names: Iterable[str]) -> None:
        """Import modules on the far side."""
        await self._ask((Op.IMPORT, list(names)))

    async def set_global(self, name: str, value: Any) -> None:
        """Set a far-side global; ``await face.name.value`` gets it."""
        await self._ask((Op.SET_GLOBAL, name, value))

    def proxy(self, proxy: RemoteProxy) -> AsyncProxy:
        """A proxy whose calls are awaited, for one that came inside of something else."""
        return AsyncProxy(self, proxy)


class AsyncName:
    """A name on the far side: call and await it, await its ``value``, or go on with a dot."""

    __slots__ = ("_face", "_name")

    _face: AsyncFace
    _name: str

    def __init__(self, face: AsyncFace, name: str) -> None:
        object.__setattr__(self, "_face", face)
        object.__setattr__(self, "_name", name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call what the name stands for; await what comes back."""
        keywords = take_keywords(kwargs)
        return self._face._begin((Op.CALL, self._name, args, kwargs), keywords)

    def __getattr__(self, name: str) -> Any:
        if name == "value":
            return self._face._ask((Op.GET_GLOBAL, self._name))
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(f"far-side name {self._name!r} has no attribute {name!r} here; await its .value")
        return AsyncName(self._face, f"{self._name}.{name}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"an assignment cannot be awaited; write: await ....set_global({self._name!r}, value)")

    def __await__(self) -> Generator[Any, Any, Any]:
        raise TypeError(f"{self._name} is a name; await {self._name}(...), or its value: await ....{self._name}.value")

    def __repr__(self) -> str:
        return f"<far-side name {self._name}, to be awaited>"


class AsyncProxy:
    """Stands for an object of the far side; its methods and attributes are awaited.

    Sent in a call it is the original object.  ``async for`` goes over a generator, file or iterator, and ``async with``
    enters and leaves it over there.
    """

    __slots__ = ("__weakref__", "_face", "_proxy")

    _face: AsyncFace
    _proxy: RemoteProxy

    def __init__(self, face: AsyncFace, proxy: RemoteProxy) -> None:
        object.__setattr__(self, "_face", face)
        object.__setattr__(self, "_proxy", proxy)

    def __repr__(self) -> str:
        return f"<awaited {self._proxy!r}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncProxy) and self._proxy is other._proxy

    def __hash__(self) -> int:
        return id(self._proxy)

    def __reduce_ex__(self, protocol: Any) -> Any:
        dump = at_work()
        return self._proxy.__reduce_ex__(protocol) if dump is None else dump.reference_back(self._proxy)

    def _reduce_in_session(self, dump: Dump) -> Any:
        return dump.reference_back(self._proxy)

    def __getattr__(self, name: str) -> AsyncAttribute:
        proxy = self._proxy
        known = {*proxy.proxy_methods, *proxy.proxy_attrs, *proxy.proxy_attrs_cache}
        is_open = isinstance(proxy, DefaultRemoteProxy) and not (name.startswith("__") and name.endswith("__"))
        if name not in known and not is_open:
            raise AttributeError(f"{proxy!r} has no attribute {name!r}")
        return AsyncAttribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"an assignment cannot be awaited; write: await proxy.{name}.assign(value)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the object."""
        return AsyncAttribute(self, "__call__")(*args, **kwargs)

    async def __aenter__(self) -> Any:
        entered = await AsyncAttribute(self, "__enter__")()
        return self if entered == self else entered

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> Any:
        if exc is None or isinstance(exc, asyncio.CancelledError):
            return await AsyncAttribute(self, "__exit__")(None, None, None)
        return await AsyncAttribute(self, "__exit__")(type(exc), exc, None)

    def __aiter__(self) -> AsyncIterator[Any]:
        return iterate(self._face, self._proxy)

    async def __anext__(self) -> Any:
        try:
            return await AsyncAttribute(self, "__next__")()
        except StopIteration:
            raise StopAsyncIteration from None
        except RuntimeError as exc:
            # What a coroutine makes of a StopIteration.
            if isinstance(exc.__cause__, StopIteration):
                raise StopAsyncIteration from None
            raise


class AsyncAttribute:
    """A method or an attribute of a far-side object: call and await it, or just await it."""

    __slots__ = ("_name", "_owner")

    def __init__(self, owner: AsyncProxy, name: str) -> None:
        self._owner, self._name = owner, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method; await what comes back."""
        keywords = take_keywords(kwargs)
        return self._owner._face._begin((Op.METHOD, self._oid, self._name, args, kwargs), keywords)

    def __await__(self) -> Generator[Any, Any, Any]:
        get: Coroutine[Any, Any, Any] = self._owner._face._ask((Op.GET, self._oid, self._name))
        return get.__await__()

    async def assign(self, value: Any) -> None:
        """Set the attribute."""
        await self._owner._face._ask((Op.SET, self._oid, self._name, value))

    @property
    def _oid(self) -> int:
        proxy = self._owner._proxy
        if proxy.proxy_connection is None:
            proxy._connection.get_attribute(proxy.proxy_object_id, self._name)  # raises StaleProxy
        return proxy.proxy_object_id

    def __repr__(self) -> str:
        return f"<{self._name} of {self._owner!r}>"


async def iterate(face: AsyncFace, proxy: RemoteProxy) -> AsyncIterator[Any]:
    """Go over a far-side iterator, several items at a time once it has proved fast."""
    asking = await face._ready()
    oid = proxy.proxy_object_id
    values = proxy._connection._session.values
    if not hasattr(type(proxy), "__next__"):
        # It is no iterator, but something that has one.
        made = await asking.ask((Op.METHOD, oid, "__iter__", (), {}))
        proxy, oid = made, made.proxy_object_id
    pace, entries, more = Pace(), deque[Any](), True
    try:
        while more or entries:
            if not entries:
                fresh, more, seconds = await asking.ask((Op.ITEMS, oid, pace.most))
                entries.extend(fresh)
                pace.note(len(fresh), seconds)
                continue
            yield wrapped(asking, load_entry(values, entries.popleft()), face)
    finally:
        for entry in entries:
            with contextlib.suppress(Exception):
                discard_entry(values, entry)


def wrapped(asking: Asking, value: Any, face: AsyncFace | None = None) -> Any:
    """A result with its proxies as coroutines want them, also those right inside of a list, tuple or dictionary."""
    kind = type(value)
    if isinstance(value, RemoteProxy):
        return AsyncProxy(face or _Face(asking), value)
    if kind in (list, tuple) and any(isinstance(one, RemoteProxy) for one in value):
        return kind(wrapped(asking, one, face) if isinstance(one, RemoteProxy) else one for one in value)
    if kind is dict and any(isinstance(one, RemoteProxy) for one in value.values()):
        return {key: wrapped(asking, one, face) if isinstance(one, RemoteProxy) else one for key, one in value.items()}
    return value


class _Face(AsyncFace):
    """The far side of a client that is there."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        # A proxy keeps no connection; a user who has one expects it to live.
        self._client = asking.client

    async def _ready(self) -> Asking:
        return self._asking
