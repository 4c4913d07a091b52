"""Pages of reports: what one holds, and pages of made runs, to be opened in a browser."""

from __future__ import annotations

import json
import random
import re
from typing import TYPE_CHECKING, Any

from pytest_easycluster.reporting import build, rows, targets
from pytest_easycluster.reporting.ending import Ending
from pytest_easycluster.reporting.evidence import Artifact, Event, Evidence, Series
from pytest_easycluster.reporting.records import (
    ERROR,
    FAILED,
    FLAKY,
    PASSED,
    SKIPPED,
    USED,
    WORDS,
    WRONG,
    Attempt,
    Phase,
    Record,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["HOSTILE", "Page", "make_page"]

# What would run if any of it came into the page as anything but text.
HOSTILE = "</script><img src=x onerror=document.title='broken'><script>document.title='broken'</script>&lt;!--"

BEGAN = 1_700_000_000.0

WORDS_OF_CASES = (FAILED, "CRASHED", "LOST", "BUSY", ERROR, FLAKY, SKIPPED)


class Page:
    """What a page holds.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.text = path.read_text(encoding="utf-8")
        blocks = dict(re.findall(r'<script type="application/json" id="(\w+)">(.*?)</script>', self.text, re.DOTALL))
        self.run: dict[str, Any] = json.loads(blocks.pop("run"))
        self.details: list[dict[str, Any]] = [json.loads(blocks[f"d{number}"]) for number in range(len(blocks))]

    @property
    def words(self) -> dict[str, str]:
        """The verdict of each test, by its name."""
        return {row[0].partition("::")[2]: self.run["words"][row[1]] for row in self.run["tests"]}

    def hosts(self, test: str) -> dict[str, str]:
        """The verdict on each host of a test."""
        marks = iter(self._row(test)[4])
        return {self.run["hosts"][host][0]: self.run["words"][next(marks)] for host in marks}

    def message(self, test: str) -> str:
        """The line on what went wrong."""
        found: str = self._row(test)[5]
        return found

    def of(self, test: str) -> dict[str, Any]:
        """The details of a test."""
        return self.details[self.run["tests"].index(self._row(test))]

    def _row(self, test: str) -> list[Any]:
        found: list[Any] = next(row for row in self.run["tests"] if row[0].endswith(f"::{test}"))
        return found


def make_page(path: Path, tests: int, hosts: int, *, ending: Ending | None = None, seed: int = 1) -> int:
    """Write the page of a run that never was: one test in ten is not well, and has telemetry.

    Returns:
        Its size in bytes.
    """
    chance = random.Random(seed)
    names = [f"gpu{number:02}" if number % 4 else f"san{number:02}" for number in range(1, hosts + 1)]
    records = [_record(chance, number, tests, names) for number in range(tests)]
    found = [rows.row(record) for record in records]
    to_file = rows.address_of(str(path.parent / "artifacts"), path)
    counts = {word: sum(row.word == word for row in found) for word in WORDS}
    ending = ending or Ending()
    run = {
        "format": 1,
        "title": f"Lab report: made {HOSTILE}",
        "started": BEGAN,
        "duration": tests * 1400,
        "state": ending.state,
        "state_text": ending.sentence,
        "trouble": ending.broken,
        "counts": {word: count for word, count in counts.items() if count},
        "words": [*WORDS, USED],
        "wrong": list(WRONG),
        "about": [["Command", f"pytest -k '{HOSTILE}'"]],
        "unused": 2,
        "hosts": [[name, name[:3], "", f"ssh {name}.lab", [12.0, 0.4]] for name in names],
        "tests": [rows.packed(row, BEGAN, {name: at for at, name in enumerate(names)}) for row in found],
    }
    details = [build.squeezed(rows.details(record, to_file)) for record in records]
    return targets.write(path, build.page(run, found, details))


def _record(chance: random.Random, number: int, tests: int, names: list[str]) -> Record:
    begin = BEGAN + number * 1.4
    mine = chance.sample(names, min(len(names), chance.choice((1, 1, 1, 2, 3))))
    # The first ones have one of each verdict, so that small pages have them, too.
    word = WORDS_OF_CASES[number] if number < len(WORDS_OF_CASES) else PASSED
    if number >= len(WORDS_OF_CASES) and chance.random() < 0.1:
        word = chance.choice(WORDS_OF_CASES)
    title = f"test_{number}[{'-'.join(mine)}]" if number else f"test_0[{HOSTILE}]"
    attempt = Attempt(_phases(word, begin, mine), _sections(mine), is_over=True, seen=_seen(chance, word, begin, mine))
    attempts = [attempt]
    if word == FLAKY:
        before = [Phase("setup", PASSED, begin, 0.1), Phase("call", FAILED, begin + 0.1, 0.1, "E   too early")]
        attempts.insert(0, Attempt(before, is_over=True))
    again = "" if word == PASSED else f"pytest --ec-limit={mine[0]} {title}"
    properties = [("ec_hosts", " ".join(mine))]
    file = f"tests/test_{number * 8 // tests}.py"
    return Record(f"{file}::{title}", f"gw{number % 2}", attempts, list(mine), again, properties)


def _phases(word: str, begin: float, mine: list[str]) -> list[Phase]:
    is_call = word not in (PASSED, FLAKY, ERROR)
    text = f"def test():\n>   host.compute()\n\nE   ValueError: 3 is not 4 {HOSTILE}\n\ntest_a.py:12: ValueError"
    call = Phase("call", word if is_call else PASSED, begin + 0.2, 1.0, text if is_call else "")
    if word in ("LOST", "CRASHED", "BUSY"):
        call.faults = [(mine[0], "ssh gpu.lab", "no heartbeat for 15 s, in compute()", f"last output: {HOSTILE}")]
    elif is_call:
        call.on = mine[:1]
    down = Phase("teardown", ERROR, begin + 1.2, 0.1, "E   OSError: busy") if word == ERROR else None
    return [
        Phase("setup", PASSED, begin, 0.2),
        call,
        down or Phase("teardown", PASSED, begin + 1.2, 0.1),
    ]


def _sections(mine: list[str]) -> list[tuple[str, str]]:
    return [("Captured stdout call", "hello\n" * 20), (f"Captured remote stdout [{mine[0]}]", f"{HOSTILE}\n" * 3)]


def _seen(chance: random.Random, word: str, begin: float, mine: list[str]) -> Evidence:
    events = []
    for number in range(chance.randint(10, 40)):
        kind = chance.choices(("call", "log", "output", "kernel"), (5, 3, 3, 0.3))[0]
        level = chance.choice((None, "INFO", "WARNING", "ERROR")) if kind == "log" else None
        text = f"{kind} number {number} {HOSTILE if number == 3 else ''}"
        length = chance.random() * 0.1 if kind == "call" else None
        events.append(Event(begin + 0.2 + chance.random(), chance.choice(mine), kind, length, text, level))
    series = []
    for host in mine if word not in (PASSED, SKIPPED) else ():
        for metric, unit in (("cpu", "%"), ("memory", "B"), ("temperature", "C")):
            value, points = 50.0, []
            for second in range(60):
                value = max(0.0, value + chance.gauss(0, 5))
                points.append((begin - 30 + second * 0.6, value))
            series.append(Series(host, metric, unit, points))
    files = [Artifact(mine[0], "dmesg.txt", f"{mine[0]}/dmesg.txt", 1234, "failure")] if word != PASSED else []
    about = {host: (host[:3], "") for host in mine}
    return Evidence(about, sorted(events), series, dict.fromkeys(mine, (0.012, 0.0004)), files)
