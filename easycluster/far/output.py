"""Standard streams of a worker: output goes to the keeper through pipes, input is at its end.

Python's own streams and the descriptors 1 and 2, which C code and child processes write to, are
the same pipes, so nothing can get onto the wire.  What was printed during a call reaches the near
side before its answer: the answer carries a number that the keeper repeats once it has read that far.

This module is shipped to the far side.
"""

from __future__ import annotations

import io
import os
import sys

__all__ = ["Output", "redirect"]


class Output(io.TextIOWrapper):
    """A text stream that remembers whether something was written since it was last asked."""

    dirty = False

    def write(self, text: str) -> int:
        """Write text; whole lines go out at once."""
        Output.dirty = True
        return super().write(text)

    def writelines(self, lines):  # type: ignore[no-untyped-def]  # as in io
        """Write texts one after the other."""
        for line in lines:
            self.write(line)


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
            io.BufferedWriter(io.FileIO(fd, "w", closefd=False)),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
