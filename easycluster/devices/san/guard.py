"""Runs a program that must not outlive us, however we end; stops it and lets it go on.

The program's parent is a small process that waits at a pipe from us: at the pipe's end it kills the program, and the
system kills the program if that process dies.  PR_SET_PDEATHSIG alone would not do: it counts the thread that started
the program as its parent, and threads end.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from typing import Dict, Sequence

from easycluster.errors import EasyClusterError, Unsupported

__all__ = ["GuardError", "Guarded"]

# A line for each request, a line for each answer; the first says that the program was started.
_GUARD = """\
import ctypes, os, shutil, signal, subprocess, sys
def with_parent():
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    except (OSError, AttributeError):
        pass
remove, keep = sys.argv[1], False
child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=2, preexec_fn=with_parent)
def say(text):
    sys.stdout.write(text + "\\n")
    sys.stdout.flush()
say("started")
for line in iter(sys.stdin.readline, ""):
    word = line.strip()
    if word == "stop":
        child.send_signal(signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
    elif word == "go":
        child.send_signal(signal.SIGCONT)
    elif word == "keep":
        keep = True
    elif word == "alive":
        say("yes" if child.poll() is None else "no")
        continue
    say("done")
child.kill()
child.wait()
for path in [] if keep else remove.split(os.pathsep):
    shutil.rmtree(path, ignore_errors=True)
"""


class GuardError(EasyClusterError, OSError):
    """The process that watches over a program did not answer."""


class Guarded:
    """A program that ends with us.

    Args:
        words: The program and its arguments.
        log: A file descriptor for what it says.
        remove: Directories that go with the program if we die.
        environment: Its environment.
        limit: Seconds that starting, stopping and looking may take.
    """

    def __init__(
        self,
        words: Sequence[str],
        log: int,
        environment: Dict[str, str],
        remove: Sequence[str] = (),
        limit: float = 20.0,
    ) -> None:
        self._limit = limit
        # A word and its answer belong together, whichever threads break a target.
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD, os.pathsep.join(remove), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        try:
            self._answer()
        except BaseException:
            self.kill()
            raise

    @property
    def alive(self) -> bool:
        """Whether the program still runs."""
        try:
            return self._ask("alive") == "yes"
        except GuardError:
            return False

    def stop(self) -> None:
        """Stop it; returns when it has stopped.

        Raises:
            Unsupported: Where processes cannot be stopped.
        """
        if not hasattr(signal, "SIGSTOP"):
            raise Unsupported("hang", "processes cannot be stopped on this system")
        self._ask("stop")

    def resume(self) -> None:
        """Let it go on."""
        self._ask("go")

    def kill(self) -> None:
        """End it at once, and wait for that; directories stay."""
        process = self._process
        try:
            self._ask("keep")
        except GuardError:
            pass
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(self._limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _ask(self, word: str) -> str:
        assert self._process.stdin is not None
        with self._lock:
            try:
                self._process.stdin.write(word.encode() + b"\n")
                self._process.stdin.flush()
            except (OSError, ValueError) as exc:
                raise GuardError(f"the process that watches over {self._process.args!r} has ended") from exc
            return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], self._limit)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            raise GuardError(f"the process that watches over {self._process.args!r} does not answer")
        return line.decode().strip()
