"""Faults: where in a value the part is that cannot be pickled, and the words for it.

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

import pickle
import types
from typing import Any, Callable, List, Optional, Sequence, Tuple, Union

from easycluster.wire.pickling import CODE_KINDS

__all__ = ["FaultFinder", "describe_code", "first_words"]


def describe_code(code: Any) -> str:
    """Return what a function, class or code object is called, and where it is from."""
    if isinstance(code, types.CodeType):
        return f"code object {code.co_name!r} of {code.co_filename}"
    kind = "class" if isinstance(code, type) else "function"
    name = getattr(code, "__qualname__", None) or getattr(code, "__name__", "?")
    return f"{kind} {name!r} of module {getattr(code, '__module__', None)}"


class FaultFinder:
    """Finds the innermost part of a value that cannot be pickled.

    Args:
        probe: Pickles its argument to see whether that works, and raises what pickle raises.
    """

    def __init__(self, probe: Callable[[Any], None]) -> None:
        self._probe = probe

    def find(self, obj: Any, name: Union[str, Sequence[str]], exc: BaseException) -> Tuple[str, BaseException]:
        """Return the path to the fault and the error it gives.

        Args:
            obj: A value that could not be pickled.
            name: What to call it; for a tuple, one name for each element.
            exc: The error it gave.
        """
        if isinstance(name, str):
            path, parts = name, _parts(obj)
        else:
            path, parts = "", list(zip(name, obj))
        # 50 deep, so that a structure that refers to itself comes to an end.
        for _ in range(50):
            found = self._first_fault(parts)
            if found is None:
                break
            step, obj, exc = found
            path += step
            parts = _parts(obj)
        return path or "value", exc

    def _first_fault(self, parts: List[Tuple[str, Any]]) -> Optional[Tuple[str, Any, BaseException]]:
        fault = self._fault([part for _, part in parts])
        if fault is None:
            return None
        while len(parts) > 1:
            half = len(parts) // 2
            earlier = self._fault([part for _, part in parts[:half]])
            parts = parts[:half] if earlier is not None else parts[half:]
        step, part = parts[0]
        return step, part, self._fault(part) or fault

    def _fault(self, obj: Any) -> Optional[BaseException]:
        try:
            self._probe(obj)
        except Exception as exc:  # noqa: BLE001  # a user's __reduce__ may raise anything
            return exc
        return None


def _parts(obj: Any) -> List[Tuple[str, Any]]:
    """Return the parts of an object with the text that leads to each."""
    if isinstance(obj, dict):
        return [(f"[{key!r}]", item) for key, item in obj.items()] + [(f" key {key!r}", key) for key in obj]
    if isinstance(obj, (list, tuple)):
        return [(f"[{index}]", item) for index, item in enumerate(obj)]
    if isinstance(obj, (set, frozenset)):
        return [(" element", item) for item in obj]
    if isinstance(obj, (*CODE_KINDS, types.ModuleType)):
        return []
    if _says_how_to_be_pickled(type(obj)):
        return []
    state = getattr(obj, "__dict__", None)
    return [(f".{name}", item) for name, item in state.items()] if isinstance(state, dict) else []


def _says_how_to_be_pickled(typ: type) -> bool:
    """Whether a class has a method that gives its parts, or an error: its attributes are not the parts then."""
    methods = typ.__reduce_ex__, typ.__reduce__
    return any(isinstance(each, types.FunctionType) and not hasattr(each, "_is_by_reference") for each in methods)


def first_words(exc: BaseException) -> str:
    """Return the text of an error in one line, with its type unless the text comes from pickle."""
    try:
        text = " ".join(str(exc).split())[:500]
    except Exception:  # noqa: BLE001  # a user's __str__ may raise anything
        text = "(its text cannot be read)"
    if isinstance(exc, (pickle.PickleError, TypeError, AttributeError)) and text:
        return text
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__
