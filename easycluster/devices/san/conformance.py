"""Conformance of a target, judged by ``iscsi-test-cu`` of libiscsi.

Its exit status says nothing about the tests, so what it prints is read.  A test that could not try
anything counts as passed there; here it is *skipped*::

    Suite: CompareAndWrite
      Test: Simple ...passed
      Test: Miscompare ...    [FAILED] COMPAREANDWRITE successful but should have failed with MISCOMPARE
    FAILED
        1. test_compareandwrite_miscompare.c:57  - CU_ASSERT_EQUAL(_r,0)
      Test: Unwritten ...    [SKIPPED] COMPAREANDWRITE is not implemented.
    passed
"""

from __future__ import annotations

import difflib
import re
import shutil
import subprocess
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from easycluster.devices.iscsi.errors import IscsiError, LoginRefused
from easycluster.devices.iscsi.logon import discover
from easycluster.errors import Unsupported

__all__ = ["Conformance", "Outcome", "parse_conformance", "run_conformance"]

PROGRAM = "iscsi-test-cu"
# Seconds for a target that has let a suite down to say that it is there.
LOOK = 5.0


class Outcome(NamedTuple):
    """How one test ended.

    Attributes:
        name: Such as ``"CompareAndWrite.Simple"``.
        outcome: ``"passed"``, ``"failed"`` or ``"skipped"``.
        text: What was said, one line each.
    """

    name: str
    outcome: str
    text: Tuple[str, ...]


class Conformance(NamedTuple):
    """How all tests ended.

    Attributes:
        results: In the order that they ran.
        complete: Whether the program came to its summary.
    """

    results: Tuple[Outcome, ...]
    complete: bool

    def named(self, outcome: str) -> List[str]:
        """Names of the tests that ended so."""
        return [result.name for result in self.results if result.outcome == outcome]

    @property
    def passed(self) -> List[str]:
        """Names of the tests that passed."""
        return self.named("passed")

    @property
    def failed(self) -> List[str]:
        """Names of the tests that failed."""
        return self.named("failed")

    @property
    def skipped(self) -> List[str]:
        """Names of the tests that could not try anything."""
        return self.named("skipped")

    def __str__(self) -> str:
        text = f"{len(self.passed)} passed, {len(self.failed)} failed, {len(self.skipped)} skipped"
        return text if self.complete else text + ", and the program did not come to its end"


_TEST = re.compile(r"^  Test: (?P<name>\S+) \.\.\.(?P<rest>.*)$")


def parse_conformance(output: str) -> Conformance:
    """Read what ``iscsi-test-cu -v`` printed."""
    results: List[Outcome] = []
    suite, name = "", ""
    lines: List[str] = []
    open_test = False
    for line in output.splitlines():
        if line.startswith("Suite: "):
            suite = line[7:].strip()
            continue
        match = _TEST.match(line)
        if match:
            if open_test:
                # What ended the program in its middle.
                results.append(Outcome(name, "failed", tuple(lines)))
            name, lines, open_test = f"{suite}.{match['name']}", [], True
            line = match["rest"]
        if not open_test:
            continue
        word = line.strip()
        ending = re.match(r"(passed|FAILED)\b", line)
        if ending:
            skipped = any("[SKIPPED]" in said for said in lines)
            outcome = "failed" if ending[1] == "FAILED" else "skipped" if skipped else "passed"
            results.append(Outcome(name, outcome, tuple(lines)))
            open_test = False
        elif word:
            lines.append(word)
    if open_test:
        results.append(Outcome(name, "failed", tuple(lines)))
    return Conformance(tuple(results), "Run Summary:" in output)


def run_conformance(
    urls: Sequence[str], tests: Optional[str] = None, limit: float = 300.0, program: str = ""
) -> Conformance:
    """Have ``iscsi-test-cu`` test a unit; it overwrites what is on it.

    Args:
        urls: One or two addresses of the same unit, ``iscsi://[user%password@]host:port/iqn/lun``.
        tests: Such as ``"SCSI.Write16"`` or ``"iSCSI"``; by default all of both families.
        limit: Seconds for each suite.
        program: Path of the program; by default the one that is found.

    Raises:
        Unsupported: If it is not installed.
        ValueError: If it has no such tests.
    """
    program = program or shutil.which(PROGRAM) or ""
    if not program:
        raise Unsupported("conformance", f"{PROGRAM} is not installed; Debian has it in libiscsi-bin")
    results: List[Outcome] = []
    complete = True
    # Each suite in a process of its own: what one has left in a target would fail those after it.
    for family in [tests] if tests else _suites(program, limit):
        try:
            done = subprocess.run(
                [program, "-d", "-v", "-t", family, *urls],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=limit,
                check=False,
            )
            output = done.stdout
        except subprocess.TimeoutExpired as exc:
            output = exc.stdout or b""
        found = parse_conformance(output.decode("utf-8", "replace"))
        results += found.results
        complete = complete and found.complete
        if not found.complete and not _answers(urls[0]):
            # All that follow would wait as long, for a target that is gone.
            break
    if complete and not results:
        # It says that all is well if there is nothing to do.
        near = difflib.get_close_matches(str(tests), _suites(program, limit), 3)
        advice = f"; there is {' and '.join(near)}" if near else ""
        raise ValueError(f"{PROGRAM} has no tests {tests!r}{advice}; '{PROGRAM} -l' lists all")
    return Conformance(tuple(results), complete)


def _answers(url: str) -> bool:
    """Whether a target still speaks to anybody."""
    portal = url.partition("://")[2].rpartition("@")[2].partition("/")[0]
    try:
        discover(portal, limit=LOOK)
    except LoginRefused:
        return True
    except IscsiError:
        return False
    return True


def _suites(program: str, limit: float) -> List[str]:
    """Names of all suites of the families SCSI and iSCSI."""
    done = subprocess.run([program, "-l"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=limit, check=False)
    parts = (line.split(".") for line in done.stdout.decode("utf-8", "replace").split())
    return list(dict.fromkeys(".".join(part[:2]) for part in parts if part[0] in ("SCSI", "iSCSI") and len(part) == 3))


def compare(tables: Dict[str, Conformance]) -> str:
    """Return a table of several targets side by side: the tests that do not pass everywhere, and the sums."""
    outcomes = {who: {result.name: result.outcome for result in table.results} for who, table in tables.items()}
    names = list(dict.fromkeys(name for rows in outcomes.values() for name in rows))
    width = max(map(len, [*names, "test"]))
    lines = [f"{'test':{width}}  " + "  ".join(f"{who:>8}" for who in tables)]
    for name in names:
        row = [rows.get(name, "-") for rows in outcomes.values()]
        if set(row) != {"passed"}:
            lines.append(f"{name:{width}}  " + "  ".join(f"{cell:>8}" for cell in row))
    for outcome in ("passed", "failed", "skipped"):
        cells = (f"{len(table.named(outcome)):>8}" for table in tables.values())
        lines.append(f"{outcome + ' of ' + str(len(names)):{width}}  " + "  ".join(cells))
    return "\n".join(lines)
