"""What rewritten asserts call: they explain themselves when they fail.

The rewriting happens on the near side, by whoever gave :func:`easycluster.definitions.rewrite_with` a function; the
code then imports this module where pytest's own would import ``_pytest.assertion.rewrite``, and finds the same names.
What was compared goes along with the explanation, pickled when the assert failed, so that the near side can say more
about it: differences of dictionaries, of texts, whatever plugins know.  Without a near side that wants to, the
explanation is complete as it is.

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

import pickle
import re
import reprlib
import threading
from types import MethodType
from typing import Any, Callable, Iterable, List, Optional, Sequence, Tuple

__all__ = ["Comparison", "Explanation", "Opaque", "explained", "format_explanation", "set_explainer"]

# Bytes of one compared value that may go along; of what is larger only the repr does.
MAX_VALUE = 4 << 20
# Characters of the repr of one that cannot go along.
MAX_TEXT = 10_000
# Comparisons remembered until an explanation takes them.
MOST = 32

# Around what stands for comparison 5 in an explanation: NUL ec5 SOH ... NUL STX.
_MARKED = re.compile("\0ec(\\d+)\1(.*?)\0\2", re.DOTALL)

# (number, operator, left, right); a side is its pickle, or None, and its repr.
Side = Tuple[Optional[bytes], str]
Comparison = Tuple[int, str, Side, Side]
Explainer = Callable[[str, Any, Any], Optional[str]]

# Characters of a value's repr in an explanation, None for all; see configure().
_limits: List[Optional[int]] = [240]


class _Open(threading.local):
    """Comparisons of this thread that no explanation has taken yet."""

    def __init__(self) -> None:
        self.number = 0
        self.comparisons: List[Comparison] = []


_open = _Open()
_explainer: List[Explainer] = []


def configure(longest: Optional[int]) -> None:
    """Set how many characters of each value explanations show, None for all."""
    _limits[0] = longest


def set_explainer(explainer: Optional[Explainer]) -> None:
    """Have comparisons that arrive explained by ``explainer(operator, left, right)``.

    It returns the explanation in pytest's notation, with ``%`` doubled as for rewritten asserts, or None.
    """
    _explainer[:] = [] if explainer is None else [explainer]


class Opaque:
    """Stands for a value of the far side that is not here; its repr is the original's."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


class Explanation(str):
    """The message of a failed assert, which becomes a fuller one on its way to the near side."""

    raw = ""
    comparisons: Tuple[Comparison, ...] = ()

    def __reduce__(self) -> Any:
        return explained, (str.__str__(self), self.raw, self.comparisons)


def explained(text: str, raw: str, comparisons: Sequence[Comparison]) -> str:
    """Return the message of a failed assert of the far side, as said here (stands in pickles)."""
    if not _explainer or not comparisons:
        return text
    explain = _explainer[0]
    found = {number: (operator, left, right) for number, operator, left, right in comparisons}

    def say(match: Any) -> str:
        custom = None
        if int(match[1]) in found:
            operator, left, right = found[int(match[1])]
            try:
                custom = explain(operator, _load(left), _load(right))
            except Exception as exc:  # noqa: BLE001 - a plugin or a class of the user's failed; the assert did, too
                custom = f"{match[2]}\n~(explaining this failed here: {exc!r})".replace("%", "%%")
        return str(match[2]) if custom is None else custom.replace("%%", "%")

    return format_explanation(_MARKED.sub(say, raw))


def _load(side: Side) -> Any:
    if side[0] is not None:
        try:
            return pickle.loads(side[0])
        except Exception:  # noqa: BLE001 - of a class that is not here
            pass
    return Opaque(side[1])


def _take(value: Any) -> Side:
    text = saferepr(value, MAX_TEXT)
    try:
        data = pickle.dumps(value, 4)
    except Exception:  # noqa: BLE001 - the class may do anything
        return None, text
    return (data if len(data) <= MAX_VALUE else None), text


# ---- The names that rewritten code uses ----


def _saferepr(obj: Any) -> str:
    if isinstance(obj, MethodType):
        return obj.__name__
    return saferepr(obj, _limits[0]).replace("\n", "\\n")


