"""iSCSI (RFC 7143): an initiator and a target in plain Python.

::

    pdu, crc32c            the 48-byte headers, data segments, digests: bytes in, bytes out
    text, chap             key=value pairs of a login, and proofs of who somebody is
    negotiation            what two sides agree on
    errors, scsi           what a failure is called; command blocks and sense data
    stream                 PDUs over a socket
    login, connection      the initiator's login, and its commands in flight
    session                what a test uses: read, write, fill, verify, reserve, perf
    target                 a target of our own: portals, logical units, faults on demand

Both ends are shipped to far sides: standard library of Python 3.8 only.
"""

from __future__ import annotations

from easycluster.devices.iscsi.login import discover
from easycluster.devices.iscsi.session import Session, login

__all__ = ["Session", "discover", "login"]
