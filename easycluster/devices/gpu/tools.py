"""Programs of a vendor, under a time limit: a driver that hangs takes its tools with it."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import threading
from typing import IO, List, NamedTuple, Optional, Sequence

from easycluster.devices.gpu.errors import GpuError, GpuTimeout

__all__ = ["LIMIT", "Said", "Talk", "find_tool", "host_memory", "last_lines", "run_tool", "user_of"]

# Seconds.  nvidia-smi takes 0.05 s with a persistent driver, and up to 5 s on eight devices without.
LIMIT = 30.0

# Vendors install beside the usual places.
_PLACES = ("/usr/bin", "/usr/local/bin", "/opt/rocm/bin", "/usr/lib/wsl/lib", "/usr/sbin", "/sbin")


class Said(NamedTuple):
    """What a program said.

    Attributes:
        status: Its exit status, negative for a signal.
        out: Its output.
        err: Its other output.
    """

    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Everything, in one line."""
        return last_lines(f"{self.out}\n{self.err}")


def find_tool(name: str) -> Optional[str]:
    """Return the path of a program, None if there is none."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(_PLACES))


def run_tool(words: Sequence[str], limit: float = LIMIT) -> Said:
    """Run a program in the C locale and return what it said, whatever its exit status.

    Raises:
        GpuTimeout: If it takes longer; it is killed, or left behind if the kernel does not let it go.
        GpuError: If it cannot be started.
    """
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        process = subprocess.Popen(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as exc:
        raise GpuError(f"{words[0]} cannot be started: {exc.strerror}") from exc
    # Not communicate(): after a kill it waits without limit for a process that a driver holds in the kernel.
    pieces: List[List[bytes]] = [[], []]
    readers = [_reader(pipe, piece) for pipe, piece in zip((process.stdout, process.stderr), pieces)]
    try:
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            _kill(process)
            name = os.path.basename(words[0])
            held = "" if process.poll() is not None else "; the kernel does not let it go, so the driver hangs"
            raise GpuTimeout(f"{name} did not answer within {limit:g} s{held}") from None
        for reader in readers:
            reader.join(5.0)
    except BaseException:
        _kill(process)
        raise
    out, err = (b"".join(piece).decode("utf-8", "replace") for piece in pieces)
    return Said(status, out, err)


class Talk:
    """A program that keeps printing lines, until it is ended.

    Args:
        words: The program and its arguments.

    Raises:
        GpuError: If it cannot be started.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._name = os.path.basename(words[0])
        # None ends it.  Bounded, so that nobody who does not listen is talked to without end.
        self._lines: queue.Queue[Optional[str]] = queue.Queue(1000)
        self._ended = threading.Event()
        try:
            self._process = subprocess.Popen(
                list(words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,
            )
        except OSError as exc:
            raise GpuError(f"{words[0]} cannot be started: {exc.strerror}") from exc
        # A thread reads: what a driver holds in the kernel, or a program behind a script, may keep the pipe open for
        # ever, and nobody could close it under a reader's eyes.
        threading.Thread(target=self._read, name="easycluster-tool", daemon=True).start()

    def _read(self) -> None:
        pipe = self._process.stdout
        assert pipe is not None  # Popen was asked for it
        with pipe:
            for line in pipe:
                if self._ended.is_set():
                    return
                try:
                    self._lines.put(line.decode("utf-8", "replace"), timeout=LIMIT)
                except queue.Full:
                    return
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=LIMIT)

    def line(self, limit: float) -> Optional[str]:
        """The next line, None after the last one.

        Raises:
            GpuTimeout: If there is none within ``limit`` seconds.
        """
        if self._ended.is_set():
            return None
        try:
            line = self._lines.get(timeout=limit)
        except queue.Empty:
            raise GpuTimeout(f"{self._name} has said nothing for {limit:g} s; it hangs, and maybe the driver") from None
        if line is None:
            self._ended.set()
        return line

    def end(self) -> None:
        """End the program, and all that it started; what it still said is dropped."""
        self._ended.set()
        _kill(self._process)
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)


def _reader(pipe: Optional[IO[bytes]], pieces: List[bytes]) -> threading.Thread:
    assert pipe is not None  # Popen was asked for it

    def read() -> None:
        with pipe:
            pieces.append(pipe.read())

    thread = threading.Thread(target=read, name="easycluster-tool", daemon=True)
    thread.start()
    return thread


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        pass
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        pass


def last_lines(text: str, most: int = 500) -> str:
    """The end of what a program said, in one line."""
    joined = "; ".join(line.strip() for line in text.splitlines() if line.strip())
    return joined if len(joined) <= most else "..." + joined[-most:]


def host_memory() -> int:
    """Bytes of memory that this machine has, 0 if it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def user_of(pid: int) -> str:
    """Whose a process is, ``""`` if that cannot be seen."""
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return ""
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError):
        return str(uid)
