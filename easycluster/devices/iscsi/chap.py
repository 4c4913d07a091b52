"""CHAP (RFC 1994, RFC 7143 section 12.1.3): proof of a secret that does not cross the wire."""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Callable, Dict, NamedTuple, Optional, Sequence, Tuple, Union

from easycluster.devices.iscsi.text import decode_binary, encode_binary

__all__ = ["ALGORITHMS", "Chap", "challenge_keys", "check_proof", "proof", "proof_keys"]

# The IANA registry of PPP authentication algorithms.  Which come first is who asks' choice: MD5, that all know, first,
# because tgt takes the SHA-256 of the registry for SHA-1.
ALGORITHMS: Dict[int, str] = {5: "md5", 7: "sha256", 6: "sha1"}

CHALLENGE_LENGTH = 32


class Chap(NamedTuple):
    """Who proves what to whom.

    Attributes:
        user: Name of the initiator's secret.
        password: The initiator's secret, 12 characters or more as the RFC wants it.
        target_user: Name of the target's secret; ``""`` if the target need not prove itself.
        target_password: The target's secret.
    """

    user: str
    password: str
    target_user: str = ""
    target_password: str = ""

    def __repr__(self) -> str:
        mutual = f", mutual with {self.target_user!r}" if self.target_user else ""
        return f"<Chap {self.user!r}{mutual}>"

    @classmethod
    def of(cls, value: Union[Sequence[str], Chap, None]) -> Optional[Chap]:
        """Return ``value``, a pair, four texts or a Chap, as a Chap."""
        return None if value is None else value if isinstance(value, Chap) else cls(*value)


def _digest(algorithm: int, identifier: int, secret: str, challenge: bytes) -> bytes:
    name = ALGORITHMS[algorithm]
    make: Callable[..., hashlib._Hash] = getattr(hashlib, name)
    text = bytes([identifier]) + secret.encode() + challenge
    try:
        # A Python in FIPS mode refuses MD5 unless told that it is not about secrecy (since 3.9).
        return make(text, usedforsecurity=False).digest()
    except TypeError:
        return make(text).digest()


def challenge_keys(algorithm: int = 0) -> Tuple[int, bytes, Dict[str, str]]:
    """Return a new identifier and challenge, and the keys that send them; CHAP_A too if an algorithm is given."""
    identifier, challenge = os.urandom(1)[0], os.urandom(CHALLENGE_LENGTH)
    keys = {"CHAP_A": str(algorithm)} if algorithm else {}
    return identifier, challenge, {**keys, "CHAP_I": str(identifier), "CHAP_C": encode_binary(challenge)}


def proof(algorithm: int, identifier: int, secret: str, challenge: bytes) -> str:
    """Return CHAP_R, the answer to a challenge."""
    return encode_binary(_digest(algorithm, identifier, secret, challenge))


def proof_keys(keys: Dict[str, str], user: str, password: str, algorithms: Sequence[int]) -> Dict[str, str]:
    """Return the keys that answer the challenge in ``keys``.

    Raises:
        ValueError: If the challenge is not one, or of an algorithm that we did not offer.
    """
    algorithm, identifier = int(keys.get("CHAP_A", "")), int(keys.get("CHAP_I", ""))
    challenge = decode_binary(keys.get("CHAP_C", ""))
    if algorithm not in algorithms:
        raise ValueError(f"CHAP algorithm {algorithm} was not offered")
    return {"CHAP_N": user, "CHAP_R": proof(algorithm, identifier, password, challenge)}


def check_proof(
    keys: Dict[str, str], user: str, password: str, algorithm: int, identifier: int, challenge: bytes
) -> bool:
    """Whether CHAP_N and CHAP_R in ``keys`` prove that the peer knows the password of ``user``."""
    try:
        answer = decode_binary(keys.get("CHAP_R", ""))
    except ValueError:
        return False
    right = hmac.compare_digest(_digest(algorithm, identifier, password, challenge), answer)
    return hmac.compare_digest(keys.get("CHAP_N", "").encode(), user.encode()) and right
