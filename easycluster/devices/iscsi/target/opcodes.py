"""Which commands there are: what does them, what they are allowed to, and how their bytes are used.

REPORT SUPPORTED OPERATION CODES is answered from this table, so it cannot say anything else than what is so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Dict, List, NamedTuple, Optional, Tuple, Union

from easycluster.devices.iscsi.target.nexus import Nexus, Reply, bad_cdb

if TYPE_CHECKING:
    from easycluster.devices.iscsi.target.unit import Unit

__all__ = ["Entry", "command", "find"]

Run = Callable[["Unit", Nexus, bytes, memoryview], Union[Reply, bytes, memoryview]]


class Entry(NamedTuple):
    """A command.

    Attributes:
        operation: Operation code.
        action: Service action, -1 if it has none.
        run: What does it.
        usage: Bits of the command block that are looked at; as long as the command block.
        access: ``"read"`` and ``"write"`` are of the medium, ``"any"`` is allowed whoever has reserved the unit,
            ``"own"`` has rules of its own.
        medium: Whether it needs the medium.
        changes: Whether it changes the medium.
        past_reserve: Whether RESERVE(6) of another does not forbid it.
    """

    operation: int
    action: int
    run: Run
    usage: bytes
    access: str
    medium: bool
    changes: bool
    past_reserve: bool


_entries: Dict[Tuple[int, int], Entry] = {}
_with_actions: Dict[int, int] = {}


def command(
    operation: int, usage: str, access: str = "any", action: int = -1, medium: bool = False, past_reserve: bool = False
) -> Callable[[Run], Run]:
    """Enter a function into the table.

    Args:
        operation: Operation code.
        usage: Bits of the bytes after the operation code, in hexadecimal.
        access: As in :class:`Entry`.
        action: Service action.
        medium: Whether it needs the medium, though it neither reads nor writes it.
        past_reserve: As in :class:`Entry`.
    """

    def enter(run: Run) -> Run:
        bits = bytes([operation]) + bytes.fromhex(usage)
        of_medium = access in ("read", "write")
        _entries[operation, action] = Entry(
            operation, action, run, bits, access, of_medium or medium, access == "write", past_reserve
        )
        if action >= 0:
            _with_actions[operation] = 0x1F
        return run

    return enter


def find(cdb: bytes) -> Optional[Entry]:
    """Return what a command block asks for, or None."""
    action = cdb[1] & _with_actions[cdb[0]] if cdb[0] in _with_actions else -1
    entry = _entries.get((cdb[0], action))
    if entry is None and action >= 0:
        raise bad_cdb(1, 4)
    return entry


@command(0xA3, "1f 87 ff ffff ffffffff 00 00", action=0x0C, past_reserve=True)
def report_supported_operation_codes(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """REPORT SUPPORTED OPERATION CODES: all, or one."""
    options, timeouts = cdb[2] & 7, bool(cdb[2] & 0x80)
    wanted, action = cdb[3], int.from_bytes(cdb[4:6], "big")
    length = int.from_bytes(cdb[6:10], "big")
    if options == 0:
        rows = b"".join(_descriptor(entry, timeouts) for _, entry in sorted(_entries.items()))
        return (len(rows).to_bytes(4, "big") + rows)[:length]
    has_actions = wanted in _with_actions
    if (options == 1 and has_actions) or (options == 2 and not has_actions) or options > 3:
        raise bad_cdb(2, 2) if options > 3 else bad_cdb(4)
    entry = _entries.get((wanted, action if has_actions else -1))
    support = 3 if entry is not None else 1
    usage = entry.usage if entry is not None else b""
    answer = bytes([0, support | (0x80 if timeouts else 0)]) + len(usage).to_bytes(2, "big") + usage
    return (answer + (_TIMEOUTS if timeouts else b""))[:length]


# Length and two times of nothing: we say nothing about how long a command takes.
_TIMEOUTS = b"\x00\x0a" + bytes(10)


def _descriptor(entry: Entry, timeouts: bool) -> bytes:
    flags = (1 if entry.action >= 0 else 0) | (2 if timeouts else 0)
    action = max(entry.action, 0).to_bytes(2, "big")
    head = bytes([entry.operation, 0]) + action + bytes([0, flags]) + len(entry.usage).to_bytes(2, "big")
    return head + (_TIMEOUTS if timeouts else b"")


@command(0xA3, "1f 80 0000 00 ffffffff 00 00", action=0x0D, past_reserve=True)
def report_supported_task_management(unit: Unit, nexus: Nexus, cdb: bytes, data: memoryview) -> bytes:
    """REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS: abort task, abort and clear task set, resets of unit and target."""
    return bytes([0x80 | 0x40 | 0x20 | 0x10 | 0x08, 0x04 | 0x02, 0, 0])[: int.from_bytes(cdb[6:10], "big")]


def entries() -> List[Entry]:
    """Return all commands, in order of their codes."""
    return [entry for _, entry in sorted(_entries.items())]
