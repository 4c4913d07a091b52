"""A target's half of a login."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Tuple

from easycluster.devices.iscsi.chap import ALGORITHMS, Chap, challenge_keys, check_proof, proof_keys
from easycluster.devices.iscsi.errors import ProtocolFault
from easycluster.devices.iscsi.negotiation import Parameters, Wishes
from easycluster.devices.iscsi.pdu import FINAL, Header, Op
from easycluster.devices.iscsi.stream import encode_pdu
from easycluster.devices.iscsi.text import MAX_TEXT, decode_text, encode_text

if TYPE_CHECKING:
    from easycluster.devices.iscsi.stream import PduStream
    from easycluster.devices.iscsi.target.portal import Portal
    from easycluster.devices.iscsi.target.target import Target

__all__ = ["WINDOW", "Login", "Refused"]

_SECURITY, _OPERATIONAL, _FULL = 0, 1, 3
_CONTINUE = 0x40
MAX_ROUNDS = 30

# Commands that an initiator may have in flight.
WINDOW = 128

INITIATOR_ERROR, AUTHENTICATION, FORBIDDEN, NOT_FOUND = 0x0200, 0x0201, 0x0202, 0x0203
MISSING, SESSION_TYPE, INVALID, UNAVAILABLE = 0x0207, 0x0209, 0x020B, 0x0301


class Refused(Exception):
    """Ends a login; the status says why."""

    def __init__(self, status: int) -> None:
        super().__init__(f"0x{status:04x}")
        self.status = status


class Login:
    """One login, round by round.

    Attributes:
        parameters: What was agreed on.
        initiator: The initiator's name.
        isid: Its session identifier.
        discovery: Whether it only wants to know what there is.
        exp_cmd_sn: The number of the first command.
        stat_sn: The number of our next answer.
    """

    def __init__(self, target: Target, portal: Portal, stream: PduStream, wishes: Wishes, tsih: int) -> None:
        self._target, self._portal, self._stream, self._wishes, self._tsih = target, portal, stream, wishes, tsih
        self.parameters = Parameters()
        self.initiator = ""
        self.isid = b""
        self.discovery = False
        self.exp_cmd_sn = 1
        self.stat_sn = 1
        self._stage = -1
        self._asked: Optional[Tuple[int, int, bytes]] = None
        self._proved = False
        self._first = True
        self._offered = False

    def run(self, deadline: float, enter: Callable[[], None]) -> None:
        """Come to full feature phase.

        Args:
            deadline: When to give up.
            enter: Called before the initiator is told, so that what it asks next finds the session there.

        Raises:
            Refused: If the initiator was told that it may not.
            ProtocolFault: If it does not speak the language.
            TargetGone: If it left.
        """
        for _ in range(MAX_ROUNDS):
            header, keys = self._receive(deadline)
            try:
                answer = self._answer(header, keys)
                moves = self._may_move(header)
            except Refused as refused:
                self._send(header, {}, 0, refused.status, deadline)
                raise
            except ValueError:
                self._send(header, {}, 0, INITIATOR_ERROR, deadline)
                raise Refused(INITIATOR_ERROR) from None
            flags = header.flags & 0x8F if moves else header.flags & 0x0C
            if flags & FINAL:
                self._stage = flags & 3
            if self._stage == _FULL:
                enter()
            self._send(header, answer, flags, 0, deadline)
            if self._stage == _FULL:
                return
        raise ProtocolFault("a login without an end")

    def _receive(self, deadline: float) -> Tuple[Header, Dict[str, str]]:
        text = b""
        for _ in range(MAX_ROUNDS):
            header, data = self._stream.read(deadline)
            if header.opcode != Op.LOGIN_REQUEST:
                raise ProtocolFault(f"opcode 0x{header.opcode:02x} before a login")
            text += bytes(data)
            self.exp_cmd_sn = header.w24
            if len(text) > MAX_TEXT:
                break
            if not header.flags & _CONTINUE:
                try:
                    return header, decode_text(text)
                except ValueError as exc:
                    self._send(header, {}, 0, INITIATOR_ERROR, deadline)
                    raise ProtocolFault(f"login text: {exc}") from exc
            self._send(header, {}, header.flags & 0x0C, 0, deadline)
        raise ProtocolFault("login text without an end")

    def _send(self, header: Header, keys: Dict[str, str], flags: int, status: int, deadline: float) -> None:
        answer = Header(
            Op.LOGIN_RESPONSE,
            flags,
            lun=header.lun[:6] + (self._tsih if flags & FINAL and flags & 3 == _FULL else 0).to_bytes(2, "big"),
            itt=header.itt,
            w24=self.stat_sn,
            w28=self.exp_cmd_sn,
            w32=(self.exp_cmd_sn + WINDOW - 1) & 0xFFFFFFFF,
            w36=status << 16,
        )
        self.stat_sn += 1
        self._stream.write(encode_pdu(answer, encode_text(keys)), deadline)

    def _may_move(self, header: Header) -> bool:
        """Whether the initiator wants to the next stage, and may go there."""
        if not header.flags & FINAL:
            return False
        if header.flags & 3 not in (_OPERATIONAL, _FULL) or header.flags & 3 <= self._stage:
            raise Refused(INVALID)
        # Who is asked for a proof must give it first.
        return self._stage != _SECURITY or self._chap is None or self._proved or self.discovery

    @property
    def _chap(self) -> Optional[Chap]:
        return self._target.chap

    def _answer(self, header: Header, keys: Dict[str, str]) -> Dict[str, str]:
        stage = header.flags >> 2 & 3
        if self._first:
            self._begin(header, keys)
            self._stage = stage
        if stage != self._stage or stage not in (_SECURITY, _OPERATIONAL):
            raise Refused(INVALID)
        answer: Dict[str, str] = {}
        if self._first:
            self._first = False
            if not self.discovery:
                answer["TargetPortalGroupTag"] = str(self._portal.group)
        if stage == _OPERATIONAL and self._chap is not None and not self._proved and not self.discovery:
            raise Refused(AUTHENTICATION)
        for key, value in keys.items():
            if key == "AuthMethod":
                answer[key] = self._choose_method(value)
            elif not key.startswith("CHAP_"):
                said = self.parameters.answer(key, value, self._wishes)
                if said is not None:
                    answer[key] = said
        if stage == _SECURITY and any(key.startswith("CHAP_") for key in keys):
            answer.update(self._prove(keys))
        if stage == _OPERATIONAL and not self._offered:
            self._offered = True
            self.parameters.max_recv = self._wishes.max_recv
            answer["MaxRecvDataSegmentLength"] = str(self._wishes.max_recv)
        return answer

    def _begin(self, header: Header, keys: Dict[str, str]) -> None:
        self.isid = header.lun[:6]
        self.initiator = keys.get("InitiatorName", "")
        if not self.initiator:
            raise Refused(MISSING)
        kind = keys.get("SessionType", "Normal")
        if kind not in ("Normal", "Discovery"):
            raise Refused(SESSION_TYPE)
        self.discovery = kind == "Discovery"
        if not self.discovery:
            if "TargetName" not in keys:
                raise Refused(MISSING)
            if keys["TargetName"] != self._target.iqn:
                raise Refused(NOT_FOUND)
        if header.lun[6:8] != b"\0\0":
            # A second connection of a session: there is only ever one.
            raise Refused(0x0206)
        if self._target.initiators is not None and self.initiator not in self._target.initiators:
            raise Refused(FORBIDDEN)

    def _choose_method(self, value: str) -> str:
        offered = value.split(",")
        wanted = "None" if self._chap is None or self.discovery else "CHAP"
        if wanted not in offered:
            raise Refused(AUTHENTICATION)
        return wanted

    def _prove(self, keys: Dict[str, str]) -> Dict[str, str]:
        chap = self._chap
        if chap is None:
            raise Refused(AUTHENTICATION)
        if "CHAP_A" in keys:
            known: List[str] = [
                text for text in keys["CHAP_A"].split(",") if text.isdigit() and int(text) in ALGORITHMS
            ]
            if not known:
                raise Refused(AUTHENTICATION)
            identifier, challenge, answer = challenge_keys(int(known[0]))
            self._asked = int(known[0]), identifier, challenge
            return answer
        if self._asked is None:
            raise Refused(AUTHENTICATION)
        algorithm, identifier, challenge = self._asked
        # A challenge serves once.
        self._asked = None
        if not check_proof(keys, chap.user, chap.password, algorithm, identifier, challenge):
            raise Refused(AUTHENTICATION)
        self._proved = True
        if "CHAP_C" not in keys:
            return {}
        if not chap.target_user or keys["CHAP_C"] == "0x" + challenge.hex():
            # Our own challenge sent back: answering it would prove for the initiator (RFC 7143, 9.2.1).
            raise Refused(AUTHENTICATION)
        return proof_keys({**keys, "CHAP_A": str(algorithm)}, chap.target_user, chap.target_password, [algorithm])
