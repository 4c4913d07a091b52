"""The object behind ``client.get_root()``: the operations on globals as plain methods.

This module is shipped to the far side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Iterable, Optional, Tuple

from easycluster.objects.exports import ServerObject

if TYPE_CHECKING:
    from easycluster.far.namespace import Namespace

__all__ = ["Root"]


class Root(ServerObject):
    """Calls, evaluates and looks up by name, like the methods of a client."""

    export_methods = (
        "call",
        "delattr",
        "eval",
        "get_global",
        "getattr",
        "import_modules",
        "set_global",
        "setattr",
    )
    export_attrs = ()

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def call(self, func: str, args: Tuple[Any, ...] = (), kwargs: Optional[Dict[str, Any]] = None) -> Any:
        """Call a function by name."""
        return self._namespace.get_global(func)(*args, **(kwargs or {}))

    def eval(self, code: str, mode: str = "eval") -> Any:
        """Evaluate an expression, or run a block with ``mode='exec'``."""
        return self._namespace.execblock(code) if mode == "exec" else self._namespace.eval(code)

    def get_global(self, name: str) -> Any:
        """Return a global."""
        return self._namespace.get_global(name)

    def set_global(self, name: str, value: Any) -> None:
        """Set a global."""
        self._namespace.set_global(name, value)

    def import_modules(self, names: Iterable[str]) -> None:
        """Import modules."""
        self._namespace.import_modules(names)

    def getattr(self, obj: Any, attr: str) -> Any:
        """Return an attribute of an object."""
        return getattr(obj, attr)

    def setattr(self, obj: Any, attr: str, value: Any) -> None:
        """Set an attribute of an object."""
        setattr(obj, attr, value)

    def delattr(self, obj: Any, attr: str) -> None:
        """Delete an attribute of an object."""
        delattr(obj, attr)
