"""Proxies: objects here that stand for objects of the peer.

A proxy talks to its ``_connection`` (see :class:`ProxyConnection`) and knows its object by ``_oid``.  The
class of a proxy is one that the exporting class names (``proxy_class``), or one made from lists of names.

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any, Dict, Iterator, Optional, Protocol, Tuple, Type

from easycluster.errors import SerializationError, StaleProxy
from easycluster.objects.wrappers import ProxyMeta, wrapper
from easycluster.wire.pickling import Dump, at_work

__all__ = [
    "DefaultRemoteProxy",
    "FileProxy",
    "GeneratorProxy",
    "ProxyConnection",
    "RemoteProxy",
    "SelfIterProxy",
    "proxy_class",
]


class ProxyConnection(Protocol):
    """What a proxy needs of its session; the keywords are those of :meth:`RemoteProxy.raw_call_method`."""

    peername: str

    def send_request(
        self,
        oid: int,
        method: str,
        args: Tuple[Any, ...],
        kwargs: Dict[str, Any],
        nonblocking: bool = False,
        oncomplete: Any = None,
        onerror: Any = None,
        threadid: Optional[int] = None,
        origexc: Any = True,
        timeout: Optional[float] = None,
    ) -> Any:
        """Call a method of object ``oid``."""

    def get_attribute(self, oid: int, name: str, **keywords: Any) -> Any:
        """Return an attribute of object ``oid``."""

    def set_attribute(self, oid: int, name: str, value: Any, **keywords: Any) -> Any:
        """Set an attribute of object ``oid``."""

    def del_attribute(self, oid: int, name: str, **keywords: Any) -> Any:
        """Delete an attribute of object ``oid``."""

    def get_method(self, oid: int, name: str) -> Tuple[bool, Any]:
        """Return (True, None) if the attribute is a method, else (False, its value).

        A missing attribute raises AttributeError without reporting it.
        """

    def stream(self, oid: int) -> Iterator[Any]:
        """Return an iterator over the generator ``oid`` that reads ahead."""


class _Detached:
    """Takes the place of ``_connection`` in a proxy whose session is over: every use raises StaleProxy."""

    def __init__(self, peername: str, reason: str) -> None:
        self.peername = peername
        self._reason = reason

    def stale_proxy(self, oid: int) -> StaleProxy:
        return StaleProxy(f"object {oid} is gone: {self._reason}", host=self.peername)

    def _refuse(self, oid: int, *args: Any, **kwargs: Any) -> Any:
        raise self.stale_proxy(oid)

    send_request = get_attribute = set_attribute = del_attribute = get_method = stream = _refuse


class RemoteProxy(metaclass=ProxyMeta):
    """Stands for an object of the peer.

    Subclasses list what is forwarded in ``proxy_methods``, ``proxy_attrs`` and ``proxy_attrs_cache`` (asked
    for once), and may define methods of their own, which run here.
    """

    proxy_methods: Tuple[str, ...] = ()
    proxy_attrs: Tuple[str, ...] = ()
    proxy_attrs_cache: Tuple[str, ...] = ()

    _connection: Any = None
    _oid: int = 0

    def __init__(self, connection: ProxyConnection, oid: int) -> None:
        """Proxies are made when a reference arrives; this is not to be called by users."""
        self._connection = connection
        self._oid = oid

    @property
    def proxy_connection(self) -> Any:
        """The connection the object lives behind, None once that is closed."""
        connection = self._connection
        return None if connection.__class__ is _Detached else connection

    @property
    def proxy_object_id(self) -> int:
        """The number the peer gave the object."""
        return self._oid

    def raw_call_method(
        self,
        method: str,
        args: Tuple[Any, ...],
        kwargs: Optional[Dict[str, Any]] = None,
        nonblocking: bool = False,
        oncomplete: Any = None,
        onerror: Any = None,
        threadid: Optional[int] = None,
        origexc: Any = True,
        timeout: Optional[float] = None,
    ) -> Any:
        """Call a method of the far-side object.

        Args:
            method: Its name.
            args: Positional arguments.
            kwargs: Keyword arguments; all of them are passed on.
            nonblocking: Return a response to wait for instead of the result.
            oncomplete: Called with the result, a function or a tuple of function and further arguments.
            onerror: The same for an error.
            threadid: The far-side thread to run it in.
            origexc: Which exception to raise: the original (True), a RemoteException (False), or the
                original without printing the far-side traceback (``"quiet"``).
            timeout: Seconds until the call is stopped, None for no limit.

        Returns:
            What the method returns, or a response if ``nonblocking``.
        """
        return self._connection.send_request(
            self._oid,
            method,
            tuple(args),
            {} if kwargs is None else kwargs,
            nonblocking,
            oncomplete,
            onerror,
            threadid,
            origexc,
            timeout,
        )

    def raw_get_attribute(self, attr: str, **keywords: Any) -> Any:
        """Return an attribute of the far-side object; keywords as in :meth:`raw_call_method`."""
        return self._connection.get_attribute(self._oid, attr, **keywords)

    def raw_set_attribute(self, attr: str, val: Any, **keywords: Any) -> Any:
        """Set an attribute of the far-side object; keywords as in :meth:`raw_call_method`."""
        return self._connection.set_attribute(self._oid, attr, val, **keywords)

    def raw_del_attribute(self, attr: str, **keywords: Any) -> Any:
        """Delete an attribute of the far-side object; keywords as in :meth:`raw_call_method`."""
        return self._connection.del_attribute(self._oid, attr, **keywords)

    def __repr__(self) -> str:
        return f"<RemoteProxy for oid {self._oid} on {getattr(self._connection, 'peername', None)}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        dump = at_work()
        if dump is None:
            raise TypeError(
                f"{self!r} cannot be copied or pickled here: it stands for an object of another process; "
                "send it in a call over its own connection, or fetch plain data from it"
            )
        return dump.reference_back(self)

    def _reduce_in_session(self, dump: Dump) -> Any:
        return dump.reference_back(self)

    def _detach(self, reason: str = "its connection was closed") -> None:
        """Make every later use raise StaleProxy, because the object is gone with its session."""
        if self._connection.__class__ is not _Detached:
            object.__setattr__(self, "_connection", _Detached(str(self._connection.peername), reason))


class DefaultRemoteProxy(RemoteProxy):
    """A proxy that asks the peer for every attribute it does not have.

    A subclass must name its *local* attributes on the class, else setting one sets it on the far side::

        class SpecialProxy(DefaultRemoteProxy):
            special = None

            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self.special = {}
    """

    _known_methods: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._known_methods = {}

    def __getattr__(self, attr: str) -> Any:
        method = self._known_methods.get(attr) if self._known_methods else None
        if method is None:
            is_method, value = self._connection.get_method(self._oid, attr)
            if not is_method:
                return value
            method = self._known_methods[attr] = wrapper(attr)
        return method.__get__(self)

    def __setattr__(self, attr: str, value: Any) -> None:
        if hasattr(type(self), attr) or attr in self.__dict__:
            super().__setattr__(attr, value)
        else:
            self._connection.set_attribute(self._oid, attr, value)

    def __delattr__(self, attr: str) -> None:
        if hasattr(type(self), attr) or attr in self.__dict__:
            super().__delattr__(attr)
        else:
            self._known_methods.pop(attr, None)
            self._connection.del_attribute(self._oid, attr)


class SelfIterProxy(RemoteProxy):
    """A proxy for an iterator: iterating it gives itself."""

    proxy_methods: Tuple[str, ...] = ("__next__",)

    def __iter__(self) -> Any:
        return self


class GeneratorProxy(SelfIterProxy):
    """A proxy for a generator.

    Iterating it reads ahead; what was read and not used is there for the next loop or ``next``.  Without
    a loop, ``next``, ``send`` and ``throw`` are one call each.
    """

    proxy_methods = ("send", "throw", "close")
    _ahead: Any = None

    def __iter__(self) -> Any:
        # A generator of its own, so that this proxy, and with it the far-side generator, lives as long.
        if self._ahead is None:
            self._ahead = self._connection.stream(self._oid)
        for item in self._ahead:  # noqa: UP028 - "yield from" would end _ahead together with the loop
            yield item

    def __next__(self, **keywords: Any) -> Any:
        if self._ahead is not None:
            return next(self._ahead)
        return _next(self, **keywords)

    def send(self, value: Any, **keywords: Any) -> Any:
        """Call ``send`` of the far-side generator.

        Raises:
            RuntimeError: If a loop has read ahead of what it was used for.
        """
        self._must_not_be_ahead("send")
        return _send(self, value, **keywords)

    def throw(self, *error: Any, **keywords: Any) -> Any:
        """Call ``throw`` of the far-side generator.

        Raises:
            RuntimeError: If a loop has read ahead of what it was used for.
        """
        self._must_not_be_ahead("throw")
        return _throw(self, *error, **keywords)

    def close(self, **keywords: Any) -> Any:
        """Close the far-side generator; what was read ahead is dropped."""
        if self._ahead is not None:
            self._ahead.close()
        return _close(self, **keywords)

    def _must_not_be_ahead(self, method: str) -> None:
        if self._ahead is not None and getattr(self._ahead, "gi_frame", None) is not None:
            raise RuntimeError(
                f"{method}() would reach {self!r} behind items that a loop has read ahead; "
                "use next() instead of a loop where you send or throw"
            )


_next, _send, _throw, _close = (wrapper(name) for name in ("__next__", "send", "throw", "close"))


class FileProxy(RemoteProxy):
    """A proxy for a file object.  Iterating it reads line by line, one call each."""

    proxy_methods = (
        "close",
        "detach",
        "fileno",
        "flush",
        "isatty",
        "peek",
        "read",
        "read1",
        "readable",
        "readall",
        "readline",
        "readlines",
        "reconfigure",
        "seek",
        "seekable",
        "tell",
        "truncate",
        "writable",
        "write",
        "writelines",
    )
    proxy_attrs = ("buffer", "closed", "encoding", "errors", "line_buffering", "mode", "name", "newlines", "raw")

    def readinto(self, buffer: Any) -> int:
        """Read bytes into a local buffer and return how many came."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))  # type: ignore[attr-defined]  # made by the metaclass
        view[: len(data)] = data
        return len(data)

    def __enter__(self) -> FileProxy:  # noqa: PYI034  # Self is too new for the far side
        return self

    def __exit__(self, *error: object) -> None:
        self.close()  # type: ignore[attr-defined]  # made by the metaclass

    def __iter__(self) -> FileProxy:
        return self

    def __next__(self) -> Any:
        line = self.readline()  # type: ignore[attr-defined]  # made by the metaclass
        if not line:
            raise StopIteration
        return line


