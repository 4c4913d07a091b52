"""Ranges in host names, as in Ansible: ``gpu[01:04]``, ``node[a:d]``, ``port[0:10:2]``; inclusive, zero-padded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# A mistyped range such as [1:1000000000] must not fill the memory.
MAX_HOSTS = 10_000

_RANGE = re.compile(r"\[([^\]]*)\]")
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")


class RangeError(ValueError):
    """A host name or range is malformed.

    Attributes:
        position: Index of the fault in the text, from 0.
        width: Its length in characters.
    """

    def __init__(self, message: str, position: int = 0, width: int = 1) -> None:
        super().__init__(message)
        self.position = position
        self.width = width


@dataclass(frozen=True)
class RangeName:
    """One host name that a range stands for; ``n`` is the text of its first range, ``""`` without one."""

    name: str
    n: str = ""


def is_range(text: str) -> bool:
    """Whether ``text`` stands for several names."""
    return "[" in text or "]" in text


def expand(text: str) -> list[RangeName]:
    """The names that ``text`` stands for, in counting order; a plain name stands for itself.

    Raises:
        RangeError: If a range or a name is malformed, or stands for more than :data:`MAX_HOSTS` names.
    """
    pieces = _RANGE.split(text)
    fixed, inner = pieces[::2], pieces[1::2]
    for part in fixed:
        for bracket in "[]":
            if bracket in part:
                raise RangeError(f"{bracket!r} without its partner in {text!r}", text.index(bracket))
    found = [(match.start(), match.group()) for match in _RANGE.finditer(text)]
    lists = [_counted(body, start, whole) for body, (start, whole) in zip(inner, found, strict=True)]
    total = 1
    for one in lists:
        total *= len(one)
    if total > MAX_HOSTS:
        raise RangeError(f"{text!r} stands for {total} hosts; at most {MAX_HOSTS} are taken", 0, len(text))
    names = [_joined(fixed, values) for values in product(*lists)]
    for name in names:
        if not _NAME.fullmatch(name.name):
            raise RangeError(f"{name.name!r} is not a host name (letters, digits, '.', '-' and '_')", 0, len(text))
    return names


def collapse(names: Iterable[str]) -> str:
    """Names as short as ranges make them, separated by spaces: ``gpu[01:04] san1``; three in a row make a range."""
    runs: list[list[tuple[str, str, str]]] = []
    for name in names:
        match = re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", name)
        piece = (match[1], match[2], match[3]) if match else (name, "", "")
        if runs and _follows(runs[-1][-1], piece):
            runs[-1].append(piece)
        else:
            runs.append([piece])
    words: list[str] = []
    for run in runs:
        if len(run) > 2:
            (head, first, tail), (_, last, _) = run[0], run[-1]
            words.append(f"{head}[{first}:{last}]{tail}")
        else:
            words += ["".join(piece) for piece in run]
    return " ".join(words)


def _follows(before: tuple[str, str, str], piece: tuple[str, str, str]) -> bool:
    """Whether one name counts one further than another in a way that a range would write."""
    (head, number, tail), (other_head, other, other_tail) = before, piece
    if (head, tail) != (other_head, other_tail) or not number or not other or len(other) > 9:
        return False
    padded = number[0] == "0" and len(number) > 1
    return other == str(int(number) + 1).zfill(len(number) if padded else 0)


def _joined(fixed: list[str], values: tuple[str, ...]) -> RangeName:
    name = fixed[0] + "".join(value + rest for value, rest in zip(values, fixed[1:], strict=True))
    return RangeName(name, values[0] if values else "")


def _counted(body: str, start: int, whole: str) -> list[str]:
    """What one ``[first:last]`` or ``[first:last:step]`` counts through."""
    parts = body.split(":")
    width = len(whole)
    if len(parts) not in (2, 3) or not all(parts):
        raise RangeError(f"{whole!r} is not a range; write [first:last] or [first:last:step]", start, width)
    first, last = parts[0], parts[1]
    if (len(parts) == 3 and not re.fullmatch(r"[0-9]{1,9}", parts[2])) or parts[2:] == ["0"]:
        raise RangeError(f"step {parts[2]!r} of {whole!r} is not a number above 0", start, width)
    step = int(parts[2]) if len(parts) == 3 else 1
    if re.fullmatch(r"[0-9]{1,9}", first) and re.fullmatch(r"[0-9]{1,9}", last):
        return _numbers(first, last, step, start, whole)
    if len(first) == len(last) == 1 and first.isascii() and last.isascii() and first.isalpha() and last.isalpha():
        if first.isupper() != last.isupper() or first > last:
            raise RangeError(f"{whole!r} counts from {first!r}, which does not come before {last!r}", start, width)
        return [chr(code) for code in range(ord(first), ord(last) + 1, step)]
    raise RangeError(f"{whole!r} must count from a number to a number or from a letter to a letter", start, width)


def _numbers(first: str, last: str, step: int, start: int, whole: str) -> list[str]:
    padded = len(first) > 1 and first[0] == "0"
    if padded and len(first) != len(last):
        raise RangeError(f"{first!r} is zero-padded in {whole!r}, so {last!r} must be as long", start, len(whole))
    low, high = int(first), int(last)
    if low > high:
        raise RangeError(f"{whole!r} counts down; write the smaller number first", start, len(whole))
    if (high - low) // step >= MAX_HOSTS:
        raise RangeError(f"{whole!r} stands for too many hosts; at most {MAX_HOSTS} are taken", start, len(whole))
    return [str(number).zfill(len(first) if padded else 0) for number in range(low, high + 1, step)]
