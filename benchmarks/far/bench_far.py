"""What runs on the far side of every peer that can run anything; also imported on the near side, for its classes.

Standard library only and old syntax: a far side over ssh is a bare Python.
"""

from __future__ import annotations

import os
import time

# As typing has it: the import costs a far side more than all the rest of this.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any, Iterator


class Point:
    """A small object that is copied."""

    def __init__(self, x: int, y: int, name: str) -> None:
        self.x = x
        self.y = y
        self.name = name


class Holder:
    """An object that stays where it is."""

    def __init__(self) -> None:
        self.value = 42


def add(a: int, b: int) -> int:
    """The call that is measured."""
    return a + b


def process_id() -> int:
    """Return the process that answers."""
    return os.getpid()


def size(value: Any) -> int:
    """Return how much has arrived."""
    return int(getattr(value, "nbytes", 0)) or len(value)


# Of random bytes, so that a link that compresses has nothing to gain.
_BLOCK = os.urandom(1 << 20)


def make_bytes(count: int) -> bytes:
    """Return so many bytes."""
    return (_BLOCK * (count // len(_BLOCK) + 1))[:count] if count % len(_BLOCK) else _BLOCK * (count // len(_BLOCK))


def make_array(count: int) -> Any:
    """Return a numpy array of so many bytes."""
    import numpy

    return numpy.arange(count // 8, dtype=numpy.float64)


def make_ints(count: int) -> list[int]:
    """Return a list of ints."""
    return list(range(count))


def make_records(count: int) -> dict[int, dict[str, Any]]:
    """Return a dict of records."""
    return {number: {"name": f"host{number}", "port": 22, "load": number / 7} for number in range(count)}


def make_objects(count: int) -> list[Point]:
    """Return a list of small objects."""
    return [Point(number, -number, f"p{number}") for number in range(count)]


_kept: dict[str, Any] = {}


def keep(maker: str, count: int) -> int:
    """Make a value once, so that ``kept`` measures the way and not the making."""
    _kept.clear()
    _kept[maker] = globals()[maker](count)
    return count


def kept(maker: str) -> Any:
    """Return what ``keep`` has made."""
    return _kept[maker]


def forget() -> bool:
    """Let go of what ``keep`` has made."""
    _kept.clear()
    return True


def count_up(count: int) -> Iterator[int]:
    """Give numbers one by one."""
    yield from range(count)


def print_lines(count: int) -> None:
    """Print so many lines."""
    for number in range(count):
        print(f"line {number} of what a far side says")


def nap(seconds: float) -> float:
    """Wait."""
    time.sleep(seconds)
    return seconds


def _status(name: str) -> int:
    with open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith(name + ":"):
                return int(line.split()[1])
    raise LookupError(name)


def resident() -> int:
    """Forget the peak of this process's memory, and return what it has now, in KiB.

    What was touched once and is never used again must not hide what comes: proc(5) has clear_refs.
    """
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _status("VmRSS")


def peak() -> int:
    """Return the peak of this process's memory since ``resident``, in KiB."""
    return _status("VmHWM")
