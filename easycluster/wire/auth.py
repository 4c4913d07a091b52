"""The handshake of the HMAC TCP server: both ends prove that they hold the key.

Four messages, the client first.  Pure bytes in, pure bytes out::

    HELLO_C, client to server
    0x00   -   4   magic "EC2C"
    0x04   B   1   protocol version, see VERSION
    0x05   B   1   role of this connection, see Role
    0x06   B   1   length n of the key id, at most 32
    0x07   -   n   key id, ASCII; see key_id; empty for the server's only one
     +0    -  16   token: the same in all connections of one session
    +16    -  32   nonce

    HELLO_S, server to client
    0x00   -   4   magic "EC2S"
    0x04   B   1   protocol version
    0x05   -  32   nonce

    FINISH_C, client to server
    0x00   -  32   HMAC(fin_c, th)

    FINISH_S, server to client
    0x00   B   1   status, see Status
    0x01   -  32   HMAC(fin_s, th | FINISH_C | status)

HMAC is HMAC-SHA256, and with HKDF of RFC 5869::

    id    = the first 16 bytes of HMAC(key, "ec2 key id") in hexadecimal digits
    th    = SHA256(u16 length | HELLO_C | u16 length | HELLO_S)
    prk   = HKDF-Extract(salt = th, ikm = key)
    fin_c = HKDF-Expand(prk, "ec2 client finish", 32)      fin_s = ... "ec2 server finish"
    c2s   = HKDF-Expand(prk, "ec2 client to server", 32)   s2c   = ... "ec2 server to client"

The transcript hash covers every byte that both ends said, so whatever is
changed, stripped or spliced in between fails a proof.  The client proves first:
a stranger gets no keyed output from a server.  The first five bytes of each
HELLO never change, so that ends of different versions can say so; a server of
another version answers its HELLO_S and closes.  That answer is not proven: it
only ends the attempt, there is no falling back.

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import os
from typing import Callable, Dict, NoReturn, Optional

from easycluster.errors import AuthenticationError, ConnectError, KeyFileError, RemoteProtocolError

__all__ = [
    "CONTROL",
    "DATA",
    "KEY_SIZE",
    "MAX_HANDSHAKE",
    "TOKEN_SIZE",
    "VERSION",
    "ClientHandshake",
    "Role",
    "ServerHandshake",
    "SessionKeys",
    "Status",
    "key_id",
]

# Changes whenever the handshake or the records behind it change.
VERSION = 1

# 32 bytes.  The server sees one HMAC of a public transcript from every client
# (and a client's reaches whoever it dials), so a key must be beyond guessing.
KEY_SIZE = 32
TOKEN_SIZE = 16
MAX_KEY_ID = 32

# 512 B.  What we agree to buffer before we know who is there; the longest
# client needs 119.
MAX_HANDSHAKE = 512

_MAGIC_C = b"EC2C"
_MAGIC_S = b"EC2S"
_NONCE_SIZE = 32
_PROOF_SIZE = 32
_HEAD_C = 7
_HELLO_S = 4 + 1 + _NONCE_SIZE
_FINISH_S = 1 + _PROOF_SIZE


def key_id(key: bytes) -> bytes:
    """Return what a client calls a key when it connects.

    It follows from the key, so a key file needs no name and may be renamed; it tells a listener that
    two connections use the same key, but neither the key nor what the server calls it.
    """
    return _hmac(key, b"ec2 key id")[: MAX_KEY_ID // 2].hex().encode("ascii")


class Role(enum.IntEnum):
    """What a connection is for."""

    CONTROL = 1
    DATA = 2


CONTROL = Role.CONTROL
DATA = Role.DATA


class Status(enum.IntEnum):
    """What a server says to a client that has proven the key."""

    ACCEPTED = 0
    TOO_MANY_SESSIONS = 1
    CANNOT_START = 2
    NO_SUCH_SESSION = 3


_REFUSALS: Dict[int, str] = {
    Status.TOO_MANY_SESSIONS: "has as many sessions as it allows; close one or raise its limit",
    Status.CANNOT_START: "accepted the key but could not start a session; its log says why",
    Status.NO_SUCH_SESSION: "does not know the session that this connection belongs to; it may have ended",
}


class SessionKeys:
    """The two keys of one connection, as this end uses them.

    Attributes:
        send: 32 bytes, for the records that this end sends.
        receive: 32 bytes, for those it receives.
    """

    __slots__ = ("receive", "send")

    def __init__(self, send: bytes, receive: bytes) -> None:
        self.send = send
        self.receive = receive

    def __repr__(self) -> str:
        return "<SessionKeys, hidden>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("session keys are not pickled")


class _Secrets:
    """Everything that follows from the key and the two hellos."""

    def __init__(self, key: bytes, hello_c: bytes, hello_s: bytes) -> None:
        said = b"".join(len(part).to_bytes(2, "big") + part for part in (hello_c, hello_s))
        self.transcript = hashlib.sha256(said).digest()
        self._prk = _hmac(self.transcript, key)

    def expand(self, label: bytes) -> bytes:
        return _hmac(self._prk, b"ec2 " + label + b"\x01")

    def client_proof(self) -> bytes:
        return _hmac(self.expand(b"client finish"), self.transcript)

    def server_proof(self, client_proof: bytes, status: int) -> bytes:
        return _hmac(self.expand(b"server finish"), self.transcript + client_proof + bytes([status]))


class ClientHandshake:
    """The client's end.

    Send what ``start`` returns, then feed what arrives to ``receive`` and send what that returns,
    until ``done``.  Read no more than ``needed`` bytes at a time and nothing is left over.

    Args:
        key: 32 bytes.
        role: What the connection is for.
        token: ``TOKEN_SIZE`` random bytes, the same for all connections of a session.
        key_id: Which of the server's keys this is.
        host: The host as the caller named it, for messages.
        random: Where nonces come from; other than ``os.urandom`` in tests only.

    Attributes:
        done: True once the server has proven itself.
        keys: The session keys, or None before that.
    """

    def __init__(
        self,
        key: bytes,
        role: Role,
        token: bytes,
        key_id: bytes = b"",
        *,
        host: str = "the server",
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        _check_key(key)
        if len(token) != TOKEN_SIZE:
            raise ValueError(f"a token is {TOKEN_SIZE} bytes long, this one has {len(token)}")
        if not _is_key_id(key_id):
            raise KeyFileError(f"{key_id!r} is no key id: at most {MAX_KEY_ID} printable ASCII characters")
        self.done = False
        self.keys: Optional[SessionKeys] = None
        self._host = host
        self._key = key
        self._buffer = b""
        self._secrets: Optional[_Secrets] = None
        self._hello = b"".join(
            (_MAGIC_C, bytes([VERSION, role, len(key_id)]), key_id, token, random(_NONCE_SIZE)),
        )

    def __repr__(self) -> str:
        return f"<ClientHandshake with {self._host}, {'done' if self.done else 'not done'}>"

    @property
    def needed(self) -> int:
        """How many bytes complete the current message, 0 when done."""
        if self.done:
            return 0
        return max(0, (_HELLO_S if self._secrets is None else _FINISH_S) - len(self._buffer))

    @property
    def leftover(self) -> bytes:
        """Bytes behind the handshake; they belong to the first record."""
        return self._buffer if self.done else b""

    def start(self) -> bytes:
        """Return the first bytes to send."""
        return self._hello

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the server and return what to send to it.

        Raises:
            AuthenticationError: If the server does not hold our key.
            ConnectError: If it is no EasyCluster server, speaks another version, or accepts the
                key but gives us no session.
        """
        self._buffer += data
        answer = b""
        if self._secrets is None:
            answer = self._receive_hello()
        if self._secrets is not None and not self.done:
            self._receive_finish(self._secrets)
        return answer

    def receive_eof(self) -> None:
        """Say what it means that the server closes the connection now; always raises.

        Raises:
            AuthenticationError: If it closed on our proof.
            ConnectError: If it closed before.
        """
        if self._secrets is not None:
            raise AuthenticationError(
                f"{self._host}: the server refused our key; use the key file that it was started with", self._host
            )
        raise ConnectError(
            f"{self._host}: the connection was closed without an answer; the server may not allow our address "
            "(-a), or is no EasyCluster server",
            self._host,
        )

    def _receive_hello(self) -> bytes:
        if not _MAGIC_S.startswith(self._buffer[:4]):
            raise ConnectError(
                f"{self._host}: what answers is no EasyCluster server of protocol version {VERSION}; "
                "check the port, and that the server is not EasyCluster 0.22",
                self._host,
            )
        if len(self._buffer) > 4 and self._buffer[4] != VERSION:
            raise ConnectError(
                f"{self._host}: the server speaks protocol version {self._buffer[4]}, we speak version {VERSION}; "
                "install the same release of pytest-easycluster on both machines",
                self._host,
            )
        if len(self._buffer) < _HELLO_S:
            return b""
        hello, self._buffer = self._buffer[:_HELLO_S], self._buffer[_HELLO_S:]
        self._secrets = _Secrets(self._key, self._hello, hello)
        return self._secrets.client_proof()

    def _receive_finish(self, secrets: _Secrets) -> None:
        if len(self._buffer) < _FINISH_S:
            return
        finish, self._buffer = self._buffer[:_FINISH_S], self._buffer[_FINISH_S:]
        status, proof = finish[0], finish[1:]
        if not hmac.compare_digest(proof, secrets.server_proof(secrets.client_proof(), status)):
            raise AuthenticationError(
                f"{self._host}: the server could not prove that it holds our key; nothing was sent to it", self._host
            )
        if status != Status.ACCEPTED:
            why = _REFUSALS.get(status, f"refused us with status {status}")
            raise ConnectError(f"{self._host}: the server {why}", self._host)
        self.keys = SessionKeys(secrets.expand(b"client to server"), secrets.expand(b"server to client"))
        self.done = True


