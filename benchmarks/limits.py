"""What stops us at goals that are missed: a figure of the same results beside each, and what it means."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.goals import Goal, judged, quotient
from benchmarks.results import Results

Figure = tuple[str, str, str] | Callable[[Results], "float | None"]


def of(text: str, **wanted: Figure) -> Callable[[Results], str | None]:
    """Return what fills figures into a text, None where one was not measured."""

    def reason(results: Results) -> str | None:
        found = {name: each(results) if callable(each) else results.get(*each) for name, each in wanted.items()}
        return None if None in found.values() else text.format(**found)

    return reason


def times(measure: str, peer: str, one: str, other: str) -> Callable[[Results], float | None]:
    """One figure of a peer by another."""
    return lambda results: quotient(results.get(measure, peer, one), results.get(measure, peer, other))


_CALL = of(
    "A loop that only pickles, tags and frames takes {bare:.2f} x raw, {tags:.2f} without frames, {pickle:.2f}"
    " without tags either. The rest is what a client does for signals, threads, cancels, deadlines, references and"
    " callbacks, in some thirty steps that take a percent or two each; with all of them left out, our client took"
    " 1.73 ([benchmarks.md](benchmarks.md#what-a-synchronous-call-is-made-of)).",
    bare=("floors", "ours tcp", "frames_ratio"),
    tags=("floors", "ours tcp", "tags_ratio"),
    pickle=("floors", "ours tcp", "pickle_ratio"),
)
_THREADS = of(
    "Eight threads of one Python with a link each that do nothing but pickle and tag make {tags:,.0f} calls/s, and"
    " {plain:,.0f} without tags: each call puts its thread to sleep and wakes it, and Python's one lock is taken"
    " and given back. What a client does for a call comes on top of that, on the same core.",
    tags=("floors", "ours tcp", "owntags_rate"),
    plain=("floors", "ours tcp", "ownpickle_rate"),
)

# By how a goal begins: why it is missed, if it is.
REASONS = {
    "synchronous call, TCP with HMAC, one core": _CALL,
    "the same, `ThreadedClient`": _CALL,
    "attribute read through a proxy, TCP": _CALL,
    "synchronous call, TCP with HMAC, two cores": of(
        "Plain pickle and a socket, without tags, take {plain:.2f} x raw there. Both wake a core that sleeps,"
        " which is most of a call and no part of the software; ours has the client's own time on each side beyond"
        " that.",
        plain=("calls", "plain pickle", "two_ratio"),
    ),
    "synchronous call, spawned, two cores": of(
        "Bytes through bare pipes take {pipes:.2f} x raw there: the cores must be woken for them, too. Half a raw"
        " ping-pong is what two processes take that the system puts on one core, as it may if nobody pins them.",
        pipes=("calls", "raw pipes", "two_ratio"),
    ),
    "8 threads on one connection, TCP": _THREADS,
    "8 threads with links of their own": _THREADS,
    "connect and first call, TCP": of(
        "The start of a bare Python took {floor:.1f} ms in the same round.",
        floor=("connect", "ours tcp", "cold_floor_ms"),
    ),
    "connect and first call, ssh, beyond": of(
        "`ssh host python3 -c pass` took {floor:.0f} ms in the same round.",
        floor=("connect", "ours ssh", "cold_floor_ms"),
    ),
    "32 ssh hosts up and answering": of(
        "Plain `ssh host python3 -c pass`, 32 at once, takes {raw:.1f} times one of them, with the cores busy for"
        " {busy:.0%} of the time: both ends of 32 logins are on this machine's cores.",
        raw=times("up", "raw ssh", "up32_ms", "up1_ms"),
        busy=("up", "raw ssh", "up32_busy"),
    ),
    "far side's memory over ssh": of(
        "A Python that has only imported what a far side needs of the standard library has {bare:.1f} MiB. A"
        " session parts into three processes, so that what must survive the user's code does; three that were"
        " forked and have made one call each have {three:.1f} MiB of their own.",
        bare=("floors", "ours tcp", "memory_bare_mib"),
        three=("floors", "ours tcp", "memory_three_mib"),
    ),
    "memory of each further TCP session": of(
        "Three Pythons that were forked and have made one call each have {three:.1f} MiB of their own: Python"
        " writes into the pages of whatever it looks at.",
        three=("floors", "ours tcp", "memory_three_mib"),
    ),
}


def reason_for(goal: Goal, results: Results) -> str | None:
    """Return what stops us at a goal, None if nothing is known or was measured."""
    for begin, reason in REASONS.items():
        if goal.what.startswith(begin):
            return reason(results)
    return None


def limits(results: Results) -> str:
    """Return why goals are missed, as Markdown; "" if there is nothing to say."""
    said: dict[str, list[str]] = {}
    for goal, _value, met in judged(results):
        if met is False:
            text = reason_for(goal, results)
            if text is not None:
                said.setdefault(text, []).append(goal.what)
    return "\n".join(f"- **{'; '.join(names)}**: {text}" for text, names in said.items())
