"""``breakpoint()`` in far-side code, and post mortem, on the near side's terminal.

Python's own pdb runs here; its lines are read and its words are written where somebody waits for the call.  The near
side may refuse, and then says why: no terminal, or one that several processes share.

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from easycluster.far.wishes import after_import
from easycluster.wire.tracebacks import find_users_part, is_ours

if TYPE_CHECKING:
    from types import FrameType, ModuleType, TracebackType

    from easycluster.far.worker import Worker

__all__ = ["install", "keep", "post_mortem"]

# Failures kept for a debugger that comes later, under --pdb only.
MOST_KEPT = 16
# Parts of ours that single steps pass over; definitions modules below our name are the user's.
OURS = [f"easycluster.{part}.*" for part in ("far", "link", "wire", "objects")]

_worker: List[Worker] = []
_keeping: List[bool] = []
_kept: Dict[int, BaseException] = {}


def install(worker: Worker, keep_failures: bool) -> None:
    """Have ``breakpoint()`` and ``pdb.set_trace()`` open on the near side."""
    _keeping[:] = [True] if keep_failures else []
    if not _worker:
        _worker.append(worker)
        sys.breakpointhook = _breakpoint
        after_import("pdb", _change_pdb)


def _change_pdb(pdb: ModuleType) -> None:
    def set_trace(*, header: Optional[str] = None, **_: Any) -> None:
        _stop_at(sys._getframe(1), header or "")

    pdb.set_trace = set_trace  # type: ignore[attr-defined]


def _breakpoint(*_args: Any, **keywords: Any) -> None:
    _stop_at(sys._getframe(1), str(keywords.get("header") or ""))


def _stop_at(frame: FrameType, header: str) -> None:
    debugger = _open("set_trace")
    if header:
        debugger.message(header)
    debugger.set_trace(frame)


def keep(exc: BaseException) -> int:
    """Keep a failure for :func:`post_mortem`; return its number, 0 if nobody wishes that."""
    if not _keeping:
        return 0
    number = max(_kept, default=0) + 1
    _kept[number] = exc
    for oldest in sorted(_kept)[:-MOST_KEPT]:
        del _kept[oldest]
    return number


def post_mortem(number: int) -> bool:
    """Look at a failure that was kept, where it was raised; return False if it is not there any more."""
    exc = _kept.get(number)
    traceback = _users_traceback(exc)
    if traceback is None:
        return False
    debugger = _open("post_mortem")
    debugger.reset()
    try:
        debugger.interaction(None, traceback)
    finally:
        debugger.stdout.end()
        _tell("end", "")
    return True


def _users_traceback(exc: Optional[BaseException]) -> Optional[TracebackType]:
    """Return the traceback from the first line of the user's on, up to the last."""
    if exc is None:
        return None
    entries, _ = find_users_part(exc.__traceback__, is_ours)
    for entry, following in zip(entries, entries[1:]):
        entry.tb_next = following
    if entries:
        entries[-1].tb_next = None
    return entries[0] if entries else None


def _tell(action: str, text: str) -> Any:
    return _worker[0].ask_near("debugger", action, text)


def _open(title: str) -> Any:
    """Return a pdb on the near side's terminal.

    Raises:
        RuntimeError: If there is none.
    """
    refusal = _tell("begin", title)
    if refusal:
        raise RuntimeError(refusal)
    import pdb

    class FarPdb(pdb.Pdb):
        """Tells the near side when it goes on."""

        def get_stack(self, frame: Any, traceback: Any) -> Any:
            """Leave out what is before the user's code."""
            stack, index = super().get_stack(frame, traceback)
            ours = [at for at, (each, _) in enumerate(stack[: index + 1]) if is_ours(each)]
            start = ours[-1] + 1 if ours and ours[-1] < index else 0
            return stack[start:], index - start

        def set_continue(self) -> None:
            self._leave("continue")
            super().set_continue()

        def set_quit(self) -> None:
            self._leave("quit")
            super().set_quit()

        def _leave(self, how: str) -> None:
            if title == "set_trace":
                lines.end()
                _tell(how, "")

    lines = _Lines()
    both: Any = lines
    return FarPdb(stdin=both, stdout=both, skip=OURS, nosigint=True, readrc=False)


class _Lines:
    """Standard input and output of a debugger."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self) -> None:
        self._said: List[str] = []

    def write(self, text: str) -> int:
        """Note text; it goes with the question for the next line."""
        self._said.append(text)
        if sum(map(len, self._said[-64:])) > 1 << 16:
            self.end()
        return len(text)

    def flush(self) -> None:
        """Send the lines that were written.

        A prompt goes with the question for the next line: who sees one may press Ctrl-C, which means the prompt only
        once the line is being read.
        """
        lines, newline, rest = self._take().rpartition("\n")
        if newline:
            _tell("say", lines + newline)
        if rest:
            self._said.append(rest)

    def end(self) -> None:
        """Send all that was written."""
        text = self._take()
        if text:
            _tell("say", text)

    def readline(self) -> str:
        """Ask for a line; ``""`` at the end.

        Raises:
            KeyboardInterrupt: If the user pressed Ctrl-C.
        """
        line: str = _tell("line", self._take())
        if line == "\x03":
            raise KeyboardInterrupt
        return line

    def isatty(self) -> bool:
        """Say no: what needs a terminal of its own would not find it here."""
        return False

    def _take(self) -> str:
        said, self._said = self._said, []
        return "".join(said)
