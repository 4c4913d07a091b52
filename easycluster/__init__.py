"""EasyCluster: plain Python on other machines, over ssh with nothing installed there.

    from easycluster import Client, define_common

    define_common("def add(a, b): return a + b")
    host = Client(host="gpu01", ssh=True)
    host.add(2, 3)

Everything public is here; what is heavy is loaded when it is first used.
"""

from __future__ import annotations

from easycluster.version import DEFAULT_PORT, VERSION

# As typing has it, for type checkers; importing typing takes longer than all else that is done here.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from easycluster import errors
    from easycluster.aio import AsyncClient
    from easycluster.client.batch import Batch
    from easycluster.client.group import ClientGroup, call_method_multi, call_multi, eval_multi, execblock_multi
    from easycluster.client.requests import SINGLE, deadline
    from easycluster.client.response import NonblockingResponse
    from easycluster.connect import AutoThreadingClient, Client, Connection, ThreadedClient
    from easycluster.definitions import define_common, definitions_module
    from easycluster.errors import (
        AuthenticationError,
        BootstrapError,
        CallCancelled,
        CallTimeout,
        ConnectError,
        ConnectionClosed,
        ConnectionLost,
        ConnectTimeout,
        EasyClusterError,
        ForkedClientError,
        HostKeyError,
        HostNotFound,
        KeyFileError,
        RemoteError,
        RemoteException,
        SerializationError,
        SessionError,
        SpecError,
        StaleProxy,
        WorkerDied,
    )
    from easycluster.far.namespace import exec_return, get_global, set_global
    from easycluster.far.undo import undo as undo
    from easycluster.keys import (
        add_key_options,
        decode_key,
        generate_key,
        key_from_options,
        read_key_file,
        write_key_file,
    )
    from easycluster.lab import Lab
    from easycluster.objects.exports import ServerObject, callback, make_server_class, make_singleton
    from easycluster.objects.proxies import DefaultRemoteProxy, FileProxy, GeneratorProxy, RemoteProxy, SelfIterProxy
    from easycluster.spec import ConnectionSpec, parse_connection_spec

__version__ = VERSION

# Which names each module has that is loaded when one of them is first used.
_NAMES = {
    "aio": ("AsyncClient",),
    "client.batch": ("Batch",),
    "client.requests": ("SINGLE", "deadline"),
    "client.group": ("ClientGroup", "call_method_multi", "call_multi", "eval_multi", "execblock_multi"),
    "client.response": ("NonblockingResponse",),
    "connect": ("AutoThreadingClient", "Client", "Connection", "ThreadedClient"),
    "definitions": ("define_common", "definitions_module"),
    "errors": (
        "AuthenticationError",
        "BootstrapError",
        "CallCancelled",
        "CallTimeout",
        "ConnectError",
        "ConnectTimeout",
        "ConnectionClosed",
        "ConnectionLost",
        "EasyClusterError",
        "ForkedClientError",
        "HostKeyError",
        "HostNotFound",
        "KeyFileError",
        "RemoteError",
        "RemoteException",
        "SerializationError",
        "SessionError",
        "SpecError",
        "StaleProxy",
        "WorkerDied",
    ),
    "far.namespace": ("exec_return", "get_global", "set_global"),
    # For role code, which writes easycluster.undo(...); not in __all__, for it is a word of everybody's.
    "far.undo": ("undo",),
    "keys": ("add_key_options", "decode_key", "generate_key", "key_from_options", "read_key_file", "write_key_file"),
    "lab": ("Lab",),
    "objects.exports": ("ServerObject", "callback", "make_server_class", "make_singleton"),
    "objects.proxies": ("DefaultRemoteProxy", "FileProxy", "GeneratorProxy", "RemoteProxy", "SelfIterProxy"),
    "spec": ("ConnectionSpec", "parse_connection_spec"),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = [
    "DEFAULT_PORT",
    "SINGLE",
    "VERSION",
    "AsyncClient",
    "AuthenticationError",
    "AutoThreadingClient",
    "Batch",
    "BootstrapError",
    "CallCancelled",
    "CallTimeout",
    "Client",
    "ClientGroup",
    "ConnectError",
    "ConnectTimeout",
    "Connection",
    "ConnectionClosed",
    "ConnectionLost",
    "ConnectionSpec",
    "DefaultRemoteProxy",
    "EasyClusterError",
    "FileProxy",
    "ForkedClientError",
    "GeneratorProxy",
    "HostKeyError",
    "HostNotFound",
    "KeyFileError",
    "Lab",
    "NonblockingResponse",
    "RemoteError",
    "RemoteException",
    "RemoteProxy",
    "SelfIterProxy",
    "SerializationError",
    "ServerObject",
    "SessionError",
    "SpecError",
    "StaleProxy",
    "ThreadedClient",
    "WorkerDied",
    "add_key_options",
    "call_method_multi",
    "call_multi",
    "callback",
    "deadline",
    "decode_key",
    "define_common",
    "definitions_module",
    "errors",
    "eval_multi",
    "exec_return",
    "execblock_multi",
    "generate_key",
    "get_global",
    "key_from_options",
    "make_server_class",
    "make_singleton",
    "parse_connection_spec",
    "read_key_file",
    "set_global",
    "write_key_file",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None and name != "errors":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    if home is None:
        return importlib.import_module(f"{__name__}.{name}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
