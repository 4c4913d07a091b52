"""What we want to reach, each as a number that the command computes from the figures and judges itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.peers import ENTRIES
from benchmarks.results import Results

Value = Callable[[Results], "float | None"]


@dataclass(frozen=True)
class Goal:
    """A goal.

    Attributes:
        what: What is measured.
        value: Its number, None where it was not measured.
        limit: What it may be at most, or shall be at least.
        unit: What stands behind the number.
        least: Whether more is better.
        where: Measure, peer and figure to ask why there is no number.
    """

    what: str
    value: Value
    limit: float
    unit: str
    where: tuple[str, str, str]
    least: bool = False

    def met(self, results: Results) -> bool | None:
        """Whether it is reached, None where it was not measured."""
        value = self.value(results)
        if value is None:
            return None
        return value >= self.limit if self.least else value <= self.limit


def figure(measure: str, peer: str, name: str) -> tuple[Value, tuple[str, str, str]]:
    """A figure as it is."""
    return lambda results: results.get(measure, peer, name), (measure, peer, name)


def by_other(measure: str, peer: str, other: str, name: str) -> tuple[Value, tuple[str, str, str]]:
    """A figure by another peer's of the same round."""
    return lambda results: results.ratio(measure, peer, other, name), (measure, peer, name)


def worst(values: list[tuple[Value, tuple[str, str, str]]], least: bool) -> tuple[Value, tuple[str, str, str]]:
    """The worst of several, none if one is missing."""

    def value(results: Results) -> float | None:
        found = [each(results) for each, _ in values]
        known = [one for one in found if one is not None]
        return (min if least else max)(known) if len(known) == len(found) else None

    return value, values[0][1]


def against_peers(measure: str, peer: str, others: list[str], name: str) -> tuple[Value, tuple[str, str, str]]:
    """A figure by that of the best of others, for figures of which less is better."""

    def value(results: Results) -> float | None:
        found = [results.ratio(measure, peer, other, name) for other in others]
        known = [one for one in found if one is not None]
        return max(known) if known else None

    return value, (measure, peer, name)


def goal(
    what: str, found: tuple[Value, tuple[str, str, str]], limit: float, unit: str = "", least: bool = False
) -> Goal:
    """Make a goal of a value and what it shall be."""
    return Goal(what, found[0], limit, unit, found[1], least)


BULK = ("send_bytes", "fetch_bytes", "send_array", "fetch_array")
VALUES = tuple(f"{way}_{kind}" for kind in ("ints", "records", "objects") for way in ("send", "fetch"))
LIBRARIES = [entry.name for entry in ENTRIES.values() if entry.group not in ("raw", "floor", "ours", "commands")]
SSH_LIBRARIES = ["original ssh", "execnet ssh", "mitogen ssh", "rpyc ssh"]

GOALS = (
    goal("synchronous call, TCP with HMAC, one core", figure("calls", "ours tcp", "one_ratio"), 1.8, "x raw"),
    goal("the same, `ThreadedClient`", figure("calls", "ours threaded", "one_ratio"), 2.0, "x raw"),
    goal("synchronous call, spawned, one core", figure("calls", "ours spawned", "one_ratio"), 1.3, "x raw"),
    goal("synchronous call, TCP with HMAC, two cores", figure("calls", "ours tcp", "two_ratio"), 1.35, "x raw"),
    goal("synchronous call, spawned, two cores", figure("calls", "ours spawned", "two_ratio"), 0.5, "x raw"),
    goal("synchronous call over ssh", by_other("calls", "ours ssh", "raw ssh", "one_ratio"), 1.6, "x raw through ssh"),
    goal(
        "the same, by the fastest other library",
        against_peers("calls", "ours ssh", SSH_LIBRARIES, "one_ratio"),
        1.0,
        "x the other",
    ),
    goal("attribute read through a proxy, TCP", figure("calls", "ours tcp", "attribute_ratio"), 1.9, "x raw"),
    goal(
        "2,000 nonblocking calls, TCP", figure("many", "ours tcp", "nonblocking_rate"), 300_000, "calls/s", least=True
    ),
    goal("a batch of 2,000 calls, TCP", figure("many", "ours tcp", "batch_rate"), 600_000, "calls/s", least=True),
    goal("8 threads on one connection, TCP", figure("many", "ours tcp", "shared_rate"), 45_000, "calls/s", least=True),
    goal("8 threads with links of their own", figure("many", "ours tcp", "own_rate"), 60_000, "calls/s", least=True),
    goal(
        "64 MiB, bytes and numpy, each way, TCP with MAC, the slowest",
        worst([figure("bulk", "ours tcp", f"{part}_mbs") for part in BULK], least=True),
        800,
        "MB/s",
        least=True,
    ),
    goal(
        "their peak of memory on either side, the highest",
        worst([figure("bulk", "ours tcp", f"{part}_{side}_peak") for part in BULK for side in ("near", "far")], False),
        1.3,
        "x the payload",
    ),
    goal(
        "64 MiB over ssh, the slower way",
        worst([by_other("bulk", "ours ssh", "raw ssh", f"{part}_mbs") for part in BULK[:2]], least=True),
        0.85,
        "x raw through ssh",
        least=True,
    ),
    goal(
        "ints, records and objects each way, TCP, the worst",
        worst([by_other("values", "ours tcp", "plain pickle", f"{part}_ms") for part in VALUES], False),
        1.2,
        "x plain pickle",
    ),
    goal(
        "the same by the best other library, the worst",
        worst([against_peers("values", "ours tcp", LIBRARIES, f"{part}_ms") for part in VALUES], False),
        1.0,
        "x the other",
    ),
    goal("connect and first call, TCP", figure("connect", "ours tcp", "cold_ms"), 6, "ms"),
    goal(
        "connect and first call, ssh, beyond `ssh host python3 -c pass`",
        figure("connect", "ours ssh", "cold_more_ms"),
        40,
        "ms",
    ),
    goal("connect and first call, ssh with a master", figure("connect", "ours ssh", "master_ms"), 100, "ms"),
    goal(
        "32 ssh hosts up and answering, by one host",
        (
            lambda results: quotient(results.get("up", "ours ssh", "up32_ms"), results.get("up", "ours ssh", "up1_ms")),
            ("up", "ours ssh", "up32_ms"),
        ),
        5,
        "x one",
    ),
    goal("one call to 8 hosts, gathered, TCP", figure("gathered", "ours tcp", "gathered_ms"), 0.5, "ms"),
    goal("far side's memory over ssh", figure("memory", "ours ssh", "memory_first_mib"), 16, "MiB"),
    goal("memory of each further TCP session", figure("memory", "ours tcp", "memory_further_mib"), 6, "MiB"),
    goal("`import easycluster`", figure("import", "ours tcp", "import_more_ms"), 25, "ms"),
    goal("the plugin in a run without a lab", figure("plugin", "ours tcp", "plugin_more_ms"), 5, "ms"),
    goal("a file put over ssh", figure("files", "ours ssh", "put_share"), 0.8, "x scp", least=True),
    goal("a file got over ssh", figure("files", "ours ssh", "get_share"), 0.8, "x scp", least=True),
)


def quotient(one: float | None, other: float | None) -> float | None:
    """Return one by the other, None if either is."""
    return one / other if one is not None and other else None


def judged(results: Results) -> list[tuple[Goal, float | None, bool | None]]:
    """Return every goal of what was measured, with its number and whether it is reached."""
    return [(each, each.value(results), each.met(results)) for each in GOALS if each.where[0] in results.measures]
