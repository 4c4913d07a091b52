"""An initiator's login: who we are, then what we agree on (RFC 7143, section 6.3).

::

    security (0)      AuthMethod, then for CHAP: which algorithm / challenge / answer and our own challenge / answer
    operational (1)   digests, sizes of PDUs and bursts
    full feature (3)  commands
"""

from __future__ import annotations

import os
import socket
import time
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from easycluster.devices.iscsi.chap import ALGORITHMS, Chap, challenge_keys, check_proof, proof_keys
from easycluster.devices.iscsi.connection import Connection
from easycluster.devices.iscsi.errors import ChapRefused, CommandTimeout, LoginRefused, ProtocolFault, TargetGone
from easycluster.devices.iscsi.negotiation import Parameters, Wishes
from easycluster.devices.iscsi.pdu import FINAL, Header, Op
from easycluster.devices.iscsi.stream import PduStream, encode_pdu, reason
from easycluster.devices.iscsi.text import MAX_TEXT, decode_text, encode_text

__all__ = ["INITIATOR", "FoundTarget", "Login", "connect", "discover", "split_portal"]

PORT = 3260
INITIATOR = "iqn.2026-11.org.easycluster:initiator"

_SECURITY, _OPERATIONAL, _FULL = 0, 1, 3
_CONTINUE = 0x40
# Of one login; real ones take four.
MAX_ROUNDS = 20


class FoundTarget(NamedTuple):
    """What a portal says it has.

    Attributes:
        iqn: Name of the target.
        portals: Its addresses, ``host:port``.
    """

    iqn: str
    portals: Tuple[str, ...]


def split_portal(portal: str) -> Tuple[str, int]:
    """Return host and port of ``host``, ``host:port``, ``[v6]`` or ``[v6]:port``, with or without ``,group``.

    Raises:
        ValueError: If the port is not a number.
    """
    text = portal.partition(",")[0]
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else ""
    else:
        host, _, port = text.partition(":")
    if not host or (port and not port.isdigit()):
        raise ValueError(f"{portal!r} is not host:port")
    return host, int(port or PORT)


def connect(
    portal: str,
    iqn: str,
    chap: Union[Chap, Sequence[str], None] = None,
    initiator: str = INITIATOR,
    wishes: Optional[Wishes] = None,
    limit: float = 10.0,
    isid: bytes = b"",
    algorithms: Sequence[int] = (5, 7),
) -> Connection:
    """Log in and return the connection in full feature phase.

    Args:
        portal: ``host:port``.
        iqn: Name of the target, ``""`` for a discovery session.
        chap: Our secret and maybe the target's.
        initiator: Our name.
        wishes: What we would like to agree on.
        limit: Seconds until all is done.
        isid: Six bytes that tell this session from others of ours; random by default.
        algorithms: Numbers of CHAP algorithms that we accept, the best first.

    Raises:
        LoginRefused: If the target does not want us.
        ChapRefused: If it does not believe us, or could not prove itself.
        TargetGone: If nothing answers there, or it broke off.
        CommandTimeout: If it did not answer in time.
        ProtocolFault: If what it says is not a login.
    """
    deadline = time.monotonic() + limit
    for _ in range(4):
        sock = _open(portal, deadline)
        try:
            moved, connection = Login(
                sock, portal, iqn, Chap.of(chap), initiator, wishes or Wishes(), isid, algorithms
            ).run(deadline)
        except TimeoutError as exc:
            sock.close()
            raise CommandTimeout(f"{portal}: no login within {limit:g} s") from exc
        except BaseException:
            sock.close()
            raise
        if connection is not None:
            return connection
        sock.close()
        portal = moved
    raise LoginRefused(portal, 0, "the target sends us on again and again")


