"""What ``import easycluster`` gives to code on the far side.

The bundle serves this text as the package ``easycluster`` there.  Every definitions module begins
with ``from easycluster import *``; near and far, that brings at least the names in ``__all__``.
Names are looked up on first use, so that a process that runs no user code loads none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, List

from easycluster.version import VERSION as VERSION

if TYPE_CHECKING:
    from easycluster.errors import RemoteException
    from easycluster.far.modules import define_common, definitions_module
    from easycluster.far.namespace import exec_return, get_global, set_global
    from easycluster.objects.exports import ServerObject, callback, make_server_class, make_singleton
    from easycluster.objects.proxies import (
        DefaultRemoteProxy,
        FileProxy,
        GeneratorProxy,
        RemoteProxy,
        SelfIterProxy,
    )

__all__ = [
    "DefaultRemoteProxy",
    "FileProxy",
    "GeneratorProxy",
    "RemoteException",
    "RemoteProxy",
    "SelfIterProxy",
    "ServerObject",
    "callback",
    "define_common",
    "definitions_module",
    "exec_return",
    "get_global",
    "make_server_class",
    "make_singleton",
    "set_global",
]

# Name to the module that has it; "" for a module of its own name.
_HOMES = {
    "DefaultRemoteProxy": "objects.proxies",
    "FileProxy": "objects.proxies",
    "GeneratorProxy": "objects.proxies",
    "RemoteException": "errors",
    "RemoteProxy": "objects.proxies",
    "SelfIterProxy": "objects.proxies",
    "ServerObject": "objects.exports",
    "callback": "objects.exports",
    "define_common": "far.modules",
    "definitions_module": "far.modules",
    "errors": "",
    "exec_return": "far.namespace",
    "get_global": "far.namespace",
    "make_server_class": "objects.exports",
    "make_singleton": "objects.exports",
    "set_global": "far.namespace",
    "undo": "far.undo",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'easycluster' has no attribute {name!r} on the far side")
    module = importlib.import_module(f"easycluster.{home or name}")
    value = module if not home else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    return sorted({*globals(), *_HOMES})
