"""How a worker ended, and where: what Python wrote as it crashed, without the frames that are ours."""

from __future__ import annotations

import itertools
import re
from typing import Any, Final

__all__ = ["Died"]


class Died:
    """How a worker ended.

    Attributes:
        signal: The signal that killed it, or None.
        exit_code: Its exit code, or None.
        killed: Whether we killed it because it could not be interrupted.
        last_output: Its last words.
        stack: Where it was: stuck, if it was killed, else where it crashed.
    """

    def __init__(self, info: dict[str, Any]) -> None:
        self.signal: int | None = info["signal"]
        self.exit_code: int | None = info["exit_code"]
        self.killed: bool = info["killed"]
        words, stacks = info["last_output"], info["stack"]
        if not stacks:
            words, stacks = _without_fatal_error(words)
        self.last_output: str = words
        self.stack: str = _user_frames(stacks)

    @property
    def details(self) -> str:
        """Where it was and its last words, for an error that has one text for both."""
        return "\n".join(text.rstrip() for text in (self.stack, self.last_output) if text.strip())


def _without_fatal_error(words: str) -> tuple[str, str]:
    """Part last words from the stacks that Python itself wrote behind them: an interpreter that gives up does."""
    match = _FATAL.search(words)
    if match is None:
        return words, ""
    sentence, _, stacks = words[match.start() :].partition("\n\n")
    return words[: match.start()] + sentence, stacks


def _user_frames(stacks: str) -> str:
    """Leave only code that was called in what ``faulthandler`` wrote of all threads, that of a crash first."""
    kept: list[str] = []
    for block in stacks.split("\n\n"):
        head, *frames = block.strip("\n").split("\n")
        if not _THREAD.match(head):
            continue
        # Most recent first: behind the frame that answers requests there is only what leads to it.
        answering = [at for at, frame in enumerate(frames) if _ANSWERING.search(frame)]
        if answering:
            frames = frames[: answering[0]]
        elif any(map(_OURS.search, frames)):
            continue
        frames = [frame for frame in frames if not _OURS.search(frame)]
        while frames and _STARTING.search(frames[-1]):
            frames.pop()
        if frames:
            text = "\n".join([head, *_folded(frames)]) + "\n"
            kept.insert(0 if head.startswith("Current") else len(kept), text)
    return "\n".join(kept)


def _folded(frames: list[str]) -> list[str]:
    """Frames of a recursion once, with how many more there are."""
    found: list[str] = []
    for frame, group in itertools.groupby(frames):
        alike = list(group)
        found += alike if len(alike) <= _MOST_ALIKE else [frame, f"  (and {len(alike) - 1} more like this)"]
    return found


_MOST_ALIKE: Final = 3
_FATAL: Final = re.compile(r"^Fatal Python error: ", re.MULTILINE)
_THREAD: Final = re.compile(r"(Current thread|Thread) 0x")
# "<easycluster>/far/worker.py" and "<easycluster template>"; "<easycluster.remote_code block 1>" is the user's.
_OURS: Final = re.compile('File "<easycluster[> ]')
_ANSWERING: Final = re.compile(
    r'File "<easycluster>/(far/(worker|session)|link/operations|far/quick)\.py", line \d+ in (perform|answer|serve)$'
)
# How Python begins every thread.
_STARTING: Final = re.compile(r'[/\\]threading\.py", line \d+ in (run|_bootstrap|_bootstrap_inner)$')