def discover(
    portal: str, chap: Union[Chap, Sequence[str], None] = None, initiator: str = INITIATOR, limit: float = 10.0
) -> List[FoundTarget]:
    """Return the targets that a portal names (SendTargets).

    Raises:
        IscsiError: As :func:`connect`.
    """
    connection = connect(portal, "", chap, initiator, None, limit)
    try:
        found: Dict[str, List[str]] = {}
        current: List[str] = []
        text, ttt = b"SendTargets=All\0", 0xFFFFFFFF
        gathered = b""
        while True:
            answer = connection.request(Header(Op.TEXT_REQUEST, FINAL, w20=ttt), text, "discovery", limit)
            gathered += answer.data
            ttt, text = answer.residual, b""
            if ttt == 0xFFFFFFFF or len(gathered) > 64 * MAX_TEXT:
                break
        for part in gathered.decode("utf-8", "replace").split("\0"):
            key, _, value = part.partition("=")
            if key == "TargetName":
                current = found.setdefault(value, [])
            elif key == "TargetAddress":
                current.append(value.partition(",")[0])
        return [FoundTarget(name, tuple(portals)) for name, portals in found.items()]
    finally:
        connection.logout(limit)


def _open(portal: str, deadline: float) -> socket.socket:
    try:
        sock = socket.create_connection(split_portal(portal), max(deadline - time.monotonic(), 0.001))
    except (socket.timeout, TimeoutError) as exc:
        raise CommandTimeout(f"{portal}: nothing answers there") from exc
    except OSError as exc:
        raise TargetGone(f"{portal}: cannot connect: {reason(exc)}") from exc
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Login:
    """The steps of one login, and what they have found out so far."""

    def __init__(
        self,
        sock: socket.socket,
        portal: str,
        iqn: str,
        chap: Optional[Chap],
        initiator: str,
        wishes: Wishes,
        isid: bytes = b"",
        algorithms: Sequence[int] = (5, 7),
    ) -> None:
        self._stream = PduStream(sock, portal)
        self._portal, self._iqn, self._chap, self._initiator, self._wishes = portal, iqn, chap, initiator, wishes
        # Type "random" of RFC 7143, 11.12.5.
        self._isid = isid or b"\x80" + os.urandom(3) + b"\0\0"
        self._algorithms = [number for number in algorithms if number in ALGORITHMS]
        self._parameters = Parameters()
        self._tsih = 0
        self._stage = _SECURITY
        self._cmd_sn, self._exp_stat_sn, self._max_cmd_sn = 1, 0, 1
        self._moved = ""

    def run(self, deadline: float) -> Tuple[str, Optional[Connection]]:
        """Log in; return where the target has moved to, or the connection."""
        keys = {"InitiatorName": self._initiator, "SessionType": "Normal" if self._iqn else "Discovery"}
        if self._iqn:
            keys["TargetName"] = self._iqn
        # Who wants proof from the target must not agree to none.
        keys["AuthMethod"] = "None" if self._chap is None else "CHAP" if self._chap.target_user else "CHAP,None"
        answer = self._ask(keys, self._chap is None, deadline)
        if self._moved:
            return self._moved, None
        method = answer.get("AuthMethod", "None")
        if method == "CHAP":
            answer = self._prove(deadline)
        elif method != "None":
            raise ChapRefused(self._portal, 0, f"the target wants AuthMethod={method}, which we do not have")
        elif self._chap is not None and self._chap.target_user:
            raise ChapRefused(self._portal, 0, "the target need not be believed without a proof, and gives none")
        rounds = 0
        while self._stage == _SECURITY:
            rounds = self._next(rounds)
            answer = self._ask({}, True, deadline)
        self._agree(answer)
        self._parameters.max_recv = self._wishes.max_recv
        self._agree(self._ask(self._wishes.offer(discovery=not self._iqn), True, deadline))
        while self._stage == _OPERATIONAL:
            rounds = self._next(rounds)
            self._agree(self._ask({}, True, deadline))
        stream, agreed = self._stream, self._parameters
        stream.header_digest, stream.data_digest = agreed.header_digest, agreed.data_digest
        # Some targets round their buffers up; twice what we said is still bounded.
        stream.max_recv = 2 * agreed.max_recv
        return "", Connection(stream, agreed, self._cmd_sn, self._exp_stat_sn, self._max_cmd_sn)

    def _next(self, rounds: int) -> int:
        if rounds == MAX_ROUNDS:
            raise LoginRefused(self._portal, 0, f"the target has not come to an end after {MAX_ROUNDS} rounds")
        return rounds + 1

    def _prove(self, deadline: float) -> Dict[str, str]:
        """Show that we know our secret, and have the target show its own."""
        chap, portal = self._chap, self._portal
        if chap is None:
            raise ChapRefused(portal, 0, "the target asks for CHAP, and no secret was given")
        challenge = self._ask({"CHAP_A": ",".join(map(str, self._algorithms))}, False, deadline)
        try:
            keys = proof_keys(challenge, chap.user, chap.password, self._algorithms)
        except ValueError as exc:
            raise ChapRefused(portal, 0, f"the target's challenge is wrong: {exc}") from exc
        if not chap.target_user:
            return self._ask(keys, True, deadline)
        identifier, ours, more = challenge_keys()
        algorithm = int(challenge["CHAP_A"])
        answer = self._ask({**keys, **more}, True, deadline)
        if not check_proof(answer, chap.target_user, chap.target_password, algorithm, identifier, ours):
            raise ChapRefused(portal, 0, f"the target did not prove that it is {chap.target_user!r}")
        return answer

    def _agree(self, answer: Dict[str, str]) -> None:
        try:
            for key, value in answer.items():
                self._parameters.settle(key, value)
        except ValueError as exc:
            raise ProtocolFault(f"{self._portal}: the target's answer is not allowed: {exc}") from exc

    def _ask(self, keys: Dict[str, str], transit: bool, deadline: float) -> Dict[str, str]:
        """Send keys, move on to the next stage if ``transit`` and the target wants to, and return its keys."""
        following = _OPERATIONAL if self._stage == _SECURITY else _FULL
        flags = self._stage << 2 | (FINAL | following if transit else 0)
        data, text = encode_text(keys), b""
        for _ in range(MAX_ROUNDS):
            header = Header(
                Op.LOGIN_REQUEST,
                flags,
                lun=self._isid + self._tsih.to_bytes(2, "big"),
                itt=0,
                w24=self._cmd_sn,
                w28=self._exp_stat_sn,
                immediate=True,
            )
            self._stream.write(encode_pdu(header, data), deadline)
            answer, more = self._stream.read(deadline)
            self._check(answer)
            text += bytes(more)
            if not answer.flags & _CONTINUE or len(text) > MAX_TEXT:
                break
            data = b""
        try:
            pairs = decode_text(text)
        except ValueError as exc:
            raise ProtocolFault(f"{self._portal}: the target's login text is wrong: {exc}") from exc
        status = answer.w36 >> 16
        if status >> 8 == 1 and pairs.get("TargetAddress"):
            self._moved = pairs["TargetAddress"]
        elif status:
            self._refuse(status)
        elif answer.flags & FINAL:
            self._stage = answer.flags & 3
        return pairs

    def _check(self, answer: Header) -> None:
        if answer.opcode != Op.LOGIN_RESPONSE:
            raise ProtocolFault(f"{self._portal}: opcode 0x{answer.opcode:02x} in answer to a login; is it iSCSI?")
        if not answer.w36 >> 24:
            self._exp_stat_sn = (answer.w24 + 1) & 0xFFFFFFFF
            self._max_cmd_sn = answer.w32
            self._tsih = int.from_bytes(answer.lun[6:8], "big")

    def _refuse(self, status: int) -> None:
        if status in (0x0201, 0x0202) and self._stage == _SECURITY:
            detail = "no CHAP secret was given"
            if self._chap is not None:
                detail = f"it knows no user {self._chap.user!r} with the secret that was given"
            raise ChapRefused(self._portal, status, detail)
        raise LoginRefused(self._portal, status, f"target {self._iqn}" if self._iqn else "")
