"""What initiator and target agree on (RFC 7143, section 13): one table for both ends."""

from __future__ import annotations

from typing import Callable, Dict, Optional, Tuple

__all__ = ["Parameters", "Wishes"]


class Wishes:
    """What one side would like.

    Attributes:
        header_digest: Digests of headers: ``"None"``, ``"CRC32C"`` or both, the better first.
        data_digest: The same of data.
        max_recv: Bytes of data in a PDU that this side takes.
        max_burst: Bytes of solicited data at a time.
        first_burst: Bytes of unsolicited data for a command.
        initial_r2t: Whether unsolicited data PDUs are not wanted.
        immediate: Whether a command may carry data.
        max_r2t: Requests for data that one command may have open.
    """

    def __init__(
        self,
        header_digest: str = "None",
        data_digest: str = "None",
        max_recv: int = 1 << 20,
        max_burst: int = 4 << 20,
        first_burst: int = 256 << 10,
        initial_r2t: bool = False,
        immediate: bool = True,
        max_r2t: int = 8,
    ) -> None:
        self.header_digest, self.data_digest = header_digest, data_digest
        self.max_recv, self.max_burst, self.first_burst = max_recv, max_burst, first_burst
        self.initial_r2t, self.immediate, self.max_r2t = initial_r2t, immediate, max_r2t

    def offer(self, discovery: bool = False) -> Dict[str, str]:
        """Return what an initiator says first."""
        offer = {
            "HeaderDigest": self.header_digest,
            "DataDigest": self.data_digest,
            "MaxRecvDataSegmentLength": str(self.max_recv),
            "DefaultTime2Wait": "2",
            "DefaultTime2Retain": "0",
            "ErrorRecoveryLevel": "0",
        }
        if not discovery:
            offer.update(
                {
                    "InitialR2T": _yes(self.initial_r2t),
                    "ImmediateData": _yes(self.immediate),
                    "MaxBurstLength": str(self.max_burst),
                    "FirstBurstLength": str(self.first_burst),
                    "MaxOutstandingR2T": str(self.max_r2t),
                    "MaxConnections": "1",
                    "DataPDUInOrder": "Yes",
                    "DataSequenceInOrder": "Yes",
                }
            )
        return offer


class Parameters:
    """What holds on a connection; before anything is said, the defaults of the RFC.

    Attributes:
        header_digest: Whether headers have digests.
        data_digest: Whether data has.
        max_recv: Bytes of data in a PDU that this side takes.
        max_send: Bytes of data in a PDU that the peer takes.
        max_burst: Bytes of solicited data at a time.
        first_burst: Bytes of unsolicited data for a command.
        initial_r2t: Whether data PDUs wait for a request.
        immediate: Whether a command may carry data.
        max_r2t: Requests for data that one command may have open.
    """

    def __init__(self) -> None:
        self.header_digest = self.data_digest = False
        self.max_recv = self.max_send = 8192
        self.max_burst, self.first_burst = 262144, 65536
        self.initial_r2t = self.immediate = True
        self.max_r2t = 1

    def __repr__(self) -> str:
        return f"<Parameters {', '.join(f'{key}={value}' for key, value in vars(self).items())}>"

    def settle(self, key: str, value: str) -> None:
        """Take the outcome for a key.

        Raises:
            ValueError: If it is not one that the key can have.
        """
        if value in ("Reject", "NotUnderstood", "Irrelevant"):
            return
        if key in _OUTCOMES:
            name, read = _OUTCOMES[key]
            setattr(self, name, read(key, value))

    def answer(self, key: str, value: str, wishes: Wishes) -> Optional[str]:
        """Return what a target says to an initiator's ``key=value``, None if nothing, and take the outcome.

        Raises:
            ValueError: If the value is not one that the key can have.
        """
        if key in DECLARED:
            return None
        if key == "MaxRecvDataSegmentLength":
            self.max_send = _number(key, value)
            return None
        decide = _DECISIONS.get(key)
        if decide is None:
            return "NotUnderstood"
        outcome = decide(key, value, wishes)
        self.settle(key, outcome)
        return outcome


