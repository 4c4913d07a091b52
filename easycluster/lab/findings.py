"""What ``easycluster doctor`` finds, as values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

__all__ = ["Diagnosis", "Finding", "Verdict"]

Verdict = Literal["ok", "note", "warn", "fail"]
_ORDER: Final = ("ok", "note", "warn", "fail")


@dataclass(frozen=True)
class Finding:
    """What one check says.

    Attributes:
        check: What was looked at: ``"name"``, ``"reach"``, ``"login"`` ...
        verdict: ``"ok"``; ``"note"`` for what is good to know; ``"warn"`` for what will trouble some tests; ``"fail"``
            for what keeps the host from being used.
        text: What was found.
        fix: What to do about it, one sentence; empty only if nothing is wrong.
    """

    check: str
    verdict: Verdict
    text: str
    fix: str = ""


@dataclass
class Diagnosis:
    """One host.

    Attributes:
        host: Its name.
        findings: In the order in which they were made.
        seconds: How long it took.
        skipped: Whether it is disabled, and was not looked at.
    """

    host: str
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0
    skipped: bool = False

    @property
    def verdict(self) -> Verdict:
        """The worst of all."""
        worst = max((_ORDER.index(one.verdict) for one in self.findings), default=0)
        return "ok" if worst <= 1 else _ORDER[worst]

    def add(self, check: str, verdict: Verdict, text: str, fix: str = "") -> None:
        """Note what a check says."""
        self.findings.append(Finding(check, verdict, text, fix))

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "host": self.host,
            "verdict": "disabled" if self.skipped else self.verdict,
            "seconds": round(self.seconds, 3),
            "findings": [asdict(one) for one in self.findings],
        }
