"""The figures of a run as JSON: kept, merged measure by measure, and read again for tables and pictures."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.measures import MEASURES
from benchmarks.peers import ENTRIES
from benchmarks.runner import Surroundings

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.runner import Record

FORMAT = 1


class OtherMachine(Exception):
    """Figures of two machines must not stand in one table."""


class Results:
    """Figures by measure, peer and round.

    Args:
        data: What a file had.
    """

    def __init__(self, data: dict[str, Any] | None = None) -> None:
        self.data: dict[str, Any] = data or {
            "format": FORMAT,
            "machine": {},
            "versions": {},
            "absent": {},
            "measures": {},
        }

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read a file.

        Raises:
            ValueError: If it is not one of ours.
        """
        data = json.loads(path.read_text())
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"{path} does not hold figures of this command; give another file")
        return cls(data)

    def write(self, path: Path) -> None:
        """Write a file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(self.data, indent=1) + "\n")
        new.replace(path)

    def on(self, about: dict[str, str], versions: dict[str, str]) -> None:
        """Say on which machine the next figures are measured.

        Raises:
            OtherMachine: If there are figures of another.
        """
        here = self.data["machine"]
        same = ("processor", "cores", "python")
        if self.data["measures"] and any(here.get(name) != about.get(name) for name in same):
            raise OtherMachine(f"these figures are of {here.get('processor')}, {here.get('python')}; give another file")
        self.data["machine"] = about
        self.data["versions"].update(versions)

    def put(
        self, measure: str, records: dict[str, Record], around: Surroundings, took: float, options: dict[str, Any]
    ) -> None:
        """Take the figures of a measure, in the place of older ones of the same peers."""
        known = self.data["measures"].setdefault(measure, {"peers": {}})
        known["peers"].update({name: asdict(record) for name, record in records.items()})
        known.update(
            around=asdict(around), took_s=round(took, 1), options=options, when=time.strftime("%Y-%m-%d %H:%M")
        )

    def around(self, measure: str) -> Surroundings:
        """Return what else the machine did."""
        return Surroundings(**self.data["measures"][measure]["around"])

    @property
    def measures(self) -> list[str]:
        """Which measures there are, in the order of the table."""
        return [name for name in MEASURES if name in self.data["measures"]]

    def peers(self, measure: str) -> list[str]:
        """Which peers a measure was taken of, in the order of the table."""
        found = self.data["measures"].get(measure, {"peers": {}})["peers"]
        return [name for name in ENTRIES if name in found]

    def rounds(self, measure: str, peer: str, figure: str) -> list[float]:
        """Return a figure of each round."""
        record = self.data["measures"].get(measure, {"peers": {}})["peers"].get(peer, {"rounds": []})
        return [one[figure] for one in record["rounds"] if figure in one]

    def get(self, measure: str, peer: str, figure: str) -> float | None:
        """Return the median of a figure over the rounds, None if there is none."""
        found = self.rounds(measure, peer, figure)
        return statistics.median(found) if found else None

    def ratio(self, measure: str, peer: str, other: str, figure: str) -> float | None:
        """Return the median, over the rounds, of one peer's figure by another's of the same round."""
        pairs = zip(self.rounds(measure, peer, figure), self.rounds(measure, other, figure), strict=False)
        found = [mine / theirs for mine, theirs in pairs if theirs]
        return statistics.median(found) if found else None

    def why_not(self, measure: str, peer: str, figure: str) -> str:
        """Return why a peer has no such figure, "" if nobody said."""
        if peer in self.data["absent"]:
            return str(self.data["absent"][peer])
        record = self.data["measures"].get(measure, {"peers": {}})["peers"].get(peer, {})
        for kind in ("failed", "cannot"):
            for part, reason in record.get(kind, {}).items():
                if not part or figure.startswith(part + "_"):
                    return str(reason)
        return ""

    def missing(self) -> list[str]:
        """Return what was asked for and neither measured nor explained, and of our own what failed: both are errors."""
        found = []
        for measure in self.measures:
            for peer in self.peers(measure):
                record = self.data["measures"][measure]["peers"][peer]
                for part in MEASURES[measure].parts:
                    has = record["rounds"] and all(
                        any(name.startswith(part + "_") for name in one) for one in record["rounds"]
                    )
                    reason = record["failed"].get(part) or record["failed"].get("")
                    if reason and ENTRIES[peer].ours:
                        found.append(f"{measure}, {peer}, {part}: {reason}")
                    elif not (has or reason or part in record["cannot"]):
                        found.append(f"{measure}, {peer}, {part}: no figure and no reason")
        return found
