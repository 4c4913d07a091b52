"""Which figures become which picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.goals import GOALS
from benchmarks.peers import ENTRIES
from benchmarks.plot import Bar, Line, bars, lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.results import Results

# A peer that is slower than this, in ping-pongs, makes all others look alike.
SLOWEST = 100

BARS = (
    ("latency", "Synchronous call, one core, by a raw TCP ping-pong (less is better)", "calls", "one_ratio", False),
    ("nonblocking", "2,000 nonblocking calls, calls a second (more is better)", "many", "nonblocking_rate", True),
    ("threads", "8 threads on one session, calls a second (more is better)", "many", "shared_rate", True),
    ("bulk", "64 MiB of bytes to the far side, MB/s (more is better)", "bulk", "send_bytes_mbs", True),
    ("connect", "Connect and first call, ms (less is better)", "connect", "cold_ms", False),
    ("memory", "Memory of a session's far side, MiB (less is better)", "memory", "memory_first_mib", False),
)

UP = (1, 2, 4, 8, 16, 32)
CROWDS = (1, 2, 4, 8, 16, 32)
SIZES = (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 64 << 20)
HELD = (1, 4, 16, 64, 128, 256, 512, 1000)


def limit_of(measure: str, figure: str) -> float | None:
    """Return the goal of a figure over TCP, None if there is none."""
    return next((goal.limit for goal in GOALS if goal.where == (measure, "ours tcp", figure)), None)


def bar_picture(results: Results, title: str, measure: str, figure: str, more: bool) -> str | None:
    """Return bars of everybody who has the figure, the best first."""
    found = []
    for peer in results.peers(measure):
        value = results.get(measure, peer, figure)
        if value is not None and value > 0 and not (figure == "one_ratio" and value > SLOWEST):
            found.append(Bar(ENTRIES[peer].label, value, ENTRIES[peer].ours))
    if not found:
        return None
    found.sort(key=lambda bar: -bar.value if more else bar.value)
    # A rate of calls is judged as such; the goal of 64 MiB is one for all its parts.
    goal = limit_of(measure, figure)
    return bars(title, found, goal, "goal for TCP")


def scaled(results: Results, measure: str, figure: str, steps: tuple[int, ...]) -> Iterator[tuple[str, Line]]:
    """Give a line for each peer of a measure whose parts are steps: peer and line."""
    for peer in results.peers(measure):
        values = ((float(step), results.get(measure, peer, figure.format(step))) for step in steps)
        points = tuple((step, value) for step, value in values if value is not None and value > 0)
        if len(points) > 1:
            yield peer, Line(ENTRIES[peer].label, points, broken=ENTRIES[peer].group in ("raw", "floor"))


def drawn(results: Results) -> dict[str, str]:
    """Return all pictures there are figures for, by name."""
    found: dict[str, str] = {}
    for name, title, measure, figure, more in BARS:
        picture = bar_picture(results, title, measure, figure, more)
        if picture is not None:
            found[name] = picture
    crowds = [line for _, line in scaled(results, "threads", "threads{}_rate", CROWDS)]
    if crowds:
        found["scaling-threads"] = lines("Threads that call at once", crowds, "threads", "calls a second")
    sizes = [
        Line(line.label, tuple((size, size / us) for size, us in line.points), line.broken)
        for _, line in scaled(results, "sizes", "size{}_us", SIZES)
    ]
    if sizes:
        found["scaling-size"] = lines("Bytes from the far side", sizes, "bytes", "MB/s, with the call")
    hosts = [
        Line(f"{line.label}" if peer != "raw ssh" else "plain ssh python3 -c pass", line.points, line.broken)
        for peer, line in scaled(results, "up", "up{}_ms", UP)
    ]
    if hosts:
        found["scaling-hosts"] = lines("Ssh hosts brought up at once", hosts, "hosts", "ms until all have answered")
    held = [line for _, line in scaled(results, "held", "held{}_all_us", HELD)]
    if held:
        found["scaling-sessions"] = lines("A call to all sessions that are held", held, "sessions", "us for each")
    return found
