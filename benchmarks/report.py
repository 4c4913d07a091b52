"""What the rounds say together: medians, the table, and whether the targets are met."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

LABELS = {
    "raw tcp": "raw TCP, 100 bytes",
    "raw pipes": "raw pipes, 100 bytes",
    "raw ssh": "raw bytes through ssh",
    "original tcp": "EasyCluster 0.22.3, TCP",
    "original spawned": "EasyCluster 0.22.3, spawned",
    "original ssh": "EasyCluster 0.22.3, ssh",
    "execnet popen": "execnet channel, popen",
    "execnet ssh": "execnet channel, ssh",
    "ours tcp": "this EasyCluster, TCP",
    "ours spawned": "this EasyCluster, spawned",
    "ours ssh": "this EasyCluster, ssh",
}

# Times of a raw TCP ping-pong in the same round.
MOST_TCP = 2.2
MOST_SPAWNED = 1.6


@dataclass(frozen=True)
class Row:
    """One peer over all rounds; microseconds.

    Attributes:
        median: Median over the rounds of each round's median call.
        p99: The same of the 99th percentile.
        raw: The same of the raw TCP ping-pong beside it.
        ratio: Median over the rounds of call by ping-pong.
        spread: The lowest and highest ratio of a round.
        error: Why there are no figures, ``""`` if there are.
    """

    peer: str
    median: float = 0.0
    p99: float = 0.0
    raw: float = 0.0
    ratio: float = 0.0
    spread: tuple[float, float] = (0.0, 0.0)
    error: str = ""


def summarize(peer: str, rounds: list[dict[str, float]], errors: list[str]) -> Row:
    """Fold what the rounds measured of one peer into a row; one failed round makes the whole row an error."""
    if errors or not rounds:
        return Row(peer, error=errors[0] if errors else "not measured")

    def middle(name: str) -> float:
        return statistics.median(one[name] for one in rounds)

    ratios = [one["ratio"] for one in rounds]
    return Row(
        peer, middle("median_us"), middle("p99_us"), middle("raw_us"), middle("ratio"), (min(ratios), max(ratios))
    )


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| synchronous call, one core | median us | p99 us | raw TCP us | x raw | rounds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        label = LABELS[row.peer]
        if row.error:
            lines.append(f"| {label} | - | - | - | - | {row.error.splitlines()[-1][:100]} |")
        else:
            low, high = row.spread
            lines.append(
                f"| {label} | {row.median:.1f} | {row.p99:.1f} | {row.raw:.1f} | {row.ratio:.2f} |"
                f" {low:.2f}-{high:.2f} |"
            )
    return "\n".join(lines)


def targets(rows: list[Row]) -> list[tuple[bool, str]]:
    """Return each target that was measured: whether it is met, and a sentence."""
    by_peer = {row.peer: row for row in rows if not row.error}
    found = []
    for peer, most in (("ours tcp", MOST_TCP), ("ours spawned", MOST_SPAWNED)):
        if peer in by_peer:
            ratio = by_peer[peer].ratio
            found.append((ratio <= most, f"{LABELS[peer]}: {ratio:.2f} times raw TCP, at most {most}"))
    if {"ours ssh", "original ssh"} <= by_peer.keys():
        ours, theirs = by_peer["ours ssh"].ratio, by_peer["original ssh"].ratio
        found.append(
            (ours <= theirs, f"{LABELS['ours ssh']}: {ours:.2f} times raw TCP, at most the {theirs:.2f} of 0.22.3")
        )
    return found


# Of benchmarks.connects: what it is, which figure, and what it may be at most.
COSTS = {
    "import": ("import easycluster, beyond Python's own start", "more_ms", 25.0),
    "connect tcp": ("connect + first call, TCP", "median_ms", 6.0),
    "connect spawned": ("connect + first call, spawned", "", 0.0),
    "connect ssh": ("connect + first call, ssh, beyond `ssh host python3 -c pass`", "more_ms", 40.0),
    "memory tcp": ("memory of each further TCP session", "further_mib", 6.0),
    "memory spawned": ("memory of a spawned session's processes", "", 0.0),
    "memory ssh": ("memory of the far side's processes over ssh", "first_mib", 16.0),
}


def cost_table(costs: dict[str, dict[str, float]]) -> str:
    """Return what sessions cost as Markdown tables; the floor is what was measured beside it in turn."""
    lines = [
        "",
        "| before the first call | median ms | p90 ms | floor ms | beyond it | x floor |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for what, found in costs.items():
        if "median_ms" in found:
            middle, floor = found["median_ms"], found["floor_ms"]
            p90 = f"{found['p90_ms']:.1f}" if "p90_ms" in found else "-"
            name = what if what == "import" else f"{what} + first call"
            lines.append(
                f"| {name} | {middle:.1f} | {p90} | {floor:.1f} | {middle - floor:.1f} | {middle / floor:.2f} |"
            )
    lines += ["", "| far side's memory (PSS) | first session, MiB | each further |", "|---|---:|---:|"]
    for what, found in costs.items():
        if "first_mib" in found:
            lines.append(f"| {what.partition(' ')[2]} | {found['first_mib']:.1f} | {found['further_mib']:.1f} |")
    return "\n".join([*lines, ""])


def cost_targets(costs: dict[str, dict[str, float]]) -> list[tuple[bool, str]]:
    """Return each target of what sessions cost that was measured: whether it is met, and a sentence."""
    reached = []
    for what, (label, figure, most) in COSTS.items():
        if figure and what in costs:
            unit = "ms" if figure.endswith("ms") else "MiB"
            value = costs[what][figure]
            reached.append((value <= most, f"{label}: {value:.1f} {unit}, at most {most:g}"))
    return reached


# Of benchmarks.many: what each way is.
MANY = {
    "nonblocking": "2,000 nonblocking calls, calls/s",
    "batch": "a batch of 2,000 calls, calls/s",
    "threads": "8 threads on one client, calls/s",
}

# Calls a second of a batch over TCP, in the fastest round: what else the machine does only ever makes it slower.
LEAST_BATCH = 600_000


def many_table(costs: dict[str, dict[str, float]]) -> str:
    """Return how many calls a second each way does; the floor is the same work in one process."""
    lines = ["| many calls at once | link | median | fastest | floor | x floor |", "|---|---|---:|---:|---:|---:|"]
    for what, found in costs.items():
        for way, label in MANY.items():
            if way in found:
                lines.append(
                    f"| {label} | {what.partition(' ')[2]} | {found[way]:,.0f} | {found[f'best_{way}']:,.0f} |"
                    f" {found['floor']:,.0f} | {found[f'ratio_{way}']:.1f} |"
                )
    return "\n".join([*lines, ""]) if len(lines) > 2 else ""


def many_targets(costs: dict[str, dict[str, float]]) -> list[tuple[bool, str]]:
    """Return the target of batches, if it was measured: whether it is met, and a sentence."""
    if "many tcp" not in costs:
        return []
    best = costs["many tcp"]["best_batch"]
    return [(best >= LEAST_BATCH, f"a batch over TCP: {best:,.0f} calls/s, at least {LEAST_BATCH:,}")]
