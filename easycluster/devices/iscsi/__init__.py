"""iSCSI (RFC 7143): an initiator and a target in plain Python.

::

    pdu, crc32c            the 48-byte headers, data segments, digests: bytes in, bytes out
    text, chap             key=value pairs of a login, and proofs of who somebody is
    negotiation            what two sides agree on
    errors, scsi           what a failure is called; command blocks and sense data
    stream                 PDUs over a socket
    logon, connection      the initiator's login, and its commands in flight
    session                what a test uses: read, write, fill, verify, reserve, perf
    target                 a target of our own: portals, logical units, faults on demand

Both ends are shipped to far sides: standard library of Python 3.8 only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from easycluster.devices.iscsi.logon import discover
    from easycluster.devices.iscsi.session import Session, login

__all__ = ["Session", "discover", "login"]

# Loaded on first use: a target needs none of it, and a far side fetches every module over the wire.
_HOMES = {"Session": "session", "discover": "logon", "login": "session"}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)
