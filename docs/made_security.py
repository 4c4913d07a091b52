"""The table of limits on the page about security, from the constants that the code goes by."""

from __future__ import annotations

from pathlib import Path

from easycluster.client import monitor
from easycluster.client.endpoint import Options
from easycluster.far import keeper
from easycluster.transport.serving import Limits
from easycluster.wire import auth, bulk, frames, records

PAGE = Path(__file__).resolve().with_name("security.md")
BEGIN, END = "<!-- python -m docs.make: begin -->", "<!-- python -m docs.make: end -->"


def page() -> str:
    """The page, with its table made anew."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def table() -> str:
    """The table."""
    silence = monitor.HEARTBEAT * monitor.MISSED
    assert silence == keeper.LEASE
    held = "no limit: it would let a stranger shut out others behind the same address"
    rows = (
        ("listens on", "127.0.0.1 and ::1 unless `-b` says more", "`open_sockets`"),
        ("bytes held for a connection without proof", f"{auth.MAX_HANDSHAKE}", "`wire.auth.MAX_HANDSHAKE`"),
        (
            "time for a whole handshake",
            f"{Limits.handshake_timeout:g} s, however slowly it drips",
            "`Limits.handshake_timeout`",
        ),
        (
            "connections without proof",
            f"{Limits.pending}; one more drops the oldest of the busiest address",
            "`Limits.pending`",
        ),
        ("failures of an address", held, "-"),
        ("sessions", f"{Limits.sessions}", "`Limits.sessions`"),
        ("processes, threads, pickles, inflated bytes before the proof", "0", "-"),
        ("record", _size(frames.MAX_RECORD), "`wire.frames.MAX_RECORD`"),
        ("body of a frame", _size(frames.MAX_BODY), "`wire.frames.MAX_BODY`"),
        (
            "buffers of a message",
            f"{frames.MAX_BUFFERS}, in all {_size(Options.max_frame)}",
            "`wire.frames.MAX_BUFFERS`, `Options.max_frame`",
        ),
        (
            "room made for a buffer that was announced",
            f"{_size(bulk.FIRST_ROOM)}, then {_word(bulk.GROWTH)} times what has arrived and verified",
            "`wire.bulk.FIRST_ROOM`",
        ),
        (
            "bulk on a control link",
            "none" if not monitor.MAX_BULK else _size(monitor.MAX_BULK),
            "`client.monitor.MAX_BULK`",
        ),
        ("a compressed body", "its declared size, at most that of a message", "`wire.frames.decompress`"),
        ("records of a connection", f"2^{records.MAX_RECORDS.bit_length() - 1}", "`wire.records.MAX_RECORDS`"),
        ("silence", f"{silence:g} s", "`HEARTBEAT` x `MISSED`, `LEASE`"),
    )
    return "\n".join(["| limit | value | where |", "| --- | --- | --- |", *(f"| {' | '.join(row)} |" for row in rows)])


def _size(number: int) -> str:
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if number >> shift and not number % (1 << shift):
            return f"{number >> shift} {unit}"
    return str(number)


def _word(number: int) -> str:
    return {2: "two", 3: "three", 4: "four"}.get(number, str(number))
