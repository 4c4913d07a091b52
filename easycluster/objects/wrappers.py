"""What the methods and attributes of a proxy class are: each asks the peer for the one of that name.

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, Tuple

from easycluster.errors import RemoteError, SerializationError

if TYPE_CHECKING:
    from easycluster.objects.proxies import RemoteProxy

__all__ = ["ProxyMeta", "take_keywords", "wrapper"]


def take_keywords(kwargs: Dict[str, Any]) -> Tuple[Any, Any, Any, Any, Any]:
    """Take the keywords of a remote call out of ``kwargs``.

    Returns:
        ``nonblocking, oncomplete, onerror, threadid, origexc``.  Nothing else is taken:
        ``rmt.subprocess.run(cmd, timeout=5)`` passes its timeout on.
    """
    if not kwargs:
        return False, None, None, None, True
    take = kwargs.pop
    return (
        take("nonblocking", False),
        take("oncomplete", None),
        take("onerror", None),
        take("threadid", None),
        take("origexc", True),
    )


def _method(name: str) -> Callable[..., Any]:
    def call(self: RemoteProxy, *args: Any, **kwargs: Any) -> Any:
        if kwargs:
            return self._connection.send_request(self._oid, name, args, kwargs, *take_keywords(kwargs))
        return self._connection.send_request(self._oid, name, args, kwargs)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"Call ``{name}`` of the far-side object."
    return call


def _leaving(name: str) -> Callable[..., Any]:
    """Return a wrapper for a method that takes type, value and traceback; the last cannot be pickled."""

    def call(self: RemoteProxy, *args: Any, **kwargs: Any) -> Any:
        send, keywords = self._connection.send_request, take_keywords(kwargs)
        if len(args) > 2:
            args = (*args[:2], None, *args[3:])
        try:
            return send(self._oid, name, args, kwargs, *keywords)
        except SerializationError:
            error = args[1] if len(args) > 1 else args[0] if args else None
            if not isinstance(error, BaseException):
                raise
            # The exception cannot cross, but the far side must still learn that its block failed.
            kind = type(error)
            known_as = f"{kind.__module__}.{kind.__qualname__}"
            stand_in = RemoteError(f"{kind.__name__}: {error}", type_name=known_as)
            args = (stand_in,) if len(args) == 1 else (RemoteError, stand_in, None)
            return send(self._oid, name, args, kwargs, *keywords)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"Call ``{name}`` of the far-side object."
    return call


def wrapper(name: str) -> Callable[..., Any]:
    """Return a method of a proxy class that calls the far-side object's method of that name."""
    return _leaving(name) if name in ("__exit__", "throw") else _method(name)


def _attribute(name: str) -> property:
    def get(self: RemoteProxy) -> Any:
        return self._connection.get_attribute(self._oid, name)

    def set(self: RemoteProxy, value: Any) -> None:
        self._connection.set_attribute(self._oid, name, value)

    def delete(self: RemoteProxy) -> None:
        self._connection.del_attribute(self._oid, name)

    return property(get, set, delete)


def _cached_attribute(name: str) -> property:
    def get(self: RemoteProxy) -> Any:
        known = self.__dict__
        if name not in known:
            known[name] = self._connection.get_attribute(self._oid, name)
        return known[name]

    def set(self: RemoteProxy, value: Any) -> None:
        self.__dict__.pop(name, None)
        self._connection.set_attribute(self._oid, name, value)

    def delete(self: RemoteProxy) -> None:
        self.__dict__.pop(name, None)
        self._connection.del_attribute(self._oid, name)

    return property(get, set, delete)


def _names(value: Any) -> Tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


class ProxyMeta(type):
    """Makes wrappers for the names in ``proxy_methods``, ``proxy_attrs`` and ``proxy_attrs_cache``."""

    def __new__(mcs, name: str, bases: Tuple[type, ...], namespace: Dict[str, Any]) -> Any:
        """Make the class; what its body defines itself stays."""
        for kind, make in (
            ("proxy_methods", wrapper),
            ("proxy_attrs", _attribute),
            ("proxy_attrs_cache", _cached_attribute),
        ):
            namespace[kind] = names = _names(namespace.get(kind))
            for each in names:
                namespace.setdefault(each, make(each))
        return super().__new__(mcs, name, bases, namespace)
