"""Faults of links, hosts and owners."""

from __future__ import annotations

from .row import NOTHING, Peers, Row

# Every process of the session on the far side, and what they started.
FAR_SIDE = "every far-side process and what it started"

LINK_ROWS = (
    Row(
        "partition",
        "the network drops everything in the middle of a call",
        ("ConnectionLost",),
        15.0,
        "both sides",
        transports=("tcp", "ssh"),
        peers=Peers("> 20 s", "OSError, 5.0 s", "TimeoutError, 30 s", "> 20 s"),
    ),
    Row(
        "cut",
        "the link is cut: reset, or ssh is killed",
        ("ConnectionLost",),
        1.0,
        FAR_SIDE,
    ),
    Row(
        "vanished",
        "the client vanishes without a word (no FIN)",
        (NOTHING,),
        15.0,
        FAR_SIDE,
        transports=("tcp", "ssh"),
        peers=Peers("left after 20 s", "left after 20 s", "left after 20 s", ""),
    ),
    Row(
        "client-killed",
        "the client is killed during a call; far side gone",
        (NOTHING,),
        2.0,
        FAR_SIDE,
        peers=Peers("left after 10 s", "left after 10 s", "left after 10 s", "5.0 s, its children left"),
    ),
    Row("client-terminated", "the client gets SIGTERM during a call", (NOTHING,), 2.0, FAR_SIDE),
    Row("terminal-closed", "the client's terminal is closed during a call (SIGHUP)", (NOTHING,), 2.0, FAR_SIDE),
    Row("client-killed-connecting", "the client is killed at any moment while it connects", (NOTHING,), 2.0, FAR_SIDE),
    Row("ssh-killed", "the near side's ssh is killed", ("ConnectionLost",), 2.0, FAR_SIDE, transports=("ssh",)),
    Row(
        "ssh-session-killed",
        "sshd's process for the connection is killed",
        ("ConnectionLost",),
        2.0,
        FAR_SIDE,
        transports=("ssh",),
    ),
    Row("keeper-killed", "the keeper is killed", ("ConnectionLost",), 2.0, FAR_SIDE),
    Row("template-killed", "the process that forks workers is killed", ("ConnectionLost",), 2.0, FAR_SIDE),
    Row("server-killed", "the server is killed", ("ConnectionLost",), 2.0, FAR_SIDE, transports=("tcp",)),
    Row("server-stopped", "the server is stopped (SIGTERM)", ("ConnectionLost",), 2.0, FAR_SIDE, transports=("tcp",)),
    Row(
        "reboot",
        "the host or server restarts; reconnect() is a fresh start",
        ("ConnectionLost",),
        15.0,
        "old proxies are stale; no call is repeated unasked",
    ),
    Row(
        "lossy",
        "30 % loss and 200 ms round trips",
        (NOTHING,),
        None,
        transports=("tcp", "ssh"),
    ),
    Row(
        "idle",
        "a ThreadedClient is idle longer than its keepalive timeout",
        (NOTHING,),
        None,
        peers=Peers("", "over ssh it closed itself, 7 s", "", ""),
    ),
    Row(
        "churn",
        "100 connections opened and closed, with --long 1,000",
        (NOTHING,),
        None,
        "descriptors, threads, processes",
        peers=Peers("48 ms each", "13 ms each", "13 ms each", "43 ms each"),
    ),
    Row(
        "crowd",
        "64 sessions at once",
        (NOTHING,),
        3.0,
        FAR_SIDE,
        transports=("tcp",),
        peers=Peers("53 of 64 in 36 s", "", "0.5 s", "1.7 s"),
    ),
)
