"""Values as plain data: what a recording keeps of arguments and answers, and how two answers differ.

JSON has None, booleans, numbers, texts, lists and dictionaries with texts as keys.  What else is plain is tagged::

    {"$tuple": [...]}   {"$set": [...]}   {"$frozenset": [...]}   {"$dict": [[key, value], ...]}
    {"$bytes": "base64"}   {"$bytearray": "base64"}   {"$float": "nan"}   {"$complex": "(1+2j)"}

Everything else can be compared and not made again::

    {"$object": "module.Type", "shown": "its repr", "digest": "..."}   {"$large": 70000, "digest": "..."}

Reading such data runs nobody's code, as unpickling would.
"""

from __future__ import annotations

import base64
import contextlib
import difflib
import hashlib
import json
import math
from reprlib import Repr
from typing import TYPE_CHECKING, Any, Final

from easycluster.errors import EasyClusterError
from easycluster.objects.proxies import RemoteProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NotReplayable", "decode", "differences", "digest", "encode"]

# Bytes of one text or value that are kept; of more, what it takes to compare it.
LARGEST: Final = 64 << 10
DEEPEST: Final = 40
MOST_SHOWN: Final = 5
_CUT: Final = 200

_TAGS: Final[dict[type, str]] = {tuple: "$tuple", set: "$set", frozenset: "$frozenset"}
_BINARY: Final[dict[type, str]] = {bytes: "$bytes", bytearray: "$bytearray"}


class NotReplayable(EasyClusterError):
    """A recorded answer is not plain data: an object of the far side, or too large."""


