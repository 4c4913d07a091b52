"""Local variables of frames that failed, as ``pytest --showlocals`` wants to see them: names and reprs.

A repr is code of the user's, and may fail, take long or be as long as a disk; none of it may keep the failure from
being reported.

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

import reprlib
import time
from typing import TYPE_CHECKING, Any, Tuple

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["LocalVariables"]

# Of one frame.
MOST = 100
# Seconds for all reprs of a traceback.
TIME = 3.0
# From here on what is in containers is shown whole, too.
LONG = 1000


class LocalVariables:
    """Takes down the variables of the frames of one traceback.

    Args:
        length: Characters of each repr.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._end = time.monotonic() + TIME
        self._shortener = shortener = reprlib.Repr()
        shortener.maxstring = shortener.maxother = shortener.maxlong = length
        if length > LONG:
            shortener.maxtuple = shortener.maxlist = shortener.maxdict = shortener.maxset = length

    def __call__(self, frame: FrameType) -> Tuple[Tuple[str, str], ...]:
        """Return names and reprs; what rewriting and Python added is left out."""
        variables = frame.f_locals
        names = [name for name in variables if name[:1] != "@" and name[:2] != "__"]
        return tuple((name, self._text(variables[name])) for name in names[:MOST])

    def _text(self, value: Any) -> str:
        if time.monotonic() > self._end:
            return "<left out: the reprs of others took too long>"
        try:
            text = self._shortener.repr(value)
        except BaseException as exc:  # noqa: BLE001 - sys.exit() in a __repr__ must not end the session
            text = f"<[{type(exc).__name__} raised in repr()] {type(value).__name__} object at 0x{id(value):x}>"
        return text if len(text) <= self._length else f"{text[: self._length]}..."
