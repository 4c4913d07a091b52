"""Breaks the link and the disk of the host that this runs on, so that it is whole again whatever becomes of us.

Everything is registered for undoing before it is done, so the session's keeper does that when the lease, the session or
the link ends, at the latest when the heartbeat has been missed three times.  A link that carries the session itself is
cut by a process of its own that comes back after its time: nobody could tell it to.

Packets are dropped by nftables, which takes no address or route away, as ``ip link set down`` does; delay is netem, a
rate is netem or a token bucket.

This module is shipped to the far side.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from typing import List, Sequence, Tuple

from easycluster.errors import EasyClusterError, Unsupported

__all__ = ["BreakingError", "cut", "cut_for", "fill", "links", "part", "restore", "shape", "spoil"]

_PLACES = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
_LIMIT = 20.0
# The handle of our queueing discipline, by which it is told from others.
HANDLE = "ec5"
# Those that a kernel gives a device by itself.
_USUAL = ("noqueue", "pfifo_fast", "fq_codel", "fq", "mq", "pfifo", "cake", "sfq")


class BreakingError(EasyClusterError, OSError):
    """A tool of the host did not do what it was asked for; says what it said."""


# Which link --------------------------------------------------------------------------------------


def links(address: str) -> Tuple[str, str]:
    """The interface that has an address, and the one that our session comes by; ``""`` for what is not known."""
    session = os.environ.get("SSH_CONNECTION", "").split()
    ours = session[2] if len(session) == 4 else address
    return _interface_of(address), _interface_of(ours)


def _interface_of(address: str) -> str:
    for line in _run("link", ["ip", "-o", "addr", "show"]).splitlines():
        # 2: eth0    inet 10.0.0.5/24 brd ...
        words = line.split()
        if len(words) > 3 and words[3].partition("/")[0] == address:
            return words[1].partition("@")[0]
    return ""


# Packets that are dropped --------------------------------------------------------------------------


def cut(operation: str, interface: str) -> str:
    """Let nothing pass an interface; returns the name of what does that, for :func:`restore`."""
    return _drop(operation, [("input", f'iifname "{interface}"'), ("output", f'oifname "{interface}"')])


def part(operation: str, addresses: Sequence[str]) -> str:
    """Let nothing pass from and to some addresses."""
    rules = []
    for address in addresses:
        family = "ip6" if ":" in address else "ip"
        rules += [("input", f"{family} saddr {address}"), ("output", f"{family} daddr {address}")]
    return _drop(operation, rules)


def lose(operation: str, interface: str, share: float) -> str:
    """Drop packets by chance, in either direction."""
    chance = f"numgen random mod 10000 < {max(1, round(share * 10000))}"
    return _drop(
        operation, [("input", f'iifname "{interface}" {chance}'), ("output", f'oifname "{interface}" {chance}')]
    )


def cut_for(operation: str, interface: str, seconds: float) -> None:
    """Let nothing pass the interface that we ourselves are reached by; it comes back after its time."""
    table = _new_table()
    rules = _ruleset(table, [("input", f'iifname "{interface}"'), ("output", f'oifname "{interface}"')])
    _run(operation, ["nft", "-c", "-f", "-"], rules)
    _undo_table(table)
    nft = shutil.which("nft", path=_PLACES) or "nft"
    # Our answer has to leave first.
    script = f"sleep 0.2; {nft} -f - && sleep {seconds:g}; {nft} delete table inet {table}"
    process = subprocess.Popen(
        ["/bin/sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(rules.encode())
    process.stdin.close()


def _drop(operation: str, rules: Sequence[Tuple[str, str]]) -> str:
    table = _new_table()
    text = _ruleset(table, rules)
    # Tried before anything is registered: what cannot be done needs no undoing.
    _run(operation, ["nft", "-c", "-f", "-"], text)
    _undo_table(table)
    _run(operation, ["nft", "-f", "-"], text)
    return f"table {table}"


def _new_table() -> str:
    return "easycluster_" + os.urandom(4).hex()


def _ruleset(table: str, rules: Sequence[Tuple[str, str]]) -> str:
    lines = [f"table inet {table} {{"]
    for hook in ("input", "output"):
        own = "; ".join(f"{rule} drop" for name, rule in rules if name == hook)
        # Before the tables of others: what they accept is dropped all the same.
        lines.append(f"chain {hook} {{ type filter hook {hook} priority -400; policy accept; {own}; }}")
        if hook == "input":
            lines.append(f"chain forward {{ type filter hook forward priority -400; policy accept; {own}; }}")
    return "\n".join([*lines, "}", ""])


def _undo_table(table: str) -> None:
    from easycluster.far.undo import undo

    nft = shutil.which("nft", path=_PLACES) or "nft"
    undo(f"{nft} list table inet {table} >/dev/null 2>&1 || exit 0; {nft} delete table inet {table}", boot="forget")


# Packets that are late -----------------------------------------------------------------------------


def spoil(operation: str, interface: str, delay: float, jitter: float, loss: float, rate: float) -> str:
    """Make what leaves an interface late, rare or slow; loss alone is by chance in both directions."""
    if loss and not (delay or rate):
        return lose(operation, interface, loss)
    if rate and not (delay or loss):
        return shape(operation, interface, f"tbf rate {rate:.0f}bit burst {max(2000, round(rate / 800))} latency 400ms")
    words = f"netem delay {delay * 1000:g}ms" + (f" {jitter * 1000:g}ms" if jitter else "")
    words += f" loss {loss * 100:g}%" if loss else ""
    words += f" rate {rate:.0f}bit" if rate else ""
    return shape(operation, interface, words)


def shape(operation: str, interface: str, words: str) -> str:
    """Give an interface another queueing discipline at its root."""
    for line in _run(operation, ["tc", "qdisc", "show", "dev", interface]).splitlines():
        # qdisc tbf 8005: root refcnt 2 ...
        kind, handle = line.split()[1:3]
        if " root" in line and (kind not in _USUAL or handle == f"{HANDLE}:"):
            raise Unsupported(operation, f"{interface} has a queueing discipline of its own already: {line.strip()}")
    from easycluster.far.undo import undo

    tc = shutil.which("tc", path=_PLACES) or "tc"
    undo(
        f"{tc} qdisc show dev {interface} | grep -q ' {HANDLE}: root' || exit 0; {_unshape(tc, interface)}",
        boot="forget",
    )
    try:
        _run(operation, ["tc", "qdisc", "add", "dev", interface, "root", "handle", f"{HANDLE}:", *words.split()])
    except BreakingError as exc:
        if "qdisc kind is unknown" in str(exc):
            text = f"this kernel has no {words.split()[0]}; what else it has: loss by nftables, rate by tbf"
            raise Unsupported(operation, text) from None
        raise
    return f"queue {interface}"


def _unshape(tc: str, interface: str) -> str:
    return f"{tc} qdisc del dev {interface} root"


# Disks ---------------------------------------------------------------------------------------------


def fill(operation: str, path: str, room: int) -> str:
    """Fill the file system of a directory with one file, but for so many bytes."""
    from easycluster.far.undo import undo

    try:
        fd, name = tempfile.mkstemp(prefix=".easycluster-full-", dir=path)
    except OSError as exc:
        raise Unsupported(operation, f"{path}: {exc.strerror}") from None
    try:
        undo(["rm", "-f", name])
        state = os.fstatvfs(fd)
        size = max(0, state.f_bavail * state.f_frsize - room)
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError:
            # No such thing here, or somebody was quicker: written until there is no more, or as much as was to be.
            _write(fd, size)
        if room == 0:
            _write(fd, 1 << 62)
    except BaseException:
        os.unlink(name)
        raise
    finally:
        os.close(fd)
    return f"file {name}"


def _write(fd: int, size: int) -> None:
    chunk = b"\0" * (1 << 20)
    done = os.lseek(fd, 0, os.SEEK_END)
    with contextlib.suppress(OSError):
        while done < size and chunk:
            try:
                done += os.write(fd, chunk[: size - done])
            except OSError:
                # The last bytes come in smaller pieces.
                chunk = chunk[: len(chunk) // 2]


# The end -------------------------------------------------------------------------------------------


def restore(token: str) -> None:
    """End what one of the others began; what is gone already is no error."""
    kind, _, name = token.partition(" ")
    if kind == "table":
        if f" {name}" in _run("restore", ["nft", "list", "tables"]):
            _run("restore", ["nft", "delete", "table", "inet", name])
    elif kind == "queue":
        if f" {HANDLE}: root" in _run("restore", ["tc", "qdisc", "show", "dev", name]):
            _run("restore", _unshape("tc", name).split())
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _run(operation: str, words: List[str], text: str = "") -> str:
    program = shutil.which(words[0], path=_PLACES)
    if program is None:
        raise Unsupported(operation, f"{words[0]} is not installed there; Debian has it in {_PACKAGES[words[0]]}")
    done = subprocess.run(
        [program, *words[1:]],
        input=text,
        capture_output=True,
        text=True,
        timeout=_LIMIT,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip()
        if os.geteuid() != 0 and ("not permitted" in said or "ermission denied" in said):
            raise Unsupported(operation, "only root can do that there; say become: sudo, or user: root")
        raise BreakingError(f"{operation}: {' '.join(words)} ended with exit code {done.returncode}: {said}")
    return done.stdout


_PACKAGES = {"nft": "nftables", "tc": "iproute2", "ip": "iproute2"}
