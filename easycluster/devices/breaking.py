"""Breaks the link and the disk of the host that this runs on, so that it is whole again whatever becomes of us.

Everything is registered for undoing before it is done, so the session's keeper does that when the lease, the session or
the link ends, at the latest when the heartbeat has been missed three times.  A link that carries the session itself is
cut by a process of its own that comes back after its time: nobody could tell it to.

Packets are dropped by nftables, which takes no address or route away, as ``ip link set down`` does; delay is netem, a
rate is netem or a token bucket.  Of several that make packets late, one queueing discipline does it all.

This module is shipped to the far side.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from typing import Dict, Iterable, List, NamedTuple, Sequence, Tuple

from easycluster.errors import EasyClusterError, Unsupported

__all__ = ["BreakingError", "cut", "cut_for", "fill", "links", "part", "queueing", "restore", "spoil"]

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


class _Late(NamedTuple):
    """What a fault does to packets that leave: seconds, and bits in a second, 0 for no limit."""

    delay: float
    jitter: float
    rate: float


# By interface, the faults that last, by number, and the queueing discipline that stands for all of them.
_late: Dict[str, Dict[str, _Late]] = {}
_queues: Dict[str, List[str]] = {}


def spoil(operation: str, interface: str, delay: float, jitter: float, loss: float, rate: float) -> str:
    """Make what leaves an interface late or slow, or lose packets by chance in both directions."""
    if loss:
        return lose(operation, interface, loss)
    faults = _late.setdefault(interface, {})
    if not faults:
        _prepare(operation, interface)
    number = os.urandom(4).hex()
    faults[number] = _Late(delay, jitter, rate)
    try:
        _queue(operation, interface)
    except BaseException:
        del faults[number]
        _queue(operation, interface)
        raise
    return f"queue {interface} {number}"


def queueing(faults: Iterable[_Late]) -> List[str]:
    """The queueing discipline that does what faults do together: delays add up, the lowest rate counts."""
    every = list(faults)
    if not every:
        return []
    delay, jitter = sum(one.delay for one in every), sum(one.jitter for one in every)
    rate = min((one.rate for one in every if one.rate), default=0.0)
    if not delay:
        return f"tbf rate {rate:.0f}bit burst {max(2000, round(rate / 800))} latency 400ms".split()
    # With a rate, packets leave in the order in which they came; without, a late one is overtaken.  And what is not
    # said when a queue changes stays as it was.
    said = f"{rate:.0f}bit" if rate else "100gbit"
    # By default 1000 packets may wait, so a fast link would lose what is only meant to be late; where there is a rate,
    # what waits for longer than 0.4 s is lost, as by the token bucket.
    limit = max(100, round(rate * (0.4 + delay) / 12000)) if rate else 100_000
    return f"netem limit {limit} delay {delay * 1000:g}ms {jitter * 1000:g}ms rate {said}".split()


def _prepare(operation: str, interface: str) -> None:
    """Refuse an interface whose queueing somebody else has set; else have ours undone whatever becomes of us."""
    for line in _run(operation, ["tc", "qdisc", "show", "dev", interface]).splitlines():
        # qdisc tbf 8005: root refcnt 2 ...
        kind, handle = line.split()[1:3]
        if " root" in line and (kind not in _USUAL or handle == f"{HANDLE}:"):
            whose = "a fault of another session" if handle == f"{HANDLE}:" else "a queueing discipline of its own"
            raise Unsupported(operation, f"{interface} has {whose} already: {line.strip()}")
    from easycluster.far.undo import undo

    tc = shutil.which("tc", path=_PLACES) or "tc"
    undo(
        f"{tc} qdisc show dev {interface} | grep -q ' {HANDLE}: root' || exit 0; {tc} qdisc del dev {interface} root",
        boot="forget",
    )


def _queue(operation: str, interface: str) -> None:
    """Give an interface the queueing discipline of the faults that last, or take ours away."""
    words, before = queueing(_late[interface].values()), _queues.get(interface, [])
    if words == before:
        return
    if before and words[:1] != before[:1]:
        _queues.pop(interface)
        # Somebody else may have taken it away.
        if f" {HANDLE}: root" in _run(operation, ["tc", "qdisc", "show", "dev", interface]):
            _run(operation, ["tc", "qdisc", "del", "dev", interface, "root"])
    if not words:
        return
    try:
        _run(operation, ["tc", "qdisc", "replace", "dev", interface, "root", "handle", f"{HANDLE}:", *words])
    except BreakingError as exc:
        if "qdisc kind is unknown" in str(exc):
            text = f"this kernel has no {words[0]} (its module is sch_{words[0]}; Fedora and RHEL have it in"
            text += " kernel-modules-extra); what else it has: loss by nftables, rate by tbf"
            raise Unsupported(operation, text) from None
        raise
    _queues[interface] = words


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
        interface, _, number = name.partition(" ")
        if _late.get(interface, {}).pop(number, None) is not None:
            _queue("restore", interface)
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
