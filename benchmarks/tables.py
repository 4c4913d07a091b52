"""The figures as Markdown tables; what a peer cannot do stands below them, with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.goals import judged
from benchmarks.measures import MEASURES
from benchmarks.peers import ENTRIES
from benchmarks.pictures import HELD

if TYPE_CHECKING:
    from benchmarks.results import Results


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        head: What stands above it.
        figure: What stands in it.
        digits: Behind the point.
        spread: Whether the lowest and highest round stand behind the median.
        share: Figure that says which share of the work was done; less than all is marked.
        scale: What the figure is multiplied by.
    """

    head: str
    figure: str
    digits: int = 1
    spread: bool = False
    share: str = ""
    scale: float = 1.0


@dataclass(frozen=True)
class Table:
    """A table of one measure; sorted by its first column."""

    title: str
    measure: str
    columns: tuple[Column, ...]
    note: str = ""
    least: bool = False


TABLES = (
    Table(
        "Synchronous call",
        "calls",
        (
            Column("one core, x raw", "one_ratio", 2, spread=True),
            Column("us", "one_median_us"),
            Column("p99 us", "one_p99_us"),
            Column("two cores, x raw", "two_ratio", 2),
            Column("us", "two_median_us"),
            Column("attribute, x raw", "attribute_ratio", 2),
        ),
        "`x raw` is by a raw TCP ping-pong of 100 bytes, in turn with the calls.",
    ),
    Table(
        "Many calls, calls/s",
        "many",
        (
            Column("2,000 nonblocking", "nonblocking_rate", 0, spread=True),
            Column("a batch of 2,000", "batch_rate", 0),
            Column("8 threads, one session", "shared_rate", 0),
            Column("8 threads, 8 connections", "own_rate", 0),
            Column("floor in one process", "floor_rate", 0),
        ),
        least=True,
    ),
    Table(
        "Where a synchronous call goes, x raw",
        "floors",
        (
            Column("bytes of our length", "bytes_ratio", 2),
            Column("and pickles", "pickle_ratio", 2),
            Column("and tags", "tags_ratio", 2),
            Column("and frames", "frames_ratio", 2),
            Column("our client", "client_ratio", 2, spread=True),
            Column("us", "client_median_us"),
        ),
        "Each step is a loop on either side that does what the one before does and one thing more. What our client"
        " adds is some thirty small steps for signals, threads, cancels, deadlines, references and callbacks, see"
        " [benchmarks.md](benchmarks.md#what-a-synchronous-call-is-made-of).",
    ),
    Table(
        "Below 8 threads, calls/s",
        "floors",
        (
            Column("taking turns", "turns_rate", 0),
            Column("a link each, pickles", "ownpickle_rate", 0),
            Column("a link each, pickles and tags", "owntags_rate", 0),
        ),
        "No library: what eight threads of one Python do at most. Taking turns is a lock each and nothing sent.",
    ),
    Table(
        "64 MiB, MB/s",
        "bulk",
        (
            Column("bytes there", "send_bytes_mbs", 0, spread=True),
            Column("bytes back", "fetch_bytes_mbs", 0),
            Column("numpy there", "send_array_mbs", 0),
            Column("numpy back", "fetch_array_mbs", 0),
            Column("MiB", "send_bytes_mib", 0),
            Column("peak there: near", "send_bytes_near_peak", 2),
            Column("far", "send_bytes_far_peak", 2),
            Column("peak back: near", "fetch_bytes_near_peak", 2),
            Column("far", "fetch_bytes_far_peak", 2),
        ),
        "A peak of memory is by the size of the value: 1.0 is the value alone. Slow peers were given less than 64 MiB.",
        least=True,
    ),
    Table(
        "Values of many objects, ms",
        "values",
        (
            Column("million ints there", "send_ints_ms", share="send_ints_share"),
            Column("back", "fetch_ints_ms", share="fetch_ints_share"),
            Column("100,000 records there", "send_records_ms", share="send_records_share"),
            Column("back", "fetch_records_ms", share="fetch_records_share"),
            Column("10,000 objects there", "send_objects_ms", share="send_objects_share"),
            Column("back", "fetch_objects_ms", share="fetch_objects_share"),
        ),
        "A star: only a tenth or a hundredth was moved, and the time is reckoned from that.",
    ),
    Table(
        "Connect and first call, ms",
        "connect",
        (
            Column("median", "cold_ms"),
            Column("p90", "cold_p90_ms"),
            Column("floor beside it", "cold_floor_ms"),
            Column("beyond it", "cold_more_ms"),
            Column("with an ssh master", "master_ms"),
            Column("floor beside it", "master_floor_ms"),
            Column("times", "cold_count", 0),
        ),
        "The floor is the start of a bare Python; over ssh, `ssh host python3 -c pass`.",
    ),
    Table(
        "One call to 8 hosts, gathered, ms",
        "gathered",
        (Column("median", "gathered_ms", 2, spread=True), Column("p99", "gathered_p99_ms", 2)),
    ),
    Table(
        "Ssh hosts brought up at once, ms",
        "up",
        (
            *(Column(str(count), f"up{count}_ms", 0) for count in (1, 2, 4, 8, 16, 32)),
            Column("cores busy at 32, %", "up32_busy", 0, scale=100),
        ),
        "`raw bytes through ssh` is plain `ssh host python3 -c pass`, as many at once. Where the cores are busy"
        " throughout, processor time is what bounds it, and no library can be better than that row.",
    ),
    Table(
        "Memory of the far side's Pythons (PSS), MiB",
        "memory",
        (
            Column("first session", "memory_first_mib"),
            Column("each of 8 further", "memory_further_mib", 2),
            Column("ssh on this side", "memory_ssh_mib"),
        ),
        "With the server where there is one, over ssh without ssh and sshd. Pages that are shared count once.",
    ),
    Table(
        "Import, ms",
        "import",
        (Column("beyond Python's own start", "import_more_ms"), Column("Python's own start", "import_floor_ms")),
    ),
    Table(
        "A pytest run without a lab, ms of processor time",
        "plugin",
        (
            Column("for the plugin", "plugin_more_ms"),
            Column("with it", "plugin_ms", 0),
            Column("without", "plugin_floor_ms", 0),
            Column("more, installed from a wheel", "plugin_listed_ms"),
        ),
        "From a wheel, pytest reads the list of all files of the distribution, as of every one that has a plugin.",
    ),
    Table(
        "A file of 64 MiB over ssh, MB/s",
        "files",
        (
            Column("put", "put_mbs", 0),
            Column("scp", "put_scp_mbs", 0),
            Column("share", "put_share", 2),
            Column("get", "get_mbs", 0),
            Column("scp", "get_scp_mbs", 0),
            Column("share", "get_share", 2),
        ),
        "scp goes through a connection that stands already, as ours does.",
    ),
    Table(
        "A million lines of far-side output",
        "output",
        (Column("lines/s", "output_rate", 0),),
        "`raw pipes` is a child whose output is read from a pipe.",
        least=True,
    ),
    Table(
        "A stream of 100,000 items of a generator",
        "stream",
        (Column("items/s", "stream_rate", 0), Column("items", "stream_items", 0)),
        least=True,
    ),
    Table(
        "Bytes of growing size from the far side, us",
        "sizes",
        tuple(
            Column(name, f"size{size}_us", 0)
            for name, size in (
                ("100 B", 100),
                ("1 kB", 1000),
                ("10 kB", 10_000),
                ("100 kB", 100_000),
                ("1 MB", 1_000_000),
                ("10 MB", 10_000_000),
                ("64 MiB", 64 << 20),
            )
        ),
    ),
    Table(
        "Threads that call at once, calls/s",
        "threads",
        tuple(Column(f"{count}", f"threads{count}_rate", 0) for count in (1, 2, 4, 8, 16, 32)),
        "On one session; where threads cannot share one, each has its own.",
        least=True,
    ),
    *(
        Table(
            f"Sessions held by one controller: {what}",
            "held",
            tuple(Column(f"{count}", f"held{count}_{figure}", digits) for count in HELD),
        )
        for what, figure, digits in (
            ("to open each, ms", "open_ms", 1),
            ("a call on one of them, us", "call_us", 0),
            ("a call to all, us for each", "all_us", 0),
            ("memory here for each, KiB", "near_kib", 0),
            ("memory there for each (PSS), MiB", "far_mib", 1),
            ("descriptors here for each", "descriptors", 1),
        )
    ),
)