def _format_assertmsg(obj: Any) -> str:
    if isinstance(obj, str):
        return obj.replace("\n", "\n~").replace("%", "%%")
    return _saferepr(obj).replace("\n", "\n~").replace("%", "%%").replace("\\n", "\n~")


def _should_repr_global_name(obj: Any) -> bool:
    if callable(obj):
        return False
    try:
        return not hasattr(obj, "__name__")
    except Exception:  # noqa: BLE001 - its own __getattr__ failed
        return True


def _format_boolop(explanations: Iterable[str], is_or: bool) -> str:
    return ("(" + (" or " if is_or else " and ").join(explanations) + ")").replace("%", "%%")


def _call_reprcompare(ops: Sequence[str], results: Sequence[Any], expls: Sequence[str], each_obj: Sequence[Any]) -> str:
    index = next((number for number, result in enumerate(results) if _is_false(result)), len(results) - 1)
    _open.number += 1
    comparison = (_open.number, ops[index], _take(each_obj[index]), _take(each_obj[index + 1]))
    _open.comparisons = [*_open.comparisons[1 - MOST :], comparison]
    return f"\0ec{_open.number}\1{expls[index]}\0\2"


def _is_false(result: Any) -> bool:
    try:
        return not result
    except Exception:  # noqa: BLE001 - as pytest does
        return True


def _format_explanation(raw: str) -> str:
    wanted = {int(number) for number, _ in _MARKED.findall(raw)}
    message = Explanation(format_explanation(_MARKED.sub(r"\2", raw)))
    message.raw = raw
    message.comparisons = tuple(each for each in _open.comparisons if each[0] in wanted)
    _open.comparisons = []
    return message


def _check_if_assertion_pass_impl() -> bool:
    return False


def _call_assertion_pass(lineno: int, orig: str, expl: str) -> None:
    pass


# ---- Texts ----


class _SafeRepr(reprlib.Repr):
    """What pytest shows of a value: short, and whatever its class does."""

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest = self.maxstring = longest

    def repr_instance(self, x: Any, level: int) -> str:
        return _shortened(_own_repr(x), self.longest)


def saferepr(value: Any, longest: Optional[int] = 240) -> str:
    """Return the repr of a value, shortened to ``longest`` characters; never raises an Exception."""
    if longest is None:
        return _own_repr(value)
    try:
        text = _SafeRepr(longest).repr(value)
    except Exception as exc:  # noqa: BLE001 - repr is code of the user's
        text = _failed_repr(value, exc)
    return _shortened(text, longest)


def _own_repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception as exc:  # noqa: BLE001 - as above
        return _failed_repr(value, exc)


def _failed_repr(value: Any, exc: Exception) -> str:
    try:
        said = f"{type(exc).__name__}({str(exc)!r})"
    except Exception:  # noqa: BLE001 - as above
        said = type(exc).__name__
    return f"<[{said} raised in repr()] {type(value).__name__} object at 0x{id(value):x}>"


def _shortened(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    head = max(0, (longest - 3) // 2)
    tail = max(0, longest - 3 - head)
    return f"{text[:head]}...{text[len(text) - tail :]}"


def format_explanation(raw: str) -> str:
    r"""Return what ``\n{``, ``\n}`` and ``\n~`` in an explanation of pytest's stand for, as lines."""
    first, *rest = raw.split("\n")
    lines = [first]
    for line in rest:
        if line and line[0] in "{}~>":
            lines.append(line)
        else:
            lines[-1] += "\\n" + line
    result = lines[:1]
    stack, counts = [0], [0]
    for line in lines[1:]:
        if line[0] == "{":
            word = "and   " if counts[-1] else "where "
            stack.append(len(result))
            counts[-1] += 1
            counts.append(0)
            result.append(" +" + "  " * (len(stack) - 1) + word + line[1:])
        elif line[0] == "}":
            if len(stack) > 1:
                stack.pop()
                counts.pop()
            result[stack[-1]] += line[1:]
        else:
            stack[-1] += 1
            result.append("  " * (len(stack) if line[0] == "~" else len(stack) - 1) + line[1:])
    return "\n".join(result)