class ServerHandshake:
    """The server's end.

    Feed what arrives to ``receive`` and send what that returns, until ``proven``; then ``finish``.
    Read no more than ``needed`` bytes at a time, and what the client sends behind its proof stays
    in the socket for whoever takes the session over.

    Args:
        find_key: Gives the key for a key id, or None.
        random: Where nonces come from; other than ``os.urandom`` in tests only.

    Attributes:
        proven: True once the client has proven that it holds the key.
        role: What the client wants the connection for; valid once ``proven``.
        token: The session's token; valid once ``proven``.
        key_id: Which key; valid once ``proven``.
        keys: The session keys, or None before ``proven``.
        farewell: Bytes to send before closing after ``receive`` raised; empty but for another
            version's client.
    """

    def __init__(
        self,
        find_key: Callable[[bytes], Optional[bytes]],
        *,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.proven = False
        self.done = False
        self.role = CONTROL
        self.token = b""
        self.key_id = b""
        self.keys: Optional[SessionKeys] = None
        self.farewell = b""
        self._find_key = find_key
        self._random = random
        self._buffer = b""
        self._secrets: Optional[_Secrets] = None
        self._client_proof = b""

    def __repr__(self) -> str:
        return f"<ServerHandshake, {'proven' if self.proven else 'not proven'}>"

    @property
    def needed(self) -> int:
        """How many bytes complete the current message, 0 once ``proven``."""
        if self.proven:
            return 0
        if self._secrets is not None:
            return max(0, _PROOF_SIZE - len(self._buffer))
        if len(self._buffer) < _HEAD_C:
            return _HEAD_C - len(self._buffer)
        return max(0, _hello_size(self._buffer) - len(self._buffer))

    @property
    def leftover(self) -> bytes:
        """Bytes behind the client's proof."""
        return self._buffer if self.proven else b""

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the client and return what to send to it.

        Raises:
            RemoteProtocolError: If the client is not to be served, whatever the reason: send
                ``farewell`` and close.
        """
        self._buffer += data
        answer = b""
        if self._secrets is None:
            answer = self._receive_hello()
        if self._secrets is not None and not self.proven:
            self._receive_proof(self._secrets)
        if not self.proven and len(self._buffer) > MAX_HANDSHAKE:
            raise RemoteProtocolError("handshake too long")
        return answer

    def finish(self, status: Status = Status.ACCEPTED) -> bytes:
        """Return the last bytes to send to a client that is ``proven``.

        Args:
            status: Anything but ACCEPTED tells it why it gets no session.
        """
        if self._secrets is None or not self.proven:
            raise ValueError("the client has proven nothing yet")
        self.done = status == Status.ACCEPTED
        return bytes([status]) + self._secrets.server_proof(self._client_proof, status)

    def _receive_hello(self) -> bytes:
        if not _MAGIC_C.startswith(self._buffer[:4]):
            raise RemoteProtocolError("not a client")
        if len(self._buffer) > 4 and self._buffer[4] != VERSION:
            self.farewell = _MAGIC_S + bytes([VERSION]) + self._random(_NONCE_SIZE)
            raise RemoteProtocolError(f"the client speaks protocol version {self._buffer[4]}, we speak {VERSION}")
        if len(self._buffer) < _HEAD_C:
            return b""
        if self._buffer[5] not in (CONTROL, DATA) or self._buffer[6] > MAX_KEY_ID:
            raise RemoteProtocolError("bad hello")
        size = _hello_size(self._buffer)
        if len(self._buffer) < size:
            return b""
        hello, self._buffer = self._buffer[:size], self._buffer[size:]
        at = _HEAD_C + hello[6]
        self.role = Role(hello[5])
        self.key_id = hello[_HEAD_C:at]
        self.token = hello[at : at + TOKEN_SIZE]
        key = self._find_key(self.key_id)
        if key is None:
            # Go on with a key that nobody has: which ids exist is not a stranger's business.
            key = os.urandom(KEY_SIZE)
        _check_key(key)
        answer = _MAGIC_S + bytes([VERSION]) + self._random(_NONCE_SIZE)
        self._secrets = _Secrets(key, hello, answer)
        return answer

    def _receive_proof(self, secrets: _Secrets) -> None:
        if len(self._buffer) < _PROOF_SIZE:
            return
        proof, self._buffer = self._buffer[:_PROOF_SIZE], self._buffer[_PROOF_SIZE:]
        if not hmac.compare_digest(proof, secrets.client_proof()):
            raise RemoteProtocolError("wrong key")
        self._client_proof = proof
        self.keys = SessionKeys(secrets.expand(b"server to client"), secrets.expand(b"client to server"))
        self.proven = True


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _hello_size(head: bytes) -> int:
    return _HEAD_C + head[6] + TOKEN_SIZE + _NONCE_SIZE


def _is_key_id(key_id: bytes) -> bool:
    return len(key_id) <= MAX_KEY_ID and all(0x21 <= byte <= 0x7E for byte in key_id)


def _check_key(key: bytes) -> None:
    if len(key) != KEY_SIZE:
        raise KeyFileError(
            f"an HMAC key is {KEY_SIZE} bytes long, this one has {len(key)}; make one with generate_key()"
        )