# Said by one side for the other to know.
DECLARED = frozenset(
    (
        *("InitiatorName", "InitiatorAlias", "TargetName", "TargetAlias", "TargetAddress", "SessionType"),
        "TargetPortalGroupTag",
    )
)


def _yes(value: bool) -> str:
    return "Yes" if value else "No"


def _flag(key: str, value: str) -> bool:
    if value not in ("Yes", "No"):
        raise ValueError(f"{key}={value[:80]!r} is neither Yes nor No")
    return value == "Yes"


def _number(key: str, value: str) -> int:
    low, high = _RANGES.get(key, (0, 65535))
    number = int(value, 0)
    if not low <= number <= high:
        raise ValueError(f"{key}={number} is not between {low} and {high}")
    return number


def _digest(key: str, value: str) -> bool:
    if value not in ("None", "CRC32C"):
        raise ValueError(f"{key}={value[:80]!r} is neither None nor CRC32C")
    return value == "CRC32C"


_RANGES = {
    "MaxRecvDataSegmentLength": (512, 0xFFFFFF),
    "MaxBurstLength": (512, 0xFFFFFF),
    "FirstBurstLength": (512, 0xFFFFFF),
    "MaxOutstandingR2T": (1, 65535),
    "MaxConnections": (1, 65535),
    "DefaultTime2Wait": (0, 3600),
    "DefaultTime2Retain": (0, 3600),
    "ErrorRecoveryLevel": (0, 2),
    "iSCSIProtocolLevel": (0, 31),
}

_OUTCOMES: Dict[str, Tuple[str, Callable[[str, str], object]]] = {
    "HeaderDigest": ("header_digest", _digest),
    "DataDigest": ("data_digest", _digest),
    "MaxRecvDataSegmentLength": ("max_send", _number),
    "MaxBurstLength": ("max_burst", _number),
    "FirstBurstLength": ("first_burst", _number),
    "InitialR2T": ("initial_r2t", _flag),
    "ImmediateData": ("immediate", _flag),
    "MaxOutstandingR2T": ("max_r2t", _number),
}


def _choose_digest(key: str, value: str, wishes: Wishes) -> str:
    have = (wishes.header_digest if key == "HeaderDigest" else wishes.data_digest).split(",")
    for offered in value.split(","):
        if offered in have:
            return offered
    return "Reject"


_DECISIONS: Dict[str, Callable[[str, str, Wishes], str]] = {
    "HeaderDigest": _choose_digest,
    "DataDigest": _choose_digest,
    "MaxBurstLength": lambda key, value, wishes: str(min(_number(key, value), wishes.max_burst)),
    "FirstBurstLength": lambda key, value, wishes: str(min(_number(key, value), wishes.first_burst)),
    "MaxOutstandingR2T": lambda key, value, wishes: str(min(_number(key, value), wishes.max_r2t)),
    "InitialR2T": lambda key, value, wishes: _yes(_flag(key, value) or wishes.initial_r2t),
    "ImmediateData": lambda key, value, wishes: _yes(_flag(key, value) and wishes.immediate),
    "MaxConnections": lambda key, value, wishes: str(min(_number(key, value), 1)),
    "DefaultTime2Wait": lambda key, value, wishes: str(max(_number(key, value), 0)),
    "DefaultTime2Retain": lambda key, value, wishes: str(min(_number(key, value), 0)),
    "ErrorRecoveryLevel": lambda key, value, wishes: str(min(_number(key, value), 0)),
    "DataPDUInOrder": lambda key, value, wishes: _yes(_flag(key, value) or True),
    "DataSequenceInOrder": lambda key, value, wishes: _yes(_flag(key, value) or True),
    "iSCSIProtocolLevel": lambda key, value, wishes: str(min(_number(key, value), 1)),
    # RFC 3720 markers: gone since RFC 7143, and old initiators still ask.
    "IFMarker": lambda key, value, wishes: "No",
    "OFMarker": lambda key, value, wishes: "No",
    "IFMarkInt": lambda key, value, wishes: "Irrelevant",
    "OFMarkInt": lambda key, value, wishes: "Irrelevant",
    "TaskReporting": lambda key, value, wishes: "RFC3720" if "RFC3720" in value.split(",") else "Reject",
}
