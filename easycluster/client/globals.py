"""Far-side globals as attributes of a client: ``client.os.path.join("a", "b")``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from easycluster.link.operations import Op
from easycluster.objects.wrappers import take_keywords
from easycluster.wire.pickling import BULK, BULKY

if TYPE_CHECKING:
    from easycluster.client.client import BaseClient

__all__ = ["GlobalProxy"]


_CALL = Op.CALL
_NONBLOCKING = {"nonblocking": True}
# One for all: nobody changes it.
_NO_KEYWORDS: dict[str, Any] = {}
# Keywords of a remote call besides ``nonblocking``.
_special = frozenset({"oncomplete", "onerror", "threadid", "origexc"})


class GlobalProxy:
    """A name on the far side: call it, read or set its ``value``, or go on with a dot.

    Nothing is looked up until then.
    """

    __slots__ = ("_client", "_name")

    def __init__(self, client: BaseClient, name: str) -> None:
        # Past our own __setattr__, and in half the time of object's.
        _set_client(self, client)
        _set_name(self, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call what the name stands for."""
        if kwargs:
            if kwargs == _NONBLOCKING:
                return self._client._start((_CALL, self._name, args, _NO_KEYWORDS))
            if kwargs.get("nonblocking") is True and _special.isdisjoint(kwargs):
                del kwargs["nonblocking"]
                return self._client._start((_CALL, self._name, args, kwargs))
            return self._client._request((_CALL, self._name, args, kwargs), *take_keywords(kwargs))
        for value in args:
            if value.__class__ in BULKY and len(value) >= BULK:
                # The quick way would copy it before it notices.
                return self._client._request((_CALL, self._name, args, kwargs))
        return self._client._call((_CALL, self._name, args, kwargs))

    def __getattr__(self, name: str) -> Any:
        # Not a property: an AttributeError out of one would bring Python here for another try.
        if name == "value":
            return self._client._look_up((Op.GET_GLOBAL, self._name))
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(f"far-side name {self._name!r} has no attribute {name!r} here; use .value")
        return GlobalProxy(self._client, f"{self._name}.{name}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "value":
            self._client._request((Op.SET_GLOBAL, self._name, value))
        else:
            raise AttributeError(f"set {self._name}.{name}.value = ... to change an attribute of a far-side global")

    def __repr__(self) -> str:
        return f"<far-side name {self._name} on {self._client.peername}>"


_set_client = GlobalProxy.__dict__["_client"].__set__
_set_name = GlobalProxy.__dict__["_name"].__set__