def number(value: float, digits: int) -> str:
    """Return a number as tables show it."""
    return f"{value:,.{digits if abs(value) < 100 else 0}f}"


def cell(results: Results, measure: str, peer: str, column: Column) -> str:
    """Return what stands in a cell."""
    rounds = results.rounds(measure, peer, column.figure)
    value = results.get(measure, peer, column.figure)
    if value is None:
        return "-"
    text = number(value * column.scale, column.digits)
    if column.share and (results.get(measure, peer, column.share) or 1.0) < 1.0:
        text += "*"
    if column.spread and len(rounds) > 1:
        low, high = (number(each * column.scale, column.digits) for each in (min(rounds), max(rounds)))
        text += f" ({low}-{high})"
    return text


def with_figures(results: Results, table: Table) -> tuple[Column, ...]:
    """Return the columns in which anything stands, or for which somebody says why nothing does."""
    peers = results.peers(table.measure)
    return tuple(
        column
        for column in table.columns
        if any(
            results.get(table.measure, peer, column.figure) is not None
            or results.why_not(table.measure, peer, column.figure)
            for peer in peers
        )
    )


def rendered(results: Results, table: Table) -> str:
    """Return a table as Markdown, with what is missing from it and why, "" if nobody was measured."""
    columns = with_figures(results, table)
    peers = results.peers(table.measure)
    if not any(results.get(table.measure, peer, column.figure) is not None for peer in peers for column in columns):
        return ""

    first = columns[0].figure

    def place(peer: str) -> float:
        value = results.get(table.measure, peer, first)
        return float("inf") if value is None else -value if table.least else value

    lines = [
        f"| | {' | '.join(column.head for column in columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    reasons: dict[tuple[str, str], list[str]] = {}
    for peer in sorted(peers, key=place):
        cells = [cell(results, table.measure, peer, column) for column in columns]
        label = ENTRIES[peer].label
        if any(text != "-" for text in cells):
            lines.append(f"| {f'**{label}**' if ENTRIES[peer].ours else label} | {' | '.join(cells)} |")
        empty: dict[str, list[str]] = {}
        for column, text in zip(columns, cells, strict=True):
            why = results.why_not(table.measure, peer, column.figure) if text == "-" else ""
            if why and column.head not in empty.setdefault(why, []):
                empty[why].append(column.head)
        for why, heads in empty.items():
            what = "everything" if all(text == "-" for text in cells) else ", ".join(heads)
            reasons.setdefault((what, why), []).append(label)
    for peer, why in sorted(results.data["absent"].items()):
        if peer not in peers and MEASURES[table.measure].asks(ENTRIES[peer]):
            reasons.setdefault(("everything", why), []).append(ENTRIES[peer].label)
    if table.note:
        lines += ["", table.note]
    if reasons:
        lines += ["", "Not in the table:", ""]
        lines += [f"- {what}: {why} ({'; '.join(labels)})" for (what, why), labels in reasons.items()]
    return "\n".join(lines)


def goal_table(results: Results) -> str:
    """Return the goals as Markdown, each with what was reached."""
    lines = ["| measure | goal | reached | |", "|---|---:|---:|---|"]
    for each, value, met in judged(results):
        sign = ">=" if each.least else "<="
        wanted = f"{sign} {number(each.limit, 2 if each.limit % 1 else 0)} {each.unit}"
        if value is None:
            reached, word = "-", f"not measured: {results.why_not(*each.where) or 'not asked for'}"
        else:
            reached, word = number(value, 2 if value < 10 else 1), "met" if met else "**not met**"
        lines.append(f"| {each.what} | {wanted} | {reached} | {word} |")
    return "\n".join(lines)


def noise(results: Results) -> list[str]:
    """Return what is not to be trusted, and why."""
    found = []
    for measure in results.measures:
        reason = results.around(measure).noise()
        if reason:
            found.append(f"{MEASURES[measure].title}: {reason}")
    return found


def everything(results: Results) -> str:
    """Return all tables as text for a terminal."""
    parts = []
    for table in TABLES:
        text = rendered(results, table)
        if text:
            parts.append(f"## {table.title}\n\n{text}\n")
    parts.append(f"## Goals\n\n{goal_table(results)}\n")
    return "\n".join(parts)