_made: Dict[str, Type[RemoteProxy]] = {}


def proxy_class(type_data: str) -> Type[RemoteProxy]:
    """Return the class of the proxy that ``type_data`` describes, see :func:`easycluster.objects.exports.type_data`.

    Raises:
        SerializationError: If it names a class that is no proxy class.
    """
    if type_data[:1] == "=":
        return _named_class(type_data[1:])
    found = _made.get(type_data)
    if found is None:
        found = _made.setdefault(type_data, _make_class(type_data))
    return found


def _named_class(name: str) -> Type[RemoteProxy]:
    # Not cached: a later update of the definitions replaces the class.
    module, _, path = name.partition(":")
    try:
        __import__(module)
        found: Any = sys.modules[module]
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as exc:
        warnings.warn(
            f"the proxy class {path} of {module} is not defined here ({exc}); "
            "DefaultRemoteProxy is used instead; put it into define_common",
            RuntimeWarning,
            stacklevel=2,
        )
        return DefaultRemoteProxy
    if not (isinstance(found, type) and issubclass(found, RemoteProxy)):
        raise SerializationError(f"{path} of {module} is no proxy class; derive it from RemoteProxy")
    return found


def _make_class(type_data: str) -> Type[RemoteProxy]:
    methods, attrs, cached = (tuple(filter(None, part.split(","))) for part in type_data.split("|"))
    base = DefaultRemoteProxy if "@auto" in attrs else RemoteProxy
    attrs = tuple(name for name in attrs if name != "@auto")
    names = methods + attrs + cached
    label = "_".join([name for name in names if name[:2] != "__"] or [name.strip("_") for name in names])
    if len(label) > 80:
        label = label[:80] + "_etc"
    namespace: Dict[str, Any] = {
        "__module__": __name__,
        "__doc__": "A proxy class made from the names that a far-side class exports.",
        "proxy_methods": methods,
        "proxy_attrs": attrs,
        "proxy_attrs_cache": cached,
    }
    if "__eq__" in methods and "__hash__" not in methods:
        namespace["__hash__"] = None
    made: Type[RemoteProxy] = ProxyMeta("dynamic_proxy_" + label, (base,), namespace)
    return made