class _Short(Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxother = self.maxstring = _CUT


_short = _Short()


def encode(value: Any, depth: int = 0) -> Any:
    """A value as JSON has it; never raises, and asks no far side."""
    kind = type(value)
    if value is None or kind in (bool, int):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is str:
        return value if len(value) <= LARGEST else _large(value.encode("utf-8", "surrogatepass"), kind)
    if kind in _BINARY:
        data = bytes(value)
        return {_BINARY[kind]: base64.b64encode(data).decode()} if len(data) <= LARGEST else _large(data, kind)
    if kind is complex:
        return {"$complex": repr(value)}
    if depth < DEEPEST:
        if kind is list:
            return [encode(one, depth + 1) for one in value]
        if kind in (set, frozenset):
            return {_TAGS[kind]: sorted((encode(one, depth + 1) for one in value), key=json.dumps)}
        if kind is tuple:
            return {"$tuple": [encode(one, depth + 1) for one in value]}
        if kind is dict:
            return _encode_dict(value, depth)
    return _object(value)


def _encode_dict(value: dict[Any, Any], depth: int) -> Any:
    if all(type(key) is str and not key.startswith("$") for key in value):
        return {key: encode(one, depth + 1) for key, one in value.items()}
    return {"$dict": [[encode(key, depth + 1), encode(one, depth + 1)] for key, one in value.items()]}


def _large(data: bytes, kind: type) -> dict[str, Any]:
    return {"$large": len(data), "type": kind.__name__, "digest": hashlib.sha256(data).hexdigest()[:16]}


def _object(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"$object": f"{type(value).__module__}.{type(value).__qualname__}"}
    if isinstance(value, RemoteProxy):
        return found  # its number says nothing, and its repr may be a call
    with contextlib.suppress(TypeError, ValueError, BufferError):
        found["digest"] = hashlib.sha256(memoryview(value)).hexdigest()[:16]
    try:
        shown = _short.repr(value)
    except Exception as exc:  # noqa: BLE001  # a user's __repr__
        shown = f"<{type(exc).__name__} in repr>"
    if " at 0x" not in shown:
        found["shown"] = shown
    return found


def decode(data: Any) -> Any:
    """The value that was encoded.

    Raises:
        NotReplayable: If it, or a part of it, was no plain data.
    """
    if isinstance(data, list):
        return [decode(one) for one in data]
    if not isinstance(data, dict):
        return data
    tag = next(iter(data), "")
    if not tag.startswith("$"):
        return {key: decode(one) for key, one in data.items()}
    inner = data[tag]
    if tag == "$dict":
        return {decode(key): decode(one) for key, one in inner}
    if tag in ("$tuple", "$set", "$frozenset"):
        made = {"$tuple": tuple, "$set": set, "$frozenset": frozenset}[tag]
        return made(decode(one) for one in inner)
    if tag in ("$bytes", "$bytearray"):
        raw = base64.b64decode(inner)
        return raw if tag == "$bytes" else bytearray(raw)
    if tag in ("$float", "$complex"):
        return float(inner) if tag == "$float" else complex(inner)
    what = f"{inner} bytes" if tag == "$large" else f"an object of {inner}"
    raise NotReplayable(f"{what} cannot be made again from a recording, which has plain data only")


def digest(data: Any) -> str:
    """What encoded data is known by."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def differences(old: Any, new: Any, tolerance: float = 0.0) -> list[str]:
    """In which places two encoded answers differ, as lines for people; nothing if they are the same.

    Args:
        old: One.
        new: The other.
        tolerance: By what part two numbers may differ, such as 0.05.
    """
    lines: list[str] = []
    for number, part in enumerate(_differing("", old, new, tolerance)):
        if number == MOST_SHOWN:
            lines.append("... and more")
            break
        lines += part
    return lines


def _differing(path: str, old: Any, new: Any, tolerance: float) -> Iterator[list[str]]:
    if _are_numbers(old, new):
        if abs(old - new) > tolerance * max(abs(old), abs(new)):
            yield _pair(path, old, new)
    elif type(old) is not type(new):
        yield _pair(path, old, new)
    elif isinstance(old, dict):
        yield from _differing_tables(path, old, new, tolerance)
    elif isinstance(old, list):
        for number, (one, other) in enumerate(zip(old, new, strict=False)):
            yield from _differing(f"{path}[{number}]", one, other, tolerance)
        if len(old) != len(new):
            yield [f"{path or 'the answer'} has {len(new)} items, and had {len(old)}"]
    elif isinstance(old, str) and old != new and ("\n" in old or "\n" in new):
        yield [f"{path}:" if path else "", *_diff(old, new)]
    elif old != new:
        yield _pair(path, old, new)


def _are_numbers(old: Any, new: Any) -> bool:
    numbers = (int, float)
    return type(old) in numbers and type(new) in numbers and type(old) in (type(new), float, int)


def _differing_tables(path: str, old: dict[str, Any], new: dict[str, Any], tolerance: float) -> Iterator[list[str]]:
    tag = next(iter(old), "")
    if tag.startswith("$") or next(iter(new), "").startswith("$"):
        if list(old) == list(new) and isinstance(old[tag], list):
            yield from _differing(path, old[tag], new[tag], tolerance)
        elif old != new:
            yield _pair(path, old, new)
        return
    for key in [*old, *(one for one in new if one not in old)]:
        place = f"{path}[{key!r}]"
        if key not in new:
            yield [f"{place} is gone; it was {_text(old[key])}"]
        elif key not in old:
            yield [f"{place} is new: {_text(new[key])}"]
        else:
            yield from _differing(place, old[key], new[key], tolerance)


def _pair(path: str, old: Any, new: Any) -> list[str]:
    if path and len(_text(old)) + len(_text(new)) < 80:
        return [f"{path}: {_text(old)} -> {_text(new)}"]
    return [*([f"{path}:"] if path else []), f"- {_text(old)}", f"+ {_text(new)}"]


def _text(data: Any) -> str:
    try:
        return _short.repr(decode(data))
    except NotReplayable:
        return str(data.get("shown") or " ".join(f"{key.lstrip('$')} {one}" for key, one in data.items()))


def _diff(old: str, new: str) -> list[str]:
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=1))[2:]
    return lines if len(lines) <= 20 else [*lines[:20], "..."]
