"""The near end of a debugger on a far side: lines go there, words come here."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from easycluster.client import wishes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from easycluster.client.client import BaseClient

__all__ = ["Console", "act", "is_open", "kept_by", "note_kept", "open_debuggers"]

# Failures that were kept for a debugger, the newest last: the exception here, who raised it, its number there.
_kept: list[tuple[BaseException, BaseClient, int]] = []
MOST_KEPT = 16


class Console:
    """Where debuggers of far sides open: this process's terminal; others may derive from it."""

    def begin(self, host: str, title: str) -> str:
        """Get ready; return why that is not possible, ``""`` if it is."""
        if not sys.stdin.isatty():
            return f"a debugger cannot open on {host}: standard input here is not a terminal"
        return ""

    def say(self, text: str) -> None:
        """Show text."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def line(self, text: str) -> str:
        r"""Show text and read a line; ``""`` at the end, ``"\x03"`` for Ctrl-C."""
        prompt = text.rpartition("\n")[2]
        self.say(text[: len(text) - len(prompt)])
        try:
            with _plain_ctrl_c():
                return input(prompt) + "\n"
        except EOFError:
            return ""
        except KeyboardInterrupt:
            return "\x03"

    def end(self, host: str, how: str) -> None:
        """Somebody has gone on: ``"continue"``, ``"quit"`` or, after a post mortem, ``"end"``."""


_console = Console()
# The hosts whose debuggers are open here.
_open: list[str] = []


def is_open() -> bool:
    """Whether a debugger of a far side is open here: meanwhile no time limit counts."""
    return bool(_open)


@contextlib.contextmanager
def _plain_ctrl_c() -> Iterator[None]:
    """Have Ctrl-C mean the prompt and nothing else, whoever listens for it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def open_debuggers(console: Console | None = None, keep_failures: bool = False) -> None:
    """Let ``breakpoint()`` of far-side code open here.

    Args:
        console: Where; by default on this process's terminal.
        keep_failures: Whether far sides keep what failures refer to, for a post mortem.
    """
    global _console
    _console = console or Console()
    wishes.wish("debugger", True)
    wishes.wish("keep_failures", keep_failures)


def act(host: str, action: str, text: str) -> Any:
    """Do what a far side's debugger asks for; in the thread that waits for the call."""
    if action == "begin":
        refusal = _console.begin(host, text)
        if not refusal:
            _open.append(host)
        return refusal
    if action == "line":
        return _console.line(text)
    if action == "say":
        return _console.say(text)
    if host in _open:
        _open.remove(host)
    return _console.end(host, action)


def note_kept(exc: BaseException, client: BaseClient, number: int) -> None:
    """Remember which failure of a far side an exception here was."""
    _kept.append((exc, client, number))
    del _kept[:-MOST_KEPT]


def kept_by(exc: BaseException) -> tuple[BaseClient, int] | None:
    """Return who has kept what an exception refers to over there, and its number."""
    return next(((client, number) for one, client, number in _kept[::-1] if one is exc), None)
