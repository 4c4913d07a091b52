"""What is kept of a test: its attempts and their phases, who had which host, and the verdict in one word."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pytest_easycluster.report import GIVEN
from pytest_easycluster.reporting import evidence
from pytest_easycluster.verdicts import ATTRIBUTE as VERDICT
from pytest_easycluster.verdicts import BUSY, CRASHED, LOST

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

# Names of the hosts that a failure was raised on, as they hang on a report.
ON: Final = "ec_on"

PASSED: Final = "PASSED"
FAILED: Final = "FAILED"
ERROR: Final = "ERROR"
SKIPPED: Final = "SKIPPED"
XFAILED: Final = "XFAILED"
XPASSED: Final = "XPASSED"
FLAKY: Final = "FLAKY"
CUT_OFF: Final = "CUT OFF"
NOT_RUN: Final = "NOT RUN"

# The worst first: this is the order in which people are shown them.
WORDS: Final = (FAILED, CRASHED, ERROR, LOST, BUSY, CUT_OFF, FLAKY, XPASSED, XFAILED, SKIPPED, NOT_RUN, PASSED)
# Those that somebody has to look at.
WRONG: Final = (FAILED, CRASHED, ERROR, LOST, BUSY, CUT_OFF)
# A host that a test used while another one was at fault.
USED: Final = "USED"

# Characters of one section of output, and of all of a test's.
LONGEST_SECTION: Final = 100_000
LONGEST_PASSED: Final = 8_000
MOST_TEXT: Final = 400_000


@dataclass
class Phase:
    """One phase of an attempt.

    Attributes:
        when: ``setup``, ``call``, ``teardown``, or ``collect``.
        word: Its verdict.
        start: Seconds since 1970.
        duration: Seconds.
        text: The traceback, or the reason of a skip.
        faults: Of a verdict about hosts: host, address, what, details.
        on: Hosts that the failure was raised on.
    """

    when: str
    word: str
    start: float
    duration: float
    text: str = ""
    faults: list[tuple[str, str, str, str]] = field(default_factory=list)
    on: list[str] = field(default_factory=list)


@dataclass
class Attempt:
    """One run of a test, of several if it is repeated."""

    phases: list[Phase] = field(default_factory=list)
    sections: list[tuple[str, str]] = field(default_factory=list)
    subtests: list[Phase] = field(default_factory=list)
    seen: evidence.Evidence | None = None
    # Whether its last phase came; and whether it is run again because of one, whose teardown may yet come.
    is_over: bool = False
    is_repeated: bool = False

    @property
    def word(self) -> str:
        """The verdict of the first phase that has more to say than that it passed."""
        found = [phase.word for phase in self.phases if phase.word != PASSED]
        if found:
            return found[0]
        return PASSED if self.is_over else CUT_OFF

    @property
    def bad(self) -> Phase | None:
        """The phase that the verdict is about."""
        return next((phase for phase in self.phases if phase.word != PASSED), None)


@dataclass
class Record:
    """A test.

    Attributes:
        test: Its node id.
        worker: Of pytest-xdist, ``""`` without.
        attempts: At least one for all that has begun.
        given: Hosts that its fixtures gave it.
        again: The command that repeats it on the same hosts.
        twin: What a repetition on another host has shown.
        properties: As JUnit has them.
    """

    test: str
    worker: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    again: str = ""
    twin: str = ""
    properties: list[tuple[str, str]] = field(default_factory=list)

    @property
    def word(self) -> str:
        """The verdict in one word; see :data:`WORDS`."""
        if not self.attempts:
            return NOT_RUN
        last = self.attempts[-1].word
        return FLAKY if last == PASSED and len(self.attempts) > 1 else last

    @property
    def start(self) -> float:
        """When it began; 0 if it did not."""
        return next((phase.start for one in self.attempts for phase in one.phases), 0.0)

    @property
    def duration(self) -> float:
        """Seconds from its beginning to its end, the time between attempts included."""
        ends = [phase.start + phase.duration for one in self.attempts for phase in one.phases]
        return max(0.0, max(ends) - self.start) if ends else 0.0

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return bool(self.attempts) and self.attempts[-1].is_over and not self.attempts[-1].is_repeated

    @property
    def seen(self) -> evidence.Evidence:
        """What was seen in the last attempt that saw anything."""
        found = [one.seen for one in self.attempts if one.seen is not None]
        return found[-1] if found else evidence.Evidence()

    @property
    def message(self) -> str:
        """One line on what went wrong; of a test that passed at last, what went wrong before."""
        for attempt in reversed(self.attempts):
            bad = attempt.bad
            if bad is not None:
                return f"{first_line(bad)} ({self.twin})" if self.twin else first_line(bad)
        return ""

    def hosts(self) -> dict[str, str]:
        """Every host that had a part in the test, with the verdict of the test on it."""
        last = self.attempts[-1] if self.attempts else Attempt()
        bad = last.bad
        faults = [fault[0] for fault in bad.faults] if bad is not None else []
        at_fault = faults or (bad.on if bad is not None else [])
        names = dict.fromkeys([*self.given, *self.seen.hosts, *at_fault])
        names.pop("", None)
        word = self.word
        return {name: word if not at_fault or name in at_fault else USED for name in names}

    def add(self, report: pytest.TestReport, mask: Callable[[str], str]) -> None:
        """Take the report of one phase."""
        last = self.attempts[-1] if self.attempts else None
        if last is None or last.is_over or (last.is_repeated and report.when == "setup"):
            self.attempts.append(Attempt())
        attempt = self.attempts[-1]
        phase = _phase(report, mask)
        if hasattr(report, "context"):
            phase.when = _described(report)
            attempt.subtests.append(phase)
            return
        bad = sum(one.word == FAILED for one in attempt.subtests)
        if report.when == "call" and phase.word == PASSED and bad:
            # pytest says so later, when it is asked for the letter of the test.
            phase.word, phase.text = FAILED, f"contains {bad} failed subtest{'s' * (bad != 1)}"
        attempt.phases.append(phase)
        for name, text in report.sections:
            cleaned = evidence.readable(mask(text))
            section = evidence.readable(name), cleaned
            if cleaned and section not in attempt.sections:
                attempt.sections.append(section)
        given = getattr(report, evidence.ATTRIBUTE, None)
        if given is not None:
            attempt.seen = evidence.read(given, mask)
        self._note(report, mask)
        attempt.is_repeated = attempt.is_repeated or str(report.outcome) == "rerun"
        # What tells of a dead worker has no phase.
        attempt.is_over = str(report.when) in ("teardown", "???")

    def _note(self, report: pytest.TestReport, mask: Callable[[str], str]) -> None:
        """Take what does not belong to a phase."""
        for name in getattr(report, GIVEN, ()):
            if name not in self.given:
                self.given.append(name)
        self.again = getattr(report, "ec_again", "") or self.again
        self.twin = evidence.readable(mask(str(getattr(report, "ec_twin", "") or self.twin)))
        self.properties = [(str(name), mask(str(value))) for name, value in report.user_properties]
        for name, value in self.properties:
            if name.startswith("ec_hosts["):
                self.given += [host for host in value.split() if host not in self.given]


def kept_sections(attempt: Attempt) -> list[tuple[str, str]]:
    """The output of an attempt in the length that a page can bear; less of one in which all was well."""
    longest = LONGEST_PASSED if attempt.word in (PASSED, SKIPPED, XFAILED) else LONGEST_SECTION
    left = MOST_TEXT
    kept = []
    for name, text in attempt.sections:
        part = evidence.shortened(text, max(500, min(longest, left)))
        left -= len(part)
        kept.append((name, part))
    return kept


def _phase(report: pytest.TestReport, mask: Callable[[str], str]) -> Phase:
    told: dict[str, Any] | None = getattr(report, VERDICT, None)
    word = told["word"] if told is not None else _word(report)
    duration = float(getattr(report, "duration", 0.0) or 0.0)
    start = float(getattr(report, "start", 0.0) or 0.0)
    when = str(report.when).replace("???", "call")
    phase = Phase(when, word, start, duration, _text(report, mask))
    if told is not None:
        phase.faults = [
            (fault["host"], fault["address"], evidence.readable(fault["what"]), evidence.readable(fault["details"]))
            for fault in told["faults"]
        ]
    phase.on = [str(host) for host in getattr(report, ON, ())]
    return phase


def _word(report: pytest.TestReport) -> str:
    if report.outcome == "skipped":
        return XFAILED if hasattr(report, "wasxfail") else SKIPPED
    if report.outcome == "passed":
        return XPASSED if hasattr(report, "wasxfail") else PASSED
    # Also "rerun", whose attempt has failed, and "???" of a worker of pytest-xdist that died.
    return ERROR if report.when in ("setup", "teardown") else FAILED


def _text(report: pytest.TestReport, mask: Callable[[str], str]) -> str:
    shown = report.longrepr
    if shown is None:
        reason = getattr(report, "wasxfail", "")
        return evidence.readable(mask(str(reason)))
    # A skip is a file, a line and a reason.
    text = str(shown[2]) if isinstance(shown, tuple) else str(shown)
    reason = getattr(report, "wasxfail", "")
    text = f"{reason}\n{text}" if reason else text
    return evidence.shortened(evidence.readable(mask(text)), LONGEST_SECTION)


def _described(report: pytest.TestReport) -> str:
    """What a subtest calls itself."""
    context = getattr(report, "context", None)
    words = [str(getattr(context, "msg", "") or "")]
    words += [f"{key}={value}" for key, value in dict(getattr(context, "kwargs", None) or {}).items()]
    return evidence.readable(" ".join(word for word in words if word)) or "subtest"


def first_line(phase: Phase) -> str:
    """The line of a failure that says most."""
    if phase.faults:
        host, _address, what, _details = phase.faults[0]
        more = f" (and {len(phase.faults) - 1} more)" if len(phase.faults) > 1 else ""
        return evidence.shortened(f"{host}: {what}{more}".replace("\n", " "), 300)
    lines = [line for line in phase.text.splitlines() if line.strip()]
    told = [line[1:].strip() for line in lines if line.startswith("E ")]
    found = next((line for line in told if line), lines[-1].strip() if lines else "")
    if phase.word in (SKIPPED, XFAILED, XPASSED) and lines:
        found = lines[0].strip()
    return found[:300]
