"""What a kernel is given, as it goes to the process that runs it and comes back; and which kernel a source has."""

from __future__ import annotations

import array
import base64
import ctypes
import re
import struct
from typing import Any, Dict, Mapping, Union

__all__ = ["name_in", "packed", "unpacked"]

_KERNEL = re.compile(r"(?:\bKERNEL|__kernel|__global__|\bkernel)\s+(?:void\s+)?(\w+)\s*\(|\.entry\s+(\w+)")


def name_in(source: Union[str, Mapping[str, str]]) -> str:
    """The name of the only kernel of a source, or of its texts by language.

    Raises:
        ValueError: If there are several, or none that can be seen.
    """
    texts = [source] if isinstance(source, str) else list(source.values())
    found = sorted({str(one or other) for text in texts for one, other in _KERNEL.findall(text)})
    if len(found) != 1:
        raise ValueError(f"the source has {len(found)} kernels that we can see ({', '.join(found)}); give name=")
    return found[0]


def packed(argument: Any) -> Dict[str, Any]:
    """An argument of a kernel, as it goes to the process that runs it."""
    if isinstance(argument, (bytes, bytearray, memoryview)):
        argument = array.array("B", bytes(argument))
    elif isinstance(argument, list):
        argument = array.array("f" if any(isinstance(one, float) for one in argument) else "i", argument)
    if isinstance(argument, array.array):
        data = base64.b64encode(argument.tobytes()).decode()
        return {"array": argument.typecode, "data": data, "length": len(argument)}
    if isinstance(argument, ctypes._SimpleCData):
        code = getattr(argument, "_type_", "")
        return {"number": str(code), "value": argument.value}
    if isinstance(argument, tuple) and len(argument) == 2:
        return _number(*argument)
    if isinstance(argument, bool) or not isinstance(argument, (int, float)):
        raise TypeError(f"{argument!r} is no argument of a kernel; an array or a number is wanted")
    return _number("i" if isinstance(argument, int) else "f", argument)


def _number(code: Any, value: Any) -> Dict[str, Any]:
    try:
        struct.pack(code, value)  # what does not fit would be another number there
    except (struct.error, OverflowError, TypeError) as exc:
        raise ValueError(f"{value!r} is no number of type code {code!r}: {exc}") from None
    return {"number": code, "value": value}


def unpacked(one: Dict[str, Any], data: str) -> Any:
    """An array as the kernel left it, from base64."""
    found = array.array(one["array"])
    found.frombytes(base64.b64decode(data))
    return found
