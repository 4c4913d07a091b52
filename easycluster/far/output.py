"""Standard streams of a worker: output goes to the keeper through pipes, input is at its end.

Python's own streams and the descriptors 1 and 2, which C code and child processes write to, are
the same pipes, so nothing can get onto the wire.  What was printed during a call reaches the near
side before its answer: the answer carries a number that the keeper repeats once it has read that far.

That costs a message, so only answers carry one that something may have been written before: by
Python code, by a child process that the call has started, or by one that it has waited for.  Code
in C and ``os.write`` are not noticed.

This module is shipped to the far side.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, Iterable, Set

try:
    import resource
except ImportError:  # no Unix
    resource = None  # type: ignore[assignment]

__all__ = ["Output", "belongs", "redirect", "unseen"]

# In place of a thread: something was written; there are children, and one may have been waited for.
WRITTEN, CHILDREN = -1, -2

unseen: Set[int] = set()
"""Empty as long as no answer has to wait for output.

Else :data:`WRITTEN`, :data:`CHILDREN`, and the threads in whose calls something may have been written
that another thread's answer has counted as its own.  Changes in single steps, by any thread.
"""

# The audit events before a child process starts.  A plain call raises no event at all.
STARTS = frozenset(
    {"subprocess.Popen", "os.system", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"}
)
# It starts children without an event; they are there, with their tracker, for the rest of the process.
SPAWNS = "multiprocessing.popen_spawn_posix"

# Page faults of all children that were waited for: each child has some, so that it changes with each.
_faults = 0


class Output(io.TextIOWrapper):
    """A text stream that notes that something was written."""

    def write(self, text: str) -> int:
        """Write text; whole lines go out at once."""
        unseen.add(WRITTEN)
        return super().write(text)

    def writelines(self, lines):  # type: ignore[no-untyped-def]  # as in io
        """Write texts one after the other."""
        for line in lines:
            self.write(line)


class _Pipe(io.FileIO):
    """The descriptor under it, for those who write bytes to ``sys.stdout.buffer``."""

    def write(self, data):  # type: ignore[no-untyped-def]  # as in io
        unseen.add(WRITTEN)
        return super().write(data)


def belongs(ident: int, inside: Iterable[int]) -> bool:
    """Return whether output may have been written that has to be seen before an answer.

    Args:
        ident: The thread that answers.
        inside: The threads that are inside of calls.
    """
    others = [other for other in list(inside) if other != ident]
    waited = CHILDREN in unseen and _one_was_waited_for(not others)
    if not waited and WRITTEN not in unseen and ident not in unseen:
        return False
    # First this: whatever they have written until now is not noted any more after the next line.
    unseen.update(others)
    unseen.discard(WRITTEN)
    unseen.discard(ident)
    return True


def _one_was_waited_for(alone: bool) -> bool:
    """Return whether the end of a child was waited for since this was last asked.

    Args:
        alone: Whether no other thread can be starting a child right now.
    """
    global _faults
    before = _faults
    if resource is not None:
        _faults = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        # None is left.
        if alone:
            unseen.discard(CHILDREN)
        return True
    except (AttributeError, OSError):
        return True
    return resource is None or before != _faults


def _hear(event: str, args: Any) -> None:
    """Note that a child is about to start; called for each audit event, so it has to be quick."""
    if event in STARTS or (event == "import" and args[0] == SPAWNS):
        unseen.add(CHILDREN)
        unseen.add(WRITTEN)


def redirect(out: int, err: int) -> None:
    """Make ``out`` and ``err`` the standard streams of this process; takes the descriptors over."""
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out, 1), (err, 2)):
        os.dup2(source, target)
        if source > 2:
            os.close(source)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream = Output(
            io.BufferedWriter(_Pipe(fd, "w", closefd=False)),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.addaudithook(_hear)
